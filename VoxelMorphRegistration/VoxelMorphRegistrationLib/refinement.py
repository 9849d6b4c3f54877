"""Instance optimisation: improve a displacement field, or find one from nothing, for the pair at hand.

A greedy diffeomorphic descent, coarse to fine: an update of a fraction of a voxel is composed with the field so far,
and the field is smoothed a little, which keeps it invertible (Avants et al., Medical Image Analysis 2008; Yushkevich
et al., "Fast automatic segmentation of hippocampal subfields ... with greedy diffeomorphic registration", 2016).

The update of correlation and mutual information is their smoothed gradient, scaled to a step. Sums of squares
(descriptors, equal intensities, labels) take Gauss-Newton steps: in a Gaussian window around each voxel, the least
squares displacement by the slopes of the fixed volumes, which do not change, so that the normal equations are solved
once a level (Baker and Matthews, IJCV 2004). These steps shrink by themselves and need about a third as many. With
descriptors (see forces.mind_ssc) they also find large displacements first, before the correlation.

How smooth the displacement is depends on what lies between the images: one person's breath is smooth, and finer
detail is only noise; different people differ down to the last gyrus. So correlation and descriptors work with much
smoothing first, and then try less of it. Where that explains a good part of what was left, it is kept, and the
correlation goes on with less; windows of several centimetres then lead it along with the small ones.

At the finest level the field lives on a grid of twice the image's spacing: a smooth one has nothing to hold on a finer
one, and each step costs an eighth there. Where detail is real, a last level has a field as fine as the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from . import forces, sampling
from .errors import InputError
from .field import DisplacementField, warp_image
from .geometry import Grid, Image, bounding_box, resample, working_grid


@dataclass(frozen=True)
class Level:
    """One level: image spacing and field spacing in units of the finest image spacing, and the most steps made.

    steps: 0 where only detail is worth it. detail_steps: the most with little smoothing; before the correlation, the
    coarsest level has the descriptors only.
    """

    spacing: int
    field_ratio: int
    steps: int
    detail_steps: int = 0


PRESETS = {
    "fast": (Level(4, 1, 60), Level(2, 1, 30, 20)),
    "default": (Level(4, 1, 60), Level(2, 1, 40, 20), Level(1, 2, 30, 6), Level(1, 1, 0, 12)),
    "accurate": (Level(4, 1, 100), Level(2, 1, 60, 40), Level(1, 2, 60, 15), Level(1, 1, 0, 40)),
}
SIMILARITIES = ("lncc", "mind", "mi", "mse")
TERMS = {
    "lncc": forces.LocalCorrelation,
    "mind": forces.SquaredDifference,
    "mi": forces.MutualInformation,
    "mse": forces.SquaredDifference,
}
# How many voxels around a voxel a similarity looks at.
REACH = {"lncc": forces.WINDOW_RADIUS, "mind": forces.PATCH_RADIUS + forces.NEIGHBOUR_DISTANCE, "mi": 0, "mse": 0}
# Smoothing of the update and of the field, in voxels of the level's field. Gauss-Newton: of the window, and of the
# update. Of the correlation, that for detail.
UPDATE_SIGMA = {"lncc": 1.3, "mi": 3.0}
FIELD_SIGMA = {"lncc": 0.38, "mi": 0.5, "mind": 0.5, "mse": 0.5}
WINDOW_SIGMA, WINDOW_UPDATE_SIGMA = 3.3, 2.2
# With much smoothing: the factor of both, and the radius of the correlation's windows.
SMOOTH_FACTOR, SMOOTH_RADIUS = {"lncc": 1.57, "mind": 1.4}, 2
# Windows of the correlation at the finest spacing, where they cost most: three blocks of two voxels a side.
FINEST_WINDOWS = (1, 2)
# In detail and between different people, windows of five blocks of eight voxels lead along with this weight: small ones
# do not see which of two tissues is the brighter. Under smooth warps of one person they draw the steps to the edges and
# away from what is faint: 1.3 became 2.3 mm.
WIDE_WINDOWS, WIDE_WEIGHT = (2, 8), 2.0
# Largest displacement of one step, in voxels of the field: small against 1, so that no step folds. In detail, what is
# longer than this part of the voxels' steps is cut to it instead of holding up the rest; every fifth is looked at.
STEP, WINDOW_STEP, DETAIL_PART, DETAIL_STRIDE = 0.4, 0.5, 0.999, 5
# Part of the mean curvature added to that of a window: where there is little to see, little moves.
DAMPING = 0.1
# A level ends when this many steps gained less than this part of the similarity; Gauss-Newton steps gain faster.
PATIENCE, SMALLEST_GAIN = 5, 0.0003
WINDOW_PATIENCE, WINDOW_SMALLEST_GAIN = 3, 0.002
# Steps with descriptors that lead the correlation, below the coarsest level; they pay where the coarsest level
# explained at least this part of the difference: 0.51 to 0.81 in one person's known warps, 0.39 to 0.44 between brains
# of different people.
LEAD_STEPS, LEAD_EXPLAINED = 12, 0.475
# Detail is real where the trial explained at least this part of the difference. Correlation: 0.61 between brains of
# different people, 0.19 to 0.30 of one person's under a smooth warp; descriptors: 0.105, 0.015 to 0.018.
REAL_DETAIL = {"lncc": 0.45, "mind": 0.045}
# How far a landmark pulls, in voxels of the field; distances count in units of a centimetre.
LANDMARK_SIGMA, LANDMARK_UNIT_MM = 3.0, 10.0
# How far beyond the fixed region the moving image is read, and up to where values in [0, 1] are background.
MARGIN_MM, BACKGROUND = 16.0, 0.02
# A level needs this many voxels along every axis; larger finest grids are thinned to this many voxels.
SMALLEST_SIZE, LARGEST_GRID = 16, 16_000_000
# Of `choose_similarity`: voxels looked at, bins, the least of the variance that the other image must explain, and the
# least part of it that a rising curve must explain.
CHOICE_VOXELS, CHOICE_BINS, LEAST_RELATED, LEAST_RISING = 100_000, 24, 0.1, 0.95


@dataclass(frozen=True, eq=False)
class Pair:
    """What is compared, and where.

    matrix: A (4, 4), fixed to moving RAS mm. windows: for each image the offset and scale that bring its values to
    [0, 1]. mask: (K, J, I) of the fixed grid, where the images are compared. moving_mask: on the moving grid, where
    the moving image counts. labels: fixed and moving label map. points: fixed and moving landmarks (N, 3) in RAS mm.
    """

    fixed: Image
    moving: Image
    matrix: np.ndarray
    windows: tuple[tuple[float, float], tuple[float, float]]
    mask: np.ndarray
    moving_mask: Image | None = None
    labels: tuple[Image, Image] | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Options:
    """similarity: one of SIMILARITIES. smoothness: factor of all smoothing. label_weight, landmark_weight: of the
    labels' and landmarks' terms beside the images (0: not used).
    """

    preset: str = "default"
    similarity: str = "lncc"
    smoothness: float = 1.0
    label_weight: float = 0.0
    landmark_weight: float = 0.0


@dataclass(frozen=True)
class Refined:
    """field: on a grid that covers the fixed image. similarity: as the options name it, at start and end, at its
    second finest stage. steps: made at each stage, coarse to fine, 0 where one was left out. detailed: whether little
    smoothing was worth it for the correlation or the descriptors (None: another similarity). improved: False when the
    start was returned as the better one.
    """

    field: DisplacementField
    similarity_before: float
    similarity_after: float
    steps: tuple[int, ...]
    detailed: bool | None
    improved: bool


def refine(
    pair: Pair,
    start: DisplacementField | None,
    options: Options,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> Refined:
    """Find u such that moving(A (x + u(x))) looks like fixed(x).

    start: the field to improve (zero when None). progress(fraction) is called at every step and may raise to cancel.
    """
    region = _region(pair.fixed.grid, pair.mask)
    stages = _stages(options, region)
    own = [n for n, stage in enumerate(stages) if stage.similarity == options.similarity and stage.level.steps]
    judge = own[-2] if len(own) > 1 else own[-1]
    field, earlier, made, problem, scores, detailed, lead, done = start, start, [], None, None, None, True, 0.0
    unlike = False
    for number, stage in enumerate(stages):
        # By what is known so far of what is still to do.
        costs = [later.cost(detailed, lead) for later in stages[number:]]
        if not costs[0]:
            made.append(0)
            continue
        share = (1.0 - done) * costs[0] / sum(costs)
        problem = _Problem(pair, region, stage, detailed, options, device, unlike, problem)
        if number == judge:
            scores = problem
        flow = problem.flow_of(field)
        least = stage.least_explained
        before = problem.images.similarity(flow) if least else 0.0
        if stage.anew:
            flow = problem.flow_of(earlier)
        earlier = field
        steps, count = stage.steps(detailed), 0
        for made_steps in _descend(problem, flow, steps):
            count = made_steps
            progress(done + share * count / steps)
        made.append(count)
        done += share
        if least:
            worth = problem.images.similarity(flow) - before >= least * (problem.images.term.best - before)
            if stage.kind == "coarse":
                lead = worth
                # A network has explained a part before: that what is left is little says nothing.
                unlike = not worth and start is None
            else:
                detailed = worth
                if not worth:
                    continue
        field = problem.field_of(_unfolded(problem, flow))
    whole = working_grid(pair.fixed.grid, float(np.min(field.grid.spacing[field.grid.size > 1])))
    flows = [scores.flow_of(f) for f in (start, field)]
    before, after = (scores.images.similarity(flow) for flow in flows)
    if scores.objective(flows[1]) < scores.objective(flows[0]):
        kept = start if start is not None else DisplacementField.identity(whole)
        return Refined(kept, before, before, tuple(made), detailed, False)
    return Refined(field.on_grid(whole), before, after, tuple(made), detailed, True)


@dataclass(frozen=True)
class _Stage:
    """A level, what is compared there, and with how much smoothing.

    kind: "plain", the similarity's own; of correlation and descriptors "smooth", "trial" (for detail) or "chosen" by
    the trial; of the descriptors before the correlation "coarse", and "lead" at finer levels.
    """

    level: Level
    similarity: str
    kind: str = "plain"

    def smooth(self, detailed: bool | None) -> bool:
        """detailed: what the trial found, if there was one."""
        return self.kind == "smooth" or (self.kind == "chosen" and not detailed)

    def in_detail(self, detailed: bool | None) -> bool:
        """Whether it works with little smoothing here."""
        return self.kind == "trial" or (self.kind == "chosen" and bool(detailed))

    @property
    def anew(self) -> bool:
        """Whether it begins where the stage before began: descriptors fit noise when they go on and on."""
        return self.kind == "trial" and self.similarity == "mind"

    @property
    def least_explained(self) -> float | None:
        """The part of what was left to the best similarity that it must explain for what depends on it, if any does."""
        if self.kind == "trial":
            return REAL_DETAIL[self.similarity]
        return LEAD_EXPLAINED if self.kind == "coarse" else None

    def cost(self, detailed: bool | None, lead: bool) -> float:
        """Of all its steps, in those of the finest images; 0 where it is left out."""
        return 0.0 if self.kind == "lead" and not lead else self.steps(detailed) / self.level.spacing**3

    def steps(self, detailed: bool | None) -> int:
        return self.level.detail_steps if self.in_detail(detailed) else self.level.steps


def _stages(options: Options, region: Grid) -> list[_Stage]:
    """The stages to go through.

    Before the correlation, descriptors find the large displacements: they see further, and take fewer steps.
    """
    levels = [level for level in PRESETS[options.preset] if level.steps]
    for_detail = [level for level in PRESETS[options.preset] if not level.steps]
    # Descriptors are averaged to the field's grid, so that there is nothing finer to compare.
    steps = {level.spacing * level.field_ratio: level.steps for level in reversed(levels)}
    pooled = [Level(spacing, 1, steps[spacing]) for spacing in sorted(steps, reverse=True)]
    described = _usable_levels(pooled, region)
    if options.similarity == "mind":
        trial = replace(described[-1], detail_steps=described[-1].steps)
        return [*(_Stage(level, "mind", "smooth") for level in described), _Stage(trial, "mind", "trial")]
    usable = _usable_levels(levels, region)
    if options.similarity != "lncc":
        return [_Stage(level, options.similarity) for level in usable]
    lead: list[_Stage] = []
    if len(usable) > 1:
        coarsest, *finer = described[: len(usable) - 1]
        shorter = [replace(level, steps=min(level.steps, LEAD_STEPS)) for level in finer]
        lead = [_Stage(coarsest, "mind", "coarse"), *(_Stage(level, "mind", "lead") for level in shorter)]
        usable = usable[1:]
    first, *others = usable + for_detail
    kinds = [_Stage(first, "lncc", "smooth"), _Stage(first, "lncc", "trial")]
    return lead + kinds + [_Stage(level, "lncc", "chosen") for level in others]


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


def memory_bytes(pair: Pair) -> int:
    """Estimated peak of a refinement: 200 MB, 63 float32 volumes of the finest grid, and with labels two of the
    larger label map for each channel.

    Without labels an upper bound: 6 % above what the correlation with a field as fine as the image took at 5 million
    voxels; others take about two thirds. The labels' part is the making of their channels.
    """
    needed = 200_000_000 + 4 * 63 * _region(pair.fixed.grid, pair.mask).voxel_count
    if pair.labels is not None:
        channels = min(len(_common_labels(pair.labels)), forces.LABEL_CHANNELS)
        needed += 4 * 2 * channels * max(image.array.size for image in pair.labels)
    return needed


def _common_labels(labels: tuple[Image, Image]) -> list[int]:
    """The labels but 0 that both maps have."""
    fixed, moving = (set(np.unique(image.array)) for image in labels)
    return sorted((fixed & moving) - {0})


def _usable_levels(levels: Sequence[Level], region: Grid) -> list[Level]:
    """The levels on which the region still has enough voxels; always the finest."""
    smallest = min(n for n in region.shape if n > 1)
    return [level for level in levels if smallest >= SMALLEST_SIZE * level.spacing] or [levels[-1]]


# --- the choice of the similarity ----------------------------------------------------------------------------------


def choose_similarity(pair: Pair, start: DisplacementField | None) -> tuple[str, str]:
    """A similarity that suits the pair, and the reason in a sentence.

    Of two images of one modality, one grows with the other: of the variance of each that the other explains (the
    correlation ratio, Roche et al. 1998), a rising curve explains nearly all. Else their contrasts differ.
    """
    region = _region(pair.fixed.grid, pair.mask)
    used = region.size > 1
    base = float(np.min(region.spacing[used]))
    grid = working_grid(region, base * max(1.0, (region.voxel_count / CHOICE_VOXELS) ** (1 / int(used.sum()))))
    (low_f, scale_f), (low_m, scale_m) = pair.windows
    fixed = (resample(pair.fixed, grid, None, np.nan, smooth=True).array - low_f) * scale_f
    moving = warp_image(pair.moving, grid, start, pair.matrix, np.nan).array
    moving = (moving - low_m) * scale_m
    inside = resample(Image(pair.mask.astype(np.uint8), pair.fixed.grid), grid).array >= 0.5
    # Backgrounds and outlines are alike in all modalities.
    inside &= np.isfinite(fixed) & np.isfinite(moving)
    inside[inside] = (fixed[inside] > 0.05) & (moving[inside] > 0.05)
    inside = _eroded(inside)
    if np.count_nonzero(inside) < 10 * CHOICE_BINS:
        return "mind", "The images share too few voxels to compare their intensities."
    a, b = np.clip(fixed[inside], 0, 1), np.clip(moving[inside], 0, 1)
    related, rising = (min(values) for values in zip(_explained(a, b), _explained(b, a), strict=True))
    facts = f"one image explains {100 * related:.0f} % of the other's variance"
    if related < LEAST_RELATED:
        return "mind", f"The intensities have little in common: {facts}."
    if rising < LEAST_RISING:
        return "mind", f"The contrasts differ: {facts}, and a rising curve only {100 * rising:.0f} % of that."
    return "lncc", f"One modality: {facts}, and a rising curve {100 * rising:.0f} % of that."


def _eroded(mask: np.ndarray) -> np.ndarray:
    """A mask without its outermost voxels: they are partly background."""
    inner = mask.copy()
    for axis in range(3):
        if mask.shape[axis] > 1:
            for shift in (1, -1):
                inner &= np.roll(mask, shift, axis)
    return inner


def _explained(values: np.ndarray, given: np.ndarray) -> tuple[float, float]:
    """The part of the variance of `values` that a curve over `given` explains, and what a rising one does of it."""
    bins = np.minimum((given * CHOICE_BINS).astype(int), CHOICE_BINS - 1)
    counts = np.bincount(bins, minlength=CHOICE_BINS)
    sums = np.bincount(bins, values, CHOICE_BINS)[counts > 0]
    counts = counts[counts > 0]
    mean, variance = values.mean(), values.var()
    free = np.sum(counts * (sums / counts - mean) ** 2)
    # The closest rising curve: neighbours that fall are merged (pool adjacent violators, Ayer et al. 1955).
    blocks: list[tuple[float, int]] = []
    for total, number in zip(sums, counts, strict=True):
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / number:
            previous = blocks.pop()
            total, number = total + previous[0], number + previous[1]
        blocks.append((total, number))
    curve = sum(number * (total / number - mean) ** 2 for total, number in blocks)
    return float(free / max(variance * len(values), 1e-12)), float(curve / max(free, 1e-12))


# --- one level -----------------------------------------------------------------------------------------------------


class _Compared:
    """Volumes of both images on a level's image grid (the field's, or twice as fine): the term and its force.

    guide: another term, whose slope joins the force with its weight; the similarity is the term's alone.
    """

    def __init__(
        self,
        term: forces.Term,
        guide: tuple[forces.Term, float] | None,
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

    def evaluate(self, term: forces.Term, warped, known, with_slope: bool = True) -> tuple[float, torch.Tensor | None]:
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
        force = sum(forces.gradient(volume).mul_(part) for volume, part in zip(warped, slope, strict=True))
        return similarity, forces.pooled(force, self.ratio)[None]


class _GradientStep:
    """The smoothed gradient, scaled to STEP where it is longest, or longer than in a part of the voxels."""

    def __init__(self, compared: _Compared, sigma: float, part: float = 1.0) -> None:
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


class _WindowStep:
    """Gauss-Newton: the least squares displacement in a window around each voxel, at most WINDOW_STEP long.

    factor: of the smoothing.
    """

    def __init__(self, compared: _Compared, factor: float) -> None:
        self.compared = compared
        self.slopes = [forces.pooled(forces.gradient(volume), compared.ratio) for volume in compared.term.fixed]
        dims = len(self.slopes[0])
        self.sigmas = ((WINDOW_SIGMA * factor,) * dims, (WINDOW_UPDATE_SIGMA * factor,) * dims)
        weight = forces.pooled(compared.weight[None], compared.ratio)[0]
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
        slope = forces.pooled(slope, self.compared.ratio)
        force = sum(own * part for own, part in zip(self.slopes, slope, strict=True))
        force = sampling.gaussian_smooth(force[None], self.sigmas[0])[0]
        update = (self.inverse * force).sum(1)[None]
        length = update.square().sum(1, keepdim=True).sqrt_()
        update.mul_(WINDOW_STEP / length.clamp_min_(WINDOW_STEP))
        return value, sampling.gaussian_smooth(update, self.sigmas[1])


class _LandmarkStep:
    """Landmarks pull the field around them towards where they belong, at most STEP a time.

    fixed, goal: (N, d) in voxels of the field grid, ordered i, j(, k). unit: voxels in LANDMARK_UNIT_MM.
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
        """Minus the mean squared distance, in squares of LANDMARK_UNIT_MM."""
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


