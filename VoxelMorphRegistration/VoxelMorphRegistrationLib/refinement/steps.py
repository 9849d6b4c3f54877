"""One step of the optimisation, by what is compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..images import sampling
from ..images.boxes import gradient, pooled, pooled_blocks, slope_along
from ..images.scripted import scripted
from ..images.slabs import SLAB_VOXELS, Box, boxes_of, each, ends_of, narrowed, within
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
            _warp(field, self.moving, out, *ends_of(box), self.ratio, self.margin)

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
            return _pulled(warped, slope(inside), *ends_of(inside), self.ratio)

        return value, force

    def of_images(self, box: Box) -> Box:
        """Of the images, for a box of the field."""
        return tuple(slice(side.start * self.ratio, side.stop * self.ratio) for side in box)


@scripted
def _warp(
    field: torch.Tensor,
    moving: torch.Tensor,
    out: torch.Tensor,
    low: list[int],
    high: list[int],
    ratio: int,
    margin: int,
) -> None:
    """Into `out` (C, *I) what a box of the field (d, *S) brings from `moving`, which begins `margin` voxels before."""
    if ratio == 1:
        part, place = narrowed(field, low, high), out
    else:
        part, place = sampling.doubled_part(field, low, high).mul_(2.0), out
    first: list[int] = []
    for axis in range(len(low)):
        first.append(ratio * low[axis] + margin)
        place = place.narrow(1 + axis, ratio * low[axis], part.shape[1 + axis])
    place.copy_(sampling.warped_part(moving, part, first))


@scripted
def _pulled(warped: torch.Tensor, slope: torch.Tensor, low: list[int], high: list[int], ratio: int) -> torch.Tensor:
    """The gradient of warped volumes (C, *S) in a box times their slopes (C, *P), as (d, *P / ratio)."""
    forces: list[torch.Tensor] = []
    for axis in range(len(low)):
        total = slope_along(warped[0], axis, low, high).mul_(slope[0])
        for n in range(1, len(warped)):
            total.add_(slope_along(warped[n], axis, low, high).mul_(slope[n]))
        forces.append(pooled_blocks(total[None], ratio)[0])
    return torch.stack(forces)


def _length(update: torch.Tensor) -> torch.Tensor:
    """(*P) of (d, *P)."""
    total = update[0] * update[0]
    for n in range(1, len(update)):
        total.addcmul_(update[n], update[n])
    return total.sqrt_()


@scripted
def _cut(update: torch.Tensor, length: float, longest: torch.Tensor) -> torch.Tensor:
    """An update (d, *P) scaled so that `longest`, and what is longer, becomes `length` long."""
    return update * (length / torch.maximum(_length(update), longest))


class GradientStep:
    """The smoothed gradient, scaled to STEP where it is longest, or longer than in a part of the voxels.

    momentum: with this part of the smoothed gradients before (Polyak, USSR Computational Mathematics and Mathematical
    Physics 1964). What goes to and fro then stands still, and holds up less of what goes on in one direction.
    """

    def __init__(self, compared: Compared, sigma: float, part: float = 1.0, momentum: float = 0.0) -> None:
        self.compared, self.part, self.momentum = compared, part, momentum
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
            rough = within(self.rough, box)
            found = torch.empty_like(rough, memory_format=torch.contiguous_format) if self.momentum else rough
            self.smoother.across(force(box), box, found)
            if self.momentum:
                rough.mul_(self.momentum).add_(found)

        def along(box: Box) -> None:
            self.smoother.along(self.rough, box, within(self.smooth, box))

        each(across, self.compared.boxes)
        each(along, self.compared.boxes)
        longest = self._longest().clamp_min(1e-30)

        def update(box: Box) -> torch.Tensor:
            return _cut(within(self.smooth, box), STEP, longest)

        return value, update

    def _longest(self) -> torch.Tensor:
        """The length that is cut to, or to which all are scaled."""
        if self.part < 1:
            looked_at = (slice(DETAIL_STRIDE // 2, None, DETAIL_STRIDE),) * len(self.compared.shape)
            length = _length(within(self.smooth, looked_at)).flatten()
            # What does not move at all does not count.
            still = (length <= 0).sum()
            place = still + (self.part * (len(length) - still)).long() - 1
            place = place.clamp(0, len(length) - 1)
            if length.device.type == "cpu":
                return length.kthvalue(int(place) + 1).values
            # A GPU would have to be waited for.
            return length.sort().values.take(place)
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
            window.across(_window_force(parts, self.slopes, *ends_of(box)), box, within(rough, box))

        def solved_across(box: Box) -> None:
            force = torch.empty_like(within(rough, box), memory_format=torch.contiguous_format)
            window.along(rough, box, force)
            place = (slice(None), slice(None), *box)
            last.across(_solved(self.inverse[place], force, WINDOW_STEP), box, within(smooth, box))

        def update(box: Box) -> torch.Tensor:
            out = torch.empty_like(within(smooth, box), memory_format=torch.contiguous_format)
            last.along(smooth, box, out)
            return out

        each(force_across, self.compared.boxes)
        each(solved_across, self.compared.boxes)
        return value, update


@scripted
def _window_force(parts: torch.Tensor, slopes: list[torch.Tensor], low: list[int], high: list[int]) -> torch.Tensor:
    """What is missing in a box (C, *P) times the slopes of the fixed volumes, each (d, *S): (d, *P)."""
    force = torch.empty(0)
    for n in range(len(slopes)):
        own = narrowed(slopes[n], low, high)
        if n == 0:
            force = own * parts[0]
        else:
            force.addcmul_(own, parts[n][None])
    return force


@scripted
def _solved(inverse: torch.Tensor, force: torch.Tensor, longest: float) -> torch.Tensor:
    """(d, *P): the least squares displacements, at most so long. inverse (d, d, *P), force (d, *P)."""
    update = (inverse * force).sum(1)
    return update.mul_(longest / _length(update).clamp_min_(longest))


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
