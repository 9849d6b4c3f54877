"""The benchmark of what a start from a network saves: whose seconds are counted, and what is measured."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import network_limits
import network_starts as starts
from cases import Pair

from grids import blobs, make_grid
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image

SHIFT = np.array([3.0, -2.0, 1.0])


def test_each_stage_has_the_seconds_until_the_next_one_begins():
    times = iter([0.0, 1.0, 3.0, 7.0, 8.0, 20.0])
    stages = starts.Stages(lambda: next(times))
    for stage, fraction in (("aligning", 0), ("registering", 0), ("registering", 1), ("refining", 0), ("warping", 0)):
        stages(stage, fraction)
    assert stages.seconds == {"": 1.0, "aligning": 2.0, "registering": 5.0, "refining": 12.0}


@pytest.fixture(scope="module")
def pair():
    """Blobs that moved by SHIFT (RAS mm), the points that say so, and a label of what is bright."""
    grid = make_grid((36, 32, 28), (1.0, 1.0, 1.0))
    moved = np.eye(4)
    moved[:3, 3] = SHIFT
    fixed = blobs(grid, seed=2)
    moving = Image(fixed.array, Grid(grid.shape, moved @ grid.ijk_to_ras), "moving")
    bright = (fixed.array > 0.3 * fixed.array.max()).astype(np.int32)
    maps = [Image(bright, image.grid, "labels") for image in (fixed, moving)]
    points = grid.center_ras + np.array([[0.0, 0, 0], [4, 2, -3], [-3, 5, 2]])
    return Pair(fixed, moving, {"30": tuple(maps)}, points, points + SHIFT)


def test_a_network_alone_is_no_refinement_and_a_refinement_from_nothing_no_network(pair, tmp_path):
    model = str(save_centroid_model(tmp_path / "centroid.pt"))
    alone, refined = starts.started(pair, model, "off"), starts.started(pair, "none", "coarse")
    assert alone["refinement_s"] == 0
    assert refined["network_s"] == 0
    assert alone["mm"] < 1.0
    assert alone["dice"] > 0.8


def test_rows_that_a_file_has_are_known_by_their_columns(tmp_path):
    path = tmp_path / "rows.csv"
    assert network_limits.made(path, "case", "start") == set()
    for start in ("none", "brain-3d"):
        network_limits.append(path, {"case": "brain", "start": start, "mm": 1.5})
    assert network_limits.made(path, "case", "start") == {("brain", "none"), ("brain", "brain-3d")}
