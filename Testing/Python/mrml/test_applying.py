"""Nodes under a registration's transform and off it again, against the analytic deformation."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.mrml import applying
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.names import FORMER_ROLE
from VoxelMorphRegistrationLib.mrml.targets import LINEAR_CHOICES, Targets
from VoxelMorphRegistrationLib.mrml.volumes import parent_to_world, points_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs

# How a node may lie: as the moving volume does, in the world, or under a transform of its own.
# Slicer cannot invert a grid transform for points with a quarter turn in it, so a small one.
TURNED = (cases.PARENTS["both moved"][0], cases.affine(cases.rotation(8, -6, 10) * 1.05, (4, 0, -3)))
PLACES = ("as the moving volume", "in the world", "elsewhere")


def written(scene, parents=TURNED, linear="inside", **targets):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", parents)
    read = read_inputs(fixed_node, moving_node)
    registration = cases.make_registration(read.fixed, read.moving)
    nodes = write_outputs(registration, read, Targets(linear=linear, jacobian=False, **targets))
    return read, registration, nodes


def fixed_points(registration, count=12) -> np.ndarray:
    """Points well within the deformation, in the world of the fixed volume."""
    points = registration.field.grid.positions().reshape(-1, 3)
    points = points[np.linalg.norm(points - points.mean(0), axis=1) < 10]
    return np.random.default_rng(0).permutation(points)[:count]


def place(scene, node, where: str, moving_node) -> None:
    if where == "as the moving volume":
        node.SetAndObserveTransformNodeID(moving_node.GetTransformNodeID())
    elif where == "elsewhere":
        cases.add_parent(scene, node, cases.affine(cases.rotation(20, -35, 50) * 0.9, (7, -8, 9)))


def add_markups(scene, world_points, where: str, moving_node):
    """Control points at these world positions, in a node that lies `where`."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    place(scene, node, where, moving_node)
    for point in world_points:
        node.AddControlPointWorld(vtk.vtkVector3d(point))
    return node


def world_points(markups) -> np.ndarray:
    count = markups.GetNumberOfControlPoints()
    return np.array([list(markups.GetNthControlPointPositionWorld(n)) for n in range(count)])


def add_model(scene, world_points, where: str, moving_node):
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Model")
    place(scene, node, where, moving_node)
    points, cells = vtk.vtkPoints(), vtk.vtkCellArray()
    points.SetDataTypeToDouble()
    to_local = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, node.GetParentTransformNode(), to_local)
    for point in world_points:
        cells.InsertNextCell(1)
        cells.InsertCellPoint(points.InsertNextPoint(to_local.TransformPoint(point)))
    data = vtk.vtkPolyData()
    data.SetPoints(points)
    data.SetVerts(cells)
    node.SetAndObserveMesh(data)
    return node


def model_points(node) -> np.ndarray:
    data = node.GetPolyData()
    return np.array([data.GetPoint(n) for n in range(data.GetNumberOfPoints())])


# --- directions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", LINEAR_CHOICES)
@pytest.mark.parametrize("where", PLACES)
def test_points_of_the_moving_side_come_to_lie_on_the_fixed_side(scene, where, linear):
    read, registration, nodes = written(scene, linear=linear)
    points = fixed_points(registration)
    markups = add_markups(scene, registration.transform_points(points), where, read.moving_node)
    former = markups.GetTransformNodeID()
    assert applying.apply_transform(nodes.grid_transform, [markups]) == [markups]
    # Slicer inverts the transform for points by Newton steps, to about 1e-2 mm.
    assert np.abs(world_points(markups) - points).max() < 0.02
    assert applying.applied_nodes(nodes.transform) == [markups]
    assert applying.take_off([markups]) == [markups]
    assert markups.GetTransformNodeID() == former
    assert np.allclose(points_from_node(markups), registration.transform_points(points), atol=1e-6)
    assert applying.applied_nodes(nodes.transform) == []


