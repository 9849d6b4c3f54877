"""Whether the detail that a trial with little smoothing found is real.

With less smoothing images are always more alike: noise is fitted as well. But a trial sees means over voxels. What fits
their noise, or draws a smooth motion to the edges, makes the voxels themselves no more alike, and these the trial did
not see. In a slice windows hold few pixels, so that noise hides much of what real detail explains there, and less is
asked of the means. Only where voxels were interpolated do they share the noise of the means; so slices must be more
alike as a whole, too, where one is explained by a curve over the other's intensities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .choice import explained
from .levels import REAL_DETAIL

if TYPE_CHECKING:
    import torch

    from .problem import Problem
    from .steps import Compared


class Asked(NamedTuple):
    """Least parts that detail must reach.

    explained: of what was left of the local correlation of the means, by the trial. rise: of the local correlation of
    the voxels. by_curve: of what no curve explained, by a curve then; 0 where that is not asked.
    """

    explained: float
    rise: float
    by_curve: float


# Set on
#   95 slices of brains of two people            0.33 to 0.67    0.07 to 0.31    0.37 to 0.73
#   19 with noise of 3 and 6 %                   0.12 to 0.28    0.10 to 0.23    0.35 to 0.63
#   93 slices under known warps, of which 22 reached the first part: up to 0.49; of these all but one rose by 0.04 and
#   less, the one by 0.056, where 0.27 of the last was explained.
# Pixels of motions that are lost anyway rise by up to 0.15, at 0.17 and less of the first part (knees, 2 to 5 pixels
# off); noise of 4 to 10 % between interpolated pixels reaches 0.30, 0.18 and 0.36.
SLICE = Asked(0.2, 0.05, 0.4)
# Brains of two people with voxels of 1 to 2.5 mm, some with noise of 5 and 10 %: 0.48 to 0.64, rising by 0.069 to 0.231
# (nine). Brains (T1, FLAIR) of 1 and 2 mm under smooth known warps: 0.33 to 0.53, rising by 0.017 and less (seven); of
# the three above 0.45 detail made errors of 0.17, 0.19 and 0.17 mm ones of 0.33, 0.37 and 0.39. One more, whose
# motion was not found before the trial, rose by 0.090 and is still taken for detail (0.90 mm instead of 0.36).
VOLUME = Asked(REAL_DETAIL["lncc"], 0.05, 0.0)


def real_detail(trial: Problem, finer: Problem, smooth: torch.Tensor, detailed: torch.Tensor, asked: Asked) -> bool:
    """Whether images are more alike with detail beyond what the trial saw.

    finer: the same field before images twice as fine as the trial's. smooth, detailed: (1, D, *S) in voxels of the
    field, without the detail and with it.
    """
    before, after = (float(finer.images.similarity(flow)) for flow in (smooth, detailed))
    if after < (1 + asked.rise) * before:
        return False
    if not asked.by_curve:
        return True
    left = (unexplained(trial.images, flow) for flow in (smooth, detailed))
    return all(now <= (1 - asked.by_curve) * once for once, now in zip(*left, strict=True))


def unexplained(images: Compared, flow: torch.Tensor) -> tuple[float, float]:
    """Of the variance of each image what no curve over the other one explains."""
    warped, known = images.warped(flow)
    counts = images.weight > 0 if known is None else (images.weight > 0) & (known > 0)
    a, b = (volume[counts].cpu().double().numpy() for volume in (images.term.fixed[0], warped[0]))
    return 1 - explained(a, b)[0], 1 - explained(b, a)[0]
