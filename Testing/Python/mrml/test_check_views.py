"""The checks of a result, on real view nodes and Slicer's own slice pipeline without a window."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

import mrml_cases as cases
import slicer
from view_cases import GRID, Views, box_labels, flat_volume
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml import (
    applying,
    check_nodes,
    check_views,
    deformation_views,
    display,
    jacobian_views,
    view_state,
)
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.labels import labels_from_node
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs

FIXED_GREY, WARPED_GREY = 60, 180


@pytest.fixture
def views(scene) -> Views:
    return Views(scene)


@pytest.fixture
def pair(views):
    fixed, warped = flat_volume("Fixed", FIXED_GREY), flat_volume("Warped", WARPED_GREY)
    check_views.show_pair(fixed, warped)
    views.fit()
    return fixed, warped


# --- layers -----------------------------------------------------------------------------------------------------


def test_result_is_shown_half_and_half_in_linked_views(scene, views, pair):
    composites = view_state.composite_nodes(scene)
    assert len(composites) == 3
    assert {(c.GetBackgroundVolumeID(), c.GetForegroundVolumeID()) for c in composites} == {
        (pair[0].GetID(), pair[1].GetID())
    }
    assert all(c.GetLinkedControl() and c.GetHotLinkedControl() for c in composites)
    assert views.middle() == pytest.approx((FIXED_GREY + WARPED_GREY) / 2, abs=2)
    assert check_views.show_pair(*pair) is False
    assert check_views.show_pair(*pair[::-1]) is True


def test_fade_and_flicker_go_from_one_volume_to_the_other(scene, views, pair):
    for opacity, grey in ((0.0, FIXED_GREY), (0.25, 90), (1.0, WARPED_GREY), (7.0, WARPED_GREY)):
        check_views.fade(scene, opacity)
        assert views.middle() == pytest.approx(grey, abs=2)
    assert check_views.flick(scene) == 0.0
    assert views.middle() == FIXED_GREY
    assert check_views.flick(scene) == 1.0
    assert views.middle() == WARPED_GREY


def test_checkerboard_takes_squares_of_both_volumes_in_turn(scene, views, pair):
    fixed, warped = pair
    node = check_views.show_checkerboard(fixed, warped, square_mm=20)
    assert slicer.util.arrayFromVolume(node).dtype == np.uint8
    squares = slicer.util.arrayFromVolume(node)
    assert set(np.unique(squares)) == {FIXED_GREY, WARPED_GREY}
    # 20 mm are 10 voxels along every axis.
    assert (squares[0, 0, 0], squares[0, 0, 10], squares[0, 10, 10], squares[10, 10, 10]) == (
        FIXED_GREY,
        WARPED_GREY,
        FIXED_GREY,
        WARPED_GREY,
    )
    picture = views.picture()[..., 0]
    # The view spans 80 mm with 200 points: squares of 50, the middles of neighbours differ.
    middles = picture[25::50, 25::50]
    assert {FIXED_GREY, WARPED_GREY} == set(middles.ravel().tolist())
    assert (np.abs(np.diff(middles, axis=0)) == WARPED_GREY - FIXED_GREY).all()
    count = scene.GetNumberOfNodes()
    assert check_views.show_checkerboard(fixed, warped) is node
    assert scene.GetNumberOfNodes() == count
    assert not node.GetSaveWithScene()


def test_checkerboard_shows_each_volume_in_its_own_window(scene, views):
    fixed, warped = flat_volume("Fixed", -500.0), flat_volume("Warped", 0.5)
    fixed.GetDisplayNode().SetWindowLevelMinMax(-1000, 0)
    warped.GetDisplayNode().SetWindowLevelMinMax(0, 2)
    squares = slicer.util.arrayFromVolume(check_views.show_checkerboard(fixed, warped))
    assert set(np.unique(squares)) == {127, 63}
    warped.SetAndObserveImageData(None)
    with pytest.raises(InputError, match="voxels of one number each, which 'Warped' has not"):
        check_views.show_checkerboard(fixed, warped)


def test_checkerboard_lies_where_the_fixed_volume_lies(scene, views, pair):
    parent = cases.add_parent(scene, pair[0], cases.affine(cases.rotation(10, 20, 30), (4, 5, 6)))
    node = check_views.show_checkerboard(*pair)
    assert node.GetParentTransformNode() is parent
    assert image_from_node(node).grid.same_as(image_from_node(pair[0]).grid, 1e-6)


def before_after(scene, moving_node, nodes):
    """The volume that show_before_after puts over the registered one."""
    check_views.show_before_after(moving_node, nodes.volume, nodes.transform)
    composite = view_state.composite_nodes(scene)[0]
    assert composite.GetBackgroundVolumeID() == nodes.volume.GetID()
    before = scene.GetNodeByID(composite.GetForegroundVolumeID())
    # On the registered one's grid: nothing of that is seen beside it, and nothing beyond.
    assert image_from_node(before).grid.same_as(image_from_node(nodes.volume).grid, 1e-6)
    return slicer.util.arrayFromVolume(before)


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
@pytest.mark.parametrize("forget", [False, True])
def test_moving_volume_is_shown_as_it_lay_even_under_the_transform(scene, views, forget, parents):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", parents)
    read = read_inputs(fixed_node, moving_node)
    nodes = write_outputs(cases.make_registration(read.fixed, read.moving), read, Targets(jacobian=False))
    darkest = float(read.moving.array.min())
    expected = cases.slicer_reslice(scene, moving_node, fixed_node, darkest)
    assert before_after(scene, moving_node, nodes) == pytest.approx(expected, abs=1e-3)
    if forget:
        # As in a scene from elsewhere: nothing on the volume tells where it was, the transform does.
        moving_node.SetAndObserveTransformNodeID(nodes.transform.GetID())
    else:
        applying.apply_transform(nodes.transform, [moving_node])
    assert before_after(scene, moving_node, nodes) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_before_includes_the_initial_transform_as_the_report_does(scene, views, parents):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique left-handed", parents)
    start = cases.affine(cases.rotation(10, -20, 5), (6, -4, 3))
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Start")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(start))
    read = read_inputs(fixed_node, moving_node, initial_transform=node)
    nodes = write_outputs(cases.make_registration(read.fixed, read.moving), read, Targets(jacobian=False))
    found = before_after(scene, moving_node, nodes)
    # What is seen when the start is put above the moving volume and all that it lies under.
    top = moving_node
    while top.GetParentTransformNode() is not None:
        top = top.GetParentTransformNode()
    top.SetAndObserveTransformNodeID(node.GetID())
    expected = cases.slicer_reslice(scene, moving_node, fixed_node, float(read.moving.array.min()))
    assert found == pytest.approx(expected, abs=1e-2)
    assert np.abs(found - cases.blobs(read.fixed.grid, 1)).max() > 50


def test_volumes_without_voxels_are_told(scene, views, pair):
    """As of a scene whose files are gone."""
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Gone")
    for shown in (
        lambda: check_views.show_before_after(empty, pair[0]),
        lambda: check_views.show_before_after(pair[0], empty),
        lambda: jacobian_views.show_jacobian(pair[0], empty),
        lambda: jacobian_views.show_jacobian(empty, pair[0]),
    ):
        with pytest.raises(InputError, match="'Gone' has no voxels"):
            shown()


def test_nothing_of_the_registered_volume_is_seen_where_the_moving_one_ends(scene, views, pair):
    """A rim of it was seen beyond the moving volume's grid."""
    fixed, _ = pair
    registered = flat_volume("Registered", 200)
    small = cases.add_volume(
        np.full((10, 10, 10), 90, np.uint8), cases.centred_grid((10, 10, 10), (2.0, 2.0, 2.0)), "Small"
    )
    small.CreateDefaultDisplayNodes()
    for node in (small, registered):
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevelMinMax(80, 220)
    check_views.show_before_after(small, registered)
    views.fit()
    levels = {int(level) for level in np.unique(views.picture())}
    assert round(255 * 120 / 140) not in levels
    assert fixed.GetImageData() is not None


