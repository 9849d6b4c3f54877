"""Slice views of an MRML scene, drawn by Slicer's own logics and displayable managers without the application.

What the slice nodes, composite nodes and display nodes of the scene say is what is drawn: volumes with their windows
and colours, outlines of segmentations, the deformed grid, the colour legend, the crosshair. What only the application
adds is left out: the view's frame and controller, and the names of the volumes in its corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer

_ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
# Those that the application registers for its slice views and that draw what a check shows.
_MANAGERS = (
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)


@dataclass(eq=False)
class _View:
    """A slice logic, what it is drawn by, and what must live as long."""

    logic: object
    mapper: object
    window: object
    kept: tuple


class SliceViews:
    """Red (axial), green (coronal) and yellow (sagittal) view of a scene, `size` pixels (width, height) each."""

    def __init__(self, scene, size: tuple[int, int]) -> None:
        self._scene, self._size = scene, size
        self._application = slicer.vtkMRMLApplicationLogic()
        self._application.SetMRMLScene(scene)
        self._application.SetSliceLogics(vtk.vtkCollection())
        # These register the colour tables and legends, and the representations of segmentations, as the application
        # does at its start; they take them with them when they go.
        self._colors = slicer.vtkSlicerColorLogic()
        self._colors.SetMRMLApplicationLogic(self._application)
        self._colors.SetMRMLScene(scene)
        self._colors.AddDefaultColorNodes()
        self._segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self._segmentations.SetMRMLScene(scene)
        scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
        self._factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self._factory.SetMRMLApplicationLogic(self._application)
        for name in _MANAGERS:
            if not self._factory.IsDisplayableManagerRegistered(name):
                self._factory.RegisterDisplayableManager(name)
        self._views = {name: self._open(name, orientation) for name, orientation in _ORIENTATIONS.items()}

    def _open(self, name: str, orientation: str) -> _View:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._application)
        logic.SetMRMLScene(self._scene)
        node = logic.AddSliceNode(name)
        node.SetOrientation(orientation)
        node.SetDimensions(*self._size, 1)
        self._application.GetSliceLogics().AddItem(logic)
        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.SetLayerNumber(0)
        renderer = vtk.vtkRenderer()
        renderer.AddActor2D(actor)
        window = vtk.vtkRenderWindow()
        window.SetOffScreenRendering(1)
        window.SetMultiSamples(4)
        window.SetSize(*self._size)
        window.AddRenderer(renderer)
        interactor = vtk.vtkGenericRenderWindowInteractor()
        window.SetInteractor(interactor)
        group = self._factory.InstantiateDisplayableManagers(renderer)
        group.SetMRMLDisplayableNode(node)
        return _View(logic, mapper, window, (group, actor, renderer, interactor))

    def fit(self) -> None:
        """What the application does at `slicer.util.resetSliceViews()`."""
        for view in self._views.values():
            view.logic.FitSliceToBackground(*self._size)
            view.logic.SnapSliceOffsetToIJK()

    def draw(self, name: str) -> np.ndarray:
        """The pixels (height, width, 3), uint8, of one view: "Red", "Green" or "Yellow"."""
        view = self._views[name]
        view.logic.UpdatePipeline()
        # The pipeline ends in another image when a layer comes or goes.
        view.mapper.SetInputConnection(view.logic.GetImageDataConnection())
        view.window.Render()
        taken = vtk.vtkWindowToImageFilter()
        taken.SetInput(view.window)
        taken.ReadFrontBufferOff()
        taken.Update()
        image = taken.GetOutput()
        width, height, _ = image.GetDimensions()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)
        return pixels[::-1].copy()
