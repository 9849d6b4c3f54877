"""Looking at a result in Slicer's views: fade, flicker, checkerboard, before and after, Jacobian, grid, outlines.

Knows MRML view and display nodes only, no Qt. Every function works on all slice views of a scene. ViewState of
view_state.py remembers how the views were and puts them back; what the checks added to the scene goes then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer

from ..errors import InputError
from . import display
from .label_views import quiet_labels
from .labels import Label
from .names import FORMER_ROLE, PARENT_ATTRIBUTE, START_ATTRIBUTE
from .records import recorded_matrix
from .segments_out import building, releasing, values_in
from .steps import finish
from .transforms import TRANSFORM_CLASS, image_data, linear_transform, matrix_from_vtk
from .view_state import (
    CHECK_ATTRIBUTE,
    LOOK,
    OUTLINE_ATTRIBUTE,
    composite_nodes,
    crosshair_of,
    mark,
    nodes_of,
    remove_shown,
    restore_outline,
    slice_nodes,
)

if TYPE_CHECKING:
    from .nodes import Shown

OUTLINE_COLORS = {"fixed": (1.0, 0.85, 0.1), "moving": (0.25, 0.65, 1.0), "warped": (1.0, 0.25, 0.45)}
GRID, ARROWS = "grid", "arrows"
PREVIEW = "Preview"
_SQUARES = 12
_LINES = 25


# --- layers -----------------------------------------------------------------------------------------------------


def show_pair(background_node, foreground_node, opacity: float = 0.5) -> bool:
    """One volume over another in all slice views, linked. Returns whether the background is new to any of them,
    in which case the caller should fit the views to it."""
    scene = background_node.GetScene()
    new = any(one.GetBackgroundVolumeID() != background_node.GetID() for one in composite_nodes(scene))
    display.show_overlay(background_node, foreground_node, opacity)
    quiet_labels(scene)
    link(scene, True)
    return new


def fade(scene, opacity: float) -> None:
    """Foreground opacity of all slice views, 0 to 1."""
    for one in composite_nodes(scene):
        one.SetForegroundOpacity(float(np.clip(opacity, 0.0, 1.0)))


def flick(scene) -> float:
    """Show the foreground where the background is seen, and the other way round. Returns the opacity now."""
    views = composite_nodes(scene)
    opacity = 0.0 if views and views[0].GetForegroundOpacity() >= 0.5 else 1.0
    fade(scene, opacity)
    return opacity


def link(scene, linked: bool) -> None:
    """Move and zoom all slice views together, while dragging, too."""
    for one in composite_nodes(scene):
        one.SetLinkedControl(linked)
        one.SetHotLinkedControl(linked)


def show_checkerboard(fixed_node, warped_node, square_mm: float | None = None):
    """Squares of fixed and warped volume in turn, in all slice views. Returns the volume node that holds them.

    Slicer's views have no checkerboard, so it is a volume on the fixed grid: grey levels as both are displayed, one
    byte a voxel whatever the images hold, because their windows differ and cannot both be those of one volume.
    It lies over the fixed volume, so that the fade works on it, and compares both where they are seen, under whatever
    transforms they are. square_mm: edge of a cube (a twelfth of the fixed volume's longest side when None). Raises
    InputError when a volume has no voxels of one number.
    """
    for node in (fixed_node, warped_node):
        if node.GetImageData() is None or node.GetImageData().GetNumberOfScalarComponents() != 1:
            raise InputError(f"A checkerboard needs voxels of one number each, which '{node.GetName()}' has not.")
    fixed, warped = slicer.util.arrayFromVolume(fixed_node), seen_on(fixed_node, warped_node)
    spacing = np.array(fixed_node.GetSpacing())[::-1]
    if square_mm is None:
        square_mm = float((spacing * fixed.shape).max()) / _SQUARES
    k, j, i = (np.arange(n) * step // square_mm for n, step in zip(fixed.shape, spacing, strict=True))
    odd = (k[:, None, None] + j[None, :, None] + i[None, None, :]) % 2 == 1
    squares = _as_displayed(fixed_node, fixed)
    squares[odd] = _as_displayed(warped_node, warped)[odd]
    node = _check_volume(fixed_node, "Checkerboard")
    node.SetAndObserveImageData(_byte_image(squares))
    shown = node.GetDisplayNode()
    shown.AutoWindowLevelOff()
    shown.SetWindowLevelMinMax(0, 255)
    show_pair(fixed_node, node, 1.0)
    return node


def seen_on(fixed_node, node) -> np.ndarray:
    """The voxels of a volume where they are seen on the grid of another one, (K, J, I), whatever lies above the two.

    Those of a volume that lies on the same grid are returned as they are. Outside, the smallest value.
    """
    if _same_place(fixed_node, node):
        return slicer.util.arrayFromVolume(node)
    between = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        fixed_node.GetParentTransformNode(), node.GetParentTransformNode(), between
    )
    to_ras, to_ijk = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    fixed_node.GetIJKToRASMatrix(to_ras)
    node.GetRASToIJKMatrix(to_ijk)
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    for part in (to_ras, between, to_ijk):
        whole.Concatenate(part)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(node.GetImageData())
    reslice.SetResliceTransform(whole)
    reslice.SetInterpolationModeToLinear()
    reslice.SetBackgroundLevel(node.GetImageData().GetScalarRange()[0])
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(*fixed_node.GetImageData().GetExtent())
    reslice.Update()
    output = reslice.GetOutput()
    return vtk_to_numpy(output.GetPointData().GetScalars()).reshape(output.GetDimensions()[::-1])


def _same_place(one, other) -> bool:
    """Whether two volumes have one grid and lie under one transform."""
    matrices = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    for node, matrix in zip((one, other), matrices, strict=True):
        node.GetIJKToRASMatrix(matrix)
    return (
        one.GetImageData().GetDimensions() == other.GetImageData().GetDimensions()
        and one.GetParentTransformNode() is other.GetParentTransformNode()
        and np.allclose(matrix_from_vtk(matrices[0]), matrix_from_vtk(matrices[1]), atol=1e-4)
    )


def _as_displayed(node, array: np.ndarray) -> np.ndarray:
    """Voxels as grey levels 0 to 255 of the node's window."""
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    low, width = shown.GetLevel() - shown.GetWindow() / 2, max(shown.GetWindow(), 1e-12)
    scaled = np.clip((array - np.float32(low)) * np.float32(255.0 / width), 0, 255)
    return np.nan_to_num(scaled).astype(np.uint8)


def _byte_image(array: np.ndarray):
    data = vtk.vtkImageData()
    data.SetDimensions(*array.shape[::-1])
    data.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    return data


def check_node(scene, class_name: str, what: str):
    """A node made for a check, not saved with the scene; the one of an earlier check is used again."""
    for node in nodes_of(scene, class_name):
        if node.GetAttribute(CHECK_ATTRIBUTE) == what:
            return node
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)
    node.SetName(what)
    node.SetAttribute(CHECK_ATTRIBUTE, what)
    node.SetSaveWithScene(False)
    # Nothing that a user would choose as an input.
    node.SetHideFromEditors(True)
    return scene.AddNode(node)


