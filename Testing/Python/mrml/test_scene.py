"""Slicer's scene in and out, in the real MRML of slicer-core."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import vtk

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib.errors import FieldError, InputError, SettingsError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import write_field
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml import display
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.labels import labels_from_node
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE, SETTINGS_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.table import results_node, write_results
from VoxelMorphRegistrationLib.mrml.targets import LINEAR_CHOICES, Targets, check_targets
from VoxelMorphRegistrationLib.mrml.transforms import grid_transform, image_data
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node, parent_to_world, points_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.results.table import COLUMNS, Row


def prepared(scene, fixed_grid="oblique", parents="no parents", **inputs):
    fixed_node, moving_node = cases.make_nodes(scene, fixed_grid, parents)
    read = read_inputs(fixed_node, moving_node, **inputs)
    labels = read.moving_labels.image if read.moving_labels else None
    return read, cases.make_registration(read.fixed, read.moving, labels)


def sampled(points: np.ndarray, count: int = 400) -> np.ndarray:
    return np.random.default_rng(0).permutation(points.reshape(-1, 3))[:count]


# --- the transform node represents the deformation ---------------------------------------------------------


@pytest.mark.parametrize("linear", LINEAR_CHOICES)
@pytest.mark.parametrize("parents", cases.PARENTS)
@pytest.mark.parametrize("fixed_grid", cases.FIXED_GRIDS)
def test_transform_node_carries_the_known_deformation(scene, fixed_grid, parents, linear):
    read, registration = prepared(scene, fixed_grid, parents)
    nodes = write_outputs(registration, read, Targets(linear=linear))
    points = sampled(registration.field.grid.positions())
    moved = points + cases.analytic_displacement(points)
    world = moved @ cases.LINEAR[:3, :3].T + cases.LINEAR[:3, 3]
    back = np.linalg.inv(read.moving_to_world)
    expected = world @ back[:3, :3].T + back[:3, 3]
    # 0.01 mm is the promise; float32 displacements of some 100 mm are good to 1e-5 mm.
    assert np.abs(cases.from_world(nodes.transform, points) - expected).max() < 1e-3


@pytest.mark.parametrize("linear", LINEAR_CHOICES)
@pytest.mark.parametrize("parents", cases.PARENTS)
@pytest.mark.parametrize("fixed_grid", cases.FIXED_GRIDS)
def test_warped_volume_is_what_slicer_makes_of_the_moving_volume(scene, fixed_grid, parents, linear):
    read, registration = prepared(scene, fixed_grid, parents)
    nodes = write_outputs(registration, read, Targets(linear=linear, apply=True))
    assert read.moving_node.GetTransformNodeID() == nodes.transform.GetID()
    resliced = cases.slicer_reslice(scene, read.moving_node, read.fixed_node)
    # Voxels whose source lies within the outermost voxel centres: at the rim VTK and this library cut differently.
    sources = registration.transform_points(read.fixed.grid.positions().reshape(-1, 3))
    ijk = read.moving.grid.to_ijk(sources)
    inside = ((ijk >= 0) & (ijk <= read.moving.grid.size - 1)).all(1).reshape(read.fixed.grid.shape)
    assert inside.mean() > 0.3
    written = slicer.util.arrayFromVolume(nodes.volume)
    assert np.abs(written - resliced)[inside].max() < 1e-3 * np.ptp(read.moving.array)


def test_linear_part_holds_at_the_rim_of_the_fixed_volume(scene):
    # A flow at half resolution ends half a voxel inside the fixed volume; a rotation must not stop there.
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", "both moved")
    read = read_inputs(fixed_node, moving_node)
    half = read.fixed.grid.cropped([1, 1, 1], read.fixed.grid.size - 2)
    registration = cases.make_registration(read.fixed, read.moving, grid=cases.working_grid(half, 3.0))
    nodes = write_outputs(registration, read)
    corners = read.fixed.grid.corners()
    local = np.linalg.inv(read.moving_to_world)
    expected = registration.transform_points(corners) @ local[:3, :3].T + local[:3, 3]
    assert np.abs(cases.from_world(nodes.transform, corners) - expected).max() < 1e-3


def test_two_dimensional_field_is_written_with_its_linear_part(scene):
    grid = cases.centred_grid((1, 24, 20), (2.0, 1.5, 4.0), cases.rotation(15, 0, 20))
    fixed_node = cases.add_volume(cases.blobs(grid, 1), grid, "Fixed")
    moving_node = cases.add_volume(cases.blobs(grid, 2), grid, "Moving")
    read = read_inputs(fixed_node, moving_node)
    assert read.fixed.grid.dimension == 2
    registration = cases.make_registration(read.fixed, read.moving)
    nodes = write_outputs(registration, read)
    points = sampled(grid.positions())
    assert np.abs(cases.from_world(nodes.transform, points) - registration.transform_points(points)).max() < 1e-3


def test_transform_is_a_linear_from_parent_grid_with_its_inputs_and_settings_on_it(scene):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read)
    node = nodes.transform
    assert node.GetClassName() == "vtkMRMLGridTransformNode"
    assert node is nodes.grid_transform
    from_parent = node.GetTransformFromParentAs("vtkOrientedGridTransform")
    assert from_parent.GetInterpolationModeAsString() == "Linear"
    assert from_parent.GetDisplacementGrid().GetPointData().GetVectors() is None
    assert from_parent.GetDisplacementGrid().GetScalarTypeAsString() == "float"
    assert node.GetNodeReference(node.GetFixedNodeReferenceRole()) is read.fixed_node
    assert node.GetNodeReference(node.GetMovingNodeReferenceRole()) is read.moving_node
    assert Settings.from_json(node.GetAttribute(SETTINGS_ATTRIBUTE)) == Settings()
    assert json.loads(node.GetAttribute(REPORT_ATTRIBUTE))["largest_displacement_mm"] == 3.0


def test_separate_linear_part_is_a_linear_node_under_the_deformation(scene):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read, Targets(linear="separate"))
    assert nodes.transform.GetClassName() == "vtkMRMLLinearTransformNode"
    assert nodes.transform.GetParentTransformNode() is nodes.grid_transform
    matrix = vtk.vtkMatrix4x4()
    nodes.transform.GetMatrixTransformFromParent(matrix)
    assert np.allclose(slicer.util.arrayFromVTKMatrix(matrix), cases.LINEAR)
    assert nodes.grid_transform.GetAttribute(SETTINGS_ATTRIBUTE)


def test_attributes_survive_saving_the_scene(scene, tmp_path):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit(str(tmp_path / "scene.mrml"))
    other = slicer.vtkMRMLScene()
    other.SetURL(str(tmp_path / "scene.mrml"))
    other.Import()
    loaded = other.GetFirstNodeByName(nodes.transform.GetName())
    for attribute in (SETTINGS_ATTRIBUTE, REPORT_ATTRIBUTE):
        assert json.loads(loaded.GetAttribute(attribute)) == json.loads(nodes.transform.GetAttribute(attribute))


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_inverse_transform_undoes_the_transform(scene, parents):
    read, registration = prepared(scene, "oblique", parents)
    nodes = write_outputs(registration, read, Targets(inverse=None))
    center = read.fixed.grid.center_ras
    points = sampled(registration.field.grid.positions())
    points = points[np.linalg.norm(points - center, axis=1) < 10]
    world_moving = registration.transform_points(points)
    fixed_to_world = parent_to_world(read.fixed_node, "fixed")
    local = np.linalg.inv(fixed_to_world)
    expected = points @ local[:3, :3].T + local[:3, 3]
    # The inverse is sampled at the field's 2 mm, over which this deformation bends by less than 0.1 mm.
    assert np.abs(cases.from_world(nodes.inverse, world_moving) - expected).max() < 0.1
    assert nodes.inverse.GetNodeReference(nodes.inverse.GetFixedNodeReferenceRole()) is read.moving_node


# --- files -------------------------------------------------------------------------------------------------


def reread(path) -> object:
    fresh = slicer.vtkMRMLScene()
    storage = slicer.vtkMRMLTransformStorageNode()
    fresh.AddNode(storage)
    storage.SetFileName(str(path))
    # Displacement images and ITK transform files both hold the resampling (from parent) direction.
    node = fresh.AddNewNodeByClass("vtkMRMLGridTransformNode")
    assert storage.ReadData(node) == 1
    node.fresh_scene = fresh
    return node


def itk_points(path, points_ras: np.ndarray) -> np.ndarray:
    if str(path).endswith(".h5"):
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    flip = np.array([-1, -1, 1])
    return np.array([transform.TransformPoint((point * flip).tolist()) for point in points_ras]) * flip


def inner(field: DisplacementField) -> np.ndarray:
    """Grid points within the field: at its rim ITK gives zero."""
    return sampled(field.grid.positions()[2:-2, 2:-2, 2:-2])


@pytest.mark.parametrize("linear", LINEAR_CHOICES)
@pytest.mark.parametrize("suffix", [".h5", ".nii.gz"])
@pytest.mark.parametrize("fixed_grid", ["oblique", "anisotropic left-handed"])
def test_saved_transform_node_reads_back_as_the_same_warp(scene, tmp_path, fixed_grid, suffix, linear):
    read, registration = prepared(scene, fixed_grid, "moving moved")
    nodes = write_outputs(registration, read, Targets(linear=linear))
    path = tmp_path / f"warp{suffix}"
    storage = slicer.vtkMRMLTransformStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(nodes.grid_transform) == 1
    points = inner(registration.field)
    expected = cases.from_world(nodes.grid_transform, points)
    assert np.abs(cases.from_world(reread(path), points) - expected).max() < 0.01
    assert np.abs(itk_points(path, points) - expected).max() < 0.01


@pytest.mark.parametrize("linear", LINEAR_CHOICES)
@pytest.mark.parametrize("suffix", [".h5", ".nii.gz"])
def test_field_file_of_the_library_reads_back_as_the_transform_node(scene, tmp_path, suffix, linear):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read, Targets(linear=linear))
    path = tmp_path / f"warp{suffix}"
    field = registration.total_field() if linear == "inside" else registration.field
    write_field(field, path)
    points = inner(registration.field)
    expected = cases.from_world(nodes.grid_transform, points)
    assert np.abs(cases.from_world(reread(path), points) - expected).max() < 0.01
    assert np.abs(itk_points(path, points) - expected).max() < 0.01


# --- volumes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_output_volumes_lie_exactly_on_the_fixed_volume(scene, parents):
    read, registration = prepared(scene, "oblique left-handed", parents)
    nodes = write_outputs(registration, read)
    for node, image in ((nodes.volume, registration.warped), (nodes.jacobian, registration.jacobian)):
        assert node.GetTransformNodeID() == read.fixed_node.GetTransformNodeID()
        assert image_from_node(node).grid.same_as(read.fixed.grid, 1e-6)
        assert np.array_equal(slicer.util.arrayFromVolume(node), image.array)
    assert nodes.volume.GetName() == "Moving registered"


def test_unwanted_outputs_are_not_made(scene):
    read, registration = prepared(scene)
    before = len(cases.scene_state(scene))
    nodes = write_outputs(registration, read, Targets(transform=False, volume=False, jacobian=False))
    assert (nodes.transform, nodes.volume, nodes.labels, nodes.jacobian, nodes.inverse) == (None,) * 5
    assert len(cases.scene_state(scene)) == before


@pytest.mark.parametrize(
    ("first", "second"), [("inside", "separate"), ("separate", "inside"), ("separate", "separate")]
)
def test_existing_outputs_are_updated_and_no_node_is_added(scene, first, second):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read, Targets(linear=first))
    ids = [state[0] for state in cases.scene_state(scene)]
    again = cases.make_registration(read.fixed, read.moving)
    again = replace(
        again,
        field=DisplacementField(again.field.displacement_ras + 1.0, again.field.grid),
        warped=again.warped.with_array(again.warped.array + 7),
        jacobian=again.jacobian.with_array(again.jacobian.array * 2),
    )
    targets = Targets(nodes.grid_transform, nodes.volume, None, nodes.jacobian, linear=second)
    updated = write_outputs(again, read, targets)
    new = {state[0] for state in cases.scene_state(scene)} - set(ids)
    assert len(new) == (1 if (first, second) == ("inside", "separate") else 0)
    assert (updated.grid_transform, updated.volume, updated.jacobian) == (
        nodes.grid_transform,
        nodes.volume,
        nodes.jacobian,
    )
    points = sampled(again.field.grid.positions())
    assert np.abs(cases.from_world(updated.transform, points) - again.transform_points(points)).max() < 1e-3
    # Whatever still hangs below the first result must show the second one.
    assert np.abs(cases.from_world(nodes.transform, points) - again.transform_points(points)).max() < (
        1e-3 if first == "separate" else np.inf
    )
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.volume), again.warped.array)
    assert nodes.jacobian.GetDisplayNode().GetColorNode() is display.jacobian_color_node(scene)


def test_registering_again_under_the_own_output_starts_from_the_former_place(scene):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", "moving moved")
    first = read_inputs(fixed_node, moving_node)
    registration = cases.make_registration(first.fixed, first.moving)
    nodes = write_outputs(registration, first, Targets(linear="separate", apply=True))
    with pytest.raises(InputError, match="choose that transform as the output"):
        read_inputs(fixed_node, moving_node)
    second = read_inputs(fixed_node, moving_node, replaced=nodes.grid_transform)
    assert second.moving.grid.same_as(first.moving.grid, 1e-6)
    assert np.allclose(second.moving_to_world, first.moving_to_world)


# --- labels and points ---------------------------------------------------------------------------------------


def label_array(grid: Grid) -> np.ndarray:
    array = np.zeros(grid.shape, np.uint8)
    k, j, i = (np.array(grid.shape) // 4).tolist()
    array[k : 3 * k, j : 3 * j, i : 2 * i] = 3
    array[k : 3 * k, j : 3 * j, 2 * i : 3 * i] = 9
    return array


def add_label_map(scene, volume_node, name="Structures"):
    image = image_from_node(volume_node)
    node = cases.add_volume(label_array(image.grid), image.grid, name, "vtkMRMLLabelMapVolumeNode")
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    return node


def add_segmentation(scene, volume_node, names=("Liver", "Kidney"), name="Segments"):
    label_map = add_label_map(scene, volume_node, "temporary")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    for n, segment_name in enumerate(names):
        segment = node.GetSegmentation().GetNthSegment(n)
        segment.SetName(segment_name)
        segment.SetColor(0.1 + 0.3 * n, 0.6, 0.9 - 0.3 * n)
        segment.SetTag("note", f"tag of {segment_name}")
    scene.RemoveNode(label_map)
    return node


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_label_map_is_read_where_it_is_and_written_onto_the_fixed_volume(scene, parents):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", parents)
    label_node = add_label_map(scene, moving_node)
    read = read_inputs(fixed_node, moving_node, moving_labels=label_node)
    assert read.moving_labels.image.grid.same_as(read.moving.grid, 1e-6)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    nodes = write_outputs(registration, read)
    assert nodes.labels.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.labels), registration.warped_labels.array)
    assert set(np.unique(registration.warped_labels.array)) == {0, 3, 9}
    assert image_from_node(nodes.labels).grid.same_as(read.fixed.grid, 1e-6)
    assert nodes.labels.GetDisplayNode().GetColorNodeID() == label_node.GetDisplayNode().GetColorNodeID()


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_segments_keep_names_colours_and_tags(scene, parents):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique left-handed", parents)
    segmentation = add_segmentation(scene, moving_node)
    read = read_inputs(fixed_node, moving_node, moving_labels=segmentation)
    assert np.array_equal(read.moving_labels.image.array > 0, label_array(read.moving.grid) > 0)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    nodes = write_outputs(registration, read)
    assert nodes.labels.GetClassName() == "vtkMRMLSegmentationNode"
    assert nodes.labels.GetTransformNodeID() == fixed_node.GetTransformNodeID()
    for n, name in enumerate(("Liver", "Kidney")):
        segment = nodes.labels.GetSegmentation().GetNthSegment(n)
        original = segmentation.GetSegmentation().GetNthSegment(n)
        assert segment.GetName() == name
        assert segment.GetColor() == original.GetColor()
        tag = vtk.reference("")
        assert segment.GetTag("note", tag)
        assert tag.get() == f"tag of {name}"
    back = labels_from_node(nodes.labels)
    assert back.image.grid.same_as(read.fixed.grid, 1e-5)
    assert np.array_equal(back.image.array, registration.warped_labels.array)


@pytest.mark.parametrize("kind", ["vtkMRMLLabelMapVolumeNode", "vtkMRMLSegmentationNode"])
def test_labels_can_be_written_as_the_other_kind(scene, kind):
    fixed_node, moving_node = cases.make_nodes(scene)
    from_segments = kind == "vtkMRMLLabelMapVolumeNode"
    source = (add_segmentation if from_segments else add_label_map)(scene, moving_node)
    target = scene.AddNewNodeByClass(kind, "Target")
    read = read_inputs(fixed_node, moving_node, moving_labels=source)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    for _ in range(2):
        nodes = write_outputs(registration, read, Targets(labels=target))
        assert nodes.labels is target
        back = labels_from_node(target)
        names = sorted(label.name for label in back.table.values())
        assert names == sorted(label.name for label in read.moving_labels.table.values())
        assert np.array_equal(back.image.array > 0, registration.warped_labels.array > 0)


def test_segments_are_matched_by_name_whatever_their_order(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    fixed_segments = add_segmentation(scene, fixed_node, ("Liver", "Kidney"))
    moving_segments = add_segmentation(scene, moving_node, ("kidney", "Spleen"))
    read = read_inputs(fixed_node, moving_node, fixed_labels=fixed_segments, moving_labels=moving_segments)
    fixed_names, moving_names = read.fixed_labels.names(), read.moving_labels.names()
    assert fixed_names == {1: "Liver", 2: "Kidney"}
    assert moving_names == {2: "kidney", 3: "Spleen"}
    assert set(np.unique(read.moving_labels.image.array)) == {0, 2, 3}
    moving_segments.GetSegmentation().GetNthSegment(0).SetName("Lung")
    with pytest.raises(InputError, match="share no name"):
        read_inputs(fixed_node, moving_node, fixed_labels=fixed_segments, moving_labels=moving_segments)


def test_segmentation_on_a_coarser_grid_is_brought_onto_its_volume(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    grid = image_from_node(moving_node).grid
    # Each coarse voxel covers eight voxels of the volume.
    nested = cases.affine(2 * np.eye(3), (0.5, 0.5, 0.5))
    coarse = Grid(tuple(n // 2 for n in grid.shape), grid.ijk_to_ras @ nested)
    array = np.zeros(coarse.shape, np.uint8)
    array[3:8, 3:9, 3:9] = 1
    label_map = cases.add_volume(array, coarse, "coarse", "vtkMRMLLabelMapVolumeNode")
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segments")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, segmentation)
    read = read_inputs(fixed_node, moving_node, moving_labels=segmentation)
    assert read.moving_labels.image.grid.same_as(read.moving.grid)
    inside = read.moving_labels.image.array != 0
    volume = inside.sum() * np.prod(grid.spacing)
    assert volume == pytest.approx(array.sum() * np.prod(coarse.spacing))


def test_overlapping_segments_are_refused(scene):
    _, moving_node = cases.make_nodes(scene)
    segmentation = add_segmentation(scene, moving_node)
    other = add_segmentation(scene, moving_node, ("Body", "Rest"), "Other")
    other_segments = other.GetSegmentation()
    segmentation.GetSegmentation().CopySegmentFromSegmentation(other_segments, other_segments.GetNthSegmentID(0))
    before = segmentation.GetSegmentation().GetNumberOfLayers()
    with pytest.raises(InputError, match="overlapping segments"):
        labels_from_node(segmentation, "moving labels")
    assert segmentation.GetSegmentation().GetNumberOfLayers() == before


def test_mask_may_be_a_segmentation(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    read = read_inputs(fixed_node, moving_node, fixed_mask=add_segmentation(scene, fixed_node))
    assert read.fixed_mask.array.dtype == bool
    assert np.array_equal(read.fixed_mask.array, label_array(read.fixed.grid) > 0)


def test_points_are_read_in_the_world(scene):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    node.AddControlPoint(1, 2, 3)
    node.AddControlPoint(-4, 5, 6)
    node.AddControlPoint(7, 7, 7)
    node.UnsetNthControlPointPosition(2)
    matrix = cases.affine(cases.rotation(10, 20, 30), (1, 2, 3))
    cases.add_parent(scene, node, matrix)
    expected = np.array([[1, 2, 3], [-4, 5, 6]]) @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.allclose(points_from_node(node), expected)


# --- bad input ---------------------------------------------------------------------------------------------


def put_under_warp(scene, node):
    grid = Grid((3, 3, 3), np.diag([50.0, 50, 50, 1]))
    warp = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Bend")
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
    with pytest.raises(InputError, match="no whole numbers"):
        read_inputs(fixed_node, moving_node, moving_labels=label_node)


def test_unfit_targets_are_refused(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    linear_node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Line")
    output = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Output")
    warp = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    for targets, message in (
        (Targets(transform=linear_node), "'Line' must be a grid transform"),
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
    folded = DisplacementField(15.0 * np.sin(grid.positions() / 4), grid)
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


# --- the results table --------------------------------------------------------------------------------------


def test_results_become_a_typed_table_that_is_found_again(scene, tmp_path):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read, Targets(volume=False, jacobian=False))
    rows = [
        Row("Similarity", "Correlation", 0.5, None, 0.75),
        Row("Run", "model", text="general-3d"),
    ]
    table = write_results(nodes.transform, rows)
    assert results_node(nodes.transform) is table
    assert table.GetNumberOfColumns() == len(COLUMNS)
    columns = {name: table.GetTable().GetColumnByName(name) for name in COLUMNS.values()}
    assert columns["Before"].IsA("vtkDoubleArray") and columns["Measure"].IsA("vtkStringArray")
    assert columns["Before"].GetValue(0) == 0.5 and np.isnan(columns["Aligned"].GetValue(0))
    assert columns["Note"].GetValue(1) == "general-3d"
    assert write_results(nodes.transform, rows[:1]) is table
    assert table.GetTable().GetNumberOfRows() == 1
    storage = scene.AddNewNodeByClass("vtkMRMLTableStorageNode")
    storage.SetFileName(str(tmp_path / "results.tsv"))
    assert storage.WriteData(table) == 1
    again = scene.AddNewNodeByClass("vtkMRMLTableNode")
    assert storage.ReadData(again) == 1
    assert again.GetTable().GetColumnByName("After").IsA("vtkDoubleArray")
    assert again.GetTable().GetColumnByName("After").GetValue(0) == 0.75


def test_report_on_the_transform_names_the_labels_of_both_sides(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    fixed_segments = add_segmentation(scene, fixed_node, ("Liver", "Kidney"))
    moving_segments = add_segmentation(scene, moving_node, ("kidney", "Spleen"))
    read = read_inputs(fixed_node, moving_node, fixed_labels=fixed_segments, moving_labels=moving_segments)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    nodes = write_outputs(registration, read, Targets(volume=False, jacobian=False))
    names = json.loads(nodes.transform.GetAttribute(REPORT_ATTRIBUTE))["label_names"]
    assert names == {"1": "Liver", "2": "kidney", "3": "Spleen"}
