"""Whether the detail that is found with little smoothing is real."""

import numpy as np
import pytest

from grids import make_grid
from refinement_cases import brightness, deformed, motion_error, noisy_bodies, textured
from VoxelMorphRegistrationLib.refinement import detail
from VoxelMorphRegistrationLib.refinement.levels import Options
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.refinement.refine import refine

# Of a slice in pixels of 1 mm: how wide its body is and within which radius errors are looked at.
SIZE, INNER = 96, 34.0


def in_slice(points, seed):
    """A body of 40 mm radius with smooth structure, at positions (..., 3) from its middle."""
    return brightness(points, seed, radius=40, axes=2, slowest=0.3)


def wave(points, length, height):
    x, y = points[..., 0], points[..., 1]
    return np.stack([height * np.sin(y / length), height * np.sin(x / length + 0.5), 0 * x], -1)


def smooth(points):
    return wave(points, 18, 2.0)


def rough(points):
    return wave(points, 2.15, 1.2)


def noisy_pair(motion, seed, finer=1):
    return noisy_bodies((SIZE, SIZE, 1), motion, lambda points: in_slice(points, seed), 40.0, seed, finer)


def error(pair, motion, result):
    return motion_error(pair, motion, result, INNER)


@pytest.mark.parametrize("seed", [0, 1])
def test_real_detail_of_a_slice_is_found_through_noise(seed):
    """Noise leaves less than half for the detail to explain."""
    pair = noisy_pair(rough, seed)
    found, without = refine(pair, None, Options()), refine(pair, None, Options(), in_detail=False)
    assert found.detailed
    assert error(pair, rough, found) < 0.8 * error(pair, rough, without)


@pytest.mark.parametrize(("seed", "finer"), [(0, 1), (1, 2)], ids=["pixels", "interpolated"])
def test_noise_of_a_slice_is_no_detail(seed, finer):
    """Its pixels are no more alike; nor is the whole, where their noise is that of the means that were fitted."""
    pair = noisy_pair(smooth, seed, finer)
    assert refine(pair, None, Options()).detailed is False


class Pixels:
    """Stands for what is compared: alike by so much without detail ("smooth") and with it."""

    def __init__(self, **alike):
        self.images, self.alike = self, alike

    def similarity(self, flow):
        return self.alike[flow]


@pytest.mark.parametrize(
    ("kind", "rise", "left", "real"),
    [
        ("slice", 0.051, (0.59, 0.59), True),
        ("slice", 0.049, (0.3, 0.3), False),
        ("slice", 0.3, (0.61, 0.5), False),
        ("slice", 0.3, (0.5, 0.61), False),
        ("volume", 0.051, (1.0, 1.0), True),
        ("volume", 0.049, (0.3, 0.3), False),
    ],
)
def test_the_voxels_and_the_whole_have_to_be_more_alike(monkeypatch, kind, rise, left, real):
    monkeypatch.setattr(detail, "unexplained", lambda _, flow: {"smooth": (0.1, 0.2)}.get(flow, scaled(left)))
    pixels = Pixels(smooth=0.5, detailed=0.5 * (1 + rise))
    asked = {"slice": detail.SLICE, "volume": detail.VOLUME}[kind]
    assert detail.real_detail(Pixels(), pixels, "smooth", "detailed", asked) is real


def scaled(left):
    return 0.1 * left[0], 0.2 * left[1]


@pytest.mark.parametrize("alike", [True, False])
def test_the_voxels_of_volumes_are_asked(monkeypatch, alike):
    """Whatever the means say, one person's smooth motion must not be taken for detail."""
    monkeypatch.setattr(detail, "VOLUME", detail.Asked(-1.0, -1.0 if alike else 2.0, 0.0))
    grid = make_grid((66, 66, 66))
    pair = Pair(deformed(grid), textured(grid), np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(grid.shape, bool))
    assert refine(pair, None, Options("fast")).detailed is alike
