"""The map of the expected error in the scene: its node, colours and contour, and what control points say of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import vtk

import mrml_cases as cases
import slicer
from view_cases import GRID, Views
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml import applying, check_views, display, error_map
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.labels import labels_from_node
from VoxelMorphRegistrationLib.mrml.results import results_of
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.writer import write_outputs
from VoxelMorphRegistrationLib.results.colours import doubt_colours
from VoxelMorphRegistrationLib.trust.error_map import ErrorMap

TURNED = (cases.PARENTS["both moved"][0], cases.affine(cases.rotation(8, -6, 10) * 1.05, (4, 0, -3)))


@pytest.fixture
def views(scene) -> Views:
    return Views(scene)


def growing(grid) -> np.ndarray:
    """From 0.5 mm, by 0.25 mm with every voxel along i; nothing said of the last slice."""
    values = np.broadcast_to(0.5 + 0.25 * np.arange(grid.shape[2]), grid.shape).astype(np.float32)
    values[-1] = 0.0
    return values


def written(scene, parents="no parents", **targets):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", parents)
    read = read_inputs(fixed_node, moving_node)
    registration = cases.make_registration(read.fixed, read.moving)
    doubt = ErrorMap(Image(growing(read.fixed.grid), read.fixed.grid), "quick")
    registration = replace(registration, expected_error=doubt)
    return read, registration, write_outputs(registration, read, Targets(jacobian=False, volume=False, **targets))


def points_in(scene, places) -> object:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    for place in places:
        node.AddControlPointWorld(vtk.vtkVector3d(place))
    return node


def test_map_is_a_node_of_its_run_and_is_written_again(scene):
    read, registration, nodes = written(scene)
    node = nodes.expected_error
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), registration.expected_error.bound.array)
    assert results_of(nodes.transform).expected_error is node
    assert "expected error" in node.GetName()
    again = write_outputs(registration, read, Targets(nodes.transform, False, None, False, expected_error=node))
    assert again.expected_error is node
    without = write_outputs(registration, read, Targets(nodes.transform, False, None, False, expected_error=False))
    assert results_of(without.transform).expected_error is None


def test_map_is_coloured_from_sure_to_unsure_and_clear_where_nothing_is_said(scene, views):
    fixed = cases.add_volume(np.full(GRID.shape, 90, np.uint8), GRID, "Fixed")
    values = np.full(GRID.shape, 0.6, np.float32)
    values[:, :, GRID.shape[2] // 2 :] = 8.0
    values[:, : GRID.shape[1] // 2] = 0.0
    node = cases.add_volume(values, GRID, "Error")
    error_map.show_error(fixed, node, 1.0, 0.0, True)
    check_views.show_pair(fixed, node, 1.0)
    views.fit()
    seen = {tuple(color) for color in views.picture().reshape(-1, 3).tolist()}
    for value in (0.6, 8.0):
        wanted = doubt_colours(np.array(value)).astype(int)
        assert min(np.abs(np.array(color) - wanted).max() for color in seen) <= 12
    legend = display.legend_node(node)
    assert legend.GetVisibility() and "mm" in legend.GetTitleText()
    error_map.show_legend(node, False)
    assert not legend.GetVisibility()


def test_contour_surrounds_what_is_less_certain_and_goes_again(scene):
    _, registration, nodes = written(scene)
    line = error_map.show_contour(nodes.expected_error, 2.0)
    assert line.GetSegmentation().GetNumberOfSegments() == 1
    assert line.GetDisplayNode().GetVisibility2DOutline() and not line.GetDisplayNode().GetVisibility2DFill()
    count = scene.GetNumberOfNodes()
    assert error_map.show_contour(nodes.expected_error, 3.0) is line
    assert scene.GetNumberOfNodes() == count
    assert error_map.show_contour(nodes.expected_error, 0.0) is None
    assert line.GetScene() is None
    assert error_map.show_contour(nodes.expected_error, 1000.0) is None
    with pytest.raises(InputError, match="contour"):
        error_map.show_contour(nodes.expected_error, -1.0)


@pytest.mark.parametrize("parents", ["no parents", TURNED])
def test_points_under_the_transform_tell_the_error_at_their_place_on_the_fixed_volume(scene, parents):
    _, registration, nodes = written(scene, parents)
    grid = registration.expected_error.bound.grid
    fixed = grid.to_ras([[6, 8, 9], [9, 11, 12]])
    moving = registration.transform_points(fixed)
    points = points_in(scene, moving)
    points.SetNthControlPointDescription(0, "ureter")
    applying.apply_transform(nodes.transform, [points])
    told = [points.GetNthControlPointDescription(n) for n in (0, 1)]
    assert told == ["ureter; expected error up to 2.0 mm (90 %)", "expected error up to 2.8 mm (90 %)"]
    applying.take_off([points])
    assert [points.GetNthControlPointDescription(n) for n in (0, 1)] == ["ureter", ""]


def test_points_of_the_fixed_volume_under_the_inverse_tell_it_as_well(scene):
    _, registration, nodes = written(scene, TURNED, inverse=None)
    grid = registration.expected_error.bound.grid
    points = points_in(scene, grid.to_ras([[6, 8, 9]]))
    applying.apply_transform(nodes.inverse, [points])
    assert points.GetNthControlPointDescription(0) == "expected error up to 2.0 mm (90 %)"


def test_where_nothing_is_said_points_say_nothing(scene):
    _, registration, nodes = written(scene)
    grid = registration.expected_error.bound.grid
    last = grid.shape[0] - 1
    points = points_in(scene, registration.transform_points(grid.to_ras([[6, 8, last]])))
    applying.apply_transform(nodes.transform, [points])
    assert points.GetNthControlPointDescription(0) == ""


def test_band_surrounds_each_structure_in_its_colour(scene):
    grid = cases.FIXED_GRIDS["axis aligned"]
    node = cases.add_volume(np.full(grid.shape, 4.0, np.float32), grid, "Error")
    values = np.zeros(grid.shape, np.uint8)
    values[6:14, 6:14, 6:18] = 5
    labels = cases.add_volume(values, grid, "Organs", "vtkMRMLLabelMapVolumeNode")
    band = error_map.show_band(labels, node)
    assert band.GetSegmentation().GetNumberOfSegments() == 1
    identity = band.GetSegmentation().GetNthSegmentID(0)
    found = labels_from_node(band, grid).image.array
    assert identity and set(np.unique(found)) == {0, 1}
    # Voxels of 2 mm: two on each side of the surface.
    np.testing.assert_array_equal(np.flatnonzero(found[10, 10]), [4, 5, 6, 7, 16, 17, 18, 19])
    error_map.hide_band(scene)
    assert band.GetScene() is None


@pytest.mark.parametrize(("voxel_mm", "part"), [(4.0, 1.0), (0.2, None)])
def test_the_colours_of_a_small_animal_end_earlier(scene, voxel_mm, part):
    node = slicer.util.addVolumeFromArray(np.ones((50, 60, 70), np.float32))
    node.SetSpacing(voxel_mm, voxel_mm, voxel_mm)
    error_map.show_as_error(node)
    scale = error_map.scale_of(node)
    assert scale == part or (part is None and 0.0 < scale < 0.5)
    assert node.GetDisplayNode().GetWindowLevelMax() == pytest.approx(error_map.DOUBT_ENDS_MM[1] * scale)
