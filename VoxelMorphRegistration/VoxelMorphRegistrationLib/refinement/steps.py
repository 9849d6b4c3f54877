"""One step of the optimisation, by what is compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..images import sampling
from ..images.boxes import gradient_rows, pooled
from ..images.slabs import each, rows_of
from ..images.smoothing import Smoother
from .terms import Slope, Term

WINDOW_SIGMA, WINDOW_UPDATE_SIGMA = 3.3, 2.2
# Largest displacement of one step, in voxels of the field: small against 1, so that no step folds. In detail, what is
# longer than this part of the voxels' steps is cut to it instead of holding up the rest; every third along each axis is
# looked at.
STEP, WINDOW_STEP, DETAIL_PART, DETAIL_STRIDE = 0.4, 0.5, 0.999, 3
# Part of the mean curvature added to that of a window: where there is little to see, little moves.
DAMPING = 0.1
# How far a landmark pulls, in voxels of the field; distances count in units of this part of the mean extent of what is
# registered, a centimetre of a brain.
LANDMARK_SIGMA, LANDMARK_UNIT = 3.0, 0.06


# Rows of an update, (d, k, *S') of (d, *S) in voxels of the field.
Update = Callable[[slice], torch.Tensor]


class Compared:
    """Volumes of both images on a level's image grid and the term between them. ratio: 1 where that is the field's
    grid, 2 where it is twice as fine.
    """

    def __init__(
        self,
        term: Term,
        moving: torch.Tensor,
        valid: torch.Tensor | None,
        weight: torch.Tensor,
        margin: int,
        ratio: int,
    ) -> None:
        self.term, self.weight, self.margin, self.ratio = term, weight, margin, ratio
        self.channels = len(moving)
        # From the first to the last voxel that counts, along each axis.
        inside = torch.nonzero(weight if weight.any() else torch.ones_like(weight))
        self.box = [(int(low), int(high) + 1) for low, high in zip(inside.amin(0), inside.amax(0), strict=True)]
        self.moving = moving if valid is None else torch.cat([moving, valid[None]])

    def evaluate(self, warped, known, with_slope: bool = True) -> tuple[torch.Tensor, Slope | None]:
        """The term's, without `known` where all that it looks at is."""
        if known is not None:
            reach = self.term.reach
            box = tuple(slice(max(low - reach, 0), high + reach) for low, high in self.box)
            known = None if known[box].all() else known
        return self.term.evaluate(warped, self.weight, known, with_slope)

    def warped(self, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The moving volumes at the image voxels, and where they are known (None: everywhere)."""
        field = flow[0]
        out = torch.empty((len(self.moving), *self.weight.shape), device=flow.device)

        def warp(rows: slice) -> None:
            part = field[:, rows] if self.ratio == 1 else sampling.doubled_rows(field, rows).mul_(2.0)
            out[:, rows] = sampling.warp_rows(self.moving, part, rows.start, self.margin)

        each(warp, rows_of(self.weight.shape, flow.device, self.ratio))
        return out[: self.channels], None if len(out) == self.channels else (out[-1] > 0.999).float()

    def similarity(self, flow: torch.Tensor) -> torch.Tensor:
        """The mean where it counts."""
        return self.evaluate(*self.warped(flow), with_slope=False)[0]

    def force(self, flow: torch.Tensor) -> tuple[torch.Tensor, Update]:
        """Similarity, and its gradient by the flow on the field grid, up to a factor: that of the term over the sum
        of the weights, and in front of a finer image the voxels of a block and its scale.
        """
        warped, known = self.warped(flow)
        value, slope = self.evaluate(warped, known)
        assert slope is not None

        def force(rows: slice) -> torch.Tensor:
            inside = self.rows(rows)
            total: list[torch.Tensor] = []
            for values, part in zip(warped, slope(inside), strict=True):
                forces = [along.mul_(part) for along in gradient_rows(values, inside)]
                total = [a.add_(b) for a, b in zip(total, forces, strict=True)] if total else forces
            return torch.stack([pooled(one[None], self.ratio)[0] for one in total])

        return value, force

    def rows(self, rows: slice) -> slice:
        """Of the images, for rows of the field."""
        return slice(rows.start * self.ratio, rows.stop * self.ratio)

    @property
    def slabs(self) -> list[slice]:
        """Of the field, as large as slabs of the images may be."""
        return [
            slice(rows.start // self.ratio, rows.stop // self.ratio)
            for rows in rows_of(self.weight.shape, self.weight.device, self.ratio)
        ]


class GradientStep:
    """The smoothed gradient, scaled to STEP where it is longest, or longer than in a part of the voxels."""

    def __init__(self, compared: Compared, sigma: float, part: float = 1.0) -> None:
        self.compared, self.part = compared, part
        self.shape = tuple(-(-n // compared.ratio) for n in compared.weight.shape)
        device = compared.weight.device
        self.smoother = Smoother(self.shape, (sigma,) * len(self.shape), device)
        self.slabs = rows_of(self.shape, device)
        size = (len(self.shape), *self.shape)
        self.rough, self.smooth = torch.empty(size, device=device), torch.empty(size, device=device)

    def __call__(self, flow: torch.Tensor) -> tuple[torch.Tensor, Update]:
        value, force = self.compared.force(flow)

        def across(rows: slice) -> None:
            for axis, part in enumerate(force(rows)):
                self.rough[axis, rows] = self.smoother.across(part)

        def along(rows: slice) -> None:
            for source, target in zip(self.rough, self.smooth, strict=True):
                self.smoother.along(source, rows, target[rows])

        each(across, self.compared.slabs)
        each(along, self.slabs)
        longest = self._longest().clamp_min(1e-30)

        def update(rows: slice) -> torch.Tensor:
            part = self.smooth[:, rows]
            return part * (STEP / _length(part).clamp_min_(longest))

        return value, update

    def _longest(self) -> torch.Tensor:
        """The length that is cut to, or to which all are scaled."""
        if self.part < 1:
            looked_at = (slice(None), *(slice(DETAIL_STRIDE // 2, None, DETAIL_STRIDE),) * len(self.shape))
            length = _length(self.smooth[looked_at]).flatten()
            # What does not move at all does not count.
            still = (length <= 0).sum()
            place = still + (self.part * (len(length) - still)).long() - 1
            return length.sort().values[place.clamp(0, len(length) - 1)]
        return torch.stack(each(lambda rows: _length(self.smooth[:, rows]).max(), self.slabs)).max()


def _products(slopes: list[torch.Tensor], a: int, b: int) -> torch.Tensor:
    return sum((slope[a] * slope[b] for slope in slopes), torch.zeros(()))


class WindowStep:
    """Gauss-Newton: the least squares displacement in a window around each voxel, at most WINDOW_STEP long.

    factor: of the smoothing.
    """

    def __init__(self, compared: Compared, factor: float) -> None:
        self.compared = compared
        whole = slice(0, compared.weight.shape[0])
        self.slopes = [
            pooled(torch.stack(gradient_rows(volume, whole)), compared.ratio) for volume in compared.term.fixed
        ]
        dims, *self.shape = self.slopes[0].shape
        self.sigmas = ((WINDOW_SIGMA * factor,) * dims, (WINDOW_UPDATE_SIGMA * factor,) * dims)
        weight = pooled(compared.weight[None], compared.ratio)[0]
        device = weight.device
        self.smoothers = [Smoother(tuple(self.shape), sigmas, device) for sigmas in self.sigmas]
        self.slabs = rows_of(tuple(self.shape), device)
        normal = torch.stack([_products(self.slopes, a, b).mul_(weight) for a in range(dims) for b in range(dims)])
        normal = self.smoothers[0](normal).reshape(dims, dims, *weight.shape)
        mean = sum((normal[a, a] * weight).sum() for a in range(dims)) / weight.sum().clamp_min(1.0) / dims
        for a in range(dims):
            normal[a, a] += DAMPING * mean + 1e-12
        self.inverse = torch.linalg.inv(normal.movedim((0, 1), (-2, -1))).movedim((-2, -1), (0, 1)).contiguous()
        self.buffers = [torch.empty((dims, *self.shape), device=device) for _ in range(2)]

    def __call__(self, flow: torch.Tensor) -> tuple[torch.Tensor, Update]:
        warped, known = self.compared.warped(flow)
        value, slope = self.compared.evaluate(warped, known)
        assert slope is not None
        rough, smooth = self.buffers
        window, last = self.smoothers

        def force_across(rows: slice) -> None:
            parts = pooled(slope(self.compared.rows(rows)), self.compared.ratio)
            for axis in range(len(rough)):
                force = self.slopes[0][axis, rows] * parts[0]
                for own, part in zip(self.slopes[1:], parts[1:], strict=True):
                    force.addcmul_(own[axis, rows], part)
                rough[axis, rows] = window.across(force)

        def solved_across(rows: slice) -> None:
            force = torch.stack([window.along(one, rows, torch.empty_like(one[rows])) for one in rough])
            update = (self.inverse[:, :, rows] * force).sum(1)
            update.mul_(WINDOW_STEP / _length(update).clamp_min_(WINDOW_STEP))
            for axis, part in enumerate(update):
                smooth[axis, rows] = last.across(part)

        def update(rows: slice) -> torch.Tensor:
            return torch.stack([last.along(one, rows, torch.empty_like(one[rows])) for one in smooth])

        each(force_across, self.compared.slabs)
        each(solved_across, self.slabs)
        return value, update


def _length(update: torch.Tensor) -> torch.Tensor:
    """(k, *S') of (d, k, *S')."""
    total = update[0] * update[0]
    for part in update[1:]:
        total.addcmul_(part, part)
    return total.sqrt_()


class LandmarkStep:
    """Landmarks pull the field around them towards where they belong, at most STEP a time.

    fixed, goal: (N, d) in voxels of the field grid, ordered i, j(, k). unit: voxels in LANDMARK_UNIT.
    """

    def __init__(self, fixed: torch.Tensor, goal: torch.Tensor, shape: torch.Size, sigma: float, unit: float) -> None:
        self.fixed, self.goal, self.shape, self.unit = fixed, goal, shape, unit
        self.sigmas = (sigma,) * len(shape)
        size = torch.tensor(shape[::-1], device=fixed.device)
        index = fixed.round().long().clamp_min(0).minimum(size - 1)
        stride = torch.tensor([1, *np.cumprod(list(shape[:0:-1])).tolist()], device=fixed.device)
        self.index = (index * stride).sum(1)
        self.peak = (2 * np.pi) ** (len(shape) / 2) * sigma ** len(shape)

    def residuals(self, flow: torch.Tensor) -> torch.Tensor:
        """(N, d) in voxels, channel c along tensor axis c: from where the field carries them to where they belong."""
        positions = self.fixed[None].reshape(1, *[1] * (len(self.shape) - 1), *self.fixed.shape)
        moved = sampling.sample(flow, positions)[0].reshape(len(self.shape), -1).T
        return (self.goal - self.fixed).flip(1) - moved

    def similarity(self, flow: torch.Tensor) -> torch.Tensor:
        """Minus the mean squared distance, in squares of LANDMARK_UNIT."""
        return -self.residuals(flow).square().sum(1).mean() / self.unit**2

    def __call__(self, flow: torch.Tensor) -> tuple[torch.Tensor, Update]:
        residuals = self.residuals(flow)
        length = residuals.square().sum(1, keepdim=True).sqrt()
        pull = torch.cat([residuals * (STEP / length.clamp_min(STEP)), torch.ones_like(length)], 1)
        spots = torch.zeros((pull.shape[1], int(np.prod(self.shape))), device=flow.device)
        spots.index_add_(1, self.index, pull.T.contiguous())
        spots = sampling.gaussian_smooth(spots.reshape(1, -1, *self.shape), self.sigmas).mul_(self.peak)
        # Alone, a landmark pulls by its own distance; near others, by the mean of theirs.
        value = -length.square().mean() / self.unit**2
        update = (spots[:, :-1] / spots[:, -1:].clamp_min(1.0))[0]
        return value, lambda rows: update[:, rows]