@pytest.mark.parametrize("where", PLACES)
def test_points_of_the_fixed_side_are_carried_by_the_inverse(scene, where):
    read, registration, nodes = written(scene)
    points = fixed_points(registration)
    inverse = applying.inverse_transform_node(nodes.grid_transform)
    markups = add_markups(scene, points, where, read.fixed_node)
    applying.apply_transform(inverse, [markups])
    # The inverse is sampled at the field's 2 mm, over which this deformation bends by less than 0.1 mm.
    assert np.abs(world_points(markups) - registration.transform_points(points)).max() < 0.1


def test_volume_under_the_transform_is_what_the_registration_wrote(scene):
    read, _, nodes = written(scene)
    applying.apply_transform(nodes.transform, [read.moving_node])
    resliced = cases.slicer_reslice(scene, read.moving_node, read.fixed_node)
    written_array = slicer.util.arrayFromVolume(nodes.volume)
    inside = (resliced != 0) & (written_array != written_array.min())
    assert inside.mean() > 0.3
    # At the rim of the moving volume the two cut differently.
    assert np.quantile(np.abs(resliced - written_array)[inside], 0.99) < 1e-3 * np.ptp(read.moving.array)


def test_models_follow_and_are_hardened_on_request(scene):
    read, registration, nodes = written(scene)
    points = fixed_points(registration)
    model = add_model(scene, registration.transform_points(points), "in the world", read.moving_node)
    local = model_points(model)
    applying.apply_transform(nodes.transform, [model])
    assert np.array_equal(model_points(model), local)
    count = scene.GetNumberOfNodes()
    applying.harden([model])
    assert np.abs(model_points(model) - points).max() < 0.02
    assert model.GetParentTransformNode() is None
    # The linear transform that had come between has gone with it.
    assert scene.GetNumberOfNodes() == count - 1
    assert applying.take_off([model]) == []


# --- memory -----------------------------------------------------------------------------------------------------


def test_registration_that_applies_its_transform_can_be_taken_off(scene):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", "both moved")
    former = moving_node.GetTransformNodeID()
    read = read_inputs(fixed_node, moving_node)
    nodes = write_outputs(cases.make_registration(read.fixed, read.moving), read, Targets(apply=True))
    assert applying.applied_nodes(nodes.transform) == [moving_node]
    again = read_inputs(fixed_node, moving_node, replaced=nodes.grid_transform)
    assert np.allclose(again.moving_to_world, read.moving_to_world)
    write_outputs(cases.make_registration(again.fixed, again.moving), again, Targets(nodes.grid_transform, apply=True))
    assert applying.take_off([moving_node]) == [moving_node]
    assert moving_node.GetTransformNodeID() == former


def test_applied_nodes_count_as_lying_where_they_were_when_the_transform_is_replaced(scene):
    read, registration, nodes = written(scene)
    label_node = cases.add_volume(np.ones((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)), "Labels")
    before = parent_to_world(label_node, "labels")
    applying.apply_transform(nodes.transform, [label_node])
    assert np.allclose(parent_to_world(label_node, "labels", nodes.grid_transform), before)
    with pytest.raises(InputError, match="non-linear"):
        parent_to_world(label_node, "labels")


def test_applying_another_transform_keeps_the_first_place(scene):
    read, registration, nodes = written(scene)
    second = write_outputs(registration, read, Targets(volume=False, jacobian=False))
    former = read.moving_node.GetTransformNodeID()
    other = cases.add_volume(np.ones((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)), "In the world")
    for transform in (nodes.transform, second.transform, second.transform):
        applying.apply_transform(transform, [read.moving_node, other])
    assert applying.applied_nodes(nodes.transform) == []
    assert len(applying.applied_nodes(second.transform)) == 2
    between = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    assert sum(bool(node.GetAttribute(applying.BETWEEN_ATTRIBUTE)) for node in between) == 1
    applying.take_off([read.moving_node, other])
    assert read.moving_node.GetTransformNodeID() == former
    assert other.GetTransformNodeID() is None
    between = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    assert not any(node.GetAttribute(applying.BETWEEN_ATTRIBUTE) for node in between)


