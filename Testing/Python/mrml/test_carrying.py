"""Dose volumes and structure sets carried onto the fixed volume, against the analytic deformation."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from segment_cases import SURFACE, add_surfaces, sphere
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml import applying
from VoxelMorphRegistrationLib.mrml.carrying import carry_segmentation, carry_volume
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.labels import reading_mask
from VoxelMorphRegistrationLib.mrml.steps import finish
from VoxelMorphRegistrationLib.mrml.targets import LINEAR_CHOICES, Targets
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs


def written(scene, fixed_grid, parents, linear="inside"):
    fixed_node, moving_node = cases.make_nodes(scene, fixed_grid, parents)
    read = read_inputs(fixed_node, moving_node)
    registration = cases.make_registration(read.fixed, read.moving)
    return read, registration, write_outputs(registration, read, Targets(linear=linear, jacobian=False))


def dose_at(points: np.ndarray) -> np.ndarray:
    """Gray at positions (..., 3) in the world of the moving side; linear, so that interpolation is exact."""
    return 40 + points @ np.array([0.5, -0.3, 0.2])


def place(scene, node, where: str, read) -> np.ndarray:
    """Put a node somewhere, and the matrix from it to the world."""
    matrix = np.eye(4)
    if where == "with the moving volume":
        node.SetAndObserveTransformNodeID(read.moving_node.GetTransformNodeID())
        matrix = read.moving_to_world
    elif where == "elsewhere":
        matrix = cases.affine(cases.rotation(20, -35, 50), (7, -8, 9))
        cases.add_parent(scene, node, matrix)
    return matrix


@pytest.mark.parametrize("where", ["with the moving volume", "in the world", "elsewhere"])
@pytest.mark.parametrize("linear", LINEAR_CHOICES)
@pytest.mark.parametrize("fixed_grid", ["oblique left-handed", "anisotropic left-handed"])
def test_dose_arrives_where_the_deformation_says(scene, fixed_grid, linear, where):
    read, registration, nodes = written(scene, fixed_grid, "both moved", linear)
    # Its own coarse grid, as of a treatment plan.
    grid = cases.centred_grid((30, 32, 28), (5.0, 4.0, 4.5), cases.rotation(5, 6, 7), (-1, 1, 1))
    dose = cases.add_volume(np.zeros(grid.shape, np.float32), grid, "Dose")
    to_world = place(scene, dose, where, read)
    world = grid.transformed(to_world)
    slicer.util.updateVolumeFromArray(dose, dose_at(world.positions()).astype(np.float32))
    dose.SetAttribute("DicomRtImport.DoseUnitName", "Gy")
    for _ in range(2):
        carried = carry_volume(nodes.transform, dose, background=-1.0)
        sources = registration.transform_points(read.fixed.grid.positions().reshape(-1, 3))
        inside = world.contains(sources) & (
            np.abs(world.to_ijk(sources) - (world.size - 1) / 2) < (world.size - 2) / 2
        ).all(1)
        array = slicer.util.arrayFromVolume(carried).reshape(-1)
        assert inside.mean() > 0.5
        assert np.abs(array - dose_at(sources))[inside].max() < 1e-2
        assert (array[~world.contains(sources)] == -1).all()
        assert image_from_node(carried).grid.same_as(read.fixed.grid, 1e-5)
        assert carried.GetAttribute("DicomRtImport.DoseUnitName") == "Gy"
        # The same when the dose is shown through the transform just now.
        applying.apply_transform(nodes.transform, [dose])
    assert carried.GetName() == "Dose registered_1"


@pytest.mark.parametrize("where", ["with the moving volume", "elsewhere"])
def test_structure_set_of_overlapping_surfaces_is_carried(scene, where):
    read, registration, nodes = written(scene, "oblique", "both moved")
    center = read.fixed.grid.center_ras
    goal = registration.transform_points(center[None])[0]
    spheres = [(goal, 15.0), (goal + [2, 0, 0], 10.0), (goal + [0, -7, 3], 9.0)]
    structures = add_surfaces(scene, [((0, 0, 0), 1.0)])
    structures.GetSegmentation().RemoveAllSegments()
    to_world = place(scene, structures, where, read)
    back = np.linalg.inv(to_world)
    stretch = np.cbrt(np.linalg.det(to_world[:3, :3]))
    for n, (point, radius) in enumerate(spheres):
        local = back[:3, :3] @ point + back[:3, 3]
        surface = sphere(local, radius / stretch)
        structures.AddSegmentFromClosedSurfaceRepresentation(surface, ("Body", "PTV", "Rectum")[n], (0.2, 0.9, 0.3 * n))
    carried = carry_segmentation(nodes.transform, structures, name="Structures today")
    segmentation = carried.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(3)] == ["Body", "PTV", "Rectum"]
    assert segmentation.GetNthSegment(2).GetColor() == pytest.approx((0.2, 0.9, 0.6))
    assert not structures.GetSegmentation().ContainsRepresentation("Binary labelmap")
    assert structures.GetSegmentation().ContainsRepresentation(SURFACE)
    positions = read.fixed.grid.positions()
    sources = registration.transform_points(positions.reshape(-1, 3)).reshape(positions.shape)
    for n, (point, radius) in enumerate(spheres):
        alone = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Alone")
        alone.SetAndObserveTransformNodeID(carried.GetTransformNodeID())
        alone.GetSegmentation().CopySegmentFromSegmentation(segmentation, segmentation.GetNthSegmentID(n))
        found = finish(reading_mask(alone, read.fixed.grid)).array
        expected = np.linalg.norm(sources - point, axis=-1) < radius
        assert expected.sum() > 200
        # From surface to the moving volume's voxels of about 2 mm, and from these to the fixed volume's.
        assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.85
        assert np.abs(positions[found].mean(0) - positions[expected].mean(0)).max() < 0.3


def test_what_cannot_be_carried_is_refused_and_the_scene_stays(scene):
    read, registration, nodes = written(scene, "oblique", "no parents")
    inverse = applying.inverse_transform_node(nodes.transform)
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    foreign = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Foreign")
    before = cases.scene_state(scene)
    for call, arguments, message in (
        (carry_volume, (foreign, read.moving_node), "'Foreign' is no transform written by a registration"),
        (carry_volume, (inverse, read.moving_node), "is an inverse: its volumes have changed places"),
        (carry_volume, (nodes.transform, "Dose"), "volume is given as the text 'Dose'"),
        (carry_segmentation, (nodes.transform, read.moving_node), "'Moving' is no segmentation node"),
        (carry_segmentation, (nodes.transform, empty), "'Empty' is empty"),
    ):
        with pytest.raises(InputError, match=message):
            call(*arguments)
    assert cases.scene_state(scene) == before
