"""The expected error: larger where the images say less, in the unit of the images, and nothing said of no anatomy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid, rotation
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement.pair import Pair, region_grid
from VoxelMorphRegistrationLib.registration import doubt
from VoxelMorphRegistrationLib.registration.inputs import Inputs
from VoxelMorphRegistrationLib.registration.progress import Run
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.trust import bound
from VoxelMorphRegistrationLib.trust.error_map import ErrorMap, bound_at, error_map
from VoxelMorphRegistrationLib.trust.quantities import NAMES, quantities
from VoxelMorphRegistrationLib.trust.runs import COARSELY, FINELY, Answers, disturbed, swapped

SHAPE = (1, 72, 80)


def plane(spacing: float) -> Grid:
    return Grid(SHAPE, np.diag([spacing, spacing, spacing, 1.0]))


def textured(grid: Grid, seed: int = 0, even: slice = slice(0)) -> Image:
    """Stripes and blobs of a few voxels; `even`: columns without any."""
    j, i = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[2]), indexing="ij")
    values = 500 + 150 * np.sin(j / 2.3) * np.cos(i / 2.9) + 120 * np.sin((i + 2 * j) / 6.1)
    values[:, even] = 500
    noise = np.random.default_rng(seed).normal(scale=5, size=values.shape)
    return Image((values + noise)[None].astype(np.float32), grid)


def pair_of(spacing: float = 1.0, even: slice = slice(0)) -> Pair:
    grid = plane(spacing)
    windows = ((200.0, 1 / 600), (200.0, 1 / 600))
    mask = np.ones(SHAPE, bool)
    return Pair(textured(grid, 1, even), textured(grid, 2, even), np.eye(4), windows, mask)


def mapped(pair: Pair, effort: str = "quick") -> ErrorMap:
    field = DisplacementField.identity(pair.fixed.grid)
    return error_map(pair, field, "lncc", np.ones(SHAPE, bool), effort)


@pytest.mark.parametrize("effort", ["quick", "full"])
def test_where_the_images_show_nothing_the_bound_is_larger(effort):
    found = mapped(pair_of(even=slice(40, 80)), effort).bound.array[0]
    shown, nothing = np.median(found[8:-8, 8:32]), np.median(found[8:-8, 50:72])
    assert nothing > 1.5 * shown


def shifted(pair: Pair, voxels: int) -> Pair:
    """With the moving image moved along i, so that no displacement is wrong by so many voxels."""
    return replace(pair, moving=pair.moving.with_array(np.roll(pair.moving.array, voxels, 2)))


@pytest.mark.parametrize("effort", ["quick", "full"])
def test_a_registration_that_failed_is_told_so_all_over(effort):
    right, wrong = (mapped(shifted(pair_of(), voxels), effort).bound.array[0, 12:-12, 16:-16] for voxels in (0, 9))
    assert np.percentile(wrong, 10) > 2 * np.median(right)


def test_where_the_image_would_fit_better_tells_how_far_off_it_is():
    """And beside its place it fits worse, where it lies right."""
    found = {}
    for voxels in (0, 1, 3):
        pair = shifted(pair_of(), voxels)
        seen = quantities(pair, DisplacementField.identity(pair.fixed.grid), Answers(), "lncc")
        inner = seen.values[0, 4:-4, 4:-4]
        found[voxels] = {name: np.median(inner[..., NAMES.index(name)]) for name in ("off1_near", "gain1_near")}
    assert np.exp(found[0]["off1_near"]) + 0.3 < np.exp(found[1]["off1_near"]) < 2
    assert found[0]["gain1_near"] > found[1]["gain1_near"] > found[3]["gain1_near"]


def test_where_intensities_meet_that_seldom_do_is_told():
    """A hole in one image, of an intensity that the other has elsewhere."""
    pair = pair_of()
    moving = pair.moving.array.copy()
    moving[:, 24:48, 24:48] = 300
    seen = quantities(
        replace(pair, moving=pair.moving.with_array(moving)), DisplacementField.identity(plane(1.0)), Answers(), "lncc"
    )
    told = seen.values[0, ..., NAMES.index("surprise_near")]
    elsewhere = np.concatenate([told[:, :4], told[:, 14:]], 1)
    assert told[7:11, 7:11].min() > elsewhere.max() + 0.8
    # Nor is the border anything else.
    assert np.ptp(elsewhere) < 0.4


def test_how_far_disturbed_starts_end_away_is_told_in_voxels():
    grid = plane(2.0)
    there = DisplacementField(np.full((*SHAPE, 3), (6.0, 0.0, 0.0), np.float32), grid)
    seen = quantities(pair_of(2.0), DisplacementField.identity(grid), Answers(fine=(there, there)), "lncc")
    inner = np.exp(np.median(seen.values[0, 4:-4, 4:-4], (0, 1)))
    told = {name: inner[NAMES.index(name)] for name in ("fine_near", "starts_case", "apart_near", "returned_near")}
    assert told["fine_near"] == pytest.approx(3.0, rel=0.02)
    assert told["starts_case"] == pytest.approx(3.0, rel=0.02)
    assert told["apart_near"] < 0.1
    # Of what was not asked nothing is known.
    assert told["returned_near"] == pytest.approx(1.0, rel=0.02)


def test_starts_are_disturbed_coarsely_and_finely():
    pair = pair_of()
    region = region_grid(pair.fixed.grid, pair.mask)
    field = DisplacementField.identity(pair.fixed.grid)
    coarse, fine = (disturbed(field, region, 1, *how).displacement_ras[0, ..., 0] for how in (COARSELY, FINELY))
    assert coarse.std() > 1.3 * fine.std()
    steps = [np.abs(np.diff(values, axis=0)).mean() / values.std() for values in (coarse, fine)]
    assert steps[1] > 1.5 * steps[0]


def profiles(pair: Pair) -> dict[str, np.ndarray]:
    """How the images' difference changes where the moving one is moved on, and how far off it fits best in voxels,
    (J, I) by name."""
    seen = quantities(pair, DisplacementField.identity(pair.fixed.grid), Answers(), "lncc")
    names = [name for name in NAMES if name.startswith(("gain", "off")) and not name.endswith("case")]
    found = {name: seen.values[0, ..., NAMES.index(name)] for name in names}
    return {name: np.exp(values) if name.startswith("off") else values for name, values in found.items()}


def test_what_one_border_shows_says_nothing_of_the_other():
    """The last columns in another order: the same intensities and noise."""
    pair = pair_of()
    array = pair.moving.array.copy()
    array[..., 64:] = array[:, ::-1, 64:]
    before, after = profiles(pair), profiles(replace(pair, moving=pair.moving.with_array(array)))
    for name, values in before.items():
        np.testing.assert_allclose(after[name][:, :6], values[:, :6], atol=0.05, err_msg=name)
    assert np.abs(after["off4_near"] - before["off4_near"])[:, -4:].max() > 0.5


def test_the_bound_has_the_unit_of_the_images():
    small, large = (mapped(pair_of(spacing)).bound.array for spacing in (0.1, 1.0))
    np.testing.assert_allclose(10 * small, large, rtol=0.02)


def test_the_median_is_below_the_bound():
    found = mapped(pair_of())
    assert (found.median.array <= found.bound.array).all()
    assert found.bound.array.dtype == np.float32


def test_nothing_is_said_where_there_is_no_anatomy():
    pair = pair_of()
    mask = np.zeros(SHAPE, bool)
    mask[:, 10:62, 10:50] = True
    found = mapped(Pair(pair.fixed, pair.moving, pair.matrix, pair.windows, mask))
    assert found.known[0, 20:50, 20:40].all()
    assert not found.known[0, :, 62:].any()


def test_bound_at_places_of_an_oblique_grid():
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(np.radians([10, 20, 30])) @ np.diag([-1.0, 2.0, 3.0])
    matrix[:3, 3] = 5, 6, 7
    grid = Grid((3, 4, 5), matrix)
    values = np.zeros(grid.shape, np.float32)
    values[2, 1, 3] = 1.5
    places = np.concatenate([grid.to_ras([[3, 1, 2], [0, 0, 0]]), [[500.0, 0, 0]]])
    np.testing.assert_array_equal(bound_at(Image(values, grid), places), [1.5, np.nan, np.nan])


def test_beyond_what_the_fit_has_seen_nothing_is_concluded():
    curves = bound.Curves({"noise": np.array([0.0, 2.0])}, {"noise": np.array([1.0, 3.0])}, 0.5)
    values = np.zeros((4, len(NAMES)))
    values[:, NAMES.index("noise")] = [-9.0, 1.0, 2.0, 99.0]
    np.testing.assert_allclose(curves(values, NAMES), [1.5, 2.5, 3.5, 3.5])


def test_every_quantity_of_the_tables_is_one_that_is_taken():
    for effort in ("quick", "full"):
        for curves in bound.curves(effort).values():
            assert set(curves.knots) <= set(NAMES)
            assert all((np.diff(knots) > 0).all() for knots in curves.knots.values())


def test_a_disturbed_start_of_a_slice_stays_in_its_plane():
    pair = pair_of()
    field = DisplacementField.identity(pair.fixed.grid)
    region = region_grid(pair.fixed.grid, pair.mask)
    found = disturbed(field, region, 1, *COARSELY).displacement_ras
    assert np.abs(found[..., 2]).max() < 1e-5
    assert np.abs(found[..., :2]).max() > 1
    again = disturbed(field, region, 1, *COARSELY).displacement_ras
    np.testing.assert_array_equal(found, again)


def test_the_pair_the_other_way_round_counts_where_the_moving_mask_does():
    pair, seen = pair_of(), np.zeros(SHAPE, np.uint8)
    seen[:, :20] = 1
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    masked = Pair(pair.fixed, pair.moving, matrix, pair.windows, pair.mask, Image(seen, pair.moving.grid))
    back = swapped(masked, np.ones(SHAPE, bool))
    assert back.fixed is pair.moving
    np.testing.assert_allclose(back.matrix @ matrix, np.eye(4))
    np.testing.assert_array_equal(back.mask, seen > 0)


# --- what the report says ---------------------------------------------------------------------------------------


def test_report_tells_shares_structures_and_the_least_certain_place():
    grid = Grid((2, 2, 3), np.diag([2.0, 2.0, 2.0, 1.0]))
    bound_mm = np.array([[[0.5, 1.5, 4.0], [9.0, 0.0, 0.0]], [[0.5, 0.5, 1.5], [50.0, 0.0, 0.0]]], np.float32)
    labels = np.zeros(grid.shape, np.int16)
    labels[0, 0] = 7
    region = np.ones(grid.shape, bool)
    region[1, 1, 0] = False
    found, place = doubt.summary(ErrorMap(Image(bound_mm, grid), "full"), region, Image(labels, grid))
    assert [round(found[f"under_{mm}mm"], 2) for mm in (1, 2, 5)] == [42.86, 71.43, 85.71]
    assert found["median"] == 1.5
    assert found["labels"] == {7: {"mean": pytest.approx(2.0), "max": 4.0}}
    np.testing.assert_allclose(place, [0.0, 2.0, 0.0])


def test_images_too_small_for_it_get_a_warning_and_no_map():
    grid = Grid((12, 12, 12), np.eye(4))
    image = Image(np.random.default_rng(0).random(grid.shape), grid)
    inputs = Inputs(image, image, np.ones(grid.shape, bool))
    run, pair = Run(None), Pair(image, image, np.eye(4), ((0.0, 1.0),) * 2, np.ones(grid.shape, bool))
    settings = Settings(expected_error="full")
    found = doubt.error_map_of(inputs, pair, DisplacementField.identity(grid), "lncc", "cpu", settings, run)
    assert found is None
    assert "fewer than" in run.warnings[0]
