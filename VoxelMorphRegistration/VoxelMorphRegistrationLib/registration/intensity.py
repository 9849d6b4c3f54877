"""Intensities as networks and measures see them, and where an image has anatomy."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..images.image import Image
from ..networks.card import ModelCard


def intensity_window(image: Image, low: float, high: float) -> tuple[float, float]:
    """Two percentiles of the values, from at most about a million voxels."""
    values = image.array.ravel()
    values = values[:: max(1, values.size // 1_000_000)]
    bottom, top, brightest = (float(v) for v in np.percentile(values, [low, high, max(high, 99.95)]))
    # A small object in a large empty field: hardly anything of it is below the percentile, or nothing at all.
    if top - bottom < 0.01 * (brightest - bottom):
        top = brightest
    if top <= bottom:
        bottom, top = float(image.array.min()), float(image.array.max())
    return bottom, top


def measured_region(fixed: Image, fixed_mask: Image | None) -> np.ndarray:
    """Where folds and similarity are measured: the mask, else where the image rises above its dark background."""
    if fixed_mask is not None:
        return fixed_mask.array > 0
    low, high = intensity_window(fixed, 0.5, 99.5)
    region = fixed.array > low + 0.05 * (high - low)
    return region if region.any() else np.ones(fixed.grid.shape, bool)


def intensity_scale(image: Image, card: ModelCard) -> tuple[float, float]:
    """(offset, scale) such that (value - offset) * scale is what the network expects, before clipping to [0, 1]."""
    facts = card.normalization
    if facts["method"] == "white-matter":
        return 0.0, facts["target"] / white_matter_level(image)
    low, high = intensity_window(image, facts["low"], facts["high"])
    return low, 1.0 / (high - low)


def normalised(image: Image, scale: tuple[float, float]) -> np.ndarray:
    """float32 values in [0, 1]."""
    return np.clip((image.array - np.float32(scale[0])) * np.float32(scale[1]), 0.0, 1.0, dtype=np.float32)


def white_matter_level(image: Image) -> float:
    """The intensity of white matter in a skull-stripped T1 brain: the brightest clear peak of its histogram.

    Scale-free: an image multiplied by a factor gives the level multiplied by it. Raises InputError when the image
    has no positive voxels.
    """
    values = image.array[image.array > 0].astype(np.float64)
    if values.size == 0:
        raise InputError(f"The {image.name} has no positive voxels; this model needs a brain on a dark background.")
    top = float(np.percentile(values, 99.9))
    counts, edges = np.histogram(values, bins=200, range=(0.0, top))
    counts = np.convolve(counts, _smoothing_kernel(4.0), mode="same")
    # Below a quarter of the brightest tissue lies background and fluid.
    start = 50
    inner = counts[start:-1]
    peaks = [n for n in range(1, len(inner) - 1) if inner[n] >= inner[n - 1] and inner[n] > inner[n + 1]]
    peaks = [n for n in peaks if inner[n] >= 0.25 * inner.max()] or [int(inner.argmax())]
    best = start + peaks[-1]
    return float(0.5 * (edges[best] + edges[best + 1]))


def _smoothing_kernel(sigma: float) -> np.ndarray:
    line = np.arange(-3 * int(sigma), 3 * int(sigma) + 1)
    kernel = np.exp(-0.5 * (line / sigma) ** 2)
    return kernel / kernel.sum()
