"""How alike two images are, and which way every voxel of the warped one would have to change: terms of a refinement.

A term is built from the fixed volumes (C, *S) of one level, S being (K, J, I) or (J, I), with intensities in [0, 1].
Its `evaluate(warped, weight, known)` gives the similarity, larger for more similar volumes, and its slope (C, *S): the
exact derivative by the warped values, times the sum of the weights and 1 / `factor`. weight (*S): where it counts.
known (*S): 1 where the warped values are known, 0 elsewhere; nothing is looked at there (None: known everywhere).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from ..images.boxes import box_sum, pooled

# Radius of the correlation window in voxels, the largest one used.
WINDOW_RADIUS = 3
# Windows with less contrast than about 1 % count as flat.
FLAT = 1e-8
# Of the joint histogram: bins an axis, and the width of the Parzen window in bins, on top of linear weights.
BINS, PARZEN_SIGMA = 32, 1.0


class Term(Protocol):
    """See the head of this file. quadratic: a sum of squares, which Gauss-Newton steps suit.

    reach: how many voxels around one it looks at. Terms whose similarity has a largest value name it as `best`.
    """

    factor: float
    quadratic: bool
    reach: int

    def evaluate(
        self, warped: torch.Tensor, weight: torch.Tensor, known: torch.Tensor | None = None, with_slope: bool = True
    ) -> tuple[float, torch.Tensor | None]: ...


def _counting(weight: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    return weight if known is None else weight * known


class SquaredDifference:
    """Minus the mean squared difference: of images with equal intensities, of descriptors, or of label channels."""

    quadratic, best, reach = True, 0.0, 0

    def __init__(self, fixed: torch.Tensor) -> None:
        self.fixed = fixed
        self.factor = 2.0 / len(fixed)

    def evaluate(self, warped, weight, known=None, with_slope=True):
        weight = _counting(weight, known)
        slope = self.fixed - warped
        value = float((slope.square().sum(0) * weight).sum() / weight.sum().clamp_min(1.0)) / len(warped)
        return -value, slope.mul_(weight) if with_slope else None


class LocalCorrelation:
    """The squared correlation c^2 / (v_f v_m) in windows (Avants et al. 2008, eq. 4), and its exact derivative.

    Each voxel belongs to the windows around it, so the derivative by its value is a sum over their coefficients,
    2 a (f - mean_f) - 2 b (m - mean_m) with a = c / (v_f v_m) and b = a^2 v_f.

    With blocks of several voxels a side the windows consist of whole blocks, one around each of them: their sums cost
    a fraction, and the derivative stays that of the similarity. Blocks that are not known as a whole are left out.
    """

    quadratic, factor, best = False, 2.0, 1.0

    def __init__(self, fixed: torch.Tensor, radius: int = WINDOW_RADIUS, block: int = 1) -> None:
        """radius: of the windows, in blocks. block: voxels a side."""
        self.fixed, self.radius, self.block = fixed[0], radius, block
        self.reach = (radius + 1) * block
        ones = torch.ones_like(self.fixed)
        self.blocks = pooled(torch.stack([ones, self.fixed, self.fixed * self.fixed]), block)
        self.everywhere = self._in_windows(None)

    def _in_windows(self, known: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One over the blocks of a window that are known, and the mean and variance of the fixed values there."""
        count, mean, square = box_sum(self.blocks if known is None else self.blocks * known, self.radius)
        inverse_count = torch.where(count > 0, 1.0 / count, 0.0)
        mean, square = mean.mul_(inverse_count), square.mul_(inverse_count)
        return inverse_count, mean, square.addcmul_(mean, mean, value=-1).clamp_min_(0)

    def _voxels(self, blocks: torch.Tensor) -> torch.Tensor:
        """What the blocks of (C, *S / block) hold, at each of their voxels."""
        if self.block > 1:
            for axis in range(1, blocks.dim()):
                size = self.fixed.shape[axis - 1]
                blocks = blocks.repeat_interleave(self.block, axis).narrow(axis, 0, size)
        return blocks

    def evaluate(self, warped, weight, known=None, with_slope=True):
        warped, weight = warped[0], pooled(weight[None], self.block)[0]
        parts = warped, warped * warped, self.fixed * warped
        volumes = torch.cat([pooled(part[None], self.block) for part in parts])
        inverse_count, mean_fixed, variance_fixed = self.everywhere
        if known is not None:
            known = (pooled(known[None], self.block)[0] >= self.blocks[0]).float()
            inverse_count, mean_fixed, variance_fixed = self._in_windows(known)
            weight, volumes = weight * known, volumes.mul_(known)
        mean, square, product = box_sum(volumes, self.radius).mul_(inverse_count)
        variance = square.addcmul_(mean, mean, value=-1).clamp_min_(0)
        covariance = product.addcmul_(mean_fixed, mean, value=-1)
        a = covariance / (variance_fixed * variance).add_(FLAT)
        similarity = float((covariance * a).mul_(weight).sum() / weight.sum().clamp_min(1.0))
        if not with_slope:
            return similarity, None
        b = (a * a).mul_(variance_fixed).mul_(weight)
        a.mul_(weight)
        coefficients = torch.stack([a, b, (a * mean_fixed).addcmul_(b, mean, value=-1)]).mul_(inverse_count)
        coefficients = box_sum(coefficients, self.radius)
        of_fixed, of_warped, constant = self._voxels(coefficients if known is None else coefficients.mul_(known))
        slope = (of_fixed * self.fixed).addcmul_(of_warped, warped, value=-1).sub_(constant)
        return similarity, slope[None]