def test_a_node_that_was_moved_elsewhere_stays_there(scene):
    read, registration, nodes = written(scene)
    applying.apply_transform(nodes.transform, [read.moving_node])
    elsewhere = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Elsewhere")
    read.moving_node.SetAndObserveTransformNodeID(elsewhere.GetID())
    assert applying.take_off([read.moving_node]) == []
    assert read.moving_node.GetParentTransformNode() is elsewhere


@pytest.mark.parametrize("where", [None, cases.affine(cases.rotation(5, 10, 15), (10, 20, 30))])
def test_a_node_that_was_taken_out_by_hand_lies_where_it_is_now(scene, where):
    read, registration, nodes = written(scene, apply=True)
    read.moving_node.SetAndObserveTransformNodeID(None)
    cases.add_parent(scene, read.moving_node, where)
    here = read.moving_node.GetTransformNodeID()
    found = parent_to_world(read.moving_node, "moving", nodes.grid_transform)
    assert np.allclose(found, np.eye(4) if where is None else where)
    applying.apply_transform(nodes.transform, [read.moving_node])
    assert applying.applied_nodes(nodes.transform) == [read.moving_node]
    applying.take_off([read.moving_node])
    assert read.moving_node.GetTransformNodeID() == here


def test_deleted_transforms_leave_nothing_to_stumble_over(scene):
    read, registration, nodes = written(scene)
    former = read.moving_node.GetParentTransformNode()
    applying.apply_transform(nodes.transform, [read.moving_node])
    scene.RemoveNode(former)
    assert applying.take_off([read.moving_node]) == [read.moving_node]
    assert read.moving_node.GetTransformNodeID() is None
    applying.apply_transform(nodes.transform, [read.moving_node])
    scene.RemoveNode(nodes.transform)
    assert applying.take_off([read.moving_node]) == [read.moving_node]
    assert read.moving_node.GetTransformNodeID() is None


def test_memory_survives_saving_the_scene(scene, tmp_path):
    read, registration, nodes = written(scene)
    applying.apply_transform(nodes.transform, [read.moving_node])
    for node in (read.moving_node, read.fixed_node, nodes.volume):
        node.SetAndObserveImageData(None)
    former = read.moving_node.GetNodeReference(FORMER_ROLE).GetName()
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit(str(tmp_path / "scene.mrml"))
    other = slicer.vtkMRMLScene()
    other.SetURL(str(tmp_path / "scene.mrml"))
    other.Import()
    moving = other.GetFirstNodeByName("Moving")
    assert applying.take_off([moving]) == [moving]
    assert moving.GetParentTransformNode().GetName() == former


# --- the inverse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", LINEAR_CHOICES)
def test_inverse_made_afterwards_is_the_one_that_the_registration_writes(scene, linear):
    read, registration, nodes = written(scene, linear=linear)
    later = applying.inverse_transform_node(nodes.grid_transform)
    assert applying.inverse_transform_node(nodes.transform) is later
    plain = write_outputs(registration, read, Targets(volume=False, jacobian=False, inverse=None))
    assert applying.inverse_transform_node(plain.transform) is plain.inverse
    points = registration.transform_points(fixed_points(registration))
    assert np.abs(cases.from_world(later, points) - cases.from_world(plain.inverse, points)).max() < 0.01


def test_inverse_is_made_anew_after_another_registration(scene):
    read, registration, nodes = written(scene, inverse=None)
    report = registration.report.__class__(**{**registration.report.__dict__, "seconds": {"total": 2.0}})
    changed = registration.__class__(**{**registration.__dict__, "report": report, "linear": np.eye(4)})
    write_outputs(changed, read, Targets(nodes.grid_transform, volume=False, jacobian=False))
    points = fixed_points(registration)
    inverse = applying.inverse_transform_node(nodes.grid_transform)
    assert inverse is nodes.inverse
    local = np.linalg.inv(parent_to_world(read.fixed_node, "fixed"))
    expected = points @ local[:3, :3].T + local[:3, 3]
    assert np.abs(cases.from_world(inverse, changed.transform_points(points)) - expected).max() < 0.1


