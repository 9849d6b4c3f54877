"""What noise in front of an empty background does to a registration."""

from __future__ import annotations

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.intensity import measured_region
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings

GRID = make_grid((64, 60, 56))


def tissue(grid, moved=0.0):
    """A ball of 20 mm with waves of brightness, and with waves of displacement of 9 mm that move them by `moved` mm."""
    points = grid.positions() - grid.center_ras
    waves = np.sin((points + moved * np.sin(np.roll(points, 1, -1) * (2 * np.pi / 9))) / 1.5 + [0, 1, 2]).sum(-1)
    inside = np.linalg.norm(points, axis=-1) < 20
    return Image(np.where(inside, 400 + 100 * waves, 0).astype(np.float32), grid, "tissue")


def noisy(image, kind, part, seed=0):
    """Noise with a deviation of a part of the largest value: cut at zero, as it is, or of a magnitude."""
    rng = np.random.default_rng(seed)
    scale = part * float(image.array.max())
    values = image.array + rng.normal(0, scale, image.array.shape)
    if kind == "magnitude":
        values = np.hypot(values, rng.normal(0, scale, image.array.shape))
    return image.with_array((np.clip(values, 0, None) if kind == "cut" else values).astype(np.float32))


@pytest.mark.parametrize("part", [0.05, 0.1])
@pytest.mark.parametrize("kind", ["cut", "as it is", "magnitude"])
@pytest.mark.parametrize("size", [(64, 60, 56), (128, 120, 1)])
def test_noise_in_front_of_the_background_is_no_anatomy(size, kind, part):
    image = tissue(make_grid(size))
    clean = measured_region(image, None)
    np.testing.assert_array_equal(clean, image.array > 0)
    found = measured_region(noisy(image, kind, part), None)
    assert np.count_nonzero(found != clean) < 0.3 * np.count_nonzero(clean)


def test_dark_and_rough_tissue_stays_anatomy():
    body = make_grid((64, 60, 56))
    rng = np.random.default_rng(0)
    # As a lung: half of its voxels are above the threshold, and each is like the ones beside it.
    rough = rng.normal(size=body.shape)
    rough = sum(np.roll(rough, shift, axis) for axis in range(3) for shift in (-1, 0, 1))
    lung = np.linalg.norm(body.positions() - body.center_ras, axis=-1) < 20
    image = Image(np.where(lung, 40 + 6 * rough, 800).astype(np.float32), body, "chest")
    found = measured_region(image, None)
    low, high = np.percentile(image.array, [0.5, 99.5])
    np.testing.assert_array_equal(found, image.array > low + 0.05 * (high - low))
    assert 0.2 < found[lung].mean() < 0.8


def test_detail_between_noisy_images_is_found_as_between_clean_ones():
    settings = Settings(model="none", refinement="fast", alignment="none", device="cpu", similarity="lncc")
    fixed, moving = tissue(GRID, moved=1.2), tissue(GRID)
    clean = register(fixed, moving, settings=settings).report
    found = register(noisy(fixed, "cut", 0.05, 1), noisy(moving, "cut", 0.05, 2), settings=settings).report
    assert found.refinement["detailed"] is clean.refinement["detailed"] is True
    assert found.folding["inside"]["voxels"] == pytest.approx(clean.folding["inside"]["voxels"], rel=0.2)
