"""What is read from the scene beside the volumes: landmarks, masks and labels, by the rules that files have."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs

POINTS = np.array([[1.0, 2, 3], [-4, 5, 6], [7, -8, 9], [10, 11, -12]])


@pytest.fixture
def volumes(scene):
    return cases.make_nodes(scene)


def add_points(scene, points, labels, unset=(), name="Points"):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for point, label in zip(points, labels, strict=True):
        node.AddControlPoint(*point)
        node.SetNthControlPointLabel(node.GetNumberOfControlPoints() - 1, label)
    for number in unset:
        node.UnsetNthControlPointPosition(number)
    return node


def test_points_are_paired_by_label_and_what_is_left_out_is_told(scene, volumes):
    fixed = add_points(scene, POINTS, "abcd", unset=[1], name="F")
    moving = add_points(scene, POINTS[::-1] + 1, "dcba", unset=[0], name="M")
    read = read_inputs(*volumes, fixed_points=fixed, moving_points=moving)
    assert np.allclose(read.fixed_points, POINTS[[0, 2]])
    assert np.allclose(read.moving_points, POINTS[[0, 2]] + 1)
    assert "'b' of the fixed points 'F' and 'd' of the moving points 'M'" in read.warnings[-1]


def test_points_without_shared_labels_are_paired_by_their_places(scene, volumes):
    fixed = add_points(scene, POINTS, ["F-1", "F-2", "F-3", "F-4"], unset=[1])
    moving = add_points(scene, POINTS + 1, ["M-1", "M-2", "M-3", "M-4"])
    read = read_inputs(*volumes, fixed_points=fixed, moving_points=moving)
    assert np.allclose(read.fixed_points, POINTS[[0, 2, 3]])
    assert np.allclose(read.moving_points, POINTS[[0, 2, 3]] + 1)


def test_all_placed_points_with_the_same_labels_tell_nothing(scene, volumes):
    fixed, moving = (add_points(scene, POINTS, "abcd") for _ in range(2))
    assert not read_inputs(*volumes, fixed_points=fixed, moving_points=moving).warnings


def test_lists_that_cannot_be_paired_are_refused(scene, volumes):
    fixed, moving = add_points(scene, POINTS, "abcd"), add_points(scene, POINTS[:3], "xyz")
    with pytest.raises(InputError, match="4 fixed points 'Points' and 3 moving points"):
        read_inputs(*volumes, fixed_points=fixed, moving_points=moving)


def test_further_volumes_come_in_their_order_and_as_many_of_each(scene):
    fixed, moving = cases.make_nodes(scene)
    grid = cases.centred_grid((8, 9, 10), (2.0, 2.0, 2.0))
    more = [cases.add_volume(cases.blobs(grid, seed), grid, f"Further {seed}") for seed in range(3)]
    found = read_inputs(fixed, moving, further_fixed=(more[0], more[1]), further_moving=(more[2], more[0]))
    names = [[image.name for image in side[1:]] for side in found.sides]
    assert [["Further 0" in a, "Further 1" in b] for a, b in names[:1]] == [[True, True]] and "Further 2" in names[1][0]
    with pytest.raises(InputError, match="1 further fixed and 0 further moving volumes"):
        read_inputs(fixed, moving, further_fixed=(more[0],))
    assert read_inputs(fixed, moving).sides[0].array is not None
