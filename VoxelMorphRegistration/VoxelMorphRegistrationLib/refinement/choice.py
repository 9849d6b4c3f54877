"""Which similarity suits a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..fields.displacement import DisplacementField
from ..fields.warp import warp_image
from ..images.grid import working_grid
from ..images.image import Image, resample
from .pair import region_grid

if TYPE_CHECKING:
    from .pair import Pair


# Of `relation` and `choose_similarity`: voxels looked at, bins, the least of the variance that the other image must
# explain, and the least part of it that a rising curve must explain, or of negatives a falling one. After the
# alignment, 55 pairs of one contrast (T1, T2 and FLAIR of heads with and without skull, thick slices, CT; one person
# and two) gave .986 to 1 of it, and .20 to .96 of the variance; 34 of two contrasts (those three, PD, MR and
# ultrasound) at most .912 of it.
CHOICE_VOXELS, CHOICE_BINS, LEAST_RELATED, LEAST_RISING = 100_000, 24, 0.1, 0.95
# Of two contrasts, so much of the variance is explained after the coarsest level in images of one person: 0.24 to 0.65
# in 13 pairs of T1, T2, FLAIR and PD with warps and without; at most 0.22 in 13 of different people and 0.19 in thick
# slices. There descriptors are compared decorrelated, which finds known warps closer (T1 <- T2 0.46 to 0.39 mm, T1 <-
# FLAIR 0.60 to 0.58) and people less well (Dice of negatives onto T1 0.775 to 0.769, of prostates 0.63 to 0.61).
LEAST_OF_ONE = 0.23


class Relation(NamedTuple):
    """Of the variance of each image what the other one explains, the lesser of both, and what a rising and a falling
    curve explain of that."""

    related: float
    rising: float
    falling: float


def choose_similarity(pair: Pair, start: DisplacementField | None) -> tuple[str, str]:
    """A similarity that suits the pair, and the reason in a sentence.

    Of two images of one modality, one grows with the other: of the variance of each that the other explains (the
    correlation ratio, Roche et al. 1998), a rising curve explains nearly all. Else their contrasts differ.
    """
    found = relation(pair, start)
    if found is None:
        return "mind", "The images share too few voxels to compare their intensities."
    facts = f"one image explains {100 * found.related:.0f} % of the other's variance"
    if found.related < LEAST_RELATED:
        return "mind", f"The intensities have little in common: {facts}."
    if found.rising < LEAST_RISING:
        return "mind", f"The contrasts differ: {facts}, and a rising curve only {100 * found.rising:.0f} % of that."
    return "lncc", f"One modality: {facts}, and a rising curve {100 * found.rising:.0f} % of that."


def of_one_person(pair: Pair, start: DisplacementField | None) -> bool:
    """Whether two images of different contrast have so much in common as only one person's do."""
    found = relation(pair, start)
    return found is not None and found.related >= LEAST_OF_ONE


def like_negatives(pair: Pair, start: DisplacementField | None) -> bool:
    """Whether of all images that are compared by descriptors one grows as the other falls, all over, as T2 of a brain
    does against T1.
    """
    described = [number for number, one in enumerate(pair.channels) if one.similarity in (None, "mind")]
    found = [relation(pair, start, number) for number in described]
    return all(one is not None and one.falling >= LEAST_RISING for one in found)


def relation(pair: Pair, start: DisplacementField | None, number: int = 0) -> Relation | None:
    """Under a field; None where the images share too few voxels. number: of the pair's channels."""
    channel, thin = pair.channels[number], pair.thin
    region = region_grid(pair.fixed.grid, pair.mask)
    used = region.size > 1
    base = float(np.min(region.spacing[used]))
    grid = working_grid(region, base * max(1.0, (region.voxel_count / CHOICE_VOXELS) ** (1 / int(used.sum()))))
    (low_f, scale_f), (low_m, scale_m) = channel.windows
    fixed = (resample(thin.channels[number].fixed, grid, None, np.nan, smooth=True).array - low_f) * scale_f
    # Not the thinned one: means have more in common than the images that the limits here were set on.
    moving = warp_image(channel.moving, grid, start, pair.matrix, np.nan).array
    moving = (moving - low_m) * scale_m
    inside = resample(Image(thin.mask.astype(np.uint8), thin.fixed.grid), grid).array >= 0.5
    if pair.moving_mask is not None:
        counts = pair.moving_mask.with_array((pair.moving_mask.array > 0).astype(np.float32))
        inside &= warp_image(counts, grid, start, pair.matrix, 0.0).array >= 0.5
    # Backgrounds and outlines are alike in all modalities.
    inside &= np.isfinite(fixed) & np.isfinite(moving)
    inside[inside] = (fixed[inside] > 0.05) & (moving[inside] > 0.05)
    inside = _eroded(inside)
    if np.count_nonzero(inside) < 10 * CHOICE_BINS:
        return None
    a, b = np.clip(fixed[inside], 0, 1), np.clip(moving[inside], 0, 1)
    return Relation(*(min(values) for values in zip(explained(a, b), explained(b, a), strict=True)))


def _eroded(mask: np.ndarray) -> np.ndarray:
    """A mask without its outermost voxels: they are partly background."""
    inner = mask.copy()
    for axis in range(3):
        if mask.shape[axis] > 1:
            for shift in (1, -1):
                inner &= np.roll(mask, shift, axis)
    return inner


def explained(values: np.ndarray, given: np.ndarray) -> tuple[float, float, float]:
    """The part of the variance of `values` that a curve over `given` explains, and what a rising and a falling one do
    of it.
    """
    bins = np.minimum((given * CHOICE_BINS).astype(int), CHOICE_BINS - 1)
    counts = np.bincount(bins, minlength=CHOICE_BINS)
    sums = np.bincount(bins, values, CHOICE_BINS)[counts > 0]
    counts = counts[counts > 0]
    mean, variance = values.mean(), values.var()
    free = max(np.sum(counts * (sums / counts - mean) ** 2), 1e-12)
    rising, falling = _rising(sums, counts, mean), _rising(sums[::-1], counts[::-1], mean)
    return float(free / max(variance * len(values), 1e-12)), float(rising / free), float(falling / free)


def _rising(sums: np.ndarray, counts: np.ndarray, mean: float) -> float:
    """The sum of squares of the closest rising curve: neighbours that fall are merged (pool adjacent violators, Ayer
    et al. 1955).
    """
    blocks: list[tuple[float, int]] = []
    for total, number in zip(sums, counts, strict=True):
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / number:
            previous = blocks.pop()
            total, number = total + previous[0], number + previous[1]
        blocks.append((total, number))
    return float(sum(number * (total / number - mean) ** 2 for total, number in blocks))
