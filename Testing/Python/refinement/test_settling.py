"""A smooth motion is found to its end, also where single voxels say little."""

import numpy as np
import pytest
import torch

import VoxelMorphRegistrationLib.refinement.refine as refining
from grids import make_grid
from refinement_cases import refined
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement import settling
from VoxelMorphRegistrationLib.refinement.levels import Level, Options, Stage
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.refinement.problem import Problem

GRID = make_grid((64, 64, 64))
LAST = Stage(Level(1, 2, 1), "lncc", "chosen")


def head(points):
    """At (..., 3) RAS mm: tissue with structure, dark bone around it, and a bright scalp, in which little varies."""
    away = np.linalg.norm(points, axis=-1)
    rng = np.random.default_rng(3)
    texture = np.zeros(away.shape)
    for _ in range(14):
        direction = rng.normal(size=3)
        direction *= rng.uniform(0.4, 0.8) / np.linalg.norm(direction)
        texture += np.cos(points @ direction + rng.uniform(0, 6))

    def inside(radius):
        return 1 / (1 + np.exp((away - radius) * 1.5))

    tissue = inside(19) * (500 + 60 * texture)
    return tissue + (inside(28) - inside(23)) * (900 + 8 * texture)


def moved(points):
    """By up to 5 mm, the waves as long as the whole."""
    x, y, z = np.moveaxis(points / 64 * 2 * np.pi, -1, 0)
    return points + np.stack([3 * np.sin(y + 0.5), 2.5 * np.sin(z), 2.5 * np.sin(x - 0.4)], -1)


def noisy(points, seed):
    values = head(points) + np.random.default_rng(seed).normal(0, 12, points.shape[:-1])
    return Image(values.astype(np.float32), GRID, "head")


@pytest.fixture(scope="module")
def pair():
    return noisy(moved(GRID.positions()), 0), noisy(GRID.positions(), 1)


def problem_of(fixed, moving, stage=LAST):
    mask = np.linalg.norm(GRID.positions(), axis=-1) < 31
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), mask)
    return Problem(pair, GRID, stage, False, Options(), "cpu")


def error_in_the_scalp(field):
    points = GRID.positions().reshape(-1, 3)
    away = np.linalg.norm(moved(points), axis=1)
    points = points[(away > 23) & (away < 28)]
    return np.linalg.norm(field.transform_points(points) - moved(points), axis=1).mean()


def test_the_scalp_follows_what_the_regions_around_it_say(pair, monkeypatch):
    settled = refined(*pair)
    monkeypatch.setattr(refining, "settled", lambda problem, flow, tell: flow)
    before = refined(*pair)
    assert settled.report.refinement["detailed"] is False
    assert error_in_the_scalp(settled.field) < 0.8 * error_in_the_scalp(before.field)
    assert settled.report.folding["inside"]["any_corner_count"] == 0


def test_the_images_tell_a_shift():
    fixed = Image(head(GRID.positions() + [0.6, -0.4, 0.3]).astype(np.float32), GRID, "fixed")
    problem = problem_of(fixed, Image(head(GRID.positions()).astype(np.float32), GRID, "moving"))
    matrix, force = settling.normal_equations(problem.images, problem.flow_of(None))
    found = torch.linalg.solve(matrix.sum((2, 3, 4)), force.sum((1, 2, 3))) * settling.BLOCK
    shift = np.linalg.inv(GRID.ijk_to_ras[:3, :3]) @ [0.6, -0.4, 0.3]
    np.testing.assert_allclose(found.numpy()[::-1], shift, atol=0.05)


def test_what_nothing_is_known_of_goes_on_as_its_surroundings_do():
    places = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij"))
    truth = torch.stack([0.3 * places[0] - 1, 0.2 * places[1], 0.1 * places[0] + 0.1 * places[2]])
    matrix = torch.eye(3).reshape(3, 3, 1, 1, 1).repeat(1, 1, 12, 12, 12)
    matrix[..., 9:] = 0
    found = settling._solved(matrix, (matrix * truth[None]).sum(1), 0.1)
    assert (found - truth).abs().max() < 0.1


def test_bending_is_the_slope_of_its_energy_and_sees_no_linear_map():
    generator = torch.Generator().manual_seed(0)
    v, w = torch.randn(2, 3, 5, 6, 7, generator=generator, dtype=torch.float64)

    def energy(field):
        total = 0.0
        for a in (1, 2, 3):
            for b in (1, 2, 3):
                total += field.diff(dim=a).diff(dim=b).square().sum()
        return total / 2

    step = 1e-5
    slope = (energy(v + step * w) - energy(v - step * w)) / (2 * step)
    torch.testing.assert_close((settling.bent(v) * w).sum(), slope, rtol=1e-6, atol=1e-6)
    places = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in (5, 6, 7)], indexing="ij"))
    assert settling.bent(2 * places).abs().max() < 1e-4


def test_a_field_that_makes_the_images_less_alike_is_not_taken(pair, monkeypatch):
    problem, true = problem_of(*pair), settling.normal_equations

    def away(images, flow):
        matrix, force = true(images, flow)
        return matrix, -force

    monkeypatch.setattr(settling, "normal_equations", away)
    flow = problem.flow_of(None)
    assert settling.settled(problem, flow) is flow


def test_only_the_whole_of_two_volumes_at_the_finest_level_can_settle(pair):
    assert settling.can_settle(problem_of(*pair))
    assert not settling.can_settle(problem_of(*pair, Stage(Level(2, 1, 1), "lncc", "smooth")))
    assert not settling.can_settle(problem_of(*pair, Stage(Level(1, 1, 1), "mind", "smooth")))


def test_who_has_enough_while_it_settles_keeps_what_was_there(pair, monkeypatch):
    def stop(problem, flow, tell):
        raise refining.Enough

    monkeypatch.setattr(refining, "settled", stop)
    whole = Pair(*pair, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.linalg.norm(GRID.positions(), axis=-1) < 31)
    result = refining.refine(whole, None, Options("fast"))
    assert not result.stopped
    result = refining.refine(whole, None, Options())
    assert result.stopped and result.improved


def test_the_same_is_solved_on_any_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    shape = 24, 28, 24
    root, right = torch.rand(3, 3, *shape, generator=generator), torch.rand(3, *shape, generator=generator)
    matrix = (root[:, :, None] * root[:, None]).sum(0)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(settling._solved(matrix, right, 1.0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
