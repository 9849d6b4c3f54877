"""One step of the optimisation, by what is compared."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..images import sampling
from ..images.boxes import gradient, pooled
from .terms import Term

WINDOW_SIGMA, WINDOW_UPDATE_SIGMA = 3.3, 2.2
# Largest displacement of one step, in voxels of the field: small against 1, so that no step folds. In detail, what is
# longer than this part of the voxels' steps is cut to it instead of holding up the rest; every fifth is looked at.
STEP, WINDOW_STEP, DETAIL_PART, DETAIL_STRIDE = 0.4, 0.5, 0.999, 5
# Part of the mean curvature added to that of a window: where there is little to see, little moves.
DAMPING = 0.1
# How far a landmark pulls, in voxels of the field; distances count in units of this part of the mean extent of what is
# registered, a centimetre of a brain.
LANDMARK_SIGMA, LANDMARK_UNIT = 3.0, 0.06


class Compared:
    """Volumes of both images on a level's image grid (the field's, or twice as fine): the term and its force.

    guide: another term, whose slope joins the force with its weight; the similarity is the term's alone.
    """

    def __init__(
        self,
        term: Term,
        guide: tuple[Term, float] | None,
        moving: torch.Tensor,
        valid: torch.Tensor | None,
        weight: torch.Tensor,
        margin: int,
        ratio: int,
    ) -> None:
        self.term, self.guide, self.weight, self.margin, self.ratio = term, guide, weight, margin, ratio
        self.channels = len(moving)
        # From the first to the last voxel that counts, along each axis.
        inside = torch.nonzero(weight if weight.any() else torch.ones_like(weight))
        self.box = [(int(low), int(high) + 1) for low, high in zip(inside.amin(0), inside.amax(0), strict=True)]
        self.moving = moving if valid is None else torch.cat([moving, valid[None]])

    def evaluate(self, term: Term, warped, known, with_slope: bool = True) -> tuple[float, torch.Tensor | None]:
        """The term's, without `known` where all that it looks at is."""
        if known is not None:
            box = tuple(slice(max(low - term.reach, 0), high + term.reach) for low, high in self.box)
            known = None if known[box].all() else known
        return term.evaluate(warped, self.weight, known, with_slope)

    def warped(self, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The moving volumes at the image voxels, and where they are known (None: everywhere)."""
        if self.ratio > 1:
            mode = "trilinear" if flow.dim() == 5 else "bilinear"
            flow = F.interpolate(flow * self.ratio, scale_factor=float(self.ratio), mode=mode, align_corners=False)
        warped = sampling.warp(self.moving[None], flow, self.margin)[0]
        known = None if len(warped) == self.channels else (warped[-1] > 0.999).float()
        return warped[: self.channels], known

    def similarity(self, flow: torch.Tensor) -> float:
        """The mean where it counts."""
        return self.evaluate(self.term, *self.warped(flow), with_slope=False)[0]

    def force(self, flow: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Similarity, and its gradient by the flow, (1, d, *S) on the field grid, up to a factor: that of the term
        over the sum of the weights, and in front of a finer image the voxels of a block and its scale.
        """
        warped, known = self.warped(flow)
        similarity, slope = self.evaluate(self.term, warped, known)
        if self.guide is not None:
            term, share = self.guide
            slope.add_(self.evaluate(term, warped, known)[1], alpha=share)
        force = sum(gradient(volume).mul_(part) for volume, part in zip(warped, slope, strict=True))
        return similarity, pooled(force, self.ratio)[None]


class GradientStep:
    """The smoothed gradient, scaled to STEP where it is longest, or longer than in a part of the voxels."""

    def __init__(self, compared: Compared, sigma: float, part: float = 1.0) -> None:
        self.compared, self.sigma, self.part = compared, sigma, part

    def __call__(self, flow: torch.Tensor) -> tuple[float, torch.Tensor]:
        value, force = self.compared.force(flow)
        update = sampling.gaussian_smooth(force, (self.sigma,) * force.shape[1])
        length = update.square().sum(1, keepdim=True).sqrt_()
        longest = length.max()
        if self.part < 1 and longest > 0:
            moved = length[length > 0][::DETAIL_STRIDE]
            longest = moved.kthvalue(max(1, int(self.part * len(moved)))).values
        return value, update.mul_(STEP / length.clamp_min_(longest)) if longest > 0 else update


class WindowStep:
    """Gauss-Newton: the least squares displacement in a window around each voxel, at most WINDOW_STEP long.

    factor: of the smoothing.
    """

    def __init__(self, compared: Compared, factor: float) -> None:
        self.compared = compared
        self.slopes = [pooled(gradient(volume), compared.ratio) for volume in compared.term.fixed]
        dims = len(self.slopes[0])
        self.sigmas = ((WINDOW_SIGMA * factor,) * dims, (WINDOW_UPDATE_SIGMA * factor,) * dims)
        weight = pooled(compared.weight[None], compared.ratio)[0]
        normal = torch.stack(
            [sum(s[a] * s[b] for s in self.slopes).mul_(weight) for a in range(dims) for b in range(dims)]
        )
        normal = sampling.gaussian_smooth(normal[None], self.sigmas[0])[0].reshape(dims, dims, *weight.shape)
        mean = sum((normal[a, a] * weight).sum() for a in range(dims)) / weight.sum().clamp_min(1.0) / dims
        for a in range(dims):
            normal[a, a] += DAMPING * mean + 1e-12
        self.inverse = torch.linalg.inv(normal.movedim((0, 1), (-2, -1))).movedim((-2, -1), (0, 1)).contiguous()

    def __call__(self, flow: torch.Tensor) -> tuple[float, torch.Tensor]:
        value, slope = self.compared.evaluate(self.compared.term, *self.compared.warped(flow))
        slope = pooled(slope, self.compared.ratio)
        force = sum(own * part for own, part in zip(self.slopes, slope, strict=True))
        force = sampling.gaussian_smooth(force[None], self.sigmas[0])[0]
        update = (self.inverse * force).sum(1)[None]
        length = update.square().sum(1, keepdim=True).sqrt_()
        update.mul_(WINDOW_STEP / length.clamp_min_(WINDOW_STEP))
        return value, sampling.gaussian_smooth(update, self.sigmas[1])


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

    def similarity(self, flow: torch.Tensor) -> float:
        """Minus the mean squared distance, in squares of LANDMARK_UNIT."""
        return -float(self.residuals(flow).square().sum(1).mean()) / self.unit**2

    def __call__(self, flow: torch.Tensor) -> tuple[float, torch.Tensor]:
        residuals = self.residuals(flow)
        length = residuals.square().sum(1, keepdim=True).sqrt()
        pull = torch.cat([residuals * (STEP / length.clamp_min(STEP)), torch.ones_like(length)], 1)
        spots = torch.zeros((pull.shape[1], int(np.prod(self.shape))), device=flow.device)
        spots.index_add_(1, self.index, pull.T.contiguous())
        spots = sampling.gaussian_smooth(spots.reshape(1, -1, *self.shape), self.sigmas).mul_(self.peak)
        # Alone, a landmark pulls by its own distance; near others, by the mean of theirs.
        value = -float(length.square().mean()) / self.unit**2
        return value, spots[:, :-1] / spots[:, -1:].clamp_min(1.0)
