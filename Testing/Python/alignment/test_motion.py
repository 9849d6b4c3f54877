"""Rotations as vectors, matrices and angles, against the analytic ones."""

from __future__ import annotations

import numpy as np
import pytest

from VoxelMorphRegistrationLib.alignment.motion import about, angle, rotation_matrices, shift


@pytest.mark.parametrize("axis", range(3))
def test_a_vector_along_an_axis_turns_the_next_axis_to_the_one_after(axis):
    turn = rotation_matrices(np.eye(3)[axis] * np.pi / 2)
    ahead, after = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
    assert turn @ np.eye(3)[axis] == pytest.approx(np.eye(3)[axis])
    assert turn @ ahead == pytest.approx(after) and turn @ after == pytest.approx(-ahead)


def test_many_vectors_at_once_are_rotations_about_themselves():
    vectors = np.random.default_rng(0).normal(size=(4, 5, 3))
    turns = rotation_matrices(vectors)
    assert turns.shape == (4, 5, 3, 3)
    np.testing.assert_allclose(turns @ np.swapaxes(turns, -1, -2), np.broadcast_to(np.eye(3), turns.shape), atol=1e-12)
    np.testing.assert_allclose((turns @ vectors[..., None])[..., 0], vectors, atol=1e-12)
    np.testing.assert_allclose(rotation_matrices(np.zeros(3)), np.eye(3))


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.7, 2.0, np.pi])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0.6, 0, -0.8), (1, -2, 2)])
def test_the_angle_is_that_of_the_vector(axis, size):
    vector = np.array(axis) / np.linalg.norm(axis) * size
    assert angle(rotation_matrices(vector)) == pytest.approx(size, abs=1e-6)


def test_a_map_about_a_centre_carries_it_to_its_image():
    center, image = np.array([10.0, -20.0, 5.0]), np.array([1.0, 2.0, 3.0])
    turn = rotation_matrices(np.array([0.3, -0.2, 0.9]))
    matrix = about(turn, center, image)
    assert matrix @ [*center, 1] == pytest.approx([*image, 1])
    assert matrix @ [*(center + [1, 0, 0]), 1] == pytest.approx([*(image + turn[:, 0]), 1])
    assert shift(image) @ [*center, 1] == pytest.approx([*(center + image), 1])
