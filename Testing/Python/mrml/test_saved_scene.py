"""Scenes that were saved: transforms do the same as before, and those of the first version still do."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from mrml_cases import prepared, sampled
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml import applying
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.names import (
    LINEAR_ROLE,
    PARENT_ATTRIBUTE,
    REPORT_ATTRIBUTE,
    RUN_ATTRIBUTE,
    SETTINGS_ATTRIBUTE,
)
from VoxelMorphRegistrationLib.mrml.results import moved_since, results_of
from VoxelMorphRegistrationLib.mrml.targets import Targets, check_targets
from VoxelMorphRegistrationLib.mrml.transforms import linear_transform, make_grids_linear, oriented_grid
from VoxelMorphRegistrationLib.mrml.writer import write_outputs


def saved_and_loaded(scene, folder, transforms, volumes=()):
    """Another scene, from the files that these transforms and volumes were saved to; the voxels of others are left."""
    for node, kind in (*((t, "Transform") for t in transforms), *((v, "VolumeArchetype") for v in volumes)):
        storage = scene.AddNewNodeByClass(f"vtkMRML{kind}StorageNode")
        suffix = "h5" if kind == "Transform" else "nrrd"
        storage.SetFileName(str(folder / f"{node.GetID()}.{suffix}"))
        assert storage.WriteData(node) == 1
        node.SetAndObserveStorageNodeID(storage.GetID())
    scene.SetURL(str(folder / "scene.mrml"))
    scene.SetRootDirectory(str(folder))
    assert scene.Commit(str(folder / "scene.mrml"))
    other = slicer.vtkMRMLScene()
    other.SetURL(str(folder / "scene.mrml"))
    other.SetRootDirectory(str(folder))
    other.Import()
    return other


@pytest.mark.parametrize("linear", ["inside", "separate"])
def test_transform_of_a_loaded_scene_moves_every_point_as_before(scene, tmp_path, linear):
    read, registration = prepared(scene, "oblique left-handed", "moving moved")
    nodes = write_outputs(registration, read, Targets(linear=linear, volume=False, jacobian=False))
    points = sampled(registration.field.grid.positions()[2:-3, 2:-3, 2:-3])
    # Between the grid's points, where the kind of interpolation counts.
    points = points + np.random.default_rng(1).uniform(-1, 1, points.shape)
    expected = cases.from_world(nodes.transform, points)
    other = saved_and_loaded(scene, tmp_path, {nodes.grid_transform, nodes.transform})
    loaded = other.GetFirstNodeByName(nodes.transform.GetName())
    as_loaded = cases.from_world(loaded, points)
    make_grids_linear(other)
    assert np.abs(cases.from_world(loaded, points) - expected).max() < 1e-4
    # What this is for.
    assert np.abs(as_loaded - expected).max() > 0.01


def test_transforms_of_others_keep_their_interpolation(scene):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read)
    foreign = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Foreign")
    foreign.SetAndObserveTransformFromParent(nodes.transform.GetTransformFromParent())
    oriented_grid(foreign).SetInterpolationModeToCubic()
    nodes.transform.RemoveAttribute(PARENT_ATTRIBUTE)
    make_grids_linear(scene)
    assert oriented_grid(foreign).GetInterpolationModeAsString() == "Cubic"


def test_grids_in_a_sequence_become_linear_as_well(scene):
    """Each frame is copied out of the sequence when it is browsed to."""
    read, registration = cases.prepared(scene)
    nodes = write_outputs(registration, read)
    oriented_grid(nodes.transform).SetInterpolationModeToCubic()
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Transforms")
    for value in ("0", "1"):
        sequence.SetDataNodeAtValue(nodes.transform, value)
    make_grids_linear(scene)
    modes = [oriented_grid(sequence.GetNthDataNode(n)).GetInterpolationModeAsString() for n in range(2)]
    assert modes == ["Linear", "Linear"]


def test_saved_sequences_keep_run_report_and_field_of_each_frame(scene, tmp_path):
    read, registration = cases.prepared(scene)
    nodes = write_outputs(registration, read)
    all_of_them = (RUN_ATTRIBUTE, REPORT_ATTRIBUTE, PARENT_ATTRIBUTE)
    for node, kept in ((nodes.transform, all_of_them), (nodes.volume, (RUN_ATTRIBUTE,))):
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Results")
        for value in ("0", "1"):
            sequence.SetDataNodeAtValue(node, value)
        loaded = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Loaded")
        for one, work in ((sequence, "WriteData"), (loaded, "ReadData")):
            storage = scene.AddNewNodeByClass(sequence.GetDefaultStorageNodeClassName())
            storage.SetFileName(str(tmp_path / f"{node.GetClassName()}.seq.nrrd"))
            assert getattr(storage, work)(one) == 1
        for n in range(2):
            found = loaded.GetNthDataNode(n)
            assert [found.GetAttribute(name) for name in kept] == [node.GetAttribute(name) for name in kept]
        if node is nodes.transform:
            points = sampled(registration.field.grid.positions()[2:-3, 2:-3, 2:-3], 50)
            make_grids_linear(scene)
            copy = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Frame")
            copy.CopyContent(loaded.GetNthDataNode(1))
            assert cases.from_world(copy, points) == pytest.approx(cases.from_world(node, points), abs=1e-3)


@pytest.mark.parametrize("separate", [False, True])
def test_scene_of_the_first_version_still_works(scene, tmp_path, separate):
    """Its nodes are of the classes that are going, and carry no mark of a run."""
    fixed_node, moving_node = cases.make_nodes(scene)
    read = read_inputs(fixed_node, moving_node)
    registration = cases.make_registration(read.fixed, read.moving)
    nodes = write_outputs(registration, read, Targets(linear="separate" if separate else "inside"))
    old = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Moving to Fixed of old")
    old.SetAndObserveTransformFromParent(nodes.grid_transform.GetTransformFromParent())
    for role, node in ((old.GetFixedNodeReferenceRole(), fixed_node), (old.GetMovingNodeReferenceRole(), moving_node)):
        old.SetNodeReferenceID(role, node.GetID())
    for attribute in (SETTINGS_ATTRIBUTE, REPORT_ATTRIBUTE, PARENT_ATTRIBUTE):
        old.SetAttribute(attribute, nodes.grid_transform.GetAttribute(attribute))
    transforms = [old]
    if separate:
        part = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Linear part of old")
        part.SetAndObserveTransformFromParent(linear_transform(registration.linear))
        part.SetAndObserveTransformNodeID(old.GetID())
        old.SetNodeReferenceID(LINEAR_ROLE, part.GetID())
        transforms.append(part)
    old_volume = cases.add_volume(registration.warped.array, read.fixed.grid, "Warped of old")
    for node in (nodes.transform, nodes.grid_transform, nodes.volume, nodes.jacobian):
        if node.GetScene() is not None:
            scene.RemoveNode(node)
    other = saved_and_loaded(scene, tmp_path, transforms, [fixed_node, moving_node, old_volume])
    loaded = other.GetFirstNodeByName("Moving to Fixed of old")
    make_grids_linear(other)
    found = results_of(loaded, {"volume": other.GetFirstNodeByName("Warped of old"), "labels": None})
    assert (found.fixed.GetName(), found.moving.GetName()) == ("Fixed", "Moving")
    assert found.volume.GetName() == "Warped of old" and found.run == ""
    assert moved_since(loaded) == []
    assert applying.side_of(loaded, found.moving) == "moving"
    check_targets(Targets(transform=loaded), found.fixed, found.moving)
    points = sampled(registration.field.grid.positions()[2:-3, 2:-3, 2:-3], 50)
    applying.apply_transform(loaded, [found.moving])
    carried = cases.from_world(found.moving.GetParentTransformNode(), points)
    assert np.abs(carried - registration.transform_points(points)).max() < 1e-3
    applying.take_off([found.moving])
    # And it can be written over.
    again = read_inputs(found.fixed, found.moving, replaced=loaded)
    slicer.mrmlScene = other
    updated = write_outputs(registration, again, Targets(loaded, linear="separate" if separate else "inside"))
    assert updated.grid_transform is loaded
    assert np.abs(cases.from_world(updated.transform, points) - registration.transform_points(points)).max() < 1e-3
    assert json.loads(loaded.GetAttribute(REPORT_ATTRIBUTE))["run"] == updated.run
    slicer.mrmlScene = scene


def test_users_own_transform_is_not_written_over(scene):
    spline = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Spline")
    spline.SetAndObserveTransformFromParent(slicer.vtkOrientedBSplineTransform())
    line = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Line")
    line.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(cases.affine(shift=(0, 0, 2))))
    for node in (spline, line):
        with pytest.raises(InputError, match="must be a transform node that is empty or holds a displacement grid"):
            check_targets(Targets(transform=node))
    empty = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Empty")
    check_targets(Targets(transform=empty))