# --- outlines -------------------------------------------------------------------------------------------------------


def test_each_side_is_outlined_in_its_own_colour(scene, pair):
    drawn = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    source = box_labels("source", 5)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(source, drawn)
    own = drawn.GetSegmentation().GetNthSegment(0).GetColor()
    parent = cases.affine(shift=(3, 0, 0))
    warped = box_labels("warped", 8)
    cases.add_parent(scene, warped, parent)
    drawn.CreateDefaultDisplayNodes()
    former = drawn.GetDisplayNode().GetSliceIntersectionThickness()
    for width in (3, 5):
        check_views.show_outlines({"fixed": drawn, "warped": warped, "moving": None}, width)
    segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert len(segmentations) == 2
    for node, side in zip(segmentations, ("fixed", "warped"), strict=True):
        shown = node.GetDisplayNode()
        segment_id = node.GetSegmentation().GetNthSegmentID(0)
        assert shown.GetVisibility2DOutline() and not shown.GetVisibility2DFill()
        color = vtk.vtkVector3d()
        shown.GetSegmentColor(segment_id, color)
        assert list(color) == pytest.approx(check_views.OUTLINE_COLORS[side])
    assert drawn.GetSegmentation().GetNthSegment(0).GetColor() == own
    made = segmentations[1]
    assert made.GetTransformNodeID() == warped.GetTransformNodeID()
    array = labels_from_node(made, image_from_node(warped).grid).image
    assert (array.array != 0).sum() == (slicer.util.arrayFromVolume(warped) != 0).sum()
    check_views.hide_outlines(scene)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [drawn]
    shown = drawn.GetDisplayNode()
    assert shown.GetVisibility2DFill() and shown.GetSliceIntersectionThickness() == former
    shown.GetSegmentColor(drawn.GetSegmentation().GetNthSegmentID(0), color)
    assert list(color) == pytest.approx(list(own))
    with pytest.raises(InputError, match="no side 'atlas'"):
        check_views.show_outlines({"atlas": drawn})


