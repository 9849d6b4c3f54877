"""Steps of one stage: where they move anything, and when they end."""

import numpy as np
import torch

from refinement_cases import found, known, refined
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
