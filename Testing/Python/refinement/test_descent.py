"""Steps of one stage: where they move anything, and when they end."""

import numpy as np
import pytest
import torch

from grids import make_grid
from refinement_cases import deformed, found, known, refined, textured
from VoxelMorphRegistrationLib.refinement.levels import Level, Options, Stage
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.refinement.problem import Problem
from VoxelMorphRegistrationLib.refinement.refine import _descend


def test_asking_once_a_stage_gives_what_asking_at_every_step_does(monkeypatch):
    fixed, moving = known()
    results = [found("fast", similarity=similarity) for similarity in ("lncc", "mse")]
    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.refine._answers_at_once", lambda device: False)
    for before, similarity in zip(results, ("lncc", "mse"), strict=True):
        after = refined(fixed, moving, "fast", similarity=similarity)
        assert after.report.refinement["steps"] == before.report.refinement["steps"]
        np.testing.assert_array_equal(after.field.displacement_ras, before.field.displacement_ras)


def test_nothing_moves_far_from_what_counts_and_what_counts_moves_as_in_the_whole():
    fixed, moving = known()
    mask = np.linalg.norm(fixed.grid.positions() - [7, 7, 7], axis=-1) < 8
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), mask)
    stage = Stage(Level(1, 1, 6, 6), "lncc")
    fields = []
    for near in (True, False):
        problem = Problem(pair, fixed.grid, stage, None, Options(), "cpu")
        if not near:
            problem.images.stay_near(200)
            problem.boxes = problem.images.boxes
        flow = problem.flow_of(None)
        assert list(_descend(problem, flow, 6)) == [1, 2, 3, 4, 5, 6]
        fields.append(flow[0])
    inside = torch.from_numpy(mask)
    assert float(fields[1][:, inside].norm(dim=0).mean()) > 0.5
    torch.testing.assert_close(fields[0][:, inside], fields[1][:, inside], atol=0.02, rtol=0)
    far = torch.from_numpy(np.linalg.norm(fixed.grid.positions() - [7, 7, 7], axis=-1) > 36)
    assert float(fields[0][:, far].abs().max()) == 0


@pytest.mark.parametrize(
    ("kind", "detailed", "side", "share"),
    [("chosen", True, 64, 0.5), ("chosen", True, 40, 0), ("chosen", False, 64, 0), ("trial", None, 64, 0)],
)
def test_where_detail_was_found_a_step_goes_on_with_a_part_of_the_one_before(kind, detailed, side, share):
    grid = make_grid((side, side, side))
    fixed, moving = deformed(grid), textured(grid)
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), fixed.array > 50)
    problem = Problem(pair, fixed.grid, Stage(Level(1, 1, 6, 6), "lncc", kind), detailed, Options(), "cpu")
    step = problem.parts[0][1]
    first = problem.flow_of(None)
    # Half a voxel along i.
    second = first.clone()
    second[:, 2] = 0.5

    def pull(*flows):
        """The smoothed gradient at the last one; nothing was there before the first."""
        step.rough.zero_()
        for flow in flows:
            problem.step(flow)
        return step.smooth.clone()

    together, alone = pull(first, second), pull(second)
    torch.testing.assert_close(together, alone + share * pull(first), rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
