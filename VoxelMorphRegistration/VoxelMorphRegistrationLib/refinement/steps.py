"""One step of the optimisation, by what is compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..images import sampling
from ..images.boxes import gradient, gradient_box, pooled
from ..images.slabs import SLAB_VOXELS, Box, boxes_of, each, within
from ..images.smoothing import Smoother
from .terms import Slope, Term

WINDOW_SIGMA, WINDOW_UPDATE_SIGMA = 3.3, 2.2
# Largest displacement of one step, in voxels of the field: small against 1, so that no step folds. In detail, what is
# longer than this part of the voxels' steps is cut to it instead of holding up the rest; every third along each axis is
# looked at. At the finest level, where each step costs most, a smaller part: of brains 1012 <- 1013, 6 steps then give
# the Dice of 12 (.8212, .8213), and 12 give no more.
STEP, WINDOW_STEP, DETAIL_PART, FINEST_PART, DETAIL_STRIDE = 0.4, 0.5, 0.999, 0.99, 3
# Part of the mean curvature added to that of a window: where there is little to see, little moves.
DAMPING = 0.1
# How far a landmark pulls, in voxels of the field; distances count in units of this part of the mean extent of what is
# registered, a centimetre of a brain.
LANDMARK_SIGMA, LANDMARK_UNIT = 3.0, 0.06


# A box of an update, (d, *P) of (d, *S) in voxels of the field.
Update = Callable[[Box], torch.Tensor]


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
        self.shape = tuple(-(-n // ratio) for n in weight.shape)
        self.boxes = self._boxes(None)
        self._warped = torch.empty((len(self.moving), *weight.shape), device=weight.device)
        self._begun = False

    def _boxes(self, margin: int | None) -> list[Box]:
        """Of the field, near the voxels that count, or all over it (None)."""
        mask = None if margin is None else pooled(self.weight[None], self.ratio)[0] > 0
        voxels = SLAB_VOXELS // self.ratio ** len(self.shape)
        return boxes_of(self.shape, self.weight.device, mask, margin or 0, voxels)

    def stay_near(self, margin: int) -> None:
        """Look at nothing further away from the voxels that count than so many of the field."""
        self.boxes = self._boxes(margin)

    def evaluate(self, warped, known, with_slope: bool = True) -> tuple[torch.Tensor, Slope | None]:
        """The term's, without `known` where all that it looks at is."""
        if known is not None:
            reach = self.term.reach
            box = tuple(slice(max(low - reach, 0), high + reach) for low, high in self.box)
            # A GPU would have to be waited for.
            known = None if known.device.type == "cpu" and known[box].all() else known
        return self.term.evaluate(warped, self.weight, known, with_slope)

    def warped(self, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The moving volumes at the image voxels, and where they are known (None: everywhere)."""
        field, out = flow[0], self._warped

        def warp(box: Box) -> None:
            part = within(field, box) if self.ratio == 1 else sampling.doubled_box(field, box).mul_(2.0)
            inside = self.of_images(box)
            first = tuple(side.start + self.margin for side in inside)
            within(out, inside).copy_(sampling.warp_box(self.moving, part, first))

        # Outside the boxes it stays what the first flow made it: nothing moves there.
        each(warp, self.boxes if self._begun else self._boxes(None))
        self._begun = True
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

        def force(box: Box) -> torch.Tensor:
            inside = self.of_images(box)
            total: list[torch.Tensor] = []
            for values, part in zip(warped, slope(inside), strict=True):
                forces = [along.mul_(part) for along in gradient_box(values, inside)]
                total = [a.add_(b) for a, b in zip(total, forces, strict=True)] if total else forces
            return torch.stack([pooled(one[None], self.ratio)[0] for one in total])

        return value, force

    def of_images(self, box: Box) -> Box:
        """Of the images, for a box of the field."""
        return tuple(slice(side.start * self.ratio, side.stop * self.ratio) for side in box)


class GradientStep:
    """The smoothed gradient, scaled to STEP where it is longest, or longer than in a part of the voxels."""

    def __init__(self, compared: Compared, sigma: float, part: float = 1.0) -> None:
        self.compared, self.part = compared, part
        shape, device = compared.shape, compared.weight.device
        self.smoother = Smoother(shape, (sigma,) * len(shape), device)
        self.rough, self.smooth = torch.zeros((2, len(shape), *shape), device=device)

    @property
    def reach(self) -> int:
        """How far from the voxels that count it moves any, but for what wide windows bring there."""
        return -(-self.compared.term.reach_alone // self.compared.ratio) + self.smoother.radius + 1

    def __call__(self, flow: torch.Tensor) -> tuple[torch.Tensor, Update]:
        value, force = self.compared.force(flow)

        def across(box: Box) -> None:
            for source, target in zip(force(box), self.rough, strict=True):
                target[box] = self.smoother.across(source, box)

        def along(box: Box) -> None:
            for source, target in zip(self.rough, self.smooth, strict=True):
                target[box] = self.smoother.along(source, box)

        each(across, self.compared.boxes)
        each(along, self.compared.boxes)
        longest = self._longest().clamp_min(1e-30)

        def update(box: Box) -> torch.Tensor:
            part = within(self.smooth, box)
            return part * (STEP / _length(part).clamp_min_(longest))

        return value, update

    def _longest(self) -> torch.Tensor:
        """The length that is cut to, or to which all are scaled."""
        if self.part < 1:
            looked_at = (slice(DETAIL_STRIDE // 2, None, DETAIL_STRIDE),) * len(self.compared.shape)
            length = _length(within(self.smooth, looked_at)).flatten()
            # What does not move at all does not count.
            still = (length <= 0).sum()
            place = still + (self.part * (len(length) - still)).long() - 1
            return length.sort().values.take(place.clamp(0, len(length) - 1))
        return torch.stack(each(lambda box: _length(within(self.smooth, box)).max(), self.compared.boxes)).max()


def _products(slopes: list[torch.Tensor], a: int, b: int) -> torch.Tensor:
    return sum((slope[a] * slope[b] for slope in slopes), torch.zeros(()))


class WindowStep:
    """Gauss-Newton: the least squares displacement in a window around each voxel, at most WINDOW_STEP long.

    factor: of the smoothing.
    """

    def __init__(self, compared: Compared, factor: float) -> None:
        self.compared = compared
        self.slopes = [pooled(gradient(volume), compared.ratio) for volume in compared.term.fixed]
        dims, shape = len(compared.shape), compared.shape
        self.sigmas = ((WINDOW_SIGMA * factor,) * dims, (WINDOW_UPDATE_SIGMA * factor,) * dims)
        weight = pooled(compared.weight[None], compared.ratio)[0]
        device = weight.device
        self.smoothers = [Smoother(shape, sigmas, device) for sigmas in self.sigmas]
        normal = torch.stack([_products(self.slopes, a, b).mul_(weight) for a in range(dims) for b in range(dims)])
        normal = self.smoothers[0](normal).reshape(dims, dims, *weight.shape)
        mean = sum((normal[a, a] * weight).sum() for a in range(dims)) / weight.sum().clamp_min(1.0) / dims
        for a in range(dims):
            normal[a, a] += DAMPING * mean + 1e-12
        self.inverse = torch.linalg.inv(normal.movedim((0, 1), (-2, -1))).movedim((-2, -1), (0, 1)).contiguous()
        self.buffers = torch.zeros((2, dims, *shape), device=device)

    def __call__(self, flow: torch.Tensor) -> tuple[torch.Tensor, Update]:
        warped, known = self.compared.warped(flow)
        value, slope = self.compared.evaluate(warped, known)
        assert slope is not None
        rough, smooth = self.buffers
        window, last = self.smoothers

        def force_across(box: Box) -> None:
            parts = pooled(slope(self.compared.of_images(box)), self.compared.ratio)
            for axis in range(len(rough)):
                force = self.slopes[0][axis][box] * parts[0]
                for own, part in zip(self.slopes[1:], parts[1:], strict=True):
                    force.addcmul_(own[axis][box], part)
                rough[axis][box] = window.across(force, box)

        def solved_across(box: Box) -> None:
            force = torch.stack([window.along(one, box) for one in rough])
            place = (slice(None), slice(None), *box)
            update = (self.inverse[place] * force).sum(1)
            update.mul_(WINDOW_STEP / _length(update).clamp_min_(WINDOW_STEP))
            for part, target in zip(update, smooth, strict=True):
                target[box] = last.across(part, box)

        def update(box: Box) -> torch.Tensor:
            return torch.stack([last.along(one, box) for one in smooth])

        each(force_across, self.compared.boxes)
        each(solved_across, self.compared.boxes)
        return value, update


def _length(update: torch.Tensor) -> torch.Tensor:
    """(*P) of (d, *P)."""
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
        return value, lambda box: within(update, box)
