"""The benchmark of large motion: what is drawn and moved, and how what is left of a motion is told."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import large_motion
from cases import Pair

from grids import blobs, make_grid
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image

GRID = make_grid((32, 28, 24), (1.0, 1.2, 1.5), (10.0, -5.0, 20.0), left_handed=True, center=(5, -20, 8))


def test_an_image_is_drawn_of_its_labels_alone():
    labels = np.zeros(GRID.shape, np.int32)
    labels[4:20, 4:12, 4:28], labels[4:20, 12:24, 4:28] = 3, 70
    image = large_motion.drawn(Image(labels, GRID, "labels"), np.random.default_rng(5))
    again = large_motion.drawn(Image(labels, GRID, "labels"), np.random.default_rng(5))
    assert np.array_equal(image.array, again.array)
    assert np.ptp(image.array[labels == 0]) == 0
    means, spreads = zip(
        *((part.mean(), part.std()) for part in (image.array[labels == n] for n in (3, 70))), strict=True
    )
    assert abs(means[0] - means[1]) > max(spreads)


def test_what_slides_lies_within_the_wall_and_comes_back():
    slide = large_motion.Slide(np.zeros(3), np.array([0.0, 0.0, 30.0]), 10.0)
    points = np.array([[3.0, 4.0, 50.0], [30.0, 0.0, 0.0]])
    assert slide.forward(points) == pytest.approx(points + [[0, 0, 30], [0, 0, 0]])
    assert slide.backward(slide.forward(points)) == pytest.approx(points)


def test_a_prostate_is_cut_by_its_centres_and_scored_on_its_own_labels():
    """The same blobs in another place: centres alone answer it, from the labels of the image as it came."""
    fixed = blobs(GRID, seed=1)
    away = np.eye(4)
    away[:3, 3] = (40.0, -25.0, 60.0)
    grid = Grid(GRID.shape, away @ GRID.ijk_to_ras)
    bright = (fixed.array > 0.3 * fixed.array.max()).astype(np.int32)
    pair = Pair(
        fixed, Image(fixed.array, grid, "moving"), {"gland": (Image(bright, GRID, "a"), Image(bright, grid, "b"))}
    )
    moving, matrix = large_motion.cut(pair)
    assert moving.array == pytest.approx(fixed.array, abs=1e-3)
    found = large_motion.left(pair, DisplacementField.identity(GRID).then_linear(matrix))
    assert found == {"dice": pytest.approx(1.0)}
    assert large_motion.told(found) == "Dice 1.000"


def test_what_is_left_of_a_known_motion_is_in_mm():
    points = GRID.center_ras + np.array([[0.0, 0, 0], [2, 1, 0]])
    image = blobs(GRID)
    pair = Pair(image, image, {}, points, points + [3.0, 0, 4.0])
    found = large_motion.left(pair, DisplacementField.identity(GRID))
    assert found["distance"] == pytest.approx([5.0, 5.0])
    assert large_motion.told(found) == "5.00 mm, 95 % 5.00"
