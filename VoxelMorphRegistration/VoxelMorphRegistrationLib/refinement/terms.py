"""How alike two images are, and which way every voxel of the warped one would have to change: terms of a refinement.

A term is built from the fixed volumes (C, *S) of one level, S being (K, J, I) or (J, I), with intensities in [0, 1].
Its `evaluate(warped, weight, known)` gives the similarity, a number on the device, larger for more similar volumes, and
its slope: the exact derivative by the warped values, times the sum of the weights and 1 / `factor`. The slope is a
function from a box of S to (C, *P), so that it is made where it is used. weight (*S): where it counts.
known (*S): 1 where the warped values are known, 0 elsewhere; nothing is looked at there (None: known everywhere).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F

from ..images.boxes import box_sum_rows, pooled, summed_rows
from ..images.scripted import scripted
from ..images.slabs import Box, each, ends_of, narrowed, rows_of, within

# Radius of the correlation window in voxels, the largest one used.
WINDOW_RADIUS = 3
# Added to the variances in a window: what rounding leaves of even values. Weak texture counts: with 1e-8
# beside the product of both, known warps of an abdomen were found to 1.42, 1.07, 1.21 and 1.11 mm, with this to 1.26,
# 1.01, 1.09 and 1.01.
FLAT = 1e-7
# Of the joint histogram: bins an axis, and the width of the Parzen window in bins, on top of linear weights.
BINS, PARZEN_SIGMA = 32, 1.0
# Of a slab, of each of the volumes that a correlation looks at together.
_SLAB_VOXELS = 64_000
# And of what is pooled, where so small ones leave two threads waiting for each other.
_POOLED_VOXELS = 250_000

Slope = Callable[[Box], torch.Tensor]


class Term(Protocol):
    """See the head of this file. quadratic: a sum of squares, which Gauss-Newton steps suit.

    reach: how many voxels around one it looks at, reach_alone: without a guide. best: the largest value of the
    similarity, inf where it has none.
    """

    fixed: torch.Tensor
    factor: float
    quadratic: bool
    reach: int
    reach_alone: int
    best: float

    def evaluate(
        self, warped: torch.Tensor, weight: torch.Tensor, known: torch.Tensor | None = None, with_slope: bool = True
    ) -> tuple[torch.Tensor, Slope | None]: ...


def _counting(weight: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    return weight if known is None else weight * known


class SquaredDifference:
    """Minus the mean squared difference: of images with equal intensities, of descriptors, or of label channels.

    All of these lie in [0, 1]; where nothing counts, it is that of 0 and 1.
    """

    quadratic, best, reach, reach_alone = True, 0.0, 0, 0

    def __init__(self, fixed: torch.Tensor) -> None:
        self.fixed = fixed
        self.factor = 2.0 / len(fixed)

    def evaluate(self, warped, weight, known=None, with_slope=True):
        weight = _counting(weight, known)

        def slope(box: Box) -> torch.Tensor:
            return (within(self.fixed, box) - within(warped, box)).mul_(weight[box])

        def total(rows: slice) -> torch.Tensor:
            return ((self.fixed[:, rows] - warped[:, rows]).square_().sum(0) * weight[rows]).sum()

        slabs = rows_of(weight.shape, weight.device, 1, _SLAB_VOXELS)
        count = weight.sum()
        value = torch.stack(each(total, slabs)).sum() / count.clamp_min(1.0) / len(warped) + (count == 0)
        return -value, slope if with_slope else None


class LocalCorrelation:
    """The squared correlation c^2 / (v_f v_m) in windows (Avants et al. 2008, eq. 4), and its exact derivative.

    Each voxel belongs to the windows around it, so the derivative by its value is a sum over their coefficients,
    2 a (f - mean_f) - 2 b (m - mean_m) with a = c / (v_f v_m) and b = a^2 v_f.

    With blocks of several voxels a side the windows consist of whole blocks, one around each of them: their sums cost
    a fraction, and the derivative stays that of the similarity. Blocks that are not known as a whole are left out.

    A guide is another correlation in windows of larger blocks, a multiple of these: its slope joins this one's, with
    its weight. The similarity is this one's alone.
    """

    quadratic, factor, best = False, 2.0, 1.0

    def __init__(
        self,
        fixed: torch.Tensor,
        radius: int = WINDOW_RADIUS,
        block: int = 1,
        guide: tuple[LocalCorrelation, float] | None = None,
    ) -> None:
        """radius: of the windows, in blocks. block: voxels a side, a power of two."""
        self.fixed, self.radius, self.block, self.guide = fixed, radius, block, guide
        self.reach_alone = (radius + 1) * block
        self.reach: int = max(self.reach_alone, guide[0].reach if guide else 0)
        values = fixed[0]
        self.blocks = pooled(torch.stack([torch.ones_like(values), values, values * values]), block)
        self.everywhere = self._in_windows(self.blocks)
        self._weight: torch.Tensor | None = None
        self._pooled_weight = self.blocks[0]

    def _in_windows(self, blocks: torch.Tensor) -> torch.Tensor:
        """(3, *B): one over the blocks of a window, and the mean and variance (plus FLAT) of the fixed values there."""
        out = torch.empty_like(blocks)

        def in_rows(rows: slice) -> None:
            count, mean, square = box_sum_rows(blocks, rows, self.radius)
            inverse, mean_out, variance = out[:, rows]
            inverse.copy_(torch.where(count > 0, 1.0 / count, 0.0))
            torch.mul(mean, inverse, out=mean_out)
            torch.mul(square, inverse, out=variance).addcmul_(mean_out, mean_out, value=-1).clamp_min_(0).add_(FLAT)

        each(in_rows, self._slabs)
        return out

    @property
    def _slabs(self) -> list[slice]:
        return rows_of(self.blocks.shape[1:], self.blocks.device, 1, _SLAB_VOXELS)

    def _moments(self, warped: torch.Tensor) -> torch.Tensor:
        """(3, *B): the blocks' means of the warped values, their squares and their products with the fixed ones."""
        out = torch.empty_like(self.blocks)
        values = self.fixed[0]

        def of_rows(rows: slice) -> None:
            blocks = slice(rows.start // self.block, -(-rows.stop // self.block))
            part = warped[rows]
            if self.block == 1:
                out[0, rows] = part
                torch.mul(part, part, out=out[1, rows])
                torch.mul(part, values[rows], out=out[2, rows])
            else:
                for n, one in enumerate((part, part * part, part * values[rows])):
                    out[n, blocks] = pooled(one[None], self.block)[0]

        voxels = _SLAB_VOXELS if self.block == 1 else _POOLED_VOXELS
        each(of_rows, rows_of(warped.shape, warped.device, self.block, voxels))
        return out

    def _weights(self, weight: torch.Tensor) -> torch.Tensor:
        """The weights of the blocks. They are the same at every step."""
        if self._weight is not weight:
            self._weight, self._pooled_weight = weight, pooled(weight[None], self.block)[0]
        return self._pooled_weight

    def _coefficients(
        self, moments: torch.Tensor, weight: torch.Tensor, known: torch.Tensor | None, with_slope: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The similarity, and in front of the fixed values, the warped ones and one what each window adds (3, *B)."""
        fixed, weight = self.everywhere, self._weights(weight)
        if known is not None:
            moments, weight, fixed = moments * known, weight * known, self._in_windows(self.blocks * known)
        out = torch.empty_like(moments) if with_slope else None

        def of_rows(rows: slice) -> torch.Tensor:
            own = None if out is None else out[:, rows]
            return _of_windows(moments, fixed[:, rows], weight[rows], own, rows.start, rows.stop, self.radius, FLAT)

        value = torch.stack(each(of_rows, self._slabs)).sum() / weight.sum().clamp_min(1.0)
        return value, out

    def _summed(self, coefficients: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        """(3, *B): the coefficients of all windows that a block belongs to."""
        out = torch.empty_like(coefficients)

        def of_rows(rows: slice) -> None:
            out[:, rows] = box_sum_rows(coefficients, rows, self.radius)

        each(of_rows, self._slabs)
        return out if known is None else out.mul_(known)

    def _known(self, known: torch.Tensor | None) -> torch.Tensor | None:
        return None if known is None else (pooled(known[None], self.block)[0] >= self.blocks[0]).float()

    def evaluate(self, warped, weight, known=None, with_slope=True):
        warped = warped[0]
        moments, blocks_known = self._moments(warped), self._known(known)
        value, coefficients = self._coefficients(moments, weight, blocks_known, with_slope)
        if coefficients is None:
            return value, None
        coefficients = self._summed(coefficients, blocks_known)
        parts = [(coefficients, self.block)]
        if self.guide is not None:
            guide, share = self.guide
            wide_known = guide._known(known)
            wide = pooled(moments, guide.block // self.block)
            own = guide._coefficients(wide, weight, wide_known, True)[1]
            assert own is not None
            parts.append((guide._summed(own, wide_known).mul_(share), guide.block))
        if len(parts) > 1 and self.block > 1:
            # What the guide's blocks hold, at each of these.
            ratio = parts[1][1] // self.block
            whole = tuple(slice(0, size) for size in coefficients.shape[1:])
            coefficients += spread_box(parts.pop()[0], whole, ratio)
        values = self.fixed[0]

        held, sizes = [part for part, _ in parts], [block for _, block in parts]

        def slope(box: Box) -> torch.Tensor:
            return _slope(values, warped, held, sizes, *ends_of(box))

        return value, slope


@scripted
def _of_windows(
    moments: torch.Tensor,
    fixed: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor | None,
    start: int,
    stop: int,
    radius: int,
    flat: float,
) -> torch.Tensor:
    """The weighted sum of the squared correlations of some rows' windows; `out` (3, *P) takes the coefficients."""
    inverse_count, mean_fixed, variance_fixed = fixed[0], fixed[1], fixed[2]
    sums = summed_rows(moments, start, stop, radius).mul_(inverse_count)
    mean, variance, covariance = sums[0], sums[1], sums[2]
    variance.addcmul_(mean, mean, value=-1).clamp_min_(0).add_(flat)
    covariance.addcmul_(mean_fixed, mean, value=-1)
    a = covariance / variance.mul_(variance_fixed)
    value = covariance.mul_(a).mul_(counts).sum()
    if out is not None:
        inverse_count = inverse_count * counts
        of_fixed, of_warped = out[0], out[1]
        torch.mul(a, a, out=of_warped).mul_(variance_fixed).mul_(inverse_count)
        torch.mul(a, inverse_count, out=of_fixed)
        torch.mul(of_fixed, mean_fixed, out=out[2]).addcmul_(of_warped, mean, value=-1)
    return value


@scripted
def _slope(
    values: torch.Tensor,
    warped: torch.Tensor,
    coefficients: list[torch.Tensor],
    blocks: list[int],
    low: list[int],
    high: list[int],
) -> torch.Tensor:
    """The slope in a box, (1, *P), by the coefficients of windows of blocks of so many voxels a side."""
    total = spread_part(coefficients[0], low, high, blocks[0])
    for n in range(1, len(coefficients)):
        total = total + spread_part(coefficients[n], low, high, blocks[n])
    values, warped = narrowed(values, low, high), narrowed(warped, low, high)
    return (total[0] * values).addcmul_(total[1], warped, value=-1).sub_(total[2])[None]


def spread_box(blocks: torch.Tensor, box: Box, block: int) -> torch.Tensor:
    """What the blocks of (C, *S / block) hold, at the voxels of a box of S, (C, *P)."""
    return spread_part(blocks, *ends_of(box), block)


def spread_part(blocks: torch.Tensor, low: list[int], high: list[int], block: int) -> torch.Tensor:
    """`spread_box` in TorchScript, for programs (see images/scripted.py)."""
    part = blocks
    for axis in range(len(low)):
        begin = low[axis] // block
        part = part.narrow(1 + axis, begin, (high[axis] + block - 1) // block - begin)
    if block == 1:
        return part
    for back in range(len(low)):
        axis = len(low) - back
        sizes = list(part.shape)
        shape = sizes[:axis] + [sizes[axis], block] + sizes[axis + 1 :]
        part = part.unsqueeze(axis + 1).expand(shape)
        part = part.reshape(sizes[:axis] + [sizes[axis] * block] + sizes[axis + 1 :])
        part = part.narrow(axis, low[axis - 1] % block, high[axis - 1] - low[axis - 1])
    return part


class MutualInformation:
    """Mutual information in nats of the joint histogram, with Parzen windows (Mattes et al., IEEE TMI 2003).

    A sample adds linear weights to its four bins, and the histogram is blurred. Raising a value then changes the
    information by the rise of the blurred log(p(f, m) / (p(f) p(m))) between its bins: the changes of the margins
    cancel, as their sums stay one.
    """

    quadratic, factor, best, reach, reach_alone = False, 1.0, float("inf"), 0, 0

    def __init__(self, fixed: torch.Tensor) -> None:
        self.fixed = fixed
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
        value = (joint * ratio).sum()
        if not with_slope:
            return value, None
        table = (self.blur.T @ ratio @ self.blur).float() * (BINS - 1)
        rise = F.pad(table[:, 1:] - table[:, :-1], (0, 1)).reshape(-1)
        slope = torch.lerp(rise[index], rise[index + BINS], self.part).mul_(weight)[None]
        return value, lambda box: within(slope, box)


def _bins(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lower bin of values in [0, 1], and how far they lie towards the next."""
    place = values.clamp(0, 1) * (BINS - 1)
    low = place.floor().clamp_(max=BINS - 2)
    return low.long(), place.sub_(low)
