"""Label maps, segmentations and points in and out, in the real MRML of slicer-core."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

import mrml_cases as cases
import slicer
from mrml_cases import add_label_map, add_segmentation, label_array
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.labels import Label, Labels, _label_of, labels_from_node
from VoxelMorphRegistrationLib.mrml.steps import finish
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node, points_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs


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
    back = labels_from_node(nodes.labels, read.fixed.grid)
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
        back = labels_from_node(target, read.fixed.grid)
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


@pytest.mark.parametrize(("largest", "kind"), [(2**31 - 1, np.int32), (2**31, np.int64), (-(2**31), np.int64)])
def test_other_numbers_are_held_by_a_type_that_holds_them(largest, kind):
    array = np.array([[[0, 3, 9, 3]]], np.int16)
    labels = Labels(Image(array, Grid(array.shape, np.eye(4))), {n: Label(str(n), (0, 0, 0)) for n in (3, 9)}, False)
    found = finish(labels.renumbering({3: largest, 9: 1}))
    assert found.image.array.dtype == kind and found.image.array.tolist() == [[[0, largest, 1, largest]]]
    assert found.names() == {largest: "3", 1: "9"}


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
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 3
    before = segmentation.GetSegmentation().GetNumberOfLayers()
    with pytest.raises(InputError, match="overlapping segments"):
        labels_from_node(segmentation, image_from_node(moving_node).grid, "moving labels")
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


def test_values_without_a_colour_have_a_name_all_the_same(scene):
    colors = scene.AddNewNodeByClass("vtkMRMLColorTableNode")
    colors.SetTypeToUser()
    colors.SetNumberOfColors(3)
    colors.SetColor(1, "Liver", 0.5, 0.25, 0.75, 1.0)
    colors.SetColor(2, "(none)", 0.5, 0.25, 0.25, 1.0)
    found = [_label_of(colors, value) for value in (1, 2, 3, -1)]
    assert [label.name for label in found] == ["Liver", "Label 2", "Label 3", "Label -1"]
    assert found[0].color == pytest.approx((0.5, 0.25, 0.75), abs=0.01) and found[2].color == (0.5, 0.5, 0.5)
    assert _label_of(None, 1) == Label("Label 1", (0.5, 0.5, 0.5))
