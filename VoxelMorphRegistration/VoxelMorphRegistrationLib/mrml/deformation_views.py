"""The deformation drawn into the slice views: as a grid or as arrows, without the linear alignment."""

from __future__ import annotations

import numpy as np
import vtk

from ..errors import InputError
from .check_nodes import check_node
from .names import LINEAR_ROLE, PARENT_ATTRIBUTE, REPORT_ATTRIBUTE, RUN_ATTRIBUTE
from .records import recorded_matrix
from .transforms import TRANSFORM_CLASS, matrix_from_vtk, matrix_to_vtk, oriented_grid
from .view_state import CHECK_ATTRIBUTE, mark, nodes_of, remove_shown

GRID, ARROWS = "grid", "arrows"
DEFORMATION = "Deformation"
_LINES = 25


def show_deformation(transform_node, region_node, mode: str | None, spacing_mm: float | None = None) -> None:
    """The deformed grid ("grid"), displacement arrows ("arrows") or neither (None), over the region of a volume.

    Of what a registration wrote, the linear alignment is left out, which would hide what is local. The grid is straight
    in the moving image and shown as it lies on the fixed one; arrows go from where a point lay to where it is carried.
    spacing_mm: between lines or arrows (a 25th of the region's longest side when None). In slice views only: in a 3D
    view the grid has millions of points, and Slicer stands still for seconds.
    """
    if mode not in (None, GRID, ARROWS):
        raise InputError(f"A deformation is shown as '{GRID}' or '{ARROWS}', not as '{mode}'.")
    drawn = _drawn(transform_node.GetScene())
    if mode is None:
        if drawn is not None:
            remove_shown(drawn)
        return
    drawn = check_node(transform_node.GetScene(), TRANSFORM_CLASS, DEFORMATION)
    drawn.SetAndObserveTransformFromParent(_without_alignment(transform_node))
    drawn.SetAttribute(RUN_ATTRIBUTE, transform_node.GetAttribute(RUN_ATTRIBUTE))
    shown = drawn.GetDisplayNode()
    if shown is None:
        drawn.CreateDefaultDisplayNodes()
        shown = drawn.GetDisplayNode()
        shown.SetSaveWithScene(False)
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
    """What show_deformation shows: "grid", "arrows", or None for nothing."""
    drawn = _drawn(transform_node.GetScene())
    shown = drawn.GetDisplayNode() if drawn is not None else None
    if shown is None or not (shown.GetVisibility() and shown.GetVisibility2D()):
        return None
    return {shown.VIS_MODE_GRID: GRID, shown.VIS_MODE_GLYPH: ARROWS}.get(shown.GetVisualizationMode())


def is_of_another_run(transform_node) -> bool:
    """Whether what is drawn belongs to another result than a transform's, as to another frame of a sequence."""
    drawn = _drawn(transform_node.GetScene())
    return drawn is not None and drawn.GetAttribute(RUN_ATTRIBUTE) != transform_node.GetAttribute(RUN_ATTRIBUTE)


def _drawn(scene):
    transforms = nodes_of(scene, TRANSFORM_CLASS)
    return next((one for one in transforms if one.GetAttribute(CHECK_ATTRIBUTE) == DEFORMATION), None)


def _without_alignment(transform_node):
    """x -> x + u(x) of a registration's T(x) = A (x + u(x)); the whole of other transforms, and of hardened ones."""
    own = oriented_grid(transform_node)
    if own is None or not transform_node.GetAttribute(REPORT_ATTRIBUTE):
        return transform_node.GetTransformFromParent()
    after = vtk.vtkMatrix4x4()
    companion = transform_node.GetNodeReference(LINEAR_ROLE)
    if companion is not None:
        companion.GetMatrixTransformFromParent(after)
    parent = recorded_matrix(transform_node, PARENT_ATTRIBUTE)
    # The node and its linear part are P^-1 A (x + u(x)).
    outer = np.linalg.solve(
        recorded_matrix(transform_node, REPORT_ATTRIBUTE, "linear"), parent @ matrix_from_vtk(after)
    )
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(own)
    whole.Concatenate(matrix_to_vtk(outer))
    return whole
