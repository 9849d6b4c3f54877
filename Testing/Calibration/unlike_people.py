"""Random shapes that differ as people do: seeds alone, and a true displacement for what both have.

One is drawn from a map of labels under a smooth warp, the other under a large and rough one. Then each gets structures
that the other lacks, and borders that lie a little elsewhere.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from VoxelMorphRegistrationLib.images.sampling import compose, integrate, sample, voxel_positions
from VoxelMorphRegistrationLib.training.pairs import TrainingPair
from VoxelMorphRegistrationLib.training.shapes import (
    INTEGRATION_STEPS,
    ShapeRecipe,
    Source,
    contrasts,
    doubled,
    finish_image,
    label_map,
    pyramid_noise,
    random_velocity,
    then_affine,
)

# Standard deviation of the rough warp and of the borders' own displacement, and the part that has no counterpart.
ROUGH, BORDERS, OWN_PART = (1.0, 4.0), (0.0, 1.0), (0.0, 0.2)


def people_pair(recipe: ShapeRecipe, shape: tuple[int, ...], seed: tuple[int, ...]) -> TrainingPair:
    """The pair that belongs to `seed` on a grid of `shape` (even sizes)."""
    source = Source(torch.device("cpu"), np.random.default_rng(seed))
    recipe = replace(recipe, labels=(10, 40), roughness=(0.4, 1.6))
    labels, count, black = label_map(recipe, shape, source)
    half = tuple(s // 2 for s in shape)
    smooth, rough = random_velocity(recipe, half, source), _rough_velocity(half, source)
    if source.chance(0.5):
        smooth, rough = rough, smooth
    fixed = then_affine(recipe, integrate(smooth, INTEGRATION_STEPS), source)
    moving, back = (integrate(sign * rough, INTEGRATION_STEPS) for sign in (1, -1))
    means = torch.stack(contrasts(recipe, count, source))
    images = []
    for n, warp in enumerate((fixed, moving)):
        strength = source.within(BORDERS)
        borders = pyramid_noise(len(shape), shape, {2: 1.0, 4: 2.0}, source)
        full = doubled(warp, shape) + borders * (strength / float(borders.std()))
        seen = sample(labels.float(), voxel_positions(full), mode="nearest").long()
        seen = _with_own(seen, count, black, recipe, source)
        outside = seen == 0 if black else torch.zeros_like(seen, dtype=torch.bool)
        images.append(finish_image(recipe, means[n][seen[0, 0]][None, None], outside, source))
    return TrainingPair(images[0], images[1], displacement=compose(back, fixed))


def _rough_velocity(half: tuple[int, ...], source: Source) -> torch.Tensor:
    """In half-resolution voxels (1, d, *half): fine parts are hardly smaller than coarse ones."""
    power = source.within((0.3, 1.2))
    noise = pyramid_noise(len(half), half, {s: float(s) ** power for s in (2, 4, 8, 16)}, source)
    return noise * (0.5 * source.within(ROUGH) / float(noise.std()))


def _with_own(labels: torch.Tensor, count: int, black: bool, recipe: ShapeRecipe, source: Source) -> torch.Tensor:
    """Labels with other ones in places, inside the body."""
    shape = tuple(labels.shape[2:])
    others = label_map(replace(recipe, foreground=0.0), shape, source)[0] % count
    where = pyramid_noise(1, shape, {4: 1.0, 8: 2.0}, source)
    own = where > torch.quantile(where.flatten()[::7], 1.0 - source.within(OWN_PART))
    if black:
        own &= labels != 0
        others = others.clamp_min(1)
    return torch.where(own, others, labels)