class MutualInformation:
    """Mutual information in nats of the joint histogram, with Parzen windows (Mattes et al., IEEE TMI 2003).

    A sample adds linear weights to its four bins, and the histogram is blurred. Raising a value then changes the
    information by the rise of the blurred log(p(f, m) / (p(f) p(m))) between its bins: the changes of the margins
    cancel, as their sums stay one.
    """

    quadratic, factor, reach = False, 1.0, 0

    def __init__(self, fixed: torch.Tensor) -> None:
        self.low, self.part = _bins(fixed[0])
        line = torch.arange(BINS, dtype=torch.float64, device=fixed.device)
        kernel = torch.exp(-0.5 * ((line[:, None] - line) / PARZEN_SIGMA) ** 2)
        self.blur = kernel / kernel.sum(0)

    def evaluate(self, warped, weight, known=None, with_slope=True):
        weight = _counting(weight, known)
        low, part = _bins(warped[0])
        index = (self.low * BINS).add_(low)
        counts = torch.zeros(BINS * BINS, dtype=torch.float64, device=weight.device)
        flat, upper = index.reshape(-1), part * weight
        for step, values in ((0, weight - upper), (1, upper)):
            right = values * self.part
            for more, share in ((0, values - right), (BINS, right)):
                counts += torch.bincount(flat + (step + more), share.reshape(-1).double(), BINS * BINS)
        joint = self.blur @ counts.reshape(BINS, BINS) @ self.blur.T
        joint /= joint.sum().clamp_min(1e-12)
        margins = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        ratio = ((joint + 1e-12) / (margins + 1e-12)).log()
        value = float((joint * ratio).sum())
        if not with_slope:
            return value, None
        table = (self.blur.T @ ratio @ self.blur).float() * (BINS - 1)
        rise = F.pad(table[:, 1:] - table[:, :-1], (0, 1)).reshape(-1)
        slope = torch.lerp(rise[index], rise[index + BINS], self.part)
        return value, slope.mul_(weight)[None]


def _bins(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lower bin of values in [0, 1], and how far they lie towards the next."""
    place = values.clamp(0, 1) * (BINS - 1)
    low = place.floor().clamp_(max=BINS - 2)
    return low.long(), place.sub_(low)
