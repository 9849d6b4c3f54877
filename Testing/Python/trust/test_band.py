"""The band around a structure: as wide as the error is expected to be there."""

from __future__ import annotations

import numpy as np
import pytest

from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.trust.band import band_of

GRID = Grid((6, 20, 40), np.diag([0.5, 0.5, 2.0, 1.0]))


def block(first: int, last: int, label: int = 3) -> np.ndarray:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[:, :, first:last] = label
    return labels


def test_band_reaches_as_far_as_the_bound_on_both_sides_of_the_surface():
    bound = np.full(GRID.shape, 2.0, np.float32)
    found = band_of(Image(block(0, 20), GRID), Image(bound, GRID)).array
    # The surface lies at 10 mm between voxels 19 and 20 of half a millimetre.
    np.testing.assert_array_equal(np.flatnonzero(found[3, 10] == 3), np.arange(16, 24))


def test_band_is_wider_where_the_error_may_be_larger():
    bound = np.full(GRID.shape, 1.0, np.float32)
    bound[:, 10:] = 4.0
    found = band_of(Image(block(0, 20), GRID), Image(bound, GRID)).array
    assert np.count_nonzero(found[3, 4]) == 4
    assert np.count_nonzero(found[3, 15]) == 16


def test_where_two_bands_meet_the_nearer_surface_counts_and_nothing_is_said_without_a_bound():
    labels = block(5, 12, 1) + block(26, 35, 2)
    bound = np.full(GRID.shape, 6.0, np.float32)
    bound[0] = 0.0
    found = band_of(Image(labels, GRID), Image(bound, GRID)).array
    assert found[3, 10, 13] == 1
    assert found[3, 10, 24] == 2
    assert not found[0].any()


def test_other_grids_are_refused():
    other = Grid((6, 20, 41), GRID.ijk_to_ras)
    with pytest.raises(InputError, match="different grids"):
        band_of(Image(block(0, 20), GRID), Image(np.ones(other.shape, np.float32), other))
