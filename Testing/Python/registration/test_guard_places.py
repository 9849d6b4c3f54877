"""Where the checks of a stage look, in which units, and what they weigh against what."""

import numpy as np
import pytest

from grids import KINDS, make_grid
from refinement_cases import textured
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.registration import guard

GRID = make_grid((36, 36, 36))


def shift(grid, mm):
    return DisplacementField(np.broadcast_to(np.asarray(mm, np.float32), (*grid.shape, 3)).copy(), grid)


def pair_of(fixed, moving, matrix=None, **guides):
    windows = ((0.0, 1 / 800),) * 2
    return Pair(fixed, moving, np.eye(4) if matrix is None else matrix, windows, fixed.array > 100, **guides)


def ramp(ras):
    """Linear in space, so that an average over a block is its value at the block's centre; within (0, 1)."""
    return 0.5 + np.asarray(ras) @ [0.002, -0.003, 0.004]


@pytest.mark.parametrize("kind", KINDS)
def test_averaged_images_lie_where_the_images_lie(kind):
    grid = make_grid(**{**KINDS[kind], "center": (5, -8, 3)})
    image = Image(ramp(grid.positions()).astype(np.float32), grid, "ramp")
    # Anatomy in a corner: what is averaged is cut to it, on other sides differently far.
    mask = np.zeros(grid.shape, bool)
    mask[2:10, 8:24, 14:34] = True
    judge = guard.Judge(Pair(image, image, np.eye(4), ((0.0, 1.0), (0.0, 1.0)), mask))
    pair = judge._averaged(int(mask.sum()) // 12)
    for part in (pair.fixed, pair.moving):
        assert part.array.size < 0.4 * image.array.size
        np.testing.assert_allclose(part.array, ramp(part.grid.positions()), atol=1e-5)
    inside = grid.positions()[mask]
    found = pair.fixed.grid.positions()[pair.mask]
    np.testing.assert_allclose(found.mean(0), inside.mean(0), atol=2.5 * grid.spacing.max())


def test_blocks_are_whole_voxels_where_an_image_has_few_along_an_axis():
    grid = make_grid((30, 26, 6), (1, 1, 2), (10, 20, 30))
    image = guard._averaged(Image(ramp(grid.positions()).astype(np.float32), grid, "ramp"), 5.0)
    assert image.grid.size.tolist() == [6, 5, 6]
    np.testing.assert_allclose(image.array, ramp(image.grid.positions()), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64, 64), (512, 512, 1)])
@pytest.mark.parametrize("spacing", [1.0, 0.01])
def test_about_so_many_voxels_are_compared_in_a_volume_and_in_a_slice(size, spacing):
    grid = make_grid(size, (spacing,) * 3)
    image = Image(np.zeros(grid.shape, np.float32), grid, "image")
    judge = guard.Judge(Pair(image, image, np.eye(4), ((0.0, 1.0), (0.0, 1.0)), np.ones(grid.shape, bool)))
    assert 0.5 * 4096 <= judge._averaged(4096).mask.sum() <= 4096


def test_descriptors_that_like_what_mutual_information_does_not_are_not_enough():
    """A moving image that shows the body twice: with noise, and without it under a shade that hides what is what."""
    fixed = textured(GRID)
    noisy = fixed.array + np.random.default_rng(0).normal(0, 40, GRID.shape)
    x, y, z = np.moveaxis(GRID.positions(), -1, 0)
    shaded = fixed.array * (1 + 0.95 * np.sin(x / 4) * np.cos(y / 5) * np.sin(z / 4.5 + 1))
    both = np.concatenate([noisy, shaded], axis=2).astype(np.float32)
    moving = Image(both, GRID.cropped([0, 0, 0], [72, 36, 36]), "twice")
    checks = guard.Checks(None, "mind")
    field, kept = checks.refinement(pair_of(fixed, moving), None, shift(GRID, (36.0, 0, 0)), "mind")
    found = {row["measure"]: row for row in checks.found["refinement"]["similarity"]}
    assert found["mind"]["after"] > found["mind"]["before"] and found["mi"]["after"] < found["mi"]["before"]
    assert not kept and "mutual information" in checks.found["refinement"]["reason"]
    assert not field.displacement_ras.any()


@pytest.mark.parametrize(("wanted", "kept"), [(3.0, True), (-3.0, False)])
def test_landmarks_are_compared_where_the_alignment_has_brought_them(wanted, kept):
    """They want the alignment taken back, or as much again; the refinement takes it back, against the images."""
    image = textured(GRID)
    matrix = np.eye(4)
    matrix[0, 3] = -3.0
    moving = textured(make_grid((44, 44, 44)), center=(-3.0, 0, 0))
    points = np.array([[0.0, 0, 0], [6, 0, 0], [0, 6, 0]])
    pair = pair_of(image, moving, matrix, points=(points, points + [wanted - 3.0, 0, 0]))
    checks = guard.Checks(None, "lncc")
    assert checks.refinement(pair, None, shift(GRID, (3.0, 0, 0)), "lncc")[1] == kept
    (found,) = checks.found["refinement"]["similarity"]
    assert found["after"] < found["before"]


@pytest.mark.parametrize("guided", [True, False])
def test_refinement_that_labels_guide_may_cost_similarity_for_a_small_gain(guided):
    fixed, moving = textured(GRID), textured(make_grid((44, 44, 44)))

    def labels(grid, place):
        """Half of the space without a cube of 6 mm."""
        x, y, z = np.moveaxis(grid.positions(), -1, 0)
        cube = (abs(x - place) < 3) & (abs(y - 8) < 3) & (abs(z) < 3)
        return Image(((y > 0) & ~cube).astype(np.uint8), grid, "labels")

    maps = labels(fixed.grid, 0.0), labels(moving.grid, 3.0)
    checks = guard.Checks(guard.Overlap(*maps, "nearest"), "lncc")
    checks.alignment(np.eye(4), np.eye(4))
    pair = pair_of(fixed, moving, labels=maps if guided else None)
    assert checks.refinement(pair, None, shift(GRID, (3.0, 0, 0)), "lncc")[1] == guided
    found = checks.found["refinement"]
    assert 0 < found["dice"]["after"] - found["dice"]["before"] < guard.CLEAR_GAIN
    assert found["similarity"][0]["after"] < found["similarity"][0]["before"]