def _check_volume(like, what: str):
    """A scalar volume for a check that lies as another volume does."""
    node = check_node(like.GetScene(), "vtkMRMLScalarVolumeNode", what)
    node.CopyOrientation(like)
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSaveWithScene(False)
    return node


def show_before_after(moving_node, warped_node, transform_node=None) -> None:
    """The moving volume as it lay (foreground, shown first) over the registered one; `fade` and `flick` compare them.

    Where the moving volume is under the transform now, or an initial transform was given, which counts as "before" in
    the report, too, a second node that shares its voxels shows it as it was.
    """
    before = moving_node
    started = transform_node is not None and transform_node.GetAttribute(START_ATTRIBUTE)
    if started:
        before = _check_volume(moving_node, f"{moving_node.GetName()} before")
        before.SetAndObserveImageData(moving_node.GetImageData())
        node = check_node(moving_node.GetScene(), TRANSFORM_CLASS, "Position before")
        recorded = transform_node.GetAttribute(PARENT_ATTRIBUTE)
        parent = recorded_matrix(transform_node, PARENT_ATTRIBUTE) if recorded else np.eye(4)
        to_world = np.linalg.solve(recorded_matrix(transform_node, START_ATTRIBUTE), parent)
        node.SetAndObserveTransformToParent(linear_transform(to_world))
        before.SetAndObserveTransformNodeID(node.GetID())
        display.show_like(before, moving_node)
    elif transform_node is not None and _is_below(transform_node, moving_node):
        before = _check_volume(moving_node, f"{moving_node.GetName()} before")
        before.SetAndObserveImageData(moving_node.GetImageData())
        before.SetAndObserveTransformNodeID(_former_parent(moving_node, transform_node))
        display.show_like(before, moving_node)
    show_pair(warped_node, before, 1.0)


def _is_below(transform_node, node) -> bool:
    parent = node.GetParentTransformNode()
    while parent is not None:
        if parent is transform_node:
            return True
        parent = parent.GetParentTransformNode()
    return False


