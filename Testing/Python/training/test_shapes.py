"""Pairs of random shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from VoxelMorphRegistrationLib.images.sampling import warp
from VoxelMorphRegistrationLib.training.losses import soft_dice
from VoxelMorphRegistrationLib.training.shapes import (
    ShapeRecipe,
    Source,
    half_resolution_labels,
    largest,
    random_pair,
    ultrasound,
)


@pytest.mark.parametrize("shape", [(32, 48), (16, 32, 24)])
def test_a_pair_is_repeated_by_its_seed_and_by_nothing_else(shape):
    first, second, other = (random_pair(ShapeRecipe(), shape, seed) for seed in ((1, 0, 5), (1, 0, 5), (1, 0, 6)))
    for part in dataclasses.fields(first):
        values = getattr(first, part.name), getattr(second, part.name)
        assert values == (None, None) or torch.equal(*values)
    assert not torch.equal(first.fixed, other.fixed)


@pytest.mark.parametrize("shape", [(32, 48), (16, 32, 24)])
def test_a_pair_has_images_in_range_and_labels_that_sum_to_one(shape):
    half = tuple(size // 2 for size in shape)
    for seed in range(6):
        pair = random_pair(ShapeRecipe(), shape, (seed,))
        for image in (pair.fixed, pair.moving):
            assert image.shape == (1, 1, *shape)
            assert 0.0 <= float(image.min()) < float(image.max()) <= 1.0
        for labels in (pair.fixed_labels, pair.moving_labels):
            assert labels.shape[2:] == half
            assert torch.allclose(labels.sum(1), torch.ones(1, *half))
        assert pair.displacement.shape == (1, len(shape), *half)


@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 48)])
def test_the_true_displacement_brings_the_moving_labels_onto_the_fixed_ones(shape):
    # Smooth shapes: what is left is the interpolation of labels at half resolution.
    recipe = ShapeRecipe(labels=(3, 6), roughness=(2.0, 2.0))
    before, after = [], []
    for seed in range(6):
        pair = random_pair(recipe, shape, (seed,))
        before.append(float(soft_dice(pair.moving_labels, pair.fixed_labels)))
        after.append(float(soft_dice(warp(pair.moving_labels, pair.displacement), pair.fixed_labels)))
    assert sum(after) < 0.4 * sum(before)


@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 48)])
def test_ultrasound_shows_one_image_of_a_pair_within_its_field_of_view(shape):
    recipe = ShapeRecipe(foreground=0.0, noise=(0.0, 0.0), ultrasound=1.0)
    pool = torch.nn.functional.avg_pool2d if len(shape) == 2 else torch.nn.functional.avg_pool3d
    whole = []
    for seed in range(8):
        pair = random_pair(recipe, shape, (seed,))
        assert torch.isfinite(pair.fixed).all() and torch.isfinite(pair.moving).all()
        # The truth does not count where the probe of the fixed image saw nothing.
        assert not pool(pair.fixed, 2)[pair.visible == 0].any()
        whole.append(bool((pair.visible == 1).all()))
    # Either image of a pair can be the one.
    assert 0 < sum(whole) < len(whole)


def test_pairs_without_noise_and_bias_match_in_intensity_under_the_true_displacement():
    recipe = ShapeRecipe(related=1.0, noise=(0.0, 0.0), bias=0.0, gamma=0.0, blur=(1.0, 1.0), roughness=(2.0, 2.0))
    for seed in range(4):
        pair = random_pair(recipe, (64, 64), (seed,))
        moving = torch.nn.functional.avg_pool2d(pair.moving, 2)
        fixed = torch.nn.functional.avg_pool2d(pair.fixed, 2)
        after = (warp(moving, pair.displacement) - fixed).square().mean()
        assert float(after) < 0.7 * float((moving - fixed).square().mean())


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)])
def test_largest_is_argmax(shape):
    volume = torch.rand((1, 7, *shape), generator=torch.Generator().manual_seed(0))
    assert torch.equal(largest(volume), volume.argmax(1, keepdim=True))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 2)])
def test_half_resolution_labels_are_shares_of_blocks(shape):
    labels = torch.randint(0, 3, (2, 1, *shape), generator=torch.Generator().manual_seed(0))
    pool = torch.nn.functional.avg_pool2d if len(shape) == 2 else torch.nn.functional.avg_pool3d
    direct = torch.cat([pool((labels == label).float(), 2) for label in range(3)], 1)
    assert torch.allclose(half_resolution_labels(labels, 3), direct)


@pytest.mark.parametrize("seed", range(3))
def test_ultrasound_of_intensities_below_zero_is_an_image(seed):
    source = Source(torch.device("cpu"), np.random.default_rng(seed))
    image = torch.full((1, 1, 8, 10, 12), -0.07)
    image[..., 6:] = 0.05
    shown = ultrasound(image, source)
    assert bool(torch.isfinite(shown).all()) and float(shown.max()) > float(shown.min()) >= 0
