"""Where things are in the world: nested parent transforms, initial transforms, linear transforms of several parts."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
import vtk

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml.check_nodes import same_place
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.labels import labels_from_node
from VoxelMorphRegistrationLib.mrml.transforms import linear_transform
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node, points_from_node

# They do not commute.
INNER = cases.affine(cases.rotation(25, -10, 70) @ np.diag([1.2, 0.8, 1.0]), (11, -7, 3))
OUTER = cases.affine(cases.rotation(-60, 15, 5), (-2, 30, 8))


def nested(scene, node) -> None:
    """The node under INNER, which is under OUTER."""
    inner = cases.add_parent(scene, node, INNER)
    cases.add_parent(scene, inner, OUTER)


def composite(scene, *matrices):
    """A transform node of several linear parts, the last applied first, as files of other programs load."""
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Composite")
    general = vtk.vtkGeneralTransform()
    for matrix in matrices:
        general.Concatenate(linear_transform(matrix))
    node.SetAndObserveTransformToParent(general)
    return node


def orthogonal_grid():
    """A grid whose axes stay at right angles under INNER, which stretches."""
    return cases.centred_grid((10, 12, 14), (2.0, 1.5, 2.5), flips=(-1, 1, 1))


def test_inner_parent_transform_comes_before_the_outer_one(scene):
    grid = orthogonal_grid()
    volume = cases.add_volume(cases.blobs(grid, 1), grid, "Volume")
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    markups.AddControlPoint(1, 2, 3)
    for node in (volume, markups):
        nested(scene, node)
    whole = OUTER @ INNER
    assert np.allclose(image_from_node(volume).grid.ijk_to_ras, whole @ grid.ijk_to_ras)
    assert np.allclose(points_from_node(markups), (whole @ [1, 2, 3, 1])[:3])


def test_segmentation_under_nested_transforms_lies_where_slicer_shows_it(scene):
    grid = orthogonal_grid()
    volume = cases.add_volume(cases.blobs(grid, 1), grid, "Volume")
    segmentation = cases.add_segmentation(scene, volume)
    nested(scene, segmentation)
    # A volume in the world that covers the segments where they are.
    world = cases.centred_grid((40, 42, 44), (1.0, 1.1, 0.9), center=(OUTER @ INNER)[:3, 3])
    found = labels_from_node(segmentation, world).image
    local = np.linalg.inv(OUTER @ INNER)
    ijk = np.rint(grid.to_ijk(world.positions() @ local[:3, :3].T + local[:3, 3])).astype(int)
    inside = ((ijk >= 0) & (ijk < grid.size)).all(-1)
    expected = np.zeros(world.shape, int)
    expected[inside] = cases.label_array(grid)[tuple(ijk[inside].T[::-1])]
    assert (expected == 3).sum() > 500
    assert np.array_equal(found.array, np.select([expected == 3, expected == 9], [1, 2]))


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
@pytest.mark.parametrize("form", ["own matrix", "under another", "several parts"])
def test_initial_transform_is_inverted_to_go_from_fixed_to_moving(scene, form, parents):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique left-handed", parents)
    if form == "several parts":
        initial = composite(scene, OUTER, INNER)
    else:
        initial = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Initial")
        initial.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(INNER))
        if form == "under another":
            cases.add_parent(scene, initial, OUTER)
    to_fixed = INNER if form == "own matrix" else OUTER @ INNER
    read = read_inputs(fixed_node, moving_node, initial_transform=initial)
    moving_point = np.array([5.0, -8, 13, 1])
    assert np.allclose(read.initial_transform @ to_fixed @ moving_point, moving_point)
    # The volumes themselves stay where they are.
    assert read.moving.grid.same_as(image_from_node(moving_node).grid)


def test_volume_under_a_linear_transform_of_several_parts_is_not_taken_for_unmoved(scene):
    grid = orthogonal_grid()
    volume = cases.add_volume(cases.blobs(grid, 1), grid, "Volume")
    volume.SetAndObserveTransformNodeID(composite(scene, OUTER, INNER).GetID())
    assert np.allclose(image_from_node(volume).grid.ijk_to_ras, OUTER @ INNER @ grid.ijk_to_ras)


def test_composite_file_of_another_program_is_an_initial_transform(scene, tmp_path):
    parts = []
    for matrix in (OUTER, INNER):
        lps = np.diag([-1.0, -1, 1, 1]) @ matrix @ np.diag([-1.0, -1, 1, 1])
        part = SimpleITK.AffineTransform(3)
        part.SetMatrix(lps[:3, :3].ravel().tolist())
        part.SetTranslation(lps[:3, 3].tolist())
        parts.append(part)
    path = str(tmp_path / "both.h5")
    SimpleITK.WriteTransform(SimpleITK.CompositeTransform(parts), path)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "From file")
    storage = slicer.vtkMRMLTransformStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(path)
    assert storage.ReadData(node) == 1
    fixed_node, moving_node = cases.make_nodes(scene)
    read = read_inputs(fixed_node, moving_node, initial_transform=node)
    # Files hold the way from fixed to moving positions.
    assert np.allclose(read.initial_transform, OUTER @ INNER, atol=1e-6)


def test_mirroring_or_strongly_scaling_initial_transform_is_warned_of(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    initial = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Initial")
    turn = cases.affine(cases.rotation(120, 50, -70), (3, 4, 5))
    for matrix, words in (
        (turn, []),
        (turn @ np.diag([1.25, 0.8, 1.1, 1]), []),
        (turn @ np.diag([-1.0, 1, 1, 1]), ["'Initial' mirrors"]),
        (turn @ np.diag([1.0, 10, 1, 1]), ["'Initial' scales the moving volume by 1 to 10"]),
        (turn @ np.diag([1.0, 0.1, 1, 1]), ["'Initial' scales the moving volume by 0.1 to 1"]),
    ):
        initial.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        warnings = read_inputs(fixed_node, moving_node, initial_transform=initial).warnings
        assert len(warnings) == len(words)
        assert all(word in text for word, text in zip(words, warnings, strict=True))


def test_names_and_files_given_for_nodes_are_refused_with_a_sentence(scene, tmp_path):
    fixed_node, moving_node = cases.make_nodes(scene)
    for nodes, more, message in (
        (("Fixed", moving_node), {}, r"fixed volume is given as the text 'Fixed'.*slicer.util.getNode"),
        ((fixed_node, tmp_path / "moving.nrrd"), {}, r"moving volume is given as the text .*slicer.util.loadVolume"),
        ((fixed_node, moving_node.GetImageData()), {}, "moving volume is a Python object of the kind"),
        ((fixed_node, moving_node), {"moving_labels": "Segments"}, "moving labels is given as the text"),
        ((fixed_node, moving_node), {"fixed_points": "Points"}, "fixed points is given as the text"),
        ((fixed_node, moving_node), {"initial_transform": "Initial"}, "initial transform is given as the text"),
    ):
        with pytest.raises(InputError, match=message):
            read_inputs(*nodes, **more)


@pytest.mark.parametrize("change", ["nothing", "origin", "size", "transform"])
def test_volumes_lie_in_one_place_with_one_grid_under_one_transform(scene, change):
    grid = cases.centred_grid((4, 5, 6), (2, 2, 3))
    one, other = (cases.add_volume(np.zeros(grid.shape), grid, name) for name in ("one", "other"))
    parent = cases.add_parent(scene, one, INNER)
    other.SetAndObserveTransformNodeID(parent.GetID())
    if change == "origin":
        other.SetOrigin(other.GetOrigin()[0] + 0.1, *other.GetOrigin()[1:])
    elif change == "size":
        slicer.util.updateVolumeFromArray(other, np.zeros((4, 5, 7)))
    elif change == "transform":
        other.SetAndObserveTransformNodeID(None)
    assert same_place(one, other) == (change == "nothing")