def test_inverse_needs_a_transform_of_a_registration_and_its_moving_volume(scene):
    read, registration, nodes = written(scene)
    inverse = applying.inverse_transform_node(nodes.transform)
    with pytest.raises(InputError, match="is an inverse already"):
        applying.inverse_transform_node(inverse)
    foreign = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Foreign")
    with pytest.raises(InputError, match="'Foreign' is no transform written by a registration"):
        applying.inverse_transform_node(foreign)
    scene.RemoveNode(inverse)
    scene.RemoveNode(read.moving_node)
    with pytest.raises(InputError, match="is no longer in the scene"):
        applying.inverse_transform_node(nodes.transform)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_unfit_nodes_are_refused_before_anything_moves(scene):
    read, registration, nodes = written(scene)
    inverse = applying.inverse_transform_node(nodes.transform)
    drawn = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    drawn.SetReferenceImageGeometryParameterFromVolumeNode(read.fixed_node)
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers")
    before = cases.scene_state(scene)
    for transform, node, message in (
        (nodes.transform, read.fixed_node, "'Fixed' lies on the fixed side of .* under the inverse transform"),
        (nodes.transform, drawn, "'Drawn' lies on the fixed side"),
        (inverse, read.moving_node, "'Moving' lies on the moving side of .* under the transform"),
        (nodes.transform, table, "'Numbers' cannot be put under a transform"),
        (nodes.transform, nodes.transform, "is the transform itself"),
        (nodes.transform, None, "Nothing cannot be put under"),
        (None, read.moving_node, "No transform is chosen"),
    ):
        with pytest.raises(InputError, match=message):
            applying.apply_transform(transform, [read.moving_node, node] if transform is nodes.transform else [node])
    assert cases.scene_state(scene) == before
    assert applying.side_of(nodes.transform, read.moving_node) == "moving"
    assert applying.side_of(inverse, drawn) == "fixed"
    assert applying.side_of(inverse, table) == ""


def test_transform_that_slicer_cannot_invert_is_refused_for_points_only(scene):
    read, registration, nodes = written(scene, "both moved")
    markups = add_markups(scene, fixed_points(registration), "in the world", read.moving_node)
    with pytest.raises(InputError, match="a large rotation is folded into it.*'separate'"):
        applying.apply_transform(nodes.transform, [read.moving_node, markups])
    assert applying.applied_nodes(nodes.transform) == []
    applying.apply_transform(nodes.transform, [read.moving_node])
    separate = write_outputs(registration, read, Targets(linear="separate", volume=False, jacobian=False))
    markups = add_markups(scene, registration.transform_points(fixed_points(registration)), "in the world", None)
    applying.apply_transform(separate.transform, [markups])
    assert np.abs(world_points(markups) - fixed_points(registration)).max() < 0.02


def test_voxels_under_a_deformation_are_not_hardened(scene):
    read, registration, nodes = written(scene)
    model = add_model(scene, fixed_points(registration), "in the world", read.moving_node)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segments")
    applying.apply_transform(nodes.transform, [model, read.moving_node, segmentation])
    left = applying.harden([read.moving_node, segmentation, model])
    assert len(left) == 2
    for text, name in zip(left, ("Moving", "Segments"), strict=True):
        assert text.startswith(f"'{name}' is not hardened") and "registered volume or segmentation" in text
    # The rest is.
    assert model.GetParentTransformNode() is None
    assert len(applying.applied_nodes(nodes.transform)) == 2
    applying.take_off([segmentation])
    cases.add_parent(scene, segmentation, cases.affine(shift=(1, 2, 3)))
    assert applying.harden([segmentation]) == []
    assert segmentation.GetParentTransformNode() is None
