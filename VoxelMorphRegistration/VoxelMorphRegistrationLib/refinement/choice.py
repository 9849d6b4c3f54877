"""Which similarity suits a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..fields.displacement import DisplacementField
from ..fields.warp import warp_image
from ..images.grid import working_grid
from ..images.image import Image, resample
from .pair import region_grid

if TYPE_CHECKING:
    from .pair import Pair


# Of `choose_similarity`: voxels looked at, bins, the least of the variance that the other image must explain, and the
# least part of it that a rising curve must explain. After the alignment, 55 pairs of one contrast (T1, T2 and FLAIR of
# heads with and without skull, thick slices, CT; one person and two) gave .986 to 1 of it, and .20 to .96 of the
# variance; 34 of two contrasts (those three, PD, MR and ultrasound) at most .912 of it.
CHOICE_VOXELS, CHOICE_BINS, LEAST_RELATED, LEAST_RISING = 100_000, 24, 0.1, 0.95


def choose_similarity(pair: Pair, start: DisplacementField | None) -> tuple[str, str]:
    """A similarity that suits the pair, and the reason in a sentence.

    Of two images of one modality, one grows with the other: of the variance of each that the other explains (the
    correlation ratio, Roche et al. 1998), a rising curve explains nearly all. Else their contrasts differ.
    """
    region = region_grid(pair.fixed.grid, pair.mask)
    used = region.size > 1
    base = float(np.min(region.spacing[used]))
    grid = working_grid(region, base * max(1.0, (region.voxel_count / CHOICE_VOXELS) ** (1 / int(used.sum()))))
    (low_f, scale_f), (low_m, scale_m) = pair.windows
    fixed = (resample(pair.fixed, grid, None, np.nan, smooth=True).array - low_f) * scale_f
    moving = warp_image(pair.moving, grid, start, pair.matrix, np.nan).array
    moving = (moving - low_m) * scale_m
    inside = resample(Image(pair.mask.astype(np.uint8), pair.fixed.grid), grid).array >= 0.5
    # Backgrounds and outlines are alike in all modalities.
    inside &= np.isfinite(fixed) & np.isfinite(moving)
    inside[inside] = (fixed[inside] > 0.05) & (moving[inside] > 0.05)
    inside = _eroded(inside)
    if np.count_nonzero(inside) < 10 * CHOICE_BINS:
        return "mind", "The images share too few voxels to compare their intensities."
    a, b = np.clip(fixed[inside], 0, 1), np.clip(moving[inside], 0, 1)
    related, rising = (min(values) for values in zip(_explained(a, b), _explained(b, a), strict=True))
    facts = f"one image explains {100 * related:.0f} % of the other's variance"
    if related < LEAST_RELATED:
        return "mind", f"The intensities have little in common: {facts}."
    if rising < LEAST_RISING:
        return "mind", f"The contrasts differ: {facts}, and a rising curve only {100 * rising:.0f} % of that."
    return "lncc", f"One modality: {facts}, and a rising curve {100 * rising:.0f} % of that."


def _eroded(mask: np.ndarray) -> np.ndarray:
    """A mask without its outermost voxels: they are partly background."""
    inner = mask.copy()
    for axis in range(3):
        if mask.shape[axis] > 1:
            for shift in (1, -1):
                inner &= np.roll(mask, shift, axis)
    return inner


def _explained(values: np.ndarray, given: np.ndarray) -> tuple[float, float]:
    """The part of the variance of `values` that a curve over `given` explains, and what a rising one does of it."""
    bins = np.minimum((given * CHOICE_BINS).astype(int), CHOICE_BINS - 1)
    counts = np.bincount(bins, minlength=CHOICE_BINS)
    sums = np.bincount(bins, values, CHOICE_BINS)[counts > 0]
    counts = counts[counts > 0]
    mean, variance = values.mean(), values.var()
    free = np.sum(counts * (sums / counts - mean) ** 2)
    # The closest rising curve: neighbours that fall are merged (pool adjacent violators, Ayer et al. 1955).
    blocks: list[tuple[float, int]] = []
    for total, number in zip(sums, counts, strict=True):
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / number:
            previous = blocks.pop()
            total, number = total + previous[0], number + previous[1]
        blocks.append((total, number))
    curve = sum(number * (total / number - mean) ** 2 for total, number in blocks)
    return float(free / max(variance * len(values), 1e-12)), float(curve / max(free, 1e-12))
