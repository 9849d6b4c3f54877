"""Descriptors of one person's images, and of images that are like negatives of each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from grids import make_grid
from refinement_cases import GRIDS, displacement, inner, known, other_contrast, refined, textured
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement import choice, refine
from VoxelMorphRegistrationLib.refinement.descriptors import edges_of_cube, lying, mind_ssc
from VoxelMorphRegistrationLib.refinement.levels import Options
from VoxelMorphRegistrationLib.refinement.pair import Channel, Pair


def texture(points):
    """Smooth structure all over, without an edge to the outside."""
    rng = np.random.default_rng(0)
    value = np.zeros(points.shape[:-1])
    for _ in range(12):
        direction = rng.normal(size=3)
        direction *= rng.uniform(0.35, 0.8) / np.linalg.norm(direction)
        value += np.cos(points @ direction + rng.uniform(0, 6))
    return (value + 8) * 50


def negatives(u, noise):
    """An image of structure displaced by u, and the structure's negative with noise."""
    fixed, moving = GRIDS[0]
    points = fixed.positions()
    negative = 1000 - texture(moving.positions()) + np.random.default_rng(0).normal(0, noise, moving.shape)
    return (
        Image(texture(points + u(points)).astype(np.float32), fixed, "fixed"),
        Image(negative.astype(np.float32), moving, "negative"),
    )


def error(pair, u):
    """Mean distance to the truth in mm, and what the report says of the refinement."""
    result = refined(*pair, similarity="mind")
    points = inner(pair[0].grid)
    found = result.transform_points(points)
    return np.linalg.norm(found - points - u(points), axis=1).mean(), result.report.refinement


def test_noise_of_small_voxels_counts_in_what_images_have_in_common(monkeypatch):
    """Its means over blocks are less noise, and the limits were set on images as they are."""
    fixed = textured(make_grid((24, 24, 24)))
    moving = textured(make_grid((48, 48, 48), (0.5, 0.5, 0.5)))
    noise = np.random.default_rng(0).normal(0, 300, moving.array.shape)
    moving = moving.with_array((moving.array + noise).astype(np.float32))
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 0.001),) * 2, fixed.array > 100)
    assert pair.thin.moving is not moving
    found = choice.relation(pair, None)
    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.pair.block_means", lambda image, _: image)
    assert found == choice.relation(replace(pair), None) and found.related < 0.9


def test_what_a_moving_mask_leaves_out_has_no_say_in_what_is_compared():
    """Half of the moving image shows another contrast, and the mask is of the other half."""
    fixed, moving = known()
    half = moving.grid.positions()[..., 0] < 0
    mixed = moving.with_array(np.where(half, moving.array, other_contrast(moving).array))
    pair = Pair(fixed, mixed, np.eye(4), ((0.0, 0.001),) * 2, fixed.array > 100)
    assert choice.choose_similarity(pair, None)[0] == "mind"
    masked = replace(pair, moving_mask=moving.with_array(half.astype(np.uint8)))
    assert choice.choose_similarity(masked, None)[0] == "lncc"


def test_images_of_one_person_are_found_closer_by_decorrelated_descriptors(monkeypatch):
    def u(points):
        return displacement(points / 2)

    pair = negatives(u, 20)
    closer, _ = error(pair, u)
    monkeypatch.setattr(choice, "LEAST_OF_ONE", 2.0)
    plain, _ = error(pair, u)
    assert closer < 0.8 * plain


def test_correlation_joins_the_descriptors_of_negatives(monkeypatch):
    # Not for one person's.
    pair = negatives(displacement, 100)
    assert error(pair, displacement)[1]["steps"][-1] == 0
    monkeypatch.setattr(choice, "LEAST_OF_ONE", 2.0)
    joined, told = error(pair, displacement)
    assert told["detailed"] and told["steps"][-1] > 0
    monkeypatch.setattr(refine, "LEAST_CORRELATED", 2.0)
    alone, told = error(pair, displacement)
    assert told["steps"][-1] == 0 and joined < 0.8 * alone


def test_correlation_stays_away_from_what_is_no_negative():
    fixed, moving = known()
    told = refined(fixed, other_contrast(moving), similarity="mind").report.refinement
    assert told["detailed"] and told["steps"][-1] == 0


def test_correlation_joins_where_all_images_that_are_described_are_negatives(monkeypatch):
    monkeypatch.setattr(choice, "LEAST_OF_ONE", 2.0)
    fixed, negative = negatives(displacement, 100)
    # Neither grows nor falls with the fixed image.
    folded = negative.with_array(np.abs(negative.array - np.median(negative.array)))

    def last_steps(further):
        result = refined([fixed] * 3, [negative, further, negative], similarity="mind")
        return result.report.refinement["steps"][-1]

    assert last_steps(negative) > 0
    assert last_steps(folded) == 0


def test_what_is_not_described_need_not_be_a_negative():
    fixed, negative = negatives(lambda points: 0 * points, 0)
    windows = ((0.0, 0.001),) * 2
    pair = Pair(fixed, negative, np.eye(4), windows, np.ones(fixed.grid.shape, bool))
    for similarity, expected in (("mi", True), ("mind", False), (None, False)):
        alike = Channel(fixed, fixed, windows, similarity)
        assert choice.like_negatives(replace(pair, further=(alike,)), None) is expected


def test_progress_counts_the_joined_correlation_only_where_it_is_expected(monkeypatch):
    fixed, negative = negatives(displacement, 100)
    pair = Pair(fixed, negative, np.eye(4), ((0.0, 0.001),) * 2, np.ones(fixed.grid.shape, bool))

    def told():
        """Where the trial begins, and how often the field so far was shown."""
        fractions, shown = [0.0], []
        steps = refine.refine(
            pair, None, Options("default", "mind"), progress=fractions.append, preview=shown.append
        ).steps
        return fractions[1 + steps[0]], len(shown), steps[-1]

    # One person's: what the trial found is the end.
    begins, shown, joined = told()
    assert joined == 0 and shown == 1 and begins > 0.4
    monkeypatch.setattr(choice, "LEAST_OF_ONE", 2.0)
    assert told()[0] < begins


@pytest.mark.parametrize(
    "turn", [lambda a: a.flip(0), lambda a: a.transpose(0, 2), lambda a: a.transpose(1, 2).flip(1)]
)
def test_decorrelated_descriptors_compare_turned_images_alike(turn):
    def apart(first, second):
        one, other = (mind_ssc(volume, decorrelated=True) for volume in (first, second))
        return (one - other).square().sum(0)

    first, second = torch.rand((2, 14, 14, 14), generator=torch.Generator().manual_seed(3))
    assert torch.allclose(apart(turn(first), turn(second)), turn(apart(first, second)), atol=1e-5)


def test_edges_of_a_cube_lie_in_five_ways():
    edges = edges_of_cube(3)
    ways = [lying(edges[0], other) for other in edges]
    assert {way: ways.count(way) for way in ways} == {"same": 1, "parallel": 2, "meeting": 4, "opposite": 1, "skew": 4}