# --- places ---------------------------------------------------------------------------------------------------------


def test_all_views_jump_to_a_point_and_mark_it(scene, views, pair):
    point = np.array([10.0, -14.0, 8.0])
    zoomed = views.logics["Red"].GetSliceNode()
    zoomed.SetFieldOfView(10, 10, 1)
    check_views.jump_to(scene, point)
    for node in view_state.slice_nodes(scene):
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(node.GetXYToRAS(), to_xy)
        x, y, z = to_xy.MultiplyPoint([*point, 1.0])[:3]
        assert abs(z) < 1e-6
        assert 0 <= x < 200 and 0 <= y < 200
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert crosshair.GetCrosshairRAS() == pytest.approx(tuple(point))
    assert crosshair.GetCrosshairMode() != crosshair.NoCrosshair


def test_worst_voxel_is_found_in_the_world(scene):
    values = np.ones(GRID.shape, np.float32)
    values[3, 7, 30] = -2.5
    values[0, 0, 0] = np.nan
    node = cases.add_volume(values, GRID, "Jacobian")
    matrix = cases.affine(cases.rotation(10, 20, 30), (4, 5, 6))
    cases.add_parent(scene, node, matrix)
    point, value = check_views.worst_voxel(node)
    local = GRID.to_ras(np.array([30, 7, 3]))
    assert value == -2.5
    assert point == pytest.approx(matrix[:3, :3] @ local + matrix[:3, 3])


# --- remembering ----------------------------------------------------------------------------------------------------


def view_facts(scene) -> list:
    """All that a user sees of the views."""
    names = (*view_state._LAYERS, *view_state._COMPOSITE)
    facts = [[getattr(node, f"Get{name}")() for name in names] for node in view_state.composite_nodes(scene)]
    for node in view_state.slice_nodes(scene):
        matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        facts.append([matrix.tolist(), node.GetFieldOfView(), node.GetXYZOrigin(), node.GetUseLabelOutline()])
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    return [*facts, crosshair.GetCrosshairMode(), crosshair.GetCrosshairRAS()]


