"""Images whose files have lost how the patient lay are found, whatever the turn; and nothing depends on their size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignment_cases import FIXED_GRID, axial, distance, grid_of, motion_of, picture
from VoxelMorphRegistrationLib.alignment.align import align
from VoxelMorphRegistrationLib.alignment.motion import rotation_matrices
from VoxelMorphRegistrationLib.alignment.search import _spread_rotations
from VoxelMorphRegistrationLib.images.image import Image


@pytest.mark.parametrize("axis", [(1, 0, 0), (1, -1, 0)])
def test_volume_turned_by_180_degrees_is_found(axis):
    turn = motion_of(math.pi * np.array(axis) / np.linalg.norm(axis), (10, -15, 5))
    moving = picture(grid_of((40, 40, 40), (4.2, 4.2, 4.2), center=(10, -15, 5)), turn)
    result = align(picture(FIXED_GRID), moving, "rigid")
    assert distance(result.matrix, turn) < 0.7 and result.warnings == []


@pytest.mark.parametrize("degrees", [135, 180])
def test_slice_turned_in_its_plane_is_found(degrees):
    turn = motion_of((0, 0, math.radians(degrees)))
    assert distance(align(axial(), axial(turn), "rigid").matrix, turn) < 0.7


def test_what_looks_the_same_turned_is_doubted():
    # Two equal halves, each the other turned by 180 degrees; noise of its own in each image.
    def shown(seed: int) -> Image:
        half = picture(FIXED_GRID).array
        noise = np.random.default_rng(seed).normal(0, 25, half.shape)
        return Image((half + half[:, ::-1, ::-1] + noise).astype(np.float32), FIXED_GRID, "image")

    result = align(shown(0), shown(1), "rigid")
    assert any("agree as well when the moving one is turned by" in text for text in result.warnings)


def test_large_rotations_are_spread_over_all_there_are():
    some = rotation_matrices(np.random.default_rng(0).uniform(-1.8, 1.8, (300, 3)))
    closest = np.einsum("aij,bij->ab", some, _spread_rotations(500)).max(1)
    assert np.degrees(np.arccos((closest.min() - 1) / 2)) < 28


@pytest.mark.parametrize("size", [1e-3, 10.0])
def test_voxels_of_any_size_are_aligned_alike(size):
    motion, scale = motion_of((0.2, -0.15, 0.3), (20, -10, 15)), np.diag([size, size, size, 1.0])

    def sized(image: Image) -> Image:
        return Image(image.array, image.grid.transformed(scale), image.name)

    found = align(sized(picture(FIXED_GRID)), sized(picture(grid_of((44, 40, 40), (4, 4, 4)), motion)), "affine").matrix
    assert distance(np.linalg.inv(scale) @ found @ scale, motion) < 0.5
