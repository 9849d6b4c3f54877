"""Random changes of the pairs that a network learns from: place, shape and grey values, on the pair's device."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from ..errors import SettingsError
from ..images.sampling import integrate
from .losses import displacement_at
from .shapes import INTEGRATION_STEPS, ShapeRecipe, Source, doubled, pyramid_noise, random_velocity, then_affine

# The inverse of a small warp at single points: each round leaves at most the slope of the warp of the error.
INVERSE_ROUNDS = 30


@dataclass(frozen=True)
class AugmentationSection:
    """[images.augmentation]: the strength of each change; 0 leaves it out. Lengths are in voxels of the step's grid.

    Of the moving image, its labels and its landmarks: rotation (degrees), scaling (a part, shear included) and
    translation, as in shapes.ShapeRecipe; warp (largest standard deviation of a smooth diffeomorphic displacement).
    Of both images alike: flip (probability of mirroring along each axis).
    Of each image alone: gamma (standard deviation of the logarithm of the exponent), bias (largest amplitude of the
    logarithm of a smooth factor), contrast (largest part of the range of values by which both its ends move), noise
    (largest standard deviation, for images in [0, 1]). Voxels that are exactly 0 stay 0: they are outside the image,
    or were stripped.
    """

    rotation: float = 0.0
    scaling: float = 0.0
    translation: float = 0.0
    warp: float = 0.0
    flip: float = 0.0
    gamma: float = 0.0
    bias: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for part in fields(self):
            if getattr(self, part.name) < 0:
                raise SettingsError(f"images.augmentation.{part.name} must not be negative.")
        for name, limit in (("rotation", 15.0), ("scaling", 0.3), ("flip", 1.0), ("contrast", 0.9)):
            if getattr(self, name) > limit:
                raise SettingsError(f"images.augmentation.{name} must not exceed {limit:g}.")


def random_warp(section: AugmentationSection, shape: tuple[int, ...], source: Source) -> torch.Tensor | None:
    """A displacement (1, d, *shape) in voxels of x -> A exp(v)(x), or None when place and shape are to stay."""
    if not (section.rotation or section.scaling or section.translation or section.warp):
        return None
    recipe = ShapeRecipe(
        displacement=(0.0, section.warp),
        rotation=section.rotation,
        scaling=section.scaling,
        translation=section.translation,
    )
    half = tuple(-(-s // 2) for s in shape)
    if section.warp:
        smooth = integrate(random_velocity(recipe, half, source), INTEGRATION_STEPS)
    else:
        smooth = torch.zeros((1, len(shape), *half), device=source.device)
    return doubled(then_affine(recipe, smooth, source), shape)


def moved_points(points: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Where what was at `points` (1, P, d) lies in an image warped by `displacement` (1, d, *S): y + u(y) = x."""
    moved = points
    for _ in range(INVERSE_ROUNDS):
        moved = points - displacement_at(displacement, moved)
    return moved


def drawn_flips(section: AugmentationSection, dimension: int, source: Source) -> tuple[int, ...]:
    """The spatial axes (0 to d - 1) to mirror."""
    return tuple(axis for axis in range(dimension) if section.flip and source.chance(section.flip))


def flipped(volume: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """(N, C, *S) mirrored along spatial `axes`."""
    return volume.flip([2 + axis for axis in axes]) if axes else volume


def flipped_points(points: torch.Tensor, axes: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """Points (1, P, d) in a grid of `shape` mirrored along `axes`."""
    points = points.clone()
    for axis in axes:
        points[..., axis] = shape[axis] - 1 - points[..., axis]
    return points


def changed_intensities(section: AugmentationSection, image: torch.Tensor, source: Source) -> torch.Tensor:
    """An image (1, 1, *S) in [0, 1] with other grey values in [0, 1]."""
    black = image == 0
    if section.gamma:
        image = image ** float(np.exp(section.gamma * source.numbers.normal()))
    if section.bias:
        field = pyramid_noise(1, tuple(image.shape[2:]), {16: 1.0, 32: 2.0}, source)
        # The noise has a standard deviation of about 2.
        image = image * torch.exp(source.within((0.0, section.bias)) * field / 2.0)
    if section.contrast:
        low, high = (end + 0.5 * section.contrast * source.within((-1.0, 1.0)) for end in (0.0, 1.0))
        image = (image - low) / (high - low)
    if section.noise:
        image = image + source.within((0.0, section.noise)) * source.normal(*image.shape)
    return torch.where(black, 0.0, image.clamp(0, 1))
