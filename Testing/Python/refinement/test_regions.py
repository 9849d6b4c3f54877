"""Where a refinement works, and what it takes for possible."""

import numpy as np
import pytest

from grids import KINDS, make_grid
from refinement_cases import INNER, deformed, displacement, other_contrast, textured
from VoxelMorphRegistrationLib.images.blocks import block_means
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement import refine as refinement
from VoxelMorphRegistrationLib.refinement.levels import LARGEST_GRID, Options
from VoxelMorphRegistrationLib.refinement.pair import Channel, Pair, mean_extent, memory_bytes, region_grid, thinned
from VoxelMorphRegistrationLib.refinement.refine import refine
from VoxelMorphRegistrationLib.refinement.volumes import _ends_in_background


@pytest.mark.parametrize(("size", "expected"), [((40, 40, 20), 2.0), ((40, 40, 1), 2**0.5)])
def test_the_region_is_isotropic_at_the_mean_voxel_size(size, expected):
    grid = make_grid(size, (1.0, 2.0, 4.0), (10, 20, 30))
    mask = np.zeros(grid.shape, bool)
    mask[..., 10:30, 12:30] = True
    region = region_grid(grid, mask)
    used = np.array(size) > 1
    assert region.spacing[used] == pytest.approx(expected)
    # With four voxels around the mask.
    inside = grid.positions()[mask] @ grid.directions
    corners = region.corners() @ grid.directions
    margins = np.minimum(inside.min(0) - corners.min(0), corners.max(0) - inside.max(0)) / grid.spacing
    assert (margins[:2] > 3.5).all() and (margins[:2] < 8).all()
    assert region.contains(grid.positions()[mask]).all()


@pytest.mark.parametrize("similarity", ["lncc", "mind"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 4.0, 1.0)])
def test_few_thin_slices_are_refined_as_well(similarity, spacing):
    """As few as are taken; isotropic to the mean, or half as fine, they would be one or two layers."""
    grid = make_grid((16, 16, 4), spacing)
    images = [(image.array / 800).astype(np.float32) for image in (deformed(grid), textured(grid))]
    fixed, moving = (Image(values, grid, "slices") for values in images)
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1.0),) * 2, np.ones(grid.shape, bool))
    found = refine(pair, None, Options("default", similarity))
    assert found.improved and found.similarity_after > found.similarity_before


@pytest.mark.parametrize("slices", [4, 6])
@pytest.mark.parametrize("similarity", ["lncc", "mind", "mi"])
@pytest.mark.parametrize("preset", ["coarse", "fast", "default"])
def test_few_thin_slices_are_not_thinned_by_coarse_levels(preset, similarity, slices):
    """A motion of 2.2 mm, found to 0.2 to 1.2; on levels of one layer to three it was not found."""

    def u(points):
        return displacement(points) * [1, 1, 0.3]

    fixed, moving = deformed(make_grid((36, 36, slices)), u), textured(make_grid((44, 44, slices)))
    points = fixed.grid.positions()[np.linalg.norm(fixed.grid.positions(), axis=-1) < INNER]
    moving = moving if similarity == "lncc" else other_contrast(moving)
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 0.00125),) * 2, fixed.array > 100)
    found = refine(pair, None, Options(preset, similarity)).field.transform_points(points) - points
    left, motion = (np.linalg.norm(one, axis=1).mean() for one in (found - u(points), u(points)))
    assert left < 0.6 * motion


def test_thin_slices_have_no_larger_grids_than_others_and_their_margins_are_counted():
    """Of 1024x1024x5 voxels, six layers as fine as they are thick were 33 million; and most of what is read of the
    moving image lies in the margins.
    """
    grid = make_grid((1024, 1024, 5), (0.25, 0.25, 0.1))
    assert region_grid(grid, np.ones(grid.shape, bool)).voxel_count < 1.2 * LARGEST_GRID
    counted = []
    for size in ((64, 64, 64), (256, 256, 4)):
        image = Image(np.zeros(size[::-1], np.float32), make_grid(size), "image")
        pair = Pair(image, image, np.eye(4), ((0.0, 1.0),) * 2, np.ones(size[::-1], bool))
        counted.append(memory_bytes(pair) / region_grid(image.grid, pair.mask).voxel_count)
    assert counted[0] == pytest.approx(4 * 63, rel=0.05) and counted[1] > 1.3 * counted[0]


