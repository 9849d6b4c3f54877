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
from mrml_cases import add_segmentation, prepared, sampled
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import write_field
from VoxelMorphRegistrationLib.mrml import display
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE, SETTINGS_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.table import results_node, write_results
from VoxelMorphRegistrationLib.mrml.targets import LINEAR_CHOICES, Targets
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node, parent_to_world
from VoxelMorphRegistrationLib.mrml.writer import write_outputs
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.results.table import COLUMNS, Row

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
    assert node.GetClassName() == "vtkMRMLTransformNode"
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
    assert nodes.transform.GetClassName() == "vtkMRMLTransformNode"
    assert nodes.transform.IsLinear() and not nodes.grid_transform.IsLinear()
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
    node = fresh.AddNewNodeByClass("vtkMRMLTransformNode")
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


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
@pytest.mark.parametrize("turned_only", [False, True])
def test_a_jacobian_map_in_the_voxels_of_the_field_lies_where_these_are(scene, parents, turned_only):
    """Also under a parent that turns, and one that shears, as "both moved" does."""
    read, registration = prepared(scene, "oblique left-handed", parents)
    if turned_only and parents != "no parents":
        parent = read.fixed_node.GetParentTransformNode()
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(cases.affine(cases.rotation(10, 20, -30))))
        read = read_inputs(read.fixed_node, read.moving_node)
        registration = cases.make_registration(read.fixed, read.moving)
    grid = cases.working_grid(read.fixed.grid, 2 * read.fixed.grid.spacing)
    coarse = replace(registration, jacobian=registration.field.jacobian_determinant(grid))
    nodes = write_outputs(coarse, read)
    sheared = parents != "no parents" and not turned_only
    assert nodes.jacobian.GetTransformNodeID() == (None if sheared else read.fixed_node.GetTransformNodeID())
    assert image_from_node(nodes.jacobian).grid.same_as(grid, 1e-5)
    # A map on the fixed grid takes its place.
    write_outputs(registration, read, Targets(nodes.transform, nodes.volume, None, nodes.jacobian))
    assert image_from_node(nodes.jacobian).grid.same_as(read.fixed.grid, 1e-6)
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.jacobian), registration.jacobian.array)


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
