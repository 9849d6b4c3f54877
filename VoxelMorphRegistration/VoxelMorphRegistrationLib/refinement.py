"""Instance optimisation: improve a displacement field, or find one from nothing, for the pair at hand.

A greedy diffeomorphic descent, coarse to fine: the gradient of the local cross-correlation is smoothed, scaled to a
step of a fraction of a voxel and composed with the field so far, and the field is smoothed a little, which keeps it
invertible (Avants et al., Medical Image Analysis 2008; Yushkevich et al., "Fast automatic segmentation of hippocampal
subfields ... with greedy diffeomorphic registration", 2016). The squared local correlation also fits images of
different contrast, as long as tissues that differ in one image differ in the other.

At the finest level the field lives on a grid of twice the image's spacing: its smoothness leaves nothing for a finer
one to hold, and each step costs an eighth there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from . import sampling
from .field import DisplacementField
from .geometry import Grid, Image, bounding_box, resample, working_grid


@dataclass(frozen=True)
class Level:
    """One level: image spacing and field spacing in units of the finest image spacing, and the most steps made."""

    spacing: int
    field_ratio: int
    steps: int


PRESETS = {
    "fast": (Level(4, 1, 60), Level(2, 1, 30)),
    "default": (Level(4, 1, 60), Level(2, 1, 40), Level(1, 2, 15)),
    "accurate": (Level(4, 1, 100), Level(2, 1, 60), Level(1, 2, 50)),
}
# Radius of the correlation window, and smoothing of update and field, in voxels of the level.
WINDOW_RADIUS = 2
UPDATE_SIGMA, FIELD_SIGMA = 1.7, 0.5
# Largest displacement of one step, in voxels of the field: small against 1, so that no step folds.
STEP = 0.4
# Of images in [0, 1]: windows with less contrast than about 1 % count as flat.
FLAT = 1e-8
# A level ends when this many steps gained less than this part of the similarity.
PATIENCE, SMALLEST_GAIN = 5, 0.0005
# How far beyond the fixed region the moving image is read.
MARGIN_MM = 16.0
# A level needs this many voxels along every axis; larger finest grids are thinned to this many voxels.
SMALLEST_SIZE, LARGEST_GRID = 16, 16_000_000
_BLOCK_ROWS = 12


@dataclass(frozen=True)
class Refined:
    """field: on a grid that covers the fixed image. similarity: mean squared local correlation, start and end, at the
    second finest level. steps: made at each level. improved: False when the start was returned as the better one.
    """

    field: DisplacementField
    similarity_before: float
    similarity_after: float
    steps: tuple[int, ...]
    improved: bool


def refine(
    fixed: Image,
    moving: Image,
    matrix: np.ndarray,
    start: DisplacementField | None,
    preset: str,
    *,
    windows: tuple[tuple[float, float], tuple[float, float]],
    mask: np.ndarray,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> Refined:
    """Find u such that moving(A (x + u(x))) looks like fixed(x).

    matrix: A (4, 4), fixed to moving RAS mm. start: the field to improve (zero when None). preset: key of PRESETS.
    windows: for each image the offset and scale that bring its values to [0, 1]. mask: (K, J, I) of the fixed grid,
    where the images are compared. progress(fraction) is called at every step and may raise to cancel.
    """
    region = _region(fixed.grid, mask)
    levels = _usable_levels(PRESETS[preset], region)
    weights = np.array([level.steps / level.spacing**3 for level in levels])
    ends = np.cumsum(weights) / weights.sum()
    field, made, scores = start, [], None
    for number, level in enumerate(levels):
        problem = _Problem(fixed, moving, matrix, region, level, windows, mask, device)
        if number == max(len(levels) - 2, 0):
            scores = problem
        flow = problem.flow_of(field)
        first, last = (0.0 if number == 0 else ends[number - 1]), ends[number]
        count = 0
        for made_steps in _descend(problem, flow, level.steps):
            count = made_steps
            progress(float(first + (last - first) * count / level.steps))
        made.append(count)
        field = problem.field_of(_unfolded(problem, flow))
    whole = working_grid(fixed.grid, float(np.min(field.grid.spacing[field.grid.size > 1])))
    before, after = (scores.similarity(scores.flow_of(f)) for f in (start, field))
    if after < before:
        kept = start if start is not None else DisplacementField.identity(whole)
        return Refined(kept, before, before, tuple(made), False)
    return Refined(field.on_grid(whole), before, after, tuple(made), True)


def _region(grid: Grid, mask: np.ndarray) -> Grid:
    """The fixed voxels around the mask, with a margin of a few voxels, isotropic to the mean voxel size."""
    box = bounding_box(mask)
    start = np.array([max(s.start - 4, 0) if n > 1 else 0 for s, n in zip(box, grid.shape, strict=True)])
    stop = np.array([min(s.stop + 4, n) for s, n in zip(box, grid.shape, strict=True)])
    cropped = grid.cropped(start[::-1], (stop - start)[::-1])
    used = cropped.size > 1
    extent = np.prod((cropped.size * cropped.spacing)[used])
    axes = int(used.sum())
    spacing = max(float(np.prod(cropped.spacing[used])) ** (1 / axes), (extent / LARGEST_GRID) ** (1 / axes))
    return working_grid(cropped, spacing)


def memory_bytes(grid: Grid, mask: np.ndarray) -> int:
    """Estimated peak of a refinement: about 30 float32 volumes of the finest grid."""
    return 4 * 30 * _region(grid, mask).voxel_count


def _usable_levels(levels: tuple[Level, ...], region: Grid) -> list[Level]:
    """The levels on which the region still has enough voxels; always the finest."""
    smallest = min(n for n in region.shape if n > 1)
    return [level for level in levels if smallest >= SMALLEST_SIZE * level.spacing] or [levels[-1]]


class _Problem:
    """Both images at one level, as tensors on the device."""

    def __init__(self, fixed, moving, matrix, region: Grid, level: Level, windows, mask, device: str) -> None:
        self.ratio, self.device, self.flat = level.field_ratio, device, region.flat_axis
        base = float(np.min(region.spacing[region.size > 1]))
        self.grid = working_grid(region, base * level.spacing * level.field_ratio)
        image_grid = self.grid if self.ratio == 1 else _split(self.grid)
        self.margin = max(1, int(np.ceil(MARGIN_MM / (base * level.spacing))))
        margins = np.where(image_grid.size > 1, self.margin, 0)
        wide = image_grid.cropped(-margins, image_grid.size + 2 * margins)
        (low_f, scale_f), (low_m, scale_m) = windows
        self.fixed = self._tensor((resample(fixed, image_grid, None, low_f, smooth=True).array - low_f) * scale_f)
        seen = resample(moving, wide, matrix, np.nan, smooth=True).array
        valid = np.isfinite(seen)
        seen = np.where(valid, (seen - low_m) * scale_m, 0.0).astype(np.float32)
        self.moving = self._tensor(np.clip(seen, 0, 1))[None]
        if not valid.all():
            self.moving = torch.cat([self.moving, self._tensor(valid.astype(np.float32))[None]])
        self.fixed = self.fixed.clamp_(0, 1)
        inside = resample(Image(mask.astype(np.uint8), fixed.grid), image_grid).array >= 0.5
        self.weight = (box_sum(self._tensor(inside.astype(np.float32))[None], WINDOW_RADIUS)[0] > 0).float()
        self.inverse_count = 1.0 / box_sum(torch.ones_like(self.fixed)[None], WINDOW_RADIUS)[0]
        mean, square = self._means(torch.stack([self.fixed, self.fixed * self.fixed]))
        self.mean, self.variance = mean, (square - mean * mean).clamp_min_(0)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        """(K, J, I) to a tensor of the image's own dimension."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        return torch.from_numpy(array if self.flat is None else array.squeeze(self.flat)).to(self.device)

    def _means(self, volumes: torch.Tensor) -> torch.Tensor:
        return box_sum(volumes, WINDOW_RADIUS).mul_(self.inverse_count)

    def flow_of(self, field: DisplacementField | None) -> torch.Tensor:
        """A field as (1, d, *S) in voxels of this level's field grid."""
        if field is None:
            field = DisplacementField.identity(self.grid)
        flow = field.on_grid(self.grid).to_voxels(in_plane=True)
        return torch.from_numpy(flow).to(self.device)[None]

    def field_of(self, flow: torch.Tensor) -> DisplacementField:
        return DisplacementField.from_voxels(flow[0].cpu().numpy(), self.grid)

    def _warped(self, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The moving image at the level's image voxels, and where it counts."""
        if self.ratio > 1:
            mode = "trilinear" if self.fixed.dim() == 3 else "bilinear"
            flow = F.interpolate(flow * self.ratio, scale_factor=float(self.ratio), mode=mode, align_corners=False)
        positions = sampling.voxel_positions(flow).add_(self.margin)
        warped = sampling.sample(self.moving[None], positions)[0]
        weight = self.weight if len(warped) == 1 else self.weight * (warped[1] > 0.999)
        return warped[0], weight

    def similarity(self, flow: torch.Tensor) -> float:
        """Mean squared local correlation where it counts."""
        return self._force(flow, False)[0]

    def force(self, flow: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Similarity, and its gradient by the flow, (1, d, *S) on the field grid, up to a factor: that of a mean over
        image voxels, 2 / (their number), and in front of a finer image the voxels of a block and its scale.
        """
        return self._force(flow, True)

    def _force(self, flow: torch.Tensor, with_gradient: bool) -> tuple[float, torch.Tensor | None]:
        """The squared correlation c^2 / (v_f v_m) in windows (Avants et al. 2008, eq. 4), and its exact derivative.

        Each voxel belongs to the windows around it, so the derivative by its value is a sum over their coefficients,
        2 a (f - mean_f) - 2 b (m - mean_m) with a = c / (v_f v_m) and b = a^2 v_f.
        """
        warped, weight = self._warped(flow)
        mean, square, product = self._means(torch.stack([warped, warped * warped, self.fixed * warped]))
        variance = square.addcmul_(mean, mean, value=-1).clamp_min_(0)
        covariance = product.addcmul_(self.mean, mean, value=-1)
        a = covariance / (self.variance * variance).add_(FLAT)
        similarity = float((covariance * a).mul_(weight).sum() / weight.sum().clamp_min(1.0))
        if not with_gradient:
            return similarity, None
        a.mul_(weight)
        b = (a * a).mul_(self.variance)
        sums = box_sum(torch.stack([a, a * self.mean, b, b * mean]).mul_(self.inverse_count), WINDOW_RADIUS)
        slope = sums[0].mul_(self.fixed).sub_(sums[1]).addcmul_(warped, sums[2], value=-1).add_(sums[3])
        force = _gradient(warped).mul_(slope)[None]
        if self.ratio > 1:
            pool = F.avg_pool3d if self.fixed.dim() == 3 else F.avg_pool2d
            force = pool(force, self.ratio)
        return similarity, force


def _split(grid: Grid) -> Grid:
    """Twice as fine: the voxels 2p and 2p + 1 of the new grid fill the voxel p of `grid`."""
    halves = np.where(grid.size > 1, 0.5, 1.0)
    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 3] = grid.to_ras(np.where(grid.size > 1, -0.25, 0.0))
    matrix[:3, :3] *= halves
    return Grid(tuple(int(n * (2 if n > 1 else 1)) for n in grid.shape), matrix)


def _descend(problem: _Problem, flow: torch.Tensor, steps: int) -> Iterator[int]:
    """Improve `flow` in place; yields the number of each step made."""
    values: list[float] = []
    sigmas = [(sigma,) * problem.fixed.dim() for sigma in (UPDATE_SIGMA, FIELD_SIGMA)]
    for number in range(1, steps + 1):
        value, force = problem.force(flow)
        update = sampling.gaussian_smooth(force, sigmas[0])
        longest = float(update.square().sum(1).max().sqrt())
        if longest == 0:
            return
        flow.copy_(sampling.gaussian_smooth(sampling.compose(flow, update.mul_(STEP / longest)), sigmas[1]))
        yield number
        values.append(value)
        if len(values) > PATIENCE and value - values[-1 - PATIENCE] < SMALLEST_GAIN * abs(value):
            return


def _unfolded(problem: _Problem, flow: torch.Tensor) -> torch.Tensor:
    """`flow` with its folds, if any, smoothed away where they are."""
    for _ in range(20):
        folded = problem.field_of(flow).folded_corners()
        if not folded.any():
            break
        spot = problem._tensor(folded.astype(np.float32))[None, None]
        sigma = (2.0,) * problem.fixed.dim()
        near = (sampling.gaussian_smooth(spot, sigma) * 20).clamp_max(1.0)
        flow = torch.lerp(flow, sampling.gaussian_smooth(flow, sigma), near)
    return flow


def box_sum(volumes: torch.Tensor, radius: int) -> torch.Tensor:
    """Sums over boxes of 2 radius + 1 voxels of (C, *S), cut at the border; by blocks that fit a processor's cache."""
    out = torch.empty_like(volumes)
    rows = volumes.shape[1]
    step = _BLOCK_ROWS if volumes.device.type == "cpu" and volumes.dim() == 4 else rows
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        low, high = max(start - radius, 0), min(stop + radius, rows)
        out[:, start:stop] = _shifted_sum(volumes[:, low:high], radius)[:, start - low : stop - low]
    return out


def _shifted_sum(block: torch.Tensor, radius: int) -> torch.Tensor:
    for axis in range(1, block.dim()):
        size = block.shape[axis]
        total = block.clone()
        for shift in range(1, min(radius, size - 1) + 1):
            total.narrow(axis, 0, size - shift).add_(block.narrow(axis, shift, size - shift))
            total.narrow(axis, shift, size - shift).add_(block.narrow(axis, 0, size - shift))
        block = total
    return block


def _gradient(volume: torch.Tensor) -> torch.Tensor:
    """Central differences (d, *S) of (*S), channel c along tensor axis c, one-sided at the border."""
    return torch.stack(torch.gradient(volume))
