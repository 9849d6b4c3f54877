"""Images whose files have lost how the patient lay are found, whatever the turn; and nothing depends on their size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignment_cases import FIXED_GRID, VOXEL, axial, distance, grid_of, motion_of, picture
from VoxelMorphRegistrationLib.alignment import align as road
from VoxelMorphRegistrationLib.alignment.align import align
from VoxelMorphRegistrationLib.alignment.edges import Edges
from VoxelMorphRegistrationLib.alignment.motion import angle, rotation_matrices
from VoxelMorphRegistrationLib.alignment.search import _spread_rotations
from VoxelMorphRegistrationLib.images.image import Image

pytestmark = pytest.mark.usefixtures("few_points")


def test_volume_turned_by_180_degrees_is_found():
    turn = motion_of(math.pi * np.array([1, -1, 0]) / math.sqrt(2), (10, -15, 5))
    moving = picture(grid_of((30, 30, 30), (5.6, 5.6, 5.6), center=(10, -15, 5)), turn)
    result = align(picture(FIXED_GRID), moving, "rigid")
    assert distance(result.matrix, turn) < 0.7 and result.warnings == []


@pytest.mark.parametrize("degrees", [135, 180])
def test_slice_turned_in_its_plane_is_found(degrees):
    turn = motion_of((0, 0, math.radians(degrees)))
    assert distance(align(axial(), axial(turn), "rigid").matrix, turn) < 0.7


@pytest.mark.parametrize(("turn", "given", "believed"), [(3.0, False, False), (0.3, False, True), (3.0, True, True)])
def test_a_large_turn_that_was_searched_for_needs_more_evidence(monkeypatch, turn, given, believed):
    motion = motion_of((0, 0, turn))
    monkeypatch.setattr(Edges, "evidence", lambda edges, found: 7.0 if angle(found[:3, :3]) > 1 or turn < 1 else 5.0)
    start = motion if given else None
    result = align(picture(FIXED_GRID), picture(FIXED_GRID, motion), "rigid", initial=start)
    assert (distance(result.matrix, motion) < 0.7) is believed
    assert believed or ["8 are needed" in text for text in result.warnings] == [True]
    # That of what is kept, here the images as they lie.
    assert given or result.evidence == (7.0 if believed else 5.0)


def test_images_that_lie_nearly_alike_are_not_searched_for_and_others_are(monkeypatch):
    searched = []
    whole = road.best_start
    monkeypatch.setattr(road, "best_start", lambda *arguments: searched.append(1) or whole(*arguments))
    # Between soft blobs there is less evidence than between bodies: 10 for the right start, 4.5 for a wrong one.
    monkeypatch.setattr(road, "NEAR_EVIDENCE", 7.0)

    def shown(image: Image) -> Image:
        return Image(np.sin(image.array / 4), image.grid, image.name)

    fixed = shown(picture(FIXED_GRID))
    for turn, shift, expected in ((0.1, 8, 0), (1.2, 60, 1)):
        motion = motion_of((0, 0, turn), (shift, 0, -shift / 2))
        found = align(fixed, shown(picture(grid_of((44, 40, 40), (4, 4, 4)), motion)), "rigid").matrix
        assert len(searched) == expected and distance(found, motion) < 0.5


def test_what_looks_the_same_turned_is_doubted():
    # Two equal halves, each the other turned by 180 degrees; noise of its own in each image.
    def shown(seed: int) -> Image:
        half = picture(FIXED_GRID)
        noise = np.random.default_rng(seed).normal(0, 25, half.array.shape)
        return half.with_array((half.array + half.array[:, ::-1, ::-1] + noise).astype(np.float32))

    result = align(shown(0), shown(1), "rigid")
    assert any("agree as well when the moving one is turned by" in text for text in result.warnings)


def test_large_rotations_are_spread_over_all_there_are():
    some = rotation_matrices(np.random.default_rng(0).uniform(-1.8, 1.8, (300, 3)))
    closest = np.einsum("aij,bij->ab", some, _spread_rotations(500)).max(1)
    assert np.degrees(np.arccos((closest.min() - 1) / 2)) < 28


@pytest.mark.parametrize(("size", "flat"), [(1e-3, False), (1e-3, True), (10.0, True)])
def test_voxels_of_any_size_are_aligned_alike(size, flat):
    motion = motion_of((0, 0, 0.3), (20, -10, 0)) if flat else motion_of((0.2, -0.15, 0.3), (20, -10, 15))
    scale = np.diag([size, size, size, 1.0])
    moving = axial(motion) if flat else picture(grid_of((33, 30, 30), (VOXEL, VOXEL, VOXEL)), motion)

    def sized(image: Image) -> Image:
        return Image(image.array, image.grid.transformed(scale), image.name)

    found = align(sized(axial() if flat else picture(FIXED_GRID)), sized(moving), "affine").matrix
    assert distance(np.linalg.inv(scale) @ found @ scale, motion) < 0.5