def _former_parent(moving_node, transform_node) -> str | None:
    """The transform that the moving volume was under, or one made from the record on the registration's transform."""
    former = moving_node.GetNodeReferenceID(FORMER_ROLE)
    if former or not transform_node.GetAttribute(PARENT_ATTRIBUTE):
        return former
    recorded = recorded_matrix(transform_node, PARENT_ATTRIBUTE)
    if np.allclose(recorded, np.eye(4)):
        return former
    node = check_node(moving_node.GetScene(), TRANSFORM_CLASS, "Position before")
    node.SetAndObserveTransformToParent(linear_transform(recorded))
    return node.GetID()


def show_preview(fixed_node, moving_node, array: np.ndarray) -> bool:
    """The moving image on the fixed grid (K, J, I) as a running registration has it, over the fixed volume.

    Returns whether the views should be fitted, as show_pair. A later preview replaces its voxels; the opacity that the
    user chose meanwhile stays.
    """
    scene = fixed_node.GetScene()
    node = _check_volume(fixed_node, PREVIEW)
    again = any(view.GetForegroundVolumeID() == node.GetID() for view in composite_nodes(scene))
    node.SetAndObserveImageData(image_data(array))
    display.show_like(node, moving_node)
    return False if again else show_pair(fixed_node, node)


def remove_preview(scene) -> bool:
    """Remove what show_preview made; returns whether there was any."""
    nodes = [n for n in nodes_of(scene, "vtkMRMLScalarVolumeNode") if n.GetAttribute(CHECK_ATTRIBUTE) == PREVIEW]
    for node in nodes:
        remove_shown(node)
    return bool(nodes)


def remove_check(scene, class_name: str, what: str) -> None:
    """Remove what check_node made, if it is there."""
    for node in [n for n in nodes_of(scene, class_name) if n.GetAttribute(CHECK_ATTRIBUTE) == what]:
        remove_shown(node)


# --- the Jacobian ------------------------------------------------------------------------------------------------


def show_jacobian(
    background_node, jacobian_node, opacity: float = 0.6, change: float = 1.0, legend: bool = True
) -> None:
    """The map of volume change over a volume, folds in their own colour. change: as in display.set_jacobian_range."""
    display.show_as_jacobian(jacobian_node)
    display.set_jacobian_range(jacobian_node, change)
    show_pair(background_node, jacobian_node, opacity)
    display.show_legend(jacobian_node, legend)
    mark(display.legend_node(jacobian_node))


# --- the deformation ---------------------------------------------------------------------------------------------


def show_deformation(transform_node, region_node, mode: str | None, spacing_mm: float | None = None) -> None:
    """The deformed grid ("grid"), displacement arrows ("arrows") or neither (None), over the region of a volume.

    The grid is straight in the moving image and shown as it lies on the fixed one; arrows go from where a point lay
    to where it is carried. spacing_mm: between lines or arrows (a 25th of the region's longest side when None). In
    slice views only: in a 3D view the grid has millions of points, and Slicer stands still for seconds.
    """
    shown = transform_node.GetDisplayNode()
    if mode is None:
        if shown is not None:
            shown.SetVisibility(False)
            shown.SetVisibility2D(False)
        return
    if mode not in (GRID, ARROWS):
        raise InputError(f"A deformation is shown as '{GRID}' or '{ARROWS}', not as '{mode}'.")
    if shown is None:
        transform_node.CreateDefaultDisplayNodes()
        shown = transform_node.GetDisplayNode()
    bounds = [0.0] * 6
    region_node.GetRASBounds(bounds)
    longest = max(bounds[1] - bounds[0], bounds[3] - bounds[2], bounds[5] - bounds[4])
    spacing = spacing_mm or max(longest / _LINES, 1e-3)
    editing = shown.StartModify()
    shown.SetAndObserveRegionNode(region_node)
    if mode == GRID:
        shown.SetVisualizationMode(shown.VIS_MODE_GRID)
        shown.SetGridSpacingMm(spacing)
        shown.SetGridResolutionMm(spacing / 4)
        shown.SetGridScalePercent(100)
        shown.SetGridLineDiameterMm(spacing / 12)
        shown.SetGridShowNonWarped(False)
    else:
        shown.SetVisualizationMode(shown.VIS_MODE_GLYPH)
        shown.SetGlyphType(shown.GLYPH_TYPE_ARROW)
        shown.SetGlyphSpacingMm(spacing)
        shown.SetGlyphScalePercent(100)
    shown.SetVisibility3D(False)
    shown.SetVisibility2D(True)
    shown.SetVisibility(True)
    mark(shown)
    shown.EndModify(editing)


def shown_deformation(transform_node) -> str | None:
    """How the slice views show a transform: "grid", "arrows", or None for not at all or another way."""
    shown = transform_node.GetDisplayNode()
    if shown is None or not (shown.GetVisibility() and shown.GetVisibility2D()):
        return None
    return {shown.VIS_MODE_GRID: GRID, shown.VIS_MODE_GLYPH: ARROWS}.get(shown.GetVisualizationMode())


