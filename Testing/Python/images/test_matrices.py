"""Rotations, checked matrices, and which axis of a slice has a single voxel."""

from __future__ import annotations

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.grid import bounding_box, check_matrix, rotation


@pytest.mark.parametrize("axis", range(3))
def test_a_rotation_about_an_axis_keeps_it_and_turns_the_others_by_the_angle(axis):
    angles = np.zeros(3)
    angles[axis] = 0.3
    turn = rotation(angles)
    assert turn @ np.eye(3)[axis] == pytest.approx(np.eye(3)[axis])
    assert turn @ turn.T == pytest.approx(np.eye(3)) and np.linalg.det(turn) == pytest.approx(1.0)
    assert np.trace(turn) == pytest.approx(1 + 2 * np.cos(0.3))


def test_rotations_come_in_the_order_x_y_z_and_the_right_way_round():
    x, y, z = (rotation(np.where(np.arange(3) == axis, [0.2, -0.5, 0.9], 0.0)) for axis in range(3))
    assert rotation(np.array([0.2, -0.5, 0.9])) == pytest.approx(z @ y @ x)
    quarter = np.pi / 2
    assert rotation(np.array([quarter, 0, 0])) @ [0, 1, 0] == pytest.approx([0, 0, 1])
    assert rotation(np.array([0, 0, quarter])) @ [1, 0, 0] == pytest.approx([0, 1, 0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_matrix_in_any_unit_is_taken(scale):
    matrix = np.diag([scale, -scale, 0.2 * scale, 1.0])
    assert np.array_equal(check_matrix(matrix.astype(np.float32), "start"), matrix.astype(np.float32))
    assert check_matrix(matrix.tolist(), "start").dtype == np.float64


def changed(*places):
    matrix = np.eye(4)
    for row, column, value in places:
        matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3), "4x4 matrix of finite numbers"),
        (np.zeros((4, 4)) + np.eye(4)[3] * np.eye(4), "singular"),
        (changed((1, 1, np.nan)), "4x4 matrix of finite numbers"),
        (changed((0, 3, np.inf)), "4x4 matrix of finite numbers"),
        (changed((3, 0, 0.01)), "last row is 0 0 0 1"),
        (changed((3, 3, 2.0)), "last row is 0 0 0 1"),
        (changed((2, 2, 0.0)), "singular"),
        (changed((0, 0, 0.0), (0, 1, 1.0)), "singular"),
    ],
)
def test_a_matrix_that_is_none_is_refused(matrix, words):
    with pytest.raises(InputError, match=words) as refused:
        check_matrix(matrix, "initial transform")
    assert "The initial transform" in str(refused.value)


@pytest.mark.parametrize(("shear", "straight"), [(0.0, True), (5e-4, True), (2e-3, False), (-0.02, False)])
def test_axes_are_at_right_angles_up_to_the_rounding_of_headers(shear, straight):
    matrix = np.eye(4)
    matrix[0, 1] = shear
    sheared = make_grid((9, 8, 7), (1.0, 1.0, 2.0)).transformed(matrix)
    assert sheared.is_orthogonal == straight


@pytest.mark.parametrize(("size", "flat", "across"), [((1, 9, 8), 2, 0), ((9, 1, 8), 1, 1), ((9, 8, 1), 0, 2)])
def test_a_slice_knows_its_flat_axis_in_the_array_and_in_ijk(size, flat, across):
    grid = make_grid(size)
    assert (grid.dimension, grid.flat_axis, grid.across) == (2, flat, across)
    assert grid.shape[grid.flat_axis] == 1 == grid.size[grid.across]


@pytest.mark.parametrize("size", [(9, 8, 7), (9, 1, 1), (1, 1, 1)])
def test_what_is_no_slice_has_no_flat_axis(size):
    grid = make_grid(size)
    assert grid.dimension == 3 and grid.flat_axis is None


def test_the_bounding_box_holds_all_and_no_more():
    mask = np.zeros((6, 7, 8), bool)
    mask[1, 2, 5] = mask[3, 2, 1] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(1, 6))
