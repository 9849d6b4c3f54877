"""Folds are smoothed away where they are, in volumes and slices, on any grid; all else stays to the last bit."""

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.fields import unfolding
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.unfolding import without_folds

GRIDS = {
    "volume": make_grid((40, 36, 32), (1.0, 1.5, 2.0), (20.0, -15.0, 35.0), left_handed=True),
    "slice": make_grid((40, 36, 1), (1.0, 1.5, 2.0), (20.0, -15.0, 35.0)),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_folds_go_and_all_else_stays(kind):
    grid = GRIDS[kind]
    flow = np.zeros((3, *grid.shape), np.float32)
    # A block jumps along i, over its neighbours, in voxels; the rest is sheared a little.
    flow[2] = 0.1 * np.arange(grid.shape[1])[None, :, None]
    flow[2][..., 10:14, 10:14] += 6.0
    field = DisplacementField.from_voxels(flow, grid)
    folded = field.folded_corners()
    found, count = without_folds(field)
    assert count == np.count_nonzero(folded) > 0
    assert not found.folded_corners().any()
    assert found.grid is grid
    rounding = 1e-5
    far = np.ones(grid.shape, bool)
    far[..., :28, :28] = False
    assert np.abs(found.displacement_ras - field.displacement_ras)[far].max() < rounding
    assert np.abs(found.displacement_ras - field.displacement_ras).max() > 1.0


def test_a_field_without_folds_is_not_touched():
    grid = GRIDS["volume"]
    field = DisplacementField(np.random.default_rng(0).uniform(-0.2, 0.2, (*grid.shape, 3)).astype(np.float32), grid)
    assert without_folds(field) == (field, 0)


@pytest.mark.parametrize("kind", GRIDS)
def test_folds_smoothed_place_by_place_end_as_all_at_once(kind, monkeypatch):
    grid = make_grid((80, 90, GRIDS[kind].shape[0]), (1.0, 1.5, 2.0))
    flow = np.zeros((3, *grid.shape), np.float32)
    # At the border, on both sides of a cube's, and far from both.
    for j, i in ((0, 0), (22, 23), (27, 26), (70, 60)):
        flow[2][..., j : j + 2, i : i + 2] += 5.0
    field = DisplacementField.from_voxels(flow, grid)
    found, count = without_folds(field)
    monkeypatch.setattr(unfolding, "CUBE", 1000)
    at_once, _ = without_folds(field)
    assert count > 0 and not found.folded_corners().any()
    np.testing.assert_allclose(found.displacement_ras, at_once.displacement_ras, atol=1e-5)
