"""What is refused, and that the scene then stays as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from mrml_cases import add_label_map, prepared, sampled
from VoxelMorphRegistrationLib.errors import FieldError, InputError, SettingsError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml import display
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.targets import Targets, check_targets
from VoxelMorphRegistrationLib.mrml.transforms import grid_transform, image_data
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs


def put_under_warp(scene, node):
    grid = Grid((3, 3, 3), np.diag([50.0, 50, 50, 1]))
    warp = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Bend")
    warp.SetAndObserveTransformFromParent(grid_transform(DisplacementField(np.ones((3, 3, 3, 3)), grid)))
    node.SetAndObserveTransformNodeID(warp.GetID())


def bad_nodes(scene) -> dict:
    grid = cases.FIXED_GRIDS["oblique"]
    array = np.zeros((6, 7, 8), np.float32)
    small = cases.centred_grid((6, 7, 8), (1, 1, 1))
    bent = cases.add_volume(cases.blobs(grid), grid, "Bent")
    put_under_warp(scene, bent)
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Colour")
    slicer.util.updateVolumeFromArray(colour, np.zeros((3, 4, 5, 3), np.uint8))
    two = cases.add_volume(array, small, "Two values")
    two.SetAndObserveImageData(image_data(np.zeros((3, 4, 5, 2), np.float32), components=2))
    sheared, singular, flat = (cases.add_volume(array, small, name) for name in ("Sheared", "Singular", "Flattened"))
    shear, same = np.eye(4), np.eye(4)
    shear[0, 1] = 0.3
    same[:3, 1] = same[:3, 0]
    sheared.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(shear))
    singular.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(same))
    cases.add_parent(scene, flat, np.diag([1.0, 0, 1, 1]))
    lost = cases.add_volume(array, small, "Lost")
    cases.add_parent(scene, lost, np.diag([1.0, np.nan, 1, 1]))
    return {
        "nothing": (None, "No moving volume is chosen"),
        "bent": (bent, "'Bent' is under a non-linear transform .'Bend'.*Harden"),
        "colour": (colour, "'Colour' is a VectorVolume"),
        "two values": (two, "'Two values' has 2 values a voxel"),
        "series": (scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Series"), "'Series' is a time series"),
        "empty": (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow"), "'Hollow' is empty"),
        "sheared": (sheared, "'Sheared' has sheared axes"),
        "singular": (singular, "'Singular' cannot be placed in space.*singular"),
        "flattening parent": (flat, "transform 'parent of Flattened' of the moving volume 'Flattened' is singular"),
        "a parent of no numbers": (lost, "transform 'parent of Lost', or one above it, is not linear or holds numbers"),
        "no volume": (scene.AddNewNodeByClass("vtkMRMLModelNode", "Shape"), "'Shape' is a Model node"),
    }


BAD = (
    "nothing",
    "bent",
    "colour",
    "two values",
    "series",
    "empty",
    "sheared",
    "singular",
    "flattening parent",
    "a parent of no numbers",
    "no volume",
)


@pytest.mark.parametrize("what", BAD)
def test_unusable_volume_is_refused_by_name_and_the_scene_stays(scene, what):
    fixed_node, _ = cases.make_nodes(scene)
    node, message = bad_nodes(scene)[what]
    before = cases.scene_state(scene)
    with pytest.raises(InputError, match=message):
        read_inputs(fixed_node, node)
    assert cases.scene_state(scene) == before


def test_same_volume_twice_is_refused(scene):
    fixed_node, _ = cases.make_nodes(scene)
    with pytest.raises(InputError, match="'Fixed' is chosen both as the fixed and as the moving volume"):
        read_inputs(fixed_node, fixed_node)


def test_bad_labels_and_points_are_refused(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    label_node = add_label_map(scene, moving_node)
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "None placed")
    for refused, message in (
        ({"moving_labels": moving_node}, "'Moving' is no label map"),
        ({"moving_labels": empty}, "'Empty' is empty"),
        ({"fixed_points": points}, "'None placed' has no placed points"),
        ({"fixed_points": label_node}, "is no list of points"),
    ):
        with pytest.raises(InputError, match=message):
            read_inputs(fixed_node, moving_node, **refused)
    fractions = slicer.util.arrayFromVolume(label_node).astype(np.float32) + 0.5
    label_node.SetAndObserveImageData(image_data(fractions))
    with pytest.raises(InputError, match="not whole numbers"):
        read_inputs(fixed_node, moving_node, moving_labels=label_node)


def test_unfit_targets_are_refused(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    linear_node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Line")
    linear_node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([2.0, 1, 1, 1])))
    output = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Output")
    warp = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    for targets, message in (
        (Targets(transform=linear_node), "'Line' must be a transform node that is empty or holds"),
        (Targets(labels=output), "'Output' must be a label map volume or a segmentation"),
        (Targets(volume=moving_node), "'Moving' is also an input or another output"),
        (Targets(volume=output, jacobian=output), "'Output' is also an input or another output"),
    ):
        with pytest.raises(InputError, match=message):
            check_targets(targets, fixed_node, moving_node)
    with pytest.raises(SettingsError, match="inside or separate"):
        check_targets(Targets(linear="both"))
    with pytest.raises(SettingsError, match="when a transform is written"):
        check_targets(Targets(transform=False, apply=True))
    fixed_node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="'Warp' moves the fixed volume 'Fixed'"):
        check_targets(Targets(transform=warp), fixed_node, moving_node)
    fixed_node.SetAndObserveTransformNodeID(None)
    linear_node.SetAndObserveTransformNodeID(warp.GetID())
    for targets in (Targets(transform=warp), Targets(inverse=warp)):
        with pytest.raises(InputError, match="'Warp' moves the initial transform 'Line'"):
            check_targets(targets, fixed_node, moving_node, start=linear_node)


def test_fixed_volume_moved_meanwhile_is_an_error(scene):
    read, registration = prepared(scene)
    cases.add_parent(scene, read.fixed_node, cases.affine(shift=(5, 0, 0)))
    before = cases.scene_state(scene)
    with pytest.raises(InputError, match="moved or changed meanwhile"):
        write_outputs(registration, read)
    assert cases.scene_state(scene) == before


def test_folded_field_has_no_inverse_and_the_scene_stays(scene):
    read, registration = prepared(scene)
    grid = registration.field.grid
    # Folded in some of the voxels: each that has no inverse is tried to the end.
    here = np.linalg.norm(grid.positions() - grid.center_ras, axis=-1, keepdims=True) < 10
    folded = DisplacementField(15.0 * np.sin(grid.positions() / 4) * here, grid)
    before = cases.scene_state(scene)
    registration = replace(registration, field=folded)
    with pytest.raises(FieldError, match="cannot be inverted"):
        write_outputs(registration, read, Targets(inverse=None))
    assert cases.scene_state(scene) == before


@pytest.mark.parametrize("failing", ["show_like", "show_as_jacobian"])
@pytest.mark.parametrize("existing", [False, True])
def test_failure_half_way_leaves_the_scene_as_it_was(scene, monkeypatch, failing, existing):
    read, registration = prepared(scene)
    targets = Targets(apply=True, linear="separate")
    if existing:
        old = write_outputs(registration, read, Targets(linear="separate"))
        targets = Targets(old.grid_transform, old.volume, None, old.jacobian, linear="separate", apply=True)
        former = slicer.util.arrayFromVolume(old.volume).copy()
        points = sampled(registration.field.grid.positions(), 20)
        former_points = cases.from_world(old.transform, points)
    before = cases.scene_state(scene)

    def broken(*_):
        raise RuntimeError("display is broken")

    monkeypatch.setattr(display, failing, broken)
    changed = replace(
        registration,
        field=DisplacementField(registration.field.displacement_ras + 2, registration.field.grid),
        warped=registration.warped.with_array(registration.warped.array + 1),
    )
    with pytest.raises(RuntimeError, match="display is broken"):
        write_outputs(changed, read, targets)
    assert cases.scene_state(scene) == before
    if existing:
        assert np.array_equal(slicer.util.arrayFromVolume(old.volume), former)
        assert np.allclose(cases.from_world(old.transform, points), former_points)


def test_image_from_node_is_a_copy(scene):
    fixed_node, _ = cases.make_nodes(scene)
    image = image_from_node(fixed_node)
    slicer.util.arrayFromVolume(fixed_node)[:] = 0
    assert isinstance(image, Image)
    assert image.array.max() > 0