def everything_on(scene, pair, transform, segmentation) -> None:
    jacobian = cases.add_volume(np.ones(GRID.shape, np.float32), GRID, "Jacobian")
    jacobian_views.show_jacobian(pair[0], jacobian)
    check_views.show_checkerboard(*pair)
    deformation_views.show_deformation(transform, pair[0], deformation_views.GRID)
    check_views.show_outlines({"fixed": segmentation, "warped": box_labels("warped", 8)})
    check_views.jump_to(scene, (5, 6, 7))
    for node in view_state.slice_nodes(scene):
        node.SetFieldOfView(33, 33, 1)
        node.SetUseLabelOutline(True)
        node.SetXYZOrigin(4, 5, 0)


@pytest.fixture
def busy(scene, views, pair):
    """Views set up by a user: own volumes, an own display of a transform and of a segmentation."""
    mine = flat_volume("Mine", 10)
    for n, node in enumerate(view_state.composite_nodes(scene)):
        node.SetBackgroundVolumeID(mine.GetID())
        node.SetForegroundVolumeID(pair[0].GetID() if n else None)
        node.SetForegroundOpacity(0.1 * n)
        node.SetLinkedControl(0)
    for n, node in enumerate(view_state.slice_nodes(scene)):
        node.SetSliceOffset(3.0 * n)
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    transform.CreateDefaultDisplayNodes()
    transform.GetDisplayNode().SetVisualizationMode(transform.GetDisplayNode().VIS_MODE_CONTOUR)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(box_labels("source", 5), segmentation)
    segmentation.CreateDefaultDisplayNodes()
    return mine, transform, segmentation


def test_views_are_put_back_in_one_call(scene, views, pair, busy):
    mine, transform, segmentation = busy
    before = view_facts(scene)
    state = view_state.ViewState.of(scene)
    everything_on(scene, pair, transform, segmentation)
    assert view_facts(scene) != before
    state.restore()
    assert view_facts(scene) == before
    shown = transform.GetDisplayNode()
    assert shown.GetVisualizationMode() == shown.VIS_MODE_CONTOUR and not shown.GetVisibility()
    drawn = segmentation.GetDisplayNode()
    assert drawn.GetVisibility2DFill()
    color = vtk.vtkVector3d()
    drawn.GetSegmentColor(segmentation.GetSegmentation().GetNthSegmentID(0), color)
    assert list(color) == pytest.approx(list(segmentation.GetSegmentation().GetNthSegment(0).GetColor()))
    left = [
        n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLNode") if n.GetAttribute(view_state.CHECK_ATTRIBUTE)
    ]
    assert left == []
    assert slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode") == []
    state.restore()
    assert view_facts(scene) == before


def test_views_are_put_back_as_far_as_their_nodes_still_exist(scene, views, pair, busy):
    mine, transform, segmentation = busy
    state = view_state.ViewState.of(scene)
    everything_on(scene, pair, transform, segmentation)
    composites, slices = view_state.composite_nodes(scene), view_state.slice_nodes(scene)
    for node in (
        mine,
        transform,
        segmentation,
        composites[2],
        slices[2],
        scene.GetFirstNodeByClass("vtkMRMLCrosshairNode"),
    ):
        scene.RemoveNode(node)
    state.restore()
    assert [c.GetBackgroundVolumeID() for c in composites[:2]] == [None, None]
    assert [c.GetForegroundVolumeID() for c in composites[:2]] == [None, pair[0].GetID()]
    assert composites[1].GetForegroundOpacity() == pytest.approx(0.1)


def test_what_the_user_showed_meanwhile_stays(scene, views, pair):
    state = view_state.ViewState.of(scene)
    own = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Own")
    own.CreateDefaultDisplayNodes()
    own.GetDisplayNode().SetVisibility(True)
    state.restore()
    assert own.GetDisplayNode().GetVisibility()