# --- outlines ----------------------------------------------------------------------------------------------------


def show_outlines(nodes: Mapping[str, Shown | None], width: int = 1) -> None:
    """Outlines of label maps or segmentations in all views: {"fixed": node, "moving": node, "warped": node}.

    Each side has one colour (OUTLINE_COLORS), so that the same structure can be told apart; sides left out or None
    are not outlined. Label maps are outlined through a segmentation made of them, since a slice view holds a single
    label layer. Segments keep their own colours for everything else.
    """
    given = {side: node for side, node in nodes.items() if node is not None}
    unknown = sorted(set(given) - set(OUTLINE_COLORS))
    if unknown:
        raise InputError(f"There is no side '{unknown[0]}' to outline. Use fixed, moving or warped.")
    for side, node in given.items():
        segmentation: Any = node if node.IsA("vtkMRMLSegmentationNode") else _as_segmentation(node, side)
        if segmentation.GetDisplayNode() is None:
            segmentation.CreateDefaultDisplayNodes()
        shown = segmentation.GetDisplayNode()
        editing = shown.StartModify()
        if not shown.GetAttribute(OUTLINE_ATTRIBUTE):
            former = {name: getattr(shown, f"Get{name}")() for name in LOOK}
            shown.SetAttribute(OUTLINE_ATTRIBUTE, json.dumps(former))
        shown.SetVisibility(True)
        shown.SetVisibility2DFill(False)
        shown.SetVisibility2DOutline(True)
        shown.SetOpacity2DOutline(1.0)
        shown.SetSliceIntersectionThickness(width)
        for n in range(segmentation.GetSegmentation().GetNumberOfSegments()):
            shown.SetSegmentOverrideColor(segmentation.GetSegmentation().GetNthSegmentID(n), *OUTLINE_COLORS[side])
        mark(shown)
        shown.EndModify(editing)


def hide_outlines(scene) -> None:
    """Segmentations are shown as before show_outlines; those made for it are removed."""
    for node in nodes_of(scene, "vtkMRMLSegmentationNode"):
        if node.GetAttribute(CHECK_ATTRIBUTE):
            remove_shown(node)
        else:
            restore_outline(node)


def _as_segmentation(label_node, side: str):
    node = check_node(label_node.GetScene(), "vtkMRMLSegmentationNode", f"Outlines of {side}")
    node.SetAndObserveTransformNodeID(label_node.GetTransformNodeID())
    array = slicer.util.arrayFromVolume(label_node)
    matrix = vtk.vtkMatrix4x4()
    label_node.GetIJKToRASMatrix(matrix)
    if array.dtype.kind == "f":
        array = np.nan_to_num(array).astype(np.int32)
    table = {value: Label(f"Label {value}", OUTLINE_COLORS[side]) for value in values_in(array)}
    former = node.GetSegmentation()
    node.SetAndObserveSegmentation(finish(building(array, matrix_from_vtk(matrix), table, cropped=False)))
    finish(releasing(former))
    return node


# --- places ------------------------------------------------------------------------------------------------------


def jump_to(scene, point_ras: Sequence[float] | np.ndarray) -> None:
    """Bring a world point into all slice views and put the crosshair on it."""
    point = [float(value) for value in point_ras]
    for node in slice_nodes(scene):
        node.JumpSliceByOffsetting(*point)
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(node.GetXYToRAS(), to_xy)
        x, y = to_xy.MultiplyPoint([*point, 1.0])[:2]
        width, height = node.GetDimensions()[:2]
        if not (0 <= x < width and 0 <= y < height):
            node.JumpSliceByCentering(*point)
    crosshair = crosshair_of(scene)
    if crosshair is not None:
        crosshair.SetCrosshairRAS(*point)
        crosshair.SetCrosshairMode(crosshair.ShowSmallBasic)


def worst_voxel(jacobian_node) -> tuple[np.ndarray, float]:
    """World position (3,) and value of the smallest determinant of a map, wherever it is.

    The report's `worst_ras` names the smallest one inside the anatomy; this is for maps without a report.
    """
    array = slicer.util.arrayFromVolume(jacobian_node)
    if not np.isfinite(array).any():
        raise InputError(f"The Jacobian map '{jacobian_node.GetName()}' holds no numbers.")
    k, j, i = np.unravel_index(int(np.nanargmin(array)), array.shape)
    to_ras = vtk.vtkMatrix4x4()
    jacobian_node.GetIJKToRASMatrix(to_ras)
    local = to_ras.MultiplyPoint([float(i), float(j), float(k), 1.0])[:3]
    world = [0.0, 0.0, 0.0]
    jacobian_node.TransformPointToWorld(local, world)
    return np.array(world), float(array[k, j, i])
