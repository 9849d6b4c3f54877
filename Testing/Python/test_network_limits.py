"""The benchmark of networks on brains that are not what they were trained on: what is changed, and what counts."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import network_limits as limits

from grids import make_grid
from VoxelMorphRegistrationLib.images.image import Image

GRID = make_grid((48, 44, 40), (1.0, 1.0, 1.0), (5.0, -8.0, 3.0), left_handed=True)


@pytest.fixture
def pair():
    """An ellipsoid of two labels, as bright as its labels; fixed and moving are the same."""
    places = GRID.positions() - GRID.center_ras
    labels = (np.linalg.norm(places / [20, 18, 16], axis=-1) < 1).astype(np.int32)
    labels[labels > 0] += places[labels > 0][:, 2] > 0
    image = Image(100.0 * labels.astype(np.float32), GRID, "image")
    maps = Image(labels, GRID, "labels")
    return limits.Changed(image, image, maps, maps)


def test_labels_stay_on_their_image_when_the_voxels_change(pair):
    found = limits.on_voxels(pair, (1.0, 3.0, 1.0), "moving")
    assert found.fixed is pair.fixed
    assert found.moving.grid.spacing == pytest.approx([1.0, 3.0, 1.0], rel=0.05)
    assert found.moving.grid.same_as(found.moving_labels.grid)
    inside = found.moving_labels.array > 0
    # Averaged over a slice the border is blurred; the labels still say where it is bright.
    assert np.mean((found.moving.array > 50) == inside) > 0.97
    both = limits.on_voxels(pair, (2.0, 2.0, 2.0), "both")
    assert both.fixed.grid.same_as(both.moving.grid)
    assert both.fixed.grid.same_as(both.fixed_labels.grid)
    assert both.fixed.grid.spacing == pytest.approx([2.0] * 3, rel=0.05)


def test_what_lies_in_a_lesion_does_not_count(pair):
    found = limits.with_ball(pair, 0.0)
    ball = ~found.counts
    assert np.all(found.fixed.array[ball] == 0)
    assert np.array_equal(found.fixed.array[~ball], pair.fixed.array[~ball])
    assert ball.sum() == pytest.approx(4 / 3 * np.pi * limits.RADIUS_MM**3, rel=0.02)
    assert found.moving is pair.moving


def test_noise_is_as_strong_as_asked(pair):
    found = limits.noisy(pair, 0.1, np.random.default_rng(0))
    bright = pair.fixed.array == 200
    assert (found.fixed.array - pair.fixed.array)[bright].std() == pytest.approx(20.0, rel=0.05)


def test_a_contrast_is_turned_round_within_the_brain_only(pair):
    found = limits.like_t2(pair).moving.array
    brain = pair.moving.array > 0
    assert np.all(found[~brain] == 0)
    assert np.corrcoef(found[brain], pair.moving.array[brain])[0, 1] == pytest.approx(-1.0)
