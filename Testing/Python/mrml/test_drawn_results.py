"""The map of volume change and the drawn deformation, on real view nodes and Slicer's own slice pipeline."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from view_cases import GRID, Views, flat_volume
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml import deformation_views, display, jacobian_views, view_state
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.writer import write_outputs


@pytest.fixture
def views(scene) -> Views:
    return Views(scene)


@pytest.fixture
def fixed(views):
    node = flat_volume("Fixed", 60)
    views.fit()
    return node


# --- Jacobian -----------------------------------------------------------------------------------------------------


def test_jacobian_lies_over_the_anatomy_with_its_legend(scene, views, fixed):
    values = np.full(GRID.shape, 1.0, np.float32)
    values[:, :20] = 1.15
    values[:, :, :20] = -0.5
    jacobian = cases.add_volume(values, GRID, "Jacobian")
    jacobian_views.show_jacobian(fixed, jacobian, opacity=1.0, change=0.2)
    views.fit()
    legend = display.legend_node(jacobian_views.drawn_map(scene))
    assert legend.GetVisibility()
    # Slicer's own texts, of 24 points and more, fill a third of a view.
    texts = (legend.GetTitleTextProperty(), legend.GetLabelTextProperty())
    assert [text.GetFontSize() for text in texts] == [10, 10]
    colors = {tuple(color) for color in views.picture().reshape(-1, 3).tolist()}
    fold = tuple(round(255 * c) for c in display.FOLD_COLOR)
    grown = tuple(round(255 * c) for c in display.jacobian_color(1.15, 0.2)[:3])
    assert fold in colors
    assert min(np.abs(np.subtract(grown, color)).max() for color in colors) <= 8
    # Unchanged.
    assert (round(255 * display.UNCHANGED_GREY),) * 3 in colors
    jacobian_views.show_jacobian(fixed, jacobian, legend=False)
    assert display.legend_node(jacobian_views.drawn_map(scene)) is legend and not legend.GetVisibility()


def test_jacobian_is_not_drawn_far_outside_the_anatomy(scene, views):
    array = np.zeros(GRID.shape, np.float32)
    # 20 mm of tissue at one side.
    array[:, :, :10] = 100.0
    fixed = cases.add_volume(array, GRID, "Fixed")
    jacobian = cases.add_volume(np.full(GRID.shape, 3.0, np.float32), GRID, "Jacobian")
    jacobian_views.show_jacobian(fixed, jacobian, opacity=1.0)
    views.fit()
    picture = views.picture()
    coloured = (np.ptp(picture, axis=-1) > 20).any(axis=0)
    # 40 columns of 2 mm over 200 pixels; drawn up to 10 mm beyond.
    columns = np.flatnonzero(coloured)
    width = 200 / 40
    assert abs(len(columns) - 15 * width) <= 2 * width
    # The map itself holds all of it, and is what Slicer saves.
    assert (slicer.util.arrayFromVolume(jacobian) == 3.0).all()
    assert not jacobian_views.drawn_map(scene).GetSaveWithScene()


def test_jacobian_on_the_grid_of_the_field_is_drawn_near_the_anatomy_as_well(scene, views):
    array = np.zeros(GRID.shape, np.float32)
    array[:, :, :10] = 100.0
    fixed = cases.add_volume(array, GRID, "Fixed")
    other = cases.centred_grid((10, 20, 20), (4.0, 4.0, 4.0))
    jacobian = cases.add_volume(np.full(other.shape, 2.0, np.float32), other, "Jacobian")
    jacobian_views.show_jacobian(fixed, jacobian, opacity=1.0)
    drawn_values = slicer.util.arrayFromVolume(jacobian_views.drawn_map(scene))
    columns = (drawn_values == 2.0).all(axis=(0, 1))
    # 20 mm of tissue and 10 mm beyond, in voxels of 4 mm.
    assert columns[:7].all() and not columns[9:].any()


# --- deformation ----------------------------------------------------------------------------------------------------


def drawn(scene):
    nodes = view_state.nodes_of(scene, "vtkMRMLTransformNode")
    return next((one for one in nodes if one.GetAttribute(view_state.CHECK_ATTRIBUTE)), None)


def test_grid_and_arrows_are_shown_over_the_fixed_volume_and_hidden_again(scene, fixed):
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    deformation_views.show_deformation(transform, fixed, None)
    assert drawn(scene) is None
    deformation_views.show_deformation(transform, fixed, deformation_views.GRID, 8.0)
    shown = drawn(scene).GetDisplayNode()
    # Not in a 3D view, where it is millions of points.
    assert shown.GetVisibility() and shown.GetVisibility2D() and not shown.GetVisibility3D()
    assert shown.GetVisualizationMode() == shown.VIS_MODE_GRID
    assert shown.GetGridSpacingMm() == 8.0 and shown.GetGridScalePercent() == 100
    assert shown.GetRegionNode() is fixed
    deformation_views.show_deformation(transform, fixed, deformation_views.ARROWS)
    assert shown.GetVisualizationMode() == shown.VIS_MODE_GLYPH
    assert deformation_views.shown_deformation(transform) == deformation_views.ARROWS
    # A 25th of the longest side, 80 mm.
    assert shown.GetGlyphSpacingMm() == pytest.approx(80 / 25)
    deformation_views.show_deformation(transform, fixed, None)
    assert drawn(scene) is None and transform.GetDisplayNode() is None
    assert deformation_views.shown_deformation(transform) is None
    with pytest.raises(InputError, match="'grid' or 'arrows', not as 'lines'"):
        deformation_views.show_deformation(transform, fixed, "lines")


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
@pytest.mark.parametrize("linear", ["inside", "separate"])
def test_grid_shows_the_deformation_without_the_alignment(scene, parents, linear):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique left-handed", parents)
    read = read_inputs(fixed_node, moving_node)
    made = cases.make_registration(read.fixed, read.moving)
    nodes = write_outputs(made, read, Targets(linear=linear, volume=False, jacobian=False))
    deformation_views.show_deformation(nodes.grid_transform, fixed_node, deformation_views.GRID)
    inner = read.fixed.grid.to_ras(np.array([[8.0, 9.0, 10.0], [10.0, 12.0, 8.0], [6.0, 7.0, 9.0]]))
    assert cases.from_world(drawn(scene), inner) == pytest.approx(made.field.transform_points(inner), abs=0.02)
    # The alignment moves these points by much more than that.
    assert np.abs(cases.from_world(nodes.transform, inner) - made.field.transform_points(inner)).max() > 1


def test_hardened_transform_is_drawn_whole(scene, fixed):
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(cases.affine(shift=(3.0, 0, 0))))
    deformation_views.show_deformation(transform, fixed, deformation_views.ARROWS)
    assert cases.from_world(drawn(scene), np.zeros((1, 3)))[0] == pytest.approx([-3.0, 0, 0])