def test_a_large_region_has_larger_voxels(monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.pair.LARGEST_GRID", 1000)
    grid = make_grid((40, 40, 40))
    assert region_grid(grid, np.ones(grid.shape, bool)).spacing == pytest.approx([4.0] * 3)
    assert mean_extent(make_grid((10, 20, 1), (4, 2, 9))) == pytest.approx(40.0)


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_far_finer_than_those_compared_are_averaged_in_their_place(kind):
    fixed_grid, moving_grid = (make_grid(**{**KINDS[kind], "size_ijk": size}) for size in ((20, 18, 16), (40, 12, 20)))
    slope = np.array([3.0, -2.0, 1.5])
    fixed, moving = (Image(grid.positions() @ slope, grid, "ramp") for grid in (fixed_grid, moving_grid))
    # Whole blocks only, since one that is not repeats the border.
    mask = np.zeros(fixed_grid.shape, bool)
    mask[:8] = True
    windows = ((0.0, 1.0),) * 2
    seen = moving.with_array(
        (np.arange(moving_grid.shape[0]) < 8)[:, None, None] * np.ones(moving_grid.shape, np.uint8)
    )
    pair = Pair(fixed, moving, np.eye(4), windows, mask, seen, further=(Channel(moving, fixed, windows),))
    whole = float(fixed_grid.spacing.max())
    found = thinned(pair, 2.0 * whole)
    for one in found.channels:
        for image in (one.fixed, one.moving):
            assert (image.grid.spacing > whole - 1e-6).all() and (image.grid.spacing <= 2.0 * whole + 1e-6).all()
            np.testing.assert_allclose(image.array, image.grid.positions() @ slope, atol=2e-3)
    rows = fixed_grid.to_ijk(found.fixed.grid.positions())[..., 2]
    np.testing.assert_array_equal(found.mask, rows < 8)
    rows = moving_grid.to_ijk(found.moving.grid.positions())[..., 2]
    np.testing.assert_array_equal(found.moving_mask.array != 0, rows < 8)
    assert found.moving_mask.grid is found.moving.grid
    same = thinned(pair, 1.5 * float(fixed_grid.spacing.min()))
    assert same.fixed is fixed and same.moving is moving and same.mask is mask and same.moving_mask is seen


@pytest.mark.parametrize("voxels", [1, 500, 3000])
def test_blocks_are_averaged_alike_whatever_the_slabs(voxels, monkeypatch):
    grid = make_grid((10, 9, 17), (1.0, 0.5, 0.4))
    image = Image(np.random.default_rng(0).integers(0, 4000, grid.shape, np.int16), grid, "image")
    found = block_means(image, 1.3)
    blocks = np.pad(image.array.astype(float), [(0, 1), (0, 1), (0, 0)], mode="edge")
    np.testing.assert_allclose(found.array, blocks.reshape(6, 3, 5, 2, 10).mean((1, 3)), rtol=1e-6)
    monkeypatch.setattr("VoxelMorphRegistrationLib.images.blocks.SLAB_VOXELS", voxels)
    np.testing.assert_array_equal(block_means(image, 1.3).array, found.array)


@pytest.mark.parametrize(("value", "ends"), [(-95.0, True), (-85.0, True), (-70.0, False)])
@pytest.mark.parametrize("place", [(0, 3, 3), (5, 3, 3), (3, 0, 3), (3, 3, 5)])
def test_background_is_what_is_near_the_lowest_value_of_the_window(value, ends, place):
    array = np.full((6, 6, 6), -100.0, np.float32)
    array[2:4, 2:4, 2:4] = 900.0
    array[place] = value
    image = Image(array, make_grid((6, 6, 6)), "image")
    assert _ends_in_background(image, (-100.0, 1e-3)) == ends


@pytest.mark.parametrize(
    ("found", "possible"), [((0.2, 4.0), True), ((0.05, 1.0), False), ((0.9, 6.0), False), ((0.05, 6.0), False)]
)
def test_no_tissue_shrinks_or_grows_beyond_what_is_possible(monkeypatch, found, possible):
    monkeypatch.setattr(refinement, "change_of_pieces", lambda *_: found)
    grid = make_grid((4, 4, 4))
    image = Image(np.zeros(grid.shape, np.float32), grid, "image")
    windows = ((0.0, 1.0),) * 2
    pair = Pair(image, image, np.eye(4), windows, np.ones(grid.shape, bool))
    assert refinement._possible(pair, None) == possible
