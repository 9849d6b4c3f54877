"""Intensities as networks and measures see them, and where an image has anatomy."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..images.blocks import SLAB_VOXELS
from ..images.image import Image
from ..networks.card import ModelCard

# Where this part of the voxels is unlike all its neighbours in whether it belongs to the anatomy, noise may decide, and
# means over boxes of about so many voxels are looked at. In front of a brain noise of 1.5 % of the range leaves 0.0012
# alone, of 2 to 10 % 0.013 to 0.8; without noise it is 0. With 1.75 %, 0.0055, the Dice of a pair was 0.795 where 0.01
# was the least, 0.828 with means. Of 46 volumes as they come 12 have more; there SCATTERED tells, and none changes.
FEW_ALONE, AVERAGED_VOXELS = 0.001, 125
# What is dark there is empty if its means scatter by such a part of what its voxels do: 0.06 to 0.12 in front of brains
# with noise of 2 to 10 % (drawn plainly, cut at zero, of magnitudes; volumes and slices), as of 125 values that have
# nothing in common (0.09). In lungs, which are dark and rough, 0.13 to 0.63 (two CT and 109 slices of them), around a
# body on a table in CT 0.3 to 1.2; and 0 where it is constant.
SCATTERED = 0.05, 0.125


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
    """Where folds and similarity are measured: the mask, else where the image rises above its dark background.

    Where single voxels do so by noise, all of the background would count as anatomy, and whatever a refinement finds
    would explain little of it. In front of an empty background the means around the voxels tell.
    """
    if fixed_mask is not None:
        return fixed_mask.array > 0
    region = _above_background(fixed)
    if _alone(region) > FEW_ALONE:
        region = _means_above_background(fixed, region)
    return region if region.any() else np.ones(fixed.grid.shape, bool)


def _means_above_background(image: Image, region: np.ndarray) -> np.ndarray:
    """As by the means of boxes, or `region` where what is dark is more than noise."""
    radius = round(AVERAGED_VOXELS ** (1 / image.grid.dimension)) // 2
    means = _box_means(image.array, radius)
    above = _above_background(image.with_array(means))
    some = slice(None, None, max(1, above.size // 1_000_000))
    dark = ~above.ravel()[some]
    if not dark.any():
        return region
    values, averaged = (one.ravel()[some][dark] for one in (image.array, means))
    least, most = (part * values.std() for part in SCATTERED)
    if not least < _middle_half(averaged) < most:
        return region
    # The means reach beyond the outline by about half of that.
    return _box_means(above, (radius + 1) // 2) > 1 - 0.5 / AVERAGED_VOXELS


def _middle_half(values: np.ndarray) -> float:
    """The deviation of normal values of which the middle half is as wide: an outline does not count."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low) / 1.349


def _above_background(image: Image) -> np.ndarray:
    low, high = intensity_window(image, 0.5, 99.5)
    return image.array > low + 0.05 * (high - low)


def _alone(region: np.ndarray) -> float:
    """The part of the voxels of a region, or of all others where these are fewer, that are unlike all their
    neighbours.
    """
    alone = np.ones_like(region)
    for axis in range(3):
        line, found = np.moveaxis(region, axis, 0), np.moveaxis(alone, axis, 0)
        unlike = line[1:] != line[:-1]
        found[1:] &= unlike
        found[:-1] &= unlike
    inside = np.count_nonzero(region)
    return np.count_nonzero(alone) / max(min(inside, region.size - inside), 1)


def _box_means(array: np.ndarray, radius: int) -> np.ndarray:
    """Means (K, J, I), float32, over boxes of 2 * radius + 1 voxels a side, what is beyond the border as at it."""
    out = np.empty(array.shape, np.float32)
    rows = max(1, SLAB_VOXELS // array[0].size)
    for start in range(0, len(array), rows):
        low = max(start - radius, 0)
        part = array[low : start + rows + radius]
        for axis in range(3):
            if array.shape[axis] > 1:
                part = _means_along(part, axis, radius)
        out[start : start + rows] = part[start - low : start - low + rows]
    return out


def _means_along(array: np.ndarray, axis: int, radius: int) -> np.ndarray:
    size = array.shape[axis]
    wide = np.pad(array, [(radius, radius) if n == axis else (0, 0) for n in range(3)], mode="edge")
    lines = np.moveaxis(wide, axis, 0)
    total = lines[:size].astype(np.float32)
    for start in range(1, 2 * radius + 1):
        total += lines[start : start + size]
    total /= 2 * radius + 1
    return np.moveaxis(total, 0, axis)


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
