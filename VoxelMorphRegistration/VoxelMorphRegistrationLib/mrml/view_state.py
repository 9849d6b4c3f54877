"""How the slice views were before a result was checked, to put them back in one call. Knows MRML view nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import vtk

from .records import recorded_look
from .segments_out import releasing
from .steps import finish
from .transforms import TRANSFORM_CLASS

if TYPE_CHECKING:
    from .nodes import Node, Scene

# On nodes that a check made, and on display nodes that it changed.
CHECK_ATTRIBUTE = "VoxelMorph.Check"
# On a segmentation's display node: how it was shown before its outlines.
OUTLINE_ATTRIBUTE = "VoxelMorph.BeforeOutline"
# The same before it was made an outline in its own colours.
QUIET_ATTRIBUTE = "VoxelMorph.BeforeQuiet"
# What they hold.
LOOK = {
    "Visibility": bool,
    "Visibility2DFill": bool,
    "Visibility2DOutline": bool,
    "Opacity2DOutline": float,
    "SliceIntersectionThickness": int,
}


def nodes_of(scene, class_name: str) -> list:
    return [scene.GetNthNodeByClass(n, class_name) for n in range(scene.GetNumberOfNodesByClass(class_name))]


def composite_nodes(scene) -> list:
    """What each slice view shows."""
    return nodes_of(scene, "vtkMRMLSliceCompositeNode")


def slice_nodes(scene) -> list:
    """Where each slice view lies."""
    return nodes_of(scene, "vtkMRMLSliceNode")


def crosshair_of(scene):
    return scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")


_LAYERS = ("BackgroundVolumeID", "ForegroundVolumeID", "LabelVolumeID")
_COMPOSITE = ("ForegroundOpacity", "LabelOpacity", "LinkedControl", "HotLinkedControl", "Compositing")
_WATCHED = ("vtkMRMLTransformDisplayNode", "vtkMRMLSegmentationDisplayNode", "vtkMRMLColorLegendDisplayNode")


def mark(display_node) -> None:
    if display_node is not None:
        display_node.SetAttribute(CHECK_ATTRIBUTE, "1")


@dataclass(frozen=True, eq=False)
class _SlicePlace:
    """Position, zoom and outline mode of one slice view."""

    slice_to_ras: Any
    field_of_view: tuple[float, ...]
    origin: tuple[float, ...]
    outline: int

    @staticmethod
    def of(node) -> _SlicePlace:
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(node.GetSliceToRAS())
        return _SlicePlace(matrix, node.GetFieldOfView(), node.GetXYZOrigin(), node.GetUseLabelOutline())

    def restore(self, node) -> None:
        editing = node.StartModify()
        node.GetSliceToRAS().DeepCopy(self.slice_to_ras)
        width, height = node.GetDimensions()[:2]
        across = self.field_of_view[0]
        # The view may have another shape now; its pixels stay square.
        node.SetFieldOfView(across, across * height / max(width, 1), self.field_of_view[2])
        node.SetXYZOrigin(*self.origin)
        node.SetUseLabelOutline(self.outline)
        node.UpdateMatrices()
        node.EndModify(editing)


@dataclass(frozen=True, eq=False)
class ViewState:
    """How the slice views and the displays that checks change were at one moment.

    Nodes are held by their IDs: what was deleted meanwhile is left out, what was added is left alone.
    """

    scene: Scene
    layers: dict[str, dict[str, Any]]
    places: dict[str, _SlicePlace]
    displays: dict[str, Node]
    crosshair: tuple | None = field(default=None)

    @staticmethod
    def of(scene: Scene) -> ViewState:
        layers = {
            node.GetID(): {name: getattr(node, f"Get{name}")() for name in (*_LAYERS, *_COMPOSITE)}
            for node in composite_nodes(scene)
        }
        displays = {}
        for node in (one for class_name in _WATCHED for one in nodes_of(scene, class_name)):
            displays[node.GetID()] = node.CreateNodeInstance()
            displays[node.GetID()].CopyContent(node)
        crosshair = crosshair_of(scene)
        place = None if crosshair is None else (crosshair.GetCrosshairMode(), crosshair.GetCrosshairRAS())
        places = {node.GetID(): _SlicePlace.of(node) for node in slice_nodes(scene)}
        return ViewState(scene, layers, places, displays, place)

    def restore(self) -> None:
        """Put the views back, and remove what checks added to the scene."""
        self._restore_displays()
        for identity, values in self.layers.items():
            node = self.scene.GetNodeByID(identity)
            if node is not None and node.IsA("vtkMRMLSliceCompositeNode"):
                self._restore_layers(node, values)
        # Views that were opened meanwhile, as by another layout, are as their neighbours.
        usual = next(iter(self.layers.values()), None)
        for node in composite_nodes(self.scene):
            if usual is not None and node.GetID() not in self.layers:
                self._restore_layers(node, usual)
        # After the layers: their link would spread the first view's place to the others.
        for identity, place in self.places.items():
            node = self.scene.GetNodeByID(identity)
            if node is not None and node.IsA("vtkMRMLSliceNode"):
                place.restore(node)
        crosshair = crosshair_of(self.scene)
        if crosshair is not None and self.crosshair is not None:
            crosshair.SetCrosshairMode(self.crosshair[0])
            crosshair.SetCrosshairRAS(*self.crosshair[1])
        remove_check_nodes(self.scene)

    def _restore_layers(self, node, values: dict[str, Any]) -> None:
        editing = node.StartModify()
        for name, value in values.items():
            if name in _LAYERS and (value is None or self.scene.GetNodeByID(value) is None):
                value = None
            getattr(node, f"Set{name}")(value)
        node.EndModify(editing)

    def _restore_displays(self) -> None:
        """Displays that a check changed are as they were; those that it made are hidden."""
        for node in (one for class_name in _WATCHED for one in nodes_of(self.scene, class_name)):
            if not node.GetAttribute(CHECK_ATTRIBUTE):
                continue
            copy = self.displays.get(node.GetID())
            if copy is not None and copy.GetClassName() == node.GetClassName():
                node.CopyContent(copy)
            else:
                node.SetVisibility(False)
            node.RemoveAttribute(CHECK_ATTRIBUTE)
            node.RemoveAttribute(OUTLINE_ATTRIBUTE)
        for node in nodes_of(self.scene, "vtkMRMLSegmentationDisplayNode"):
            restore_fill(node)


def remove_check_nodes(scene) -> None:
    """Remove the volumes, segmentations and transforms that checks made."""
    for class_name in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", TRANSFORM_CLASS):
        for node in nodes_of(scene, class_name):
            if node.GetAttribute(CHECK_ATTRIBUTE):
                remove_shown(node)


def restore_fill(display_node) -> None:
    """Fill segments again that a check made quiet."""
    if display_node.GetAttribute(QUIET_ATTRIBUTE):
        for name, value in recorded_look(display_node, QUIET_ATTRIBUTE, LOOK).items():
            getattr(display_node, f"Set{name}")(value)
        display_node.RemoveAttribute(QUIET_ATTRIBUTE)


def restore_outline(node) -> None:
    """Show a segmentation as before a check outlined it."""
    shown = node.GetDisplayNode()
    if shown is None or not shown.GetAttribute(OUTLINE_ATTRIBUTE):
        return
    editing = shown.StartModify()
    for name, value in recorded_look(shown, OUTLINE_ATTRIBUTE, LOOK).items():
        getattr(shown, f"Set{name}")(value)
    for n in range(node.GetSegmentation().GetNumberOfSegments()):
        shown.UnsetSegmentOverrideColor(node.GetSegmentation().GetNthSegmentID(n))
    shown.RemoveAttribute(OUTLINE_ATTRIBUTE)
    shown.EndModify(editing)


def remove_shown(node) -> None:
    """Remove a node with its display nodes, which a scene would keep."""
    scene = node.GetScene()
    shown = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    segmentation = node.GetSegmentation() if node.IsA("vtkMRMLSegmentationNode") else None
    scene.RemoveNode(node)
    if segmentation is not None:
        finish(releasing(segmentation))
    for one in shown:
        # Slicer itself may have taken them with it; touching those again would be logged as an error.
        if one is not None and one.GetScene() is not None:
            scene.RemoveNode(one)
