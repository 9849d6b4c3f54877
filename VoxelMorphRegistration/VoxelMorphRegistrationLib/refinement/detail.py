"""Whether the detail that a trial with little smoothing found in a slice is real.

With less smoothing images are always more alike: noise is fitted as well. In a slice windows hold few pixels, so that
noise hides much of what real detail explains, which often stays below the share that is asked of volumes. But a trial
sees means over pixels. What fits their noise, or draws a smooth motion to the edges, makes the pixels themselves no
more alike, and these the trial did not see. Only where pixels were interpolated do they share the noise of the means;
so the images must be more alike as a whole, too, where one is explained by a curve over the other's intensities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .choice import explained

if TYPE_CHECKING:
    import torch

    from .problem import Problem
    from .steps import Compared

# Least parts: of what was left of the local correlation, that the trial explains; of the correlation of the pixels, by
# which that rises; of what no curve explained, that one explains then. Set on
#   95 slices of brains of two people            0.33 to 0.67    0.07 to 0.31    0.37 to 0.73
#   19 with noise of 3 and 6 %                   0.12 to 0.28    0.10 to 0.23    0.35 to 0.63
#   93 slices under known warps, of which 22 reached the first part: up to 0.49; of these all but one rose by 0.04 and
#   less, the one by 0.056, where 0.27 of the last was explained.
# Pixels of motions that are lost anyway rise by up to 0.15, at 0.17 and less of the first part (knees, 2 to 5 pixels
# off); noise of 4 to 10 % between interpolated pixels reaches 0.30, 0.18 and 0.36.
SLICE_DETAIL, UNSEEN_RISE, CURVE_EXPLAINED = 0.2, 0.05, 0.4


def real_in_slice(trial: Problem, finer: Problem, smooth: torch.Tensor, detailed: torch.Tensor) -> bool:
    """Whether images of a slice are more alike with detail beyond what the trial saw.

    finer: the same field before images twice as fine as the trial's. smooth, detailed: (1, 2, *S) in voxels of the
    field, without the detail and with it.
    """
    before, after = (float(finer.images.similarity(flow)) for flow in (smooth, detailed))
    if after < (1 + UNSEEN_RISE) * before:
        return False
    left = (_unexplained(trial.images, flow) for flow in (smooth, detailed))
    return all(now <= (1 - CURVE_EXPLAINED) * once for once, now in zip(*left, strict=True))


def _unexplained(images: Compared, flow: torch.Tensor) -> tuple[float, float]:
    """Of the variance of each image what no curve over the other one explains."""
    warped, known = images.warped(flow)
    counts = images.weight > 0 if known is None else (images.weight > 0) & (known > 0)
    a, b = (volume[counts].cpu().double().numpy() for volume in (images.term.fixed[0], warped[0]))
    return 1 - explained(a, b)[0], 1 - explained(b, a)[0]
