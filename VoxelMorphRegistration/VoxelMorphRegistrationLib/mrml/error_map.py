"""The map of the expected error in Slicer's views: its colours and legend, and a contour at a chosen error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import vtk

import slicer

from ..errors import InputError
from ..results.colours import DOUBT_ENDS_MM, doubt_colours, doubt_scale
from ..trust.band import band_of
from ..trust.error_map import bound_at as bound_in
from . import check_nodes, check_views, display
from .labels import Label, labels_from_node
from .segments_out import building, releasing
from .steps import finish
from .transforms import matrix_from_vtk
from .view_state import mark
from .volumes import image_from_node

if TYPE_CHECKING:
    from .nodes import Shown, Volume

COLORS_ATTRIBUTE = "VoxelMorph.ErrorColors"
CONTOUR = "Contour of the expected error"
CONTOUR_COLOR = (1.0, 1.0, 1.0)
BAND, BAND_OPACITY = "Band of the expected error", 0.45
_ENTRIES = 256
# The map is 0 where nothing is said; that stays clear.
_CLEAR = 1e-6


def scale_of(volume_node: Volume) -> float:
    """What millimetres of the colours are multiplied by: 1 for a human body, less for small animals."""
    size, spacing = volume_node.GetImageData().GetDimensions(), volume_node.GetSpacing()
    return doubt_scale(max(n * step for n, step in zip(size, spacing, strict=True)))


def color_node(scene, scale: float):
    """The scene's colour table for expected errors of this scale, made on first use."""
    name = f"{scale:g}"
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")):
        node = scene.GetNthNodeByClass(n, "vtkMRMLColorTableNode")
        if node.GetAttribute(COLORS_ATTRIBUTE) == name:
            return node
    node = scene.CreateNodeByClass("vtkMRMLColorTableNode")
    node.UnRegister(None)
    node.SetName("Expected error (blue sure, red unsure)")
    node.SetAttribute("Category", "VoxelMorph")
    node.SetAttribute(COLORS_ATTRIBUTE, name)
    node.SetTypeToUser()
    node.SetNumberOfColors(_ENTRIES)
    values = np.linspace(0.0, DOUBT_ENDS_MM[1] * scale, _ENTRIES)
    for entry, (value, color) in enumerate(zip(values, doubt_colours(values, scale) / 255.0, strict=True)):
        node.SetColor(entry, f"{value:.2f} mm", *(float(part) for part in color), 1.0)
    return scene.AddNode(node)


def show_as_error(volume_node: Volume, like: Volume | None = None) -> None:
    """Give a map its colours; where nothing is said it is clear. like: a volume as large, where it may be empty."""
    if volume_node.GetDisplayNode() is None:
        volume_node.CreateDefaultDisplayNodes()
    shown, scale = volume_node.GetDisplayNode(), scale_of(like or volume_node)
    largest = DOUBT_ENDS_MM[1] * scale
    shown.AutoWindowLevelOff()
    shown.SetWindowLevelMinMax(0.0, largest)
    shown.SetInterpolate(0)
    shown.AutoThresholdOff()
    shown.SetThreshold(_CLEAR, 1e9)
    shown.ApplyThresholdOn()
    shown.SetAndObserveColorNodeID(color_node(volume_node.GetScene(), scale).GetID())


def show_error(background_node, volume_node: Volume, opacity: float, contour_mm: float, legend: bool) -> None:
    """The map over a volume in all slice views, with a contour at an error in mm (0: none)."""
    show_as_error(volume_node)
    check_views.show_pair(background_node, volume_node, opacity)
    show_contour(volume_node, contour_mm)
    show_legend(volume_node, legend)
    mark(display.legend_node(volume_node))


def show_legend(volume_node: Volume, visible: bool = True) -> None:
    """Show or hide what the colours mean."""
    display.show_legend(volume_node, visible)
    legend = display.legend_node(volume_node)
    if legend is not None:
        legend.SetTitleText("Error in mm\n(90 % are below)")


def show_contour(volume_node: Volume, contour_mm: float):
    """A line in the slice views around where the expected error is larger; None, and no line, where it nowhere is."""
    if not (math.isfinite(contour_mm) and contour_mm >= 0):
        raise InputError(f"The contour must be at 0 mm (none) or more, not at {contour_mm:g}.")
    scene = volume_node.GetScene()
    over = slicer.util.arrayFromVolume(volume_node) > contour_mm
    if contour_mm == 0 or not over.any():
        hide_contour(scene)
        return None
    table = {1: Label(f"over {contour_mm:g} mm", CONTOUR_COLOR)}
    node = _segmentation(volume_node, CONTOUR, over.astype(np.uint8), table)
    shown = node.GetDisplayNode()
    shown.SetVisibility2DFill(False)
    shown.SetVisibility2DOutline(True)
    shown.SetOpacity2DOutline(1.0)
    return node


def show_band(labels_node: Shown, volume_node: Volume):
    """Around each structure of a segmentation on the fixed volume the band in which its surface may lie, in its colour.

    See trust.band.band_of. Raises InputError where the labels lie on another grid than the map.
    """
    bound = image_from_node(volume_node, "expected error")
    labels = labels_from_node(labels_node, bound.grid, "segmentation")
    node = _segmentation(volume_node, BAND, band_of(labels.image, bound).array, labels.table)
    shown = node.GetDisplayNode()
    shown.SetVisibility2DFill(True)
    shown.SetVisibility2DOutline(False)
    shown.SetOpacity2DFill(BAND_OPACITY)
    return node


def _segmentation(volume_node: Volume, what: str, array: np.ndarray, table: dict[int, Label]):
    """A segmentation for a check, of labels (K, J, I) on the voxels of a map."""
    node = check_nodes.check_node(volume_node.GetScene(), "vtkMRMLSegmentationNode", what)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    present = {value: label for value, label in table.items() if (array == value).any()}
    former = node.GetSegmentation()
    node.SetAndObserveSegmentation(finish(building(array, matrix_from_vtk(matrix), present, cropped=False)))
    finish(releasing(former))
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(True)
    mark(node.GetDisplayNode())
    return node


def hide_band(scene) -> None:
    check_nodes.remove_check(scene, "vtkMRMLSegmentationNode", BAND)


def hide_contour(scene) -> None:
    check_nodes.remove_check(scene, "vtkMRMLSegmentationNode", CONTOUR)


def bound_at(volume_node: Volume, points_ras: np.ndarray) -> np.ndarray:
    """The bound in mm (N,) at world positions (N, 3) of the fixed side; NaN where nothing is said."""
    return bound_in(image_from_node(volume_node, "expected error"), points_ras)
