"""What is measured of a registration: each figure before, aligned and after is that of its own map."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.ahead import Ahead
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.inputs import Inputs
from VoxelMorphRegistrationLib.registration.measures import (
    Similarities,
    _covered_percent,
    _landmark_errors,
    _worst_places,
    carried,
)

SHIFT = np.array([4.0, -3.0, 5.0])


def picture(grid, shift=(0.0, 0.0, 0.0)) -> Image:
    """Bars across each other, of 40 mm and more."""
    x, y, z = np.moveaxis((grid.positions() - shift).astype(np.float32), -1, 0)
    return Image(100 * (np.sin(x / 9) + np.sin(y / 7) * np.cos(z / 8) + 3), grid, "picture")


@pytest.mark.parametrize("size", [(96, 64, 40), (600, 600, 1)], ids=["3D", "2D"])
def test_what_lies_where_it_should_is_alike_and_what_does_not_is_less(size, monkeypatch):
    # Of which every second voxel is taken.
    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.measures.COMPARED_VOXELS", np.prod(size) / 4)
    spacing = (1.25, 2.0, 3.6) if size[2] > 1 else (0.32, 0.32, 5.0)
    grid = make_grid(size, spacing, (10, -20, 30), left_handed=True)
    # In a slice only what lies in its plane can be undone.
    shift = grid.directions @ np.where(np.array(size) > 1, grid.directions.T @ SHIFT, 0.0)
    fixed = picture(grid)
    coarser = np.where(np.array(size) > 1, [4, 4, 2], 1)
    other = make_grid(tuple(size // coarser), spacing * coarser, (10, -20, 30), left_handed=True)
    moving = picture(other, shift)
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    # The deformation takes the alignment back again.
    back = DisplacementField(np.broadcast_to(-shift.astype(np.float32), (*moving.grid.shape, 3)).copy(), moving.grid)
    with Ahead() as ahead:
        similarities = Similarities(Inputs(fixed, moving, np.ones(grid.shape, bool)), ahead)
        similarities.begin("before", np.eye(4))
        similarities.begin("aligned", matrix)
        similar, gains = similarities.found(back, matrix)
    assert similar["aligned"]["ncc"] > 0.99
    assert max(similar["before"]["ncc"], similar["after"]["ncc"]) < 0.97
    assert similar["before"]["ncc"] == pytest.approx(similar["after"]["ncc"], abs=0.02)
    assert similar["aligned"]["mi"] > 1.5 * similar["before"]["mi"]
    assert gains["aligned"][1] > 1.5 * gains["aligned"][0] and gains["after"][0] > 1.5 * gains["after"][1]


# --- places --------------------------------------------------------------------------------------------------------

POINTS = np.array([[3.0, 1.0, -2.0], [-4.0, 6.0, 2.0], [0.0, -5.0, 5.0]])


def maps():
    """A start, an alignment that comes nearer, and a deformation under it."""
    start, matrix = np.eye(4), np.diag([1.2, 0.9, 1.1, 1.0])
    start[:3, 3], matrix[:3, 3] = (9.0, 0.0, 0.0), (1.0, 2.0, -1.0)
    grid = make_grid((24, 24, 24), center=(0, 0, 0))
    field = DisplacementField(np.broadcast_to(np.float32([0.5, -1.0, 0.25]), (*grid.shape, 3)).copy(), grid)
    return SimpleNamespace(start=start, matrix=matrix), field


def test_landmarks_are_off_by_what_each_map_leaves():
    linear, field = maps()
    goals = (
        (POINTS + [0.5, -1.0, 0.25]) @ linear.matrix[:3, :3].T
        + linear.matrix[:3, 3]
        + [[0, 0, 0], [0, 2, 0], [0, 0, 1]]
    )
    found = _landmark_errors(POINTS, goals, linear, field)
    assert found["after"]["each"] == pytest.approx([0.0, 2.0, 1.0], abs=1e-4)
    assert (found["after"]["mean"], found["after"]["max"]) == (pytest.approx(1.0), pytest.approx(2.0))
    for name, matrix in (("before", linear.start), ("aligned", linear.matrix)):
        expected = np.linalg.norm(POINTS @ matrix[:3, :3].T + matrix[:3, 3] - goals, axis=1)
        assert found[name]["each"] == pytest.approx(expected)
    assert _landmark_errors(None, None, linear, field) is None


def test_the_region_is_carried_by_the_whole_transform():
    linear, field = maps()
    grid = field.grid
    mask = np.zeros(grid.shape, bool)
    mask[10:14, 8:12, 9:15] = True
    places = grid.positions()[mask]
    expected = (places + [0.5, -1.0, 0.25]) @ linear.matrix[:3, :3].T + linear.matrix[:3, 3]
    assert carried(grid, mask, linear.matrix, field) == pytest.approx(expected, abs=1e-4)
    # A moving image that ends in the middle of them along x.
    middle = np.median(expected[:, 0])
    moving = make_grid((40, 60, 60), center=(middle - 19.5, 0, 0))
    part = 100 * np.mean(moving.contains(expected))
    assert 20 < part < 80
    assert _covered_percent(grid, moving, mask, linear, field) == pytest.approx(part)


def test_where_to_look_first_is_the_smallest_determinant_of_the_region_and_the_largest_landmark_error():
    grid = make_grid((9, 8, 7), (1.0, 1.5, 2.0), (10, 20, -30), left_handed=True)
    values = np.ones(grid.shape, np.float32)
    values[1, 2, 3], values[4, 5, 6] = -3.0, 0.2
    mask = np.ones(grid.shape, bool)
    mask[1, 2, 3] = False
    errors = {"after": {"each": [1.0, 0.5, 4.0]}, "before": {"each": [9.0, 0.0, 0.0]}}
    found = _worst_places(Image(values, grid), mask, POINTS, errors)
    assert found["determinant"] == pytest.approx(grid.to_ras([6, 5, 4]))
    assert found["landmark"] == POINTS[2].tolist()
    assert set(_worst_places(Image(values, grid), mask, None, None)) == {"determinant"}