def _ends_in_background(image: Image, window: tuple[float, float]) -> bool:
    """Whether all of its outermost voxels are background: then there is nothing beyond them either."""
    low, scale = window
    faces = [image.array.take(end, axis) for axis in range(3) if image.array.shape[axis] > 1 for end in (0, -1)]
    return all(((face - low) * scale <= BACKGROUND).all() for face in faces)


def _alone(valid: torch.Tensor, reach: int) -> torch.Tensor:
    """(1, *S): 1 where nothing within `reach` voxels of one is invalid (*S)."""
    return (forces.box_sum(1 - valid[None], reach) == 0).float()


class _Problem:
    """Everything compared at one level, as tensors on the device."""

    def __init__(
        self,
        pair: Pair,
        region: Grid,
        stage: _Stage,
        detailed: bool | None,
        options: Options,
        device: str,
        unlike: bool = False,
        previous: _Problem | None = None,
    ) -> None:
        """unlike: the coarse level found too little in common for one person. previous: the stage before; where it saw
        the same volumes, they are taken from it.
        """
        self.pair, self.device, self.flat = pair, device, region.flat_axis
        level, similarity, in_detail = stage.level, stage.similarity, stage.in_detail(detailed)
        smooth = stage.smooth(detailed)
        factor = options.smoothness * (SMOOTH_FACTOR[similarity] if smooth else 1.0)
        self.base = float(np.min(region.spacing[region.size > 1]))
        self.grid = working_grid(region, self.base * level.spacing * level.field_ratio)
        self.field_sigma = FIELD_SIGMA[similarity] * factor
        self.seen = (level.spacing, level.field_ratio, similarity)
        if previous is not None and previous.seen == self.seen:
            self.volumes = previous.volumes
        else:
            self.volumes = self._volumes(level, similarity)
        self.images = _Compared(*self._terms(level, similarity, smooth, unlike or in_detail), *self.volumes[1:])
        # Each with its weight in the step and in the objective.
        self.parts: list[tuple[float, Callable, Callable]] = []
        if self.images.term.quadratic:
            step, self.patience, self.smallest_gain = (
                _WindowStep(self.images, factor),
                WINDOW_PATIENCE,
                WINDOW_SMALLEST_GAIN,
            )
        else:
            sigma = UPDATE_SIGMA[similarity] * factor
            part = DETAIL_PART if in_detail else 1.0
            step, self.patience, self.smallest_gain = _GradientStep(self.images, sigma, part), PATIENCE, SMALLEST_GAIN
        self.parts.append((1.0, step, self.images.similarity))
        if options.label_weight > 0:
            labels = self._labels(level)
            step = _WindowStep(labels, options.smoothness)
            self.parts.append((options.label_weight, step, labels.similarity))
        if options.landmark_weight > 0:
            step = self._landmarks(LANDMARK_SIGMA * options.smoothness)
            self.parts.append((options.landmark_weight, step, step.similarity))

    # --- set-up ---

    def _wide(self, grid: Grid, spacing: float) -> tuple[Grid, int]:
        """A grid with a margin for what the field brings in from outside, and the margin in voxels."""
        margin = max(1, int(np.ceil(MARGIN_MM / spacing)))
        margins = np.where(grid.size > 1, margin, 0)
        return grid.cropped(-margins, grid.size + 2 * margins), margin

    def _volumes(self, level: Level, similarity: str) -> tuple:
        """Fixed and moving volumes (C, *S), where the moving ones are known and the fixed ones count, the margin of
        the moving ones in voxels, and the voxels of the images in one of the field.
        """
        pair = self.pair
        image_grid = _split(self.grid, level.field_ratio)
        wide, margin = self._wide(image_grid, self.base * level.spacing)
        # Descriptors see the images twice as fine as the field, but no finer than they are.
        pool = 2 if similarity == "mind" and level.spacing > 1 else 1
        fixed, _ = self._volume(pair.fixed, _split(image_grid, pool), None, pair.windows[0], None)
        moving, valid = self._volume(pair.moving, _split(wide, pool), pair.matrix, pair.windows[1], pair.moving_mask)
        if similarity == "mind":
            noise = forces.descriptor_noise(fixed, moving)
            fixed, moving = (forces.mind_ssc(volume, pool, noise) for volume in (fixed, moving))
            if valid is not None:
                valid = forces.pooled(_alone(valid, REACH["mind"]), pool)[0]
        else:
            fixed, moving = fixed[None], moving[None]
            # At the edge the volume drops to zero, which is no slope of the image.
            valid = None if valid is None else _alone(valid, 1)[0]
        return fixed, moving, valid, self._weight(image_grid), margin, level.field_ratio

    def _terms(self, level: Level, similarity: str, smooth: bool, guided: bool) -> tuple:
        """The term of the images, and, if `guided`, the one that guides it with its weight, where there is one."""
        fixed = self.volumes[0]
        if similarity != "lncc":
            return TERMS[similarity](fixed), None
        if level.spacing == 1:
            term = forces.LocalCorrelation(fixed, *FINEST_WINDOWS)
        else:
            term = forces.LocalCorrelation(fixed, SMOOTH_RADIUS if smooth else forces.WINDOW_RADIUS)
        return term, (forces.LocalCorrelation(fixed, *WIDE_WINDOWS), WIDE_WEIGHT) if guided else None

    def _volume(self, image: Image, grid: Grid, matrix, window, mask: Image | None):
        """The image on a grid with values in [0, 1], and where it is known (None: everywhere)."""
        low, scale = window
        outside = low if matrix is None or _ends_in_background(image, window) else np.nan
        seen = resample(image, grid, matrix, outside, smooth=True).array
        valid = np.isfinite(seen)
        seen = np.where(valid, (seen - low) * scale, 0.0).astype(np.float32)
        if mask is not None:
            valid &= resample(mask.with_array((mask.array > 0).astype(np.uint8)), grid, matrix).array >= 0.5
        return self._tensor(np.clip(seen, 0, 1)), None if valid.all() else self._tensor(valid.astype(np.float32))

    def _weight(self, grid: Grid) -> torch.Tensor:
        """The mask, and what correlation windows in it see."""
        inside = resample(Image(self.pair.mask.astype(np.uint8), self.pair.fixed.grid), grid).array >= 0.5
        return (forces.box_sum(self._tensor(inside.astype(np.float32))[None], forces.WINDOW_RADIUS)[0] > 0).float()

    def _labels(self, level: Level) -> _Compared:
        wide, margin = self._wide(self.grid, self.base * level.spacing * level.field_ratio)
        values = _common_labels(self.pair.labels)
        if not values:
            raise InputError("The fixed and moving labels have no label in common; they cannot guide the refinement.")
        fixed, moving = self.pair.labels
        volumes = []
        for image, grid, matrix in ((fixed, self.grid, None), (moving, wide, self.pair.matrix)):
            channels = forces.label_channels(torch.from_numpy(image.array.astype(np.int64)), values).numpy()
            parts = [resample(image.with_array(channel), grid, matrix, smooth=True).array for channel in channels]
            volumes.append(torch.stack([self._tensor(part) for part in parts]))
        # The mean is over where there is a label, so that small structures in a large image count.
        here = (slice(margin, -margin),) * volumes[0][0].dim()
        support = volumes[0].square().sum(0) + volumes[1].square().sum(0)[here]
        weight = (forces.box_sum((support > 1e-3).float()[None], forces.WINDOW_RADIUS)[0] > 0).float()
        return _Compared(forces.SquaredDifference(volumes[0]), None, volumes[1], None, weight, margin, 1)

    def _landmarks(self, sigma: float) -> _LandmarkStep:
        fixed, moving = (np.asarray(points, np.float64) for points in self.pair.points)
        inverse = np.linalg.inv(self.pair.matrix)
        goal = moving @ inverse[:3, :3].T + inverse[:3, 3]
        axes = [axis for axis in range(3) if self.flat is None or axis != 2 - self.flat]
        voxels = [torch.from_numpy(self.grid.to_ijk(p)[:, axes].astype(np.float32)) for p in (fixed, goal)]
        unit = LANDMARK_UNIT_MM / float(np.min(self.grid.spacing[self.grid.size > 1]))
        shape = self.flow_of(None).shape[2:]
        return _LandmarkStep(voxels[0].to(self.device), voxels[1].to(self.device), shape, sigma, unit)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        """(K, J, I) to a tensor of the image's own dimension."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        return torch.from_numpy(array if self.flat is None else array.squeeze(self.flat)).to(self.device)

    # --- the field ---

    def flow_of(self, field: DisplacementField | None) -> torch.Tensor:
        """A field as (1, d, *S) in voxels of this level's field grid."""
        if field is None:
            field = DisplacementField.identity(self.grid)
        flow = field.on_grid(self.grid).to_voxels(in_plane=True)
        return torch.from_numpy(flow).to(self.device)[None]

    def field_of(self, flow: torch.Tensor) -> DisplacementField:
        return DisplacementField.from_voxels(flow[0].cpu().numpy(), self.grid)

    def objective(self, flow: torch.Tensor) -> float:
        """The weighted sum of all that is compared."""
        return sum(weight * similarity(flow) for weight, _, similarity in self.parts)

    def step(self, flow: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The objective, and the update that raises it, (1, d, *S)."""
        total, update = 0.0, 0.0
        for weight, step, _ in self.parts:
            value, part = step(flow)
            total, update = total + weight * value, update + weight * part
        if len(self.parts) > 1:
            length = update.square().sum(1, keepdim=True).sqrt_()
            update = update * (WINDOW_STEP / length.clamp_min_(WINDOW_STEP))
        return total, update


def _split(grid: Grid, parts: int) -> Grid:
    """`parts` times as fine: the new voxels parts * p ... parts * p + parts - 1 fill the voxel p of `grid`."""
    used = grid.size > 1
    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 3] = grid.to_ras(np.where(used, 0.5 / parts - 0.5, 0.0))
    matrix[:3, :3] *= np.where(used, 1.0 / parts, 1.0)
    return Grid(tuple(int(n * (parts if n > 1 else 1)) for n in grid.shape), matrix)


def _descend(problem: _Problem, flow: torch.Tensor, steps: int) -> Iterator[int]:
    """Improve `flow` in place; yields the number of each step made. Where they led downhill, it ends as it began."""
    values: list[float] = []
    start = flow.clone()
    sigmas = (problem.field_sigma,) * flow.shape[1]
    for number in range(1, steps + 1):
        value, update = problem.step(flow)
        values.append(value)
        if not update.any() or _converged(problem, values):
            break
        flow.copy_(sampling.gaussian_smooth(sampling.compose(flow, update), sigmas))
        yield number
    if values[-1] < values[0]:
        flow.copy_(start)


def _converged(problem: _Problem, values: list[float]) -> bool:
    """Whether the last steps gained too little to go on."""
    if len(values) <= problem.patience:
        return False
    return values[-1] - values[-1 - problem.patience] < problem.smallest_gain * abs(values[-1])


def _unfolded(problem: _Problem, flow: torch.Tensor) -> torch.Tensor:
    """`flow` with its folds, if any, smoothed away where they are."""
    for _ in range(20):
        folded = problem.field_of(flow).folded_corners()
        if not folded.any():
            break
        spot = problem._tensor(folded.astype(np.float32))[None, None]
        sigma = (2.0,) * (flow.dim() - 2)
        near = (sampling.gaussian_smooth(spot, sigma) * 20).clamp_max(1.0)
        flow = torch.lerp(flow, sampling.gaussian_smooth(flow, sigma), near)
    return flow