def test_checkerboard_compares_what_is_seen_under_transforms(scene):
    """The second volume is moved by whole voxels along its first axis: the squares show it there."""
    grid = cases.centred_grid((12, 14, 16), (2.0, 2.0, 2.0))
    picture = cases.blobs(grid, 1)
    fixed, moving = (cases.add_volume(picture, grid, name) for name in ("Fixed", "Moved"))
    assert check_nodes.seen_on(fixed, moving) == pytest.approx(picture)
    parent = cases.add_parent(scene, moving, cases.affine(shift=(4.0, 0.0, 0.0)))
    seen = check_nodes.seen_on(fixed, moving)
    assert seen[..., 2:] == pytest.approx(picture[..., :-2], abs=1e-2)
    board = slicer.util.arrayFromVolume(check_views.show_checkerboard(fixed, moving))
    moving.SetAndObserveTransformNodeID(None)
    assert (slicer.util.arrayFromVolume(check_views.show_checkerboard(fixed, moving)) != board).any()
    assert parent is not None


def test_views_that_were_opened_after_a_check_are_put_back_like_their_neighbours(scene):
    import panel_cases

    grid = cases.centred_grid((8, 8, 8), (2.0, 2.0, 2.0))
    first, second = (cases.add_volume(cases.blobs(grid), grid, name) for name in ("First", "Second"))
    (view,) = panel_cases.add_slice_views(scene, 1)
    view.SetBackgroundVolumeID(first.GetID())
    before = view_state.ViewState.of(scene)
    check_views.show_pair(first, second)
    late = panel_cases.add_slice_views(scene, 2)[1]
    late.SetBackgroundVolumeID(first.GetID())
    late.SetForegroundVolumeID(second.GetID())
    before.restore()
    assert (late.GetBackgroundVolumeID(), late.GetForegroundVolumeID()) == (first.GetID(), None)


@pytest.mark.parametrize(("factor", "alike"), [(1.02, True), (3.0, False)])
def test_volumes_with_like_grey_levels_share_one_window(scene, factor, alike):
    grid = cases.centred_grid((12, 12, 12), (2.0, 2.0, 2.0))
    picture = cases.blobs(grid, 1)
    fixed, warped = (cases.add_volume(one, grid, "Volume") for one in (picture, factor * picture))
    fixed.GetDisplayNode().AutoWindowLevelOff()
    fixed.GetDisplayNode().SetWindowLevel(123.0, 45.0)
    assert display.show_with_one_window(warped, fixed) is alike
    assert (warped.GetDisplayNode().GetWindow() == 123.0) is alike


def test_volumes_that_are_not_shown_or_show_nothing_lend_no_window(scene):
    grid = cases.centred_grid((8, 8, 8), (2.0, 2.0, 2.0))
    picture = cases.blobs(grid, 1)
    hidden, warped, flat, other = (
        cases.add_volume(one, grid, "Volume") for one in (picture, picture, 0 * picture, 0 * picture)
    )
    hidden.SetAndObserveDisplayNodeID(None)
    flat.GetDisplayNode().AutoWindowLevelOff()
    flat.GetDisplayNode().SetWindowLevel(123.0, 45.0)
    assert not display.show_with_one_window(warped, hidden)
    assert not display.show_with_one_window(other, flat)
    assert other.GetDisplayNode().GetWindow() != 123.0
    # The file of a loaded scene's volume is gone.
    flat.SetAndObserveImageData(None)
    assert not display.show_with_one_window(other, flat)
    assert not display.show_with_one_window(flat, other)


def test_squares_of_a_checkerboard_are_cubes_in_space(scene):
    grid = cases.centred_grid((8, 20, 30), (1.0, 2.0, 4.0))
    fixed, warped = (cases.add_volume(np.full(grid.shape, value), grid, f"volume {value:g}") for value in (0.0, 1.0))
    for node in (fixed, warped):
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(0.0, 1.0)
    squares = slicer.util.arrayFromVolume(check_views.show_checkerboard(fixed, warped, square_mm=8.0))
    changes = [
        np.flatnonzero(np.diff(line.astype(int))) for line in (squares[0, 0], squares[0, :, 0], squares[:, 0, 0])
    ]
    assert [found.tolist() for found in changes] == [[7, 15, 23], [3, 7, 11, 15], [1, 3, 5]]
