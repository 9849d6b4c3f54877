import numpy as np
import pytest

from grids import KINDS, blobs, make_grid, rotation, smooth_displacement
from registration_cases import SHIFT, ball_labels, pair, settings
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.registration.start import sampling_start, start_field, start_matrix

MATRIX = np.eye(4)
MATRIX[:3, :3] = rotation((5, -8, 12)) @ np.diag([1.1, 0.95, 1.03])
MATRIX[:3, 3] = (3, -2, 5)


def finish(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def displacement_of(function, grid: Grid) -> DisplacementField:
    points = grid.positions()
    return DisplacementField((function(points) - points).astype(np.float32), grid)


def linear(points):
    return points @ MATRIX[:3, :3].T + MATRIX[:3, 3]


def curved(points):
    return linear(points + smooth_displacement(points))


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_displacement_leaves_nothing_for_the_field(kind):
    grid = make_grid(**KINDS[kind])
    start = displacement_of(linear, grid)
    matrix = start_matrix(start, grid, np.ones(grid.shape, bool))
    np.testing.assert_allclose(matrix, MATRIX, atol=1e-4)
    assert np.abs(start_field(start, matrix, grid).displacement_ras).max() < 1e-3


@pytest.mark.parametrize("size", [(30, 28, 26), (40, 36, 1), (40, 1, 36), (1, 40, 36)])
def test_matrix_and_field_together_are_the_start(size):
    grid = make_grid(size, (1, 1.2, 1.4), (10, 20, 30), left_handed=True)
    start = displacement_of(curved, grid)
    matrix = start_matrix(start, grid, np.ones(grid.shape, bool))
    field = start_field(start, matrix, grid)
    points = grid.to_ras(np.minimum([[4, 5, 6], [20, 11, 9]], grid.size - 1))
    found = field.transform_points(points) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(found, curved(points), atol=1e-3)
    if 1 in size:
        # Across the slice nothing is turned over, and distances stay.
        across = grid.directions[:, size.index(1)]
        np.testing.assert_allclose(matrix[:3, :3] @ across, across, atol=1e-6)
    assert np.linalg.norm(field.displacement_ras, axis=-1).max() < 6


def test_before_counts_from_where_the_start_brought_the_images(tmp_path):
    model = save_centroid_model(tmp_path / "m.pt", part=0.0)
    fixed, moving = pair("plain", "plain")
    start = np.eye(4)
    start[:3, 3] = SHIFT
    points = np.array([[0.0, 0, 0], [2, 1, 0], [0, 3, -1]])
    keywords = dict(fixed_points=points, moving_points=points + SHIFT, settings=settings(model))
    report = register(fixed, moving, initial_transform=start, **keywords).report
    assert report.tre_mm["before"]["max"] < 1e-6 and report.similarity["before"] == report.similarity["aligned"]
    assert report.similarity["before"]["ncc"] > 0.99
    plain = register(fixed, moving, **keywords).report
    assert plain.tre_mm["before"]["mean"] == pytest.approx(np.linalg.norm(SHIFT))


def test_network_goes_on_from_the_start(tmp_path):
    # The start does a part of the way, bent; the network is to find the rest.
    model = save_centroid_model(tmp_path / "m.pt")
    fixed, moving = pair()
    start = displacement_of(lambda p: p + 0.5 * SHIFT + 0.1 * smooth_displacement(p), fixed.grid)
    result = register(fixed, moving, settings=settings(model), initial_transform=start)
    here, there = result.transform_points(np.zeros((1, 3)))[0], start.transform_points(np.zeros((1, 3)))[0]
    assert np.linalg.norm(here - SHIFT) < 0.3 < np.linalg.norm(there - SHIFT)


def test_a_stage_that_makes_it_worse_gives_the_start_back(tmp_path):
    model = save_centroid_model(tmp_path / "m.pt", part=-1.0)
    fixed, moving = pair()
    start = displacement_of(lambda p: p + 0.8 * SHIFT, fixed.grid)
    labels = {"fixed_labels": ball_labels(fixed), "moving_labels": ball_labels(moving)}
    result = register(fixed, moving, settings=settings(model), initial_transform=start, **labels)
    assert any("network made things worse" in warning for warning in result.report.warnings)
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], 0.8 * SHIFT, atol=1e-3)
    assert result.report.dice["after"]["mean"] > 0.8


def test_refinement_goes_on_from_the_start_alone():
    grid = make_grid((40, 40, 40))
    moving = blobs(grid)
    truth = displacement_of(lambda p: p + smooth_displacement(p), grid)
    fixed = warp_image(moving, grid, truth, background=0.0)
    points = np.random.default_rng(0).uniform(-9, 9, (60, 3))
    options = Settings(model="none", refinement="fast", similarity="mse", device="cpu")
    result = register(fixed, moving, settings=options, initial_transform=truth)
    error = np.linalg.norm(result.transform_points(points) - truth.transform_points(points), axis=1)
    assert error.mean() < 0.3
    assert result.report.settings["alignment"] == "affine" and not result.report.checks.get("alignment")


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_is_sampled_from_whatever_carries_points(kind):
    grid = make_grid(**KINDS[kind])
    start = finish(sampling_start(curved, grid))
    points = grid.to_ras(np.random.default_rng(1).uniform(0, grid.size - 1, (50, 3)))
    # Linear between voxels of twice the finest spacing.
    assert np.linalg.norm(start.transform_points(points) - curved(points), axis=1).max() < 0.15
    assert start.grid.contains(grid.corners()).all()
