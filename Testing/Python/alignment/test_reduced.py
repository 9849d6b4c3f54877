"""Small copies of large images: means over blocks, where they lie, and how small they are."""

from __future__ import annotations

import numpy as np
import pytest

from grids import KINDS, make_grid
from VoxelMorphRegistrationLib.alignment.reduced import (
    WORK_PIXELS,
    WORK_VOXELS,
    _foreground,
    extent,
    reduced,
    work_spacing,
)
from VoxelMorphRegistrationLib.images.image import Image

SLOPE = np.array([3.0, -2.0, 1.5])


def ramp(grid) -> Image:
    """Linear in RAS mm, so that means over blocks and interpolation are exact."""
    return Image((grid.positions() @ SLOPE).astype(np.float32), grid, "ramp")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", [2.5, 4.0, 7.0])
def test_a_reduced_ramp_is_a_ramp_in_the_same_place(kind, spacing):
    grid = make_grid(**{**KINDS[kind], "size_ijk": (64, 59, 51)})
    small = reduced(ramp(grid), spacing)
    assert (small.grid.spacing >= spacing - 1e-6).all() and small.grid.contains(grid.corners()).all()
    values = small.grid.positions() @ SLOPE
    # Away from the border, and from what the robust limits cut.
    inside = np.isfinite(small.array) & (small.array > 0.02) & (small.array < 0.98)
    inner = (np.abs(grid.to_ijk(small.grid.positions()) - (grid.size - 1) / 2) < 0.3 * grid.size).all(-1)
    chosen = inside & inner
    assert chosen.sum() > 20
    slope, offset = np.polyfit(values[chosen], small.array[chosen], 1)
    rest = small.array[chosen] - slope * values[chosen] - offset
    assert slope > 0 and np.abs(rest).max() < 2e-3
    # From 0 to 1 between the limits of the whole image.
    low, high = np.percentile(values[np.isfinite(small.array)], [0.1, 99.8])
    assert slope * low + offset == pytest.approx(0.0, abs=0.05)
    assert slope * high + offset == pytest.approx(1.0, abs=0.05)


def test_a_block_that_is_not_whole_repeats_the_border():
    grid = make_grid((7, 9, 8))
    image = Image(np.zeros(grid.shape, np.float32), grid, "edge")
    image.array[:, :, 6] = 100.0
    small = reduced(image, 2.0)
    # The last block along i holds the last voxel twice: as bright as it is, and alone so.
    assert grid.to_ijk(small.grid.positions())[0, 0, :, 0] == pytest.approx([0.5, 2.5, 4.5, 6.5])
    assert np.nanmean(small.array, (0, 1)) == pytest.approx([0, 0, 0, 1], abs=1e-6)


def test_a_slice_stays_one_voxel_thick():
    small = reduced(ramp(make_grid((60, 64, 1), (1.0, 1.0, 9.0))), 3.0)
    assert small.grid.shape[0] == 1 and small.grid.spacing == pytest.approx([3.0, 3.0, 9.0])


def test_extents_are_volumes_or_areas():
    assert extent(make_grid((10, 8, 6), (1.0, 2.0, 3.0), (10, 20, 30))) == pytest.approx(10 * 8 * 6 * 6.0)
    for size, area in (((10, 8, 1), 160.0), ((10, 1, 6), 180.0), ((1, 8, 6), 288.0)):
        assert extent(make_grid(size, (1.0, 2.0, 3.0))) == pytest.approx(area)


def test_the_smaller_image_has_the_voxels_asked_for_and_the_larger_at_most_four_times_as_many():
    small, large, huge = make_grid((100,) * 3), make_grid((120,) * 3), make_grid((300,) * 3)
    for pair in ((small, large), (large, small)):
        assert extent(small) / work_spacing(*pair, 1.0) ** 3 == pytest.approx(WORK_VOXELS)
    assert extent(huge) / work_spacing(small, huge, 0.5) ** 3 == pytest.approx(4 * 0.5 * WORK_VOXELS)
    flat = make_grid((300, 200, 1), (1.0, 1.0, 5.0))
    assert extent(flat) / work_spacing(flat, flat, 1.0) ** 2 == pytest.approx(WORK_PIXELS)


@pytest.mark.parametrize("bright", [0.1, 0.5, 0.9])
def test_the_foreground_is_what_otsus_threshold_tells_from_the_rest(bright):
    rng = np.random.default_rng(0)
    array = np.where(rng.uniform(size=(16, 16, 16)) < bright, 0.7, 0.3) + rng.normal(0, 0.08, (16, 16, 16))
    array = array.clip(0, 1).astype(np.float32)
    array[0] = np.nan
    found = _foreground(Image(array, make_grid((16, 16, 16)), "image"))
    known = array[1:].ravel()

    def between(threshold: float) -> float:
        above = known > threshold
        return above.mean() * (1 - above.mean()) * (known[above].mean() - known[~above].mean()) ** 2

    best = max(between(n / 128) for n in range(30, 98))
    assert between(float(known[~found[1:].ravel()].max())) == pytest.approx(best, rel=1e-3) and not found[0].any()
