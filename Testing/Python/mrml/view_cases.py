"""What the slice views show."""

from __future__ import annotations

import numpy as np
from vtk.util.numpy_support import vtk_to_numpy

import mrml_cases as cases
import slicer

GRID = cases.centred_grid((20, 40, 40), (2.0, 2.0, 2.0))


class Views:
    """Slicer's three slice views without windows."""

    def __init__(self, scene) -> None:
        self.application = slicer.vtkMRMLApplicationLogic()
        self.application.SetMRMLScene(scene)
        # Registers the colour legend, as the application does at its start.
        self.colors = slicer.vtkSlicerColorLogic()
        self.colors.SetMRMLApplicationLogic(self.application)
        self.colors.SetMRMLScene(scene)
        scene.AddNode(slicer.vtkMRMLCrosshairNode())
        self.logics = {}
        for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self.application)
            logic.SetMRMLScene(scene)
            logic.AddSliceNode(name)
            logic.GetSliceNode().SetOrientation(orientation)
            logic.GetSliceNode().SetDimensions(200, 200, 1)
            self.logics[name] = logic

    def fit(self) -> None:
        for logic in self.logics.values():
            logic.FitSliceToBackground()
            logic.SnapSliceOffsetToIJK()

    def picture(self, name="Red") -> np.ndarray:
        """The view as (rows, columns, 3), the first row at the bottom."""
        logic = self.logics[name]
        logic.UpdatePipeline()
        producer = logic.GetImageDataConnection().GetProducer()
        producer.Update()
        image = producer.GetOutputDataObject(0)
        size = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[1], size[0], 4)[..., :3].astype(int)

    def middle(self) -> int:
        return int(self.picture()[100, 100, 0])


def flat_volume(name: str, value: float, grid=GRID):
    """One value throughout; shown as value of 255."""
    node = cases.add_volume(np.full(grid.shape, value, np.float32), grid, name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(0, 255)
    return node


def box_labels(name: str, start: int, grid=GRID):
    array = np.zeros(grid.shape, np.uint8)
    array[:, start : start + 10, 12:22] = 3
    return cases.add_volume(array, grid, name, "vtkMRMLLabelMapVolumeNode")
