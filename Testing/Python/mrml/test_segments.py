"""Segmentations as people have them: surfaces, layers, other grids, overlaps, hundreds of segments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import mrml_cases as cases
import slicer
from segment_cases import SURFACE, add_surfaces
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.mrml import display, segments_in, steps
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs, reading_inputs
from VoxelMorphRegistrationLib.mrml.labels import Label, labels_from_node
from VoxelMorphRegistrationLib.mrml.segments_out import building
from VoxelMorphRegistrationLib.mrml.steps import finish
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.transforms import image_data, matrix_to_vtk
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs, writing_outputs


def oriented(array: np.ndarray, grid: Grid, start=(0, 0, 0)):
    """A label map whose first voxel is (i, j, k) `start` of the grid's lattice."""
    data = slicer.vtkOrientedImageData()
    data.ShallowCopy(image_data(array))
    extent = [value for n, size in zip(start, array.shape[::-1], strict=True) for value in (n, n + size - 1)]
    data.SetExtent(*extent)
    data.SetImageToWorldMatrix(matrix_to_vtk(grid.ijk_to_ras))
    return data


def add_layers(scene, layers, name="Layers"):
    """A segmentation with a layer for each (array, grid, start), one segment of value 1 in each."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    for n, layer in enumerate(layers):
        node.AddSegmentFromBinaryLabelmapRepresentation(oriented(*layer), f"Segment {n}")
    return node


# --- where segments lie -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [None, cases.rotation(20, -35, 50)], ids=["same axes", "turned"])
@pytest.mark.parametrize("fixed_grid", cases.FIXED_GRIDS)
def test_each_voxel_has_the_segment_of_the_nearest_voxel(scene, fixed_grid, turn):
    grid = cases.FIXED_GRIDS[fixed_grid]
    # Voxels of another size that lie a known part of a voxel off: half a voxel more would change a third of them.
    inner = cases.affine(np.diag([0.7, 1.3, 0.9]) if turn is None else turn @ np.diag([0.7, 1.3, 0.9]))
    inner[:3, 3] = (3.37, 2.61, 4.13)
    own = Grid((18, 15, 19), grid.ijk_to_ras @ inner) if turn is None else Grid((18, 15, 19), inner)
    pattern = (np.add.outer(np.add.outer(np.arange(18) * 3, np.arange(15) * 5), np.arange(19) * 7) % 4).astype(np.uint8)
    layers = [((pattern == value).astype(np.uint8), own, (0, 0, 0)) for value in (1, 2, 3)]
    segmentation = add_layers(scene, layers)
    found = labels_from_node(segmentation, grid)
    ijk = np.floor(own.to_ijk(grid.positions()) + 0.5).astype(int)
    inside = ((ijk >= 0) & (ijk < own.size)).all(-1)
    expected = np.zeros(grid.shape, int)
    expected[inside] = pattern[tuple(ijk[inside].T[::-1])]
    assert (expected > 0).sum() > 200
    assert np.array_equal(found.image.array, expected)


def test_axes_may_change_places(scene):
    own = cases.centred_grid((9, 13, 11), (1.0, 2.0, 3.0), flips=(1, -1, 1))
    turned = Grid((11, 9, 13), own.ijk_to_ras @ cases.affine(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])))
    pattern = np.zeros(own.shape, np.uint8)
    pattern[2:5, 1:8, 3] = 1
    found = labels_from_node(add_layers(scene, [(pattern, own, (0, 0, 0))]), turned).image.array
    assert np.array_equal(found, pattern.transpose(2, 0, 1))


def test_segments_outside_the_reference_geometry_of_their_segmentation_arrive(scene):
    grid = cases.FIXED_GRIDS["oblique left-handed"]
    volume = cases.add_volume(cases.blobs(grid, 1), grid, "Volume")
    box = np.ones((3, 4, 5), np.uint8)
    starts = [(2, 2, 2), (10, 12, 9), (15, 3, 14)]
    segmentation = add_layers(scene, [(box, grid, start) for start in starts])
    small = cases.add_volume(np.zeros((6, 6, 6), np.uint8), grid, "Small")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(small)
    found = labels_from_node(segmentation, image_from_node(volume).grid).image.array
    for number, (i, j, k) in enumerate(starts, start=1):
        assert (found == number).sum() == box.size
        assert (found[k : k + 3, j : j + 4, i : i + 5] == number).all()


def test_segmentation_beside_its_volume_is_refused(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    grid = cases.centred_grid((4, 4, 4), (1, 1, 1), center=(900, 0, 0))
    far = add_layers(scene, [(np.ones(grid.shape, np.uint8), grid)])
    with pytest.raises(InputError, match="No voxel of the moving labels 'Layers' lies inside its volume"):
        read_inputs(fixed_node, moving_node, moving_labels=far)


# --- surfaces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parents", ["no parents", "moving moved"])
@pytest.mark.parametrize("fixed_grid", cases.FIXED_GRIDS)
def test_surfaces_become_voxels_of_the_volume(scene, fixed_grid, parents):
    grid = cases.FIXED_GRIDS[fixed_grid]
    volume = cases.add_volume(cases.blobs(grid, 1), grid, "Volume")
    to_world = cases.PARENTS[parents][1]
    spheres = [((-6.0, 2.0, 1.0), 8.0), ((9.0, -1.5, 2.0), 6.0)]
    segmentation = add_surfaces(scene, spheres)
    for node in (volume, segmentation):
        cases.add_parent(scene, node, to_world)
    world = image_from_node(volume).grid
    found = labels_from_node(segmentation, world)
    assert found.warnings == ()
    assert [label.name for label in found.table.values()] == ["Sphere 0", "Sphere 1"]
    positions = grid.positions()
    for number, (center, radius) in enumerate(spheres, start=1):
        inside = np.linalg.norm(positions - center, axis=-1) < radius
        voxels = found.image.array == number
        assert 2 * (inside & voxels).sum() / (inside.sum() + voxels.sum()) > 0.95
        # Half a voxel off would be about a millimetre.
        assert np.abs(positions[voxels].mean(0) - positions[inside].mean(0)).max() < 0.15
    # The user's node is as it was.
    assert not segmentation.GetSegmentation().ContainsRepresentation(segments_in.BINARY)


def test_touching_surfaces_share_few_voxels_which_is_a_warning(scene):
    fixed_node, moving_node = cases.make_nodes(scene, "axis aligned")
    touching = add_surfaces(scene, [((-6.0, 0, 0), 8.0), ((7.0, 0, 0), 8.0)])
    read = read_inputs(fixed_node, moving_node, fixed_labels=touching, moving_labels=None)
    assert len(read.warnings) == 1
    assert "Segments of the fixed labels 'Surfaces' share voxels ('Sphere" in read.warnings[0]
    shared = add_surfaces(scene, [((-2.0, 0, 0), 8.0), ((2.0, 0, 0), 8.0)], "Much")
    with pytest.raises(InputError, match="'Much' has overlapping segments .'Sphere .' shares .*export the structures"):
        read_inputs(fixed_node, moving_node, fixed_labels=shared)
    # As a mask they may overlap as they like.
    mask = read_inputs(fixed_node, moving_node, fixed_mask=shared).fixed_mask.array
    positions = read.fixed.grid.positions()
    expected = np.minimum(*(np.linalg.norm(positions - [x, 0, 0], axis=-1) for x in (-2, 2))) < 8
    assert np.mean(mask != expected) < 0.01


def test_warning_of_the_reading_is_in_the_report_of_the_result(scene):
    fixed_node, moving_node = cases.make_nodes(scene, "axis aligned")
    touching = add_surfaces(scene, [((-6.0, 0, 0), 8.0), ((7.0, 0, 0), 8.0)])
    read = read_inputs(fixed_node, moving_node, fixed_labels=touching)
    nodes = write_outputs(cases.make_registration(read.fixed, read.moving), read)
    assert nodes.report.warnings == list(read.warnings)


def test_negative_and_fractional_values_are_a_mask(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    label_node = cases.add_label_map(scene, fixed_node)
    array = slicer.util.arrayFromVolume(label_node)
    values = np.where(array == 3, -1000.0, np.where(array == 9, 0.5, np.nan)).astype(np.float32)
    label_node.SetAndObserveImageData(image_data(values))
    mask = read_inputs(fixed_node, moving_node, fixed_mask=label_node).fixed_mask.array
    assert np.array_equal(mask, array != 0)
    with pytest.raises(InputError, match="not whole numbers"):
        read_inputs(fixed_node, moving_node, fixed_labels=label_node)


def test_hidden_segments_are_read(scene):
    _, moving_node = cases.make_nodes(scene)
    segmentation = cases.add_segmentation(scene, moving_node)
    segmentation.CreateDefaultDisplayNodes()
    segmentation.GetDisplayNode().SetSegmentVisibility(segmentation.GetSegmentation().GetNthSegmentID(0), False)
    found = labels_from_node(segmentation, image_from_node(moving_node).grid)
    assert set(np.unique(found.image.array)) == {0, 1, 2}


# --- written -------------------------------------------------------------------------------------------------------


def many_segments(scene, volume_node, count=60, name="Many"):
    """A segmentation of boxes of two voxels in one layer, with names of their own."""
    grid = image_from_node(volume_node).grid
    array = np.zeros(grid.shape, np.int16)
    array.reshape(-1)[: 2 * count] = np.repeat(np.arange(1, count + 1), 2)
    table = {n: Label(f"S{n}", (0.1, 0.2, 0.3), None, f"s{n}") for n in range(1, count + 1)}
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    own = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(own)
    node.SetAndObserveSegmentation(finish(building(array, slicer.util.arrayFromVTKMatrix(own), table)))
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    return node, array


def test_many_segments_come_back_and_fire_few_events(scene):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", "both moved")
    segmentation, array = many_segments(scene, moving_node)
    read = read_inputs(fixed_node, moving_node, moving_labels=segmentation)
    assert np.array_equal(read.moving_labels.image.array, array)
    labels = read.fixed.with_array(np.resize(np.arange(61, dtype=np.int16), read.fixed.grid.shape))
    registration = cases.make_registration(read.fixed, read.moving)
    registration = type(registration)(**{**vars(registration), "warped_labels": labels})
    target = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Target")
    events = []
    target.AddObserver("AnyEvent", lambda *_: events.append(1))
    nodes = write_outputs(registration, read, Targets(labels=target))
    assert len(events) < 60
    written = nodes.labels.GetSegmentation()
    assert [written.GetNthSegment(n).GetName() for n in range(60)] == [f"S{n}" for n in range(1, 61)]
    assert [written.GetNthSegmentID(n) for n in range(60)] == [f"s{n}" for n in range(1, 61)]
    assert written.GetNumberOfLayers() == 1
    assert np.array_equal(labels_from_node(nodes.labels, read.fixed.grid).image.array, labels.array)


def test_surfaces_of_an_output_that_is_used_again_are_those_of_the_new_labels(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    segmentation = cases.add_segmentation(scene, moving_node)
    read = read_inputs(fixed_node, moving_node, moving_labels=segmentation)
    registration = cases.make_registration(read.fixed, read.moving)

    def with_box(start: int):
        array = np.zeros(read.fixed.grid.shape, np.int16)
        array[start : start + 6, 4:9, 3:8] = 1
        array[start : start + 6, 12:17, 3:8] = 2
        return type(registration)(**{**vars(registration), "warped_labels": read.fixed.with_array(array)})

    nodes = write_outputs(with_box(2), read)
    nodes.labels.CreateClosedSurfaceRepresentation()
    first = nodes.labels.GetSegmentation()
    second = write_outputs(with_box(10), read, Targets(nodes.transform, nodes.volume, nodes.labels, nodes.jacobian))
    assert second.labels is nodes.labels
    for n in range(2):
        data = second.labels.GetSegmentation().GetNthSegment(n).GetRepresentation(SURFACE)
        points = vtk_to_numpy(data.GetPoints().GetData())
        k = read.fixed.grid.to_ijk(points)[:, 2]
        assert 9 <= k.min() < 10.5 and 14.5 < k.max() <= 16
    # The former one was given up.
    assert first.GetNthSegment(0).GetRepresentation(SURFACE) is None


def test_warped_segmentation_comes_up_as_its_source_is_shown(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    segmentation = cases.add_segmentation(scene, moving_node)
    segmentation.CreateDefaultDisplayNodes()
    shown = segmentation.GetDisplayNode()
    shown.SetVisibility(False)
    shown.SetOpacity2DFill(0.3)
    hidden = segmentation.GetSegmentation().GetNthSegmentID(1)
    shown.SetSegmentVisibility(hidden, False)
    read = read_inputs(fixed_node, moving_node, moving_labels=segmentation)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    nodes = write_outputs(registration, read)
    new = nodes.labels.GetDisplayNode()
    assert new is not shown
    assert not new.GetVisibility() and new.GetOpacity2DFill() == pytest.approx(0.3)
    assert not new.GetSegmentVisibility(hidden)
    assert new.GetSegmentVisibility(segmentation.GetSegmentation().GetNthSegmentID(0))
    # How the user shows the result stays when it is written again.
    new.SetVisibility(True)
    write_outputs(registration, read, Targets(labels=nodes.labels))
    assert nodes.labels.GetDisplayNode().GetVisibility()


def test_failed_writing_leaves_a_segmentation_as_it_was(scene, monkeypatch):
    fixed_node, moving_node = cases.make_nodes(scene)
    segmentation = cases.add_segmentation(scene, moving_node)
    read = read_inputs(fixed_node, moving_node, moving_labels=segmentation)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    nodes = write_outputs(registration, read)
    held = nodes.labels.GetSegmentation()
    before = cases.scene_state(scene)

    def broken(*_):
        raise RuntimeError("display is broken")

    monkeypatch.setattr(display, "show_as_jacobian", broken)
    with pytest.raises(RuntimeError, match="display is broken"):
        write_outputs(registration, read, Targets(nodes.transform, nodes.volume, nodes.labels, nodes.jacobian))
    assert nodes.labels.GetSegmentation() is held
    assert held.GetNumberOfSegments() == 2 and held.GetNthSegment(0).GetRepresentation(segments_in.BINARY) is not None
    assert cases.scene_state(scene) == before


# --- in steps ------------------------------------------------------------------------------------------------------


def test_work_is_done_in_small_steps_and_the_scene_is_touched_in_one(scene, monkeypatch):
    fixed_node, moving_node = cases.make_nodes(scene)
    segmentation, _ = many_segments(scene, moving_node)
    for module in (steps, segments_in):
        monkeypatch.setattr(module, "COPIED_BYTES", 4000)
    monkeypatch.setattr("VoxelMorphRegistrationLib.mrml.segments_out.COPIED_BYTES", 4000)
    reading = reading_inputs(fixed_node, moving_node, moving_labels=segmentation)
    before = cases.scene_state(scene)
    count = 0
    while True:
        try:
            next(reading)
        except StopIteration as end:
            read = end.value
            break
        count += 1
    assert count > 30
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    assert cases.scene_state(scene) == before
    states = [before, *(cases.scene_state(scene) for _ in writing_outputs(registration, read))]
    changes = sum(a != b for a, b in itertools.pairwise(states))
    assert len(states) > 30 and changes == 1


def test_writing_that_is_given_up_changes_nothing(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    read = read_inputs(fixed_node, moving_node)
    registration = cases.make_registration(read.fixed, read.moving)
    before = cases.scene_state(scene)
    writing = writing_outputs(registration, read)
    next(writing)
    next(writing)
    writing.close()
    assert cases.scene_state(scene) == before


def test_volume_removed_between_the_steps_is_told(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    reading = reading_inputs(fixed_node, moving_node)
    next(reading)
    scene.RemoveNode(moving_node)
    with pytest.raises(InputError, match="'Moving' is not in the scene"):
        finish(reading)


def geometry_of(text: str) -> tuple[np.ndarray, list[int]]:
    """The matrix (4, 4) and the extent of a geometry as conversions take it."""
    numbers = [float(part) for part in text.replace(";", " ").split()]
    return np.array(numbers[:16]).reshape(4, 4), [int(n) for n in numbers[16:22]]


def test_conversions_are_told_the_grid_or_one_with_right_angles_that_covers_it():
    grid = cases.centred_grid((4, 6, 9), (2.0, 1.5, 2.5), cases.rotation(20, -15, 35))
    matrix, extent = geometry_of(segments_in._geometry(grid))
    np.testing.assert_allclose(matrix, grid.ijk_to_ras, atol=1e-5)
    assert extent == [0, 8, 0, 5, 0, 3]
    sheared = grid.ijk_to_ras.copy()
    sheared[:3, 2] += 0.5 * sheared[:3, 0]
    sheared = Grid(grid.shape, sheared)
    matrix, extent = geometry_of(segments_in._geometry(sheared))
    assert np.array_equal(matrix[:3, :3], np.diag([sheared.spacing.min()] * 3))
    corners = (sheared.corners() - matrix[:3, 3]) / sheared.spacing.min()
    assert corners.min() >= -1e-6
    for axis, last in enumerate(extent[1::2]):
        assert corners[:, axis].max() <= last < corners[:, axis].max() + 2
