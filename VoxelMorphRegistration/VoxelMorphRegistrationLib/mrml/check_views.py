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

import slicer

from ..errors import InputError
from . import display
from .check_nodes import check_node, check_volume, plain_image, seen_on
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
PREVIEW = "Preview"
_SQUARES = 12


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
    node = check_volume(fixed_node, "Checkerboard")
    node.SetAndObserveImageData(plain_image(squares))
    shown = node.GetDisplayNode()
    shown.AutoWindowLevelOff()
    shown.SetWindowLevelMinMax(0, 255)
    show_pair(fixed_node, node, 1.0)
    return node


def _as_displayed(node, array: np.ndarray) -> np.ndarray:
    """Voxels as grey levels 0 to 255 of the node's window."""
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    low, width = shown.GetLevel() - shown.GetWindow() / 2, max(shown.GetWindow(), 1e-12)
    scaled = np.clip((array - np.float32(low)) * np.float32(255.0 / width), 0, 255)
    return np.nan_to_num(scaled).astype(np.uint8)


def show_before_after(moving_node, warped_node, transform_node=None) -> None:
    """The moving volume as it lay (foreground, shown first) over the registered one; `fade` and `flick` compare them.

    It is shown on the grid of the registered one: where it has nothing, the darkest value covers the registered one,
    of which a rim would be seen otherwise. As it lay: where it is under the transform now, as before; where an initial
    transform was given, which counts as "before" in the report, too, through that.
    """
    lay = _as_it_lay(moving_node, transform_node)
    before = check_volume(warped_node, f"{moving_node.GetName()} before")
    before.SetAndObserveImageData(plain_image(np.ascontiguousarray(seen_on(warped_node, lay))))
    display.show_like(before, moving_node)
    show_pair(warped_node, before, 1.0)


def _as_it_lay(moving_node, transform_node):
    """The moving volume, or a second node that shares its voxels and lies as the moving one did."""
    started = transform_node is not None and transform_node.GetAttribute(START_ATTRIBUTE)
    if not started and (transform_node is None or not _is_below(transform_node, moving_node)):
        return moving_node
    lay = check_volume(moving_node, f"{moving_node.GetName()} as it lay")
    lay.SetAndObserveImageData(moving_node.GetImageData())
    if started:
        node = check_node(moving_node.GetScene(), TRANSFORM_CLASS, "Position before")
        recorded = transform_node.GetAttribute(PARENT_ATTRIBUTE)
        parent = recorded_matrix(transform_node, PARENT_ATTRIBUTE) if recorded else np.eye(4)
        to_world = np.linalg.solve(recorded_matrix(transform_node, START_ATTRIBUTE), parent)
        node.SetAndObserveTransformToParent(linear_transform(to_world))
        lay.SetAndObserveTransformNodeID(node.GetID())
    else:
        lay.SetAndObserveTransformNodeID(_former_parent(moving_node, transform_node))
    return lay


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
    node = check_volume(fixed_node, PREVIEW)
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
