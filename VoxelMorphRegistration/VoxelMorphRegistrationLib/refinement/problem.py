"""A pair at one stage: volumes, terms, weights, and the step they make together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import InputError
from ..fields.displacement import DisplacementField
from ..images.boxes import box_sum
from ..images.grid import Grid
from ..images.image import resample
from .descriptors import label_channels
from .levels import SMALLEST_SIZE
from .pair import common_labels, mean_extent
from .steps import (
    DETAIL_PART,
    FINEST_PART,
    LANDMARK_SIGMA,
    LANDMARK_UNIT,
    WINDOW_STEP,
    Compared,
    GradientStep,
    LandmarkStep,
    WindowStep,
)
from .terms import WINDOW_RADIUS, LocalCorrelation, MutualInformation, SquaredDifference
from .volumes import View, compared_of

if TYPE_CHECKING:
    from ..images.slabs import Box
    from .levels import Level, Options, Stage
    from .pair import Pair
    from .steps import Update
    from .terms import Term
    from .volumes import Coming, Volumes


TERMS = {
    "lncc": LocalCorrelation,
    "mind": SquaredDifference,
    "mi": MutualInformation,
    "mse": SquaredDifference,
}
# Smoothing of the update and of the field, in voxels of the level's field. Gauss-Newton: of the window, and of the
# update. Of the correlation, that for detail.
UPDATE_SIGMA = {"lncc": 1.3, "mi": 3.0}
# Where detail was found in volumes of at least this many voxels along each axis, where the trial sees means over two a
# side, steps of the correlation have momentum. Then the smoothing of the field, where its voxels are twice those of the
# images, and of the update, where they are the same. Set on five pairs of brains: Dice of 138 structures .6374 without
# all this, .6403 with it; of 30 (three pairs) .8273 and .8290. With the field smoothed as elsewhere, and the update by
# 0.8 in both, .6406 and .8272. Slices gain in some and lose in others.
LEAST_SIDE = 4 * SMALLEST_SIZE
MOMENTUM, HALF_FIELD_SIGMA, FINEST_UPDATE_SIGMA = 0.5, 0.5, 0.8
FIELD_SIGMA = {"lncc": 0.38, "mi": 0.5, "mind": 0.5, "mse": 0.5}
# With much smoothing: the factor of both, and the radius of the correlation's windows.
SMOOTH_FACTOR, SMOOTH_RADIUS = {"lncc": 1.57, "mind": 1.4}, 2
# Windows of the correlation at the finest spacing, where they cost most: three blocks of two voxels a side.
FINEST_WINDOWS = (1, 2)
# In detail and between different people, windows of five blocks of eight voxels lead along with this weight: small ones
# do not see which of two tissues is the brighter. Under smooth warps of one person they draw the steps to the edges and
# away from what is faint: 1.3 became 2.3 mm.
WIDE_WINDOWS, WIDE_WEIGHT = (2, 8), 2.0
# A level ends when this many steps gained less than this part of the similarity; Gauss-Newton steps gain faster.
PATIENCE, SMALLEST_GAIN = 5, 0.0003
WINDOW_PATIENCE, WINDOW_SMALLEST_GAIN = 3, 0.002


class Problem:
    """Everything compared at one level, as tensors on the device."""

    def __init__(
        self,
        pair: Pair,
        region: Grid,
        stage: Stage,
        detailed: bool | None,
        options: Options,
        device: str,
        unlike: bool = False,
        previous: Problem | None = None,
        decorrelated: bool = False,
        coming: Coming | None = None,
    ) -> None:
        """unlike: the coarse level found too little in common for one person. previous: the stage before; where it saw
        the same volumes, they are taken from it. decorrelated: of descriptors, see mind_ssc. coming: volumes that were
        begun ahead.
        """
        self.pair, self.device, self.flat = pair, device, region.flat_axis
        level, similarity, in_detail = stage.level, stage.similarity, stage.in_detail(detailed)
        smooth = stage.smooth(detailed)

        def factor_of(name: str) -> float:
            return options.smoothness * (SMOOTH_FACTOR.get(name, 1.0) if smooth else 1.0)

        self.view = View.of(pair, region, level, device)
        self.grid = self.view.grid
        # Slices and small volumes have steps as before.
        large = min(region.shape) >= LEAST_SIDE
        found = large and in_detail and stage.kind == "chosen"
        self.field_sigma = HALF_FIELD_SIGMA if found and level.field_ratio > 1 else FIELD_SIGMA[similarity]
        self.field_sigma *= factor_of(similarity)
        self.spacing = level.spacing
        self.seen = (similarity, decorrelated)
        compared = compared_of(pair, stage, options)
        self.volumes: list[Volumes] = []
        if previous is not None and previous.sees_as(self):
            self.volumes += previous.volumes
        elif coming is not None:
            self.volumes += coming.volumes(self.view, compared)
        for one, named, _ in compared[len(self.volumes) :]:
            self.volumes.append(self.view.volumes(one, named, decorrelated))
        total = sum(one.weight for one in pair.channels)
        part = 1.0
        if in_detail:
            part = FINEST_PART if level.spacing == 1 else DETAIL_PART
        # The correlations beside the descriptors.
        self.joined: list[Compared] = []
        # Each with its weight in the step and in the objective.
        self.parts: list[tuple[float, Callable, Callable]] = []
        for (_, named, weight_of), volumes in zip(compared, self.volumes, strict=True):
            fixed, moving, valid, weight, margin = volumes
            term = self._term(fixed, level, named, smooth, unlike or in_detail)
            images = Compared(term, moving, valid, weight, margin, level.field_ratio)
            step = _step(images, named, factor_of(named), part, found and named == "lncc")
            self.parts.append((weight_of / total, step, images.similarity))
            if not self.parts[1:]:
                self.images, first = images, step
            if len(self.parts) > len(pair.channels):
                self.joined.append(images)
        quadratic = self.images.term.quadratic
        self.patience = WINDOW_PATIENCE if quadratic else PATIENCE
        self.smallest_gain = WINDOW_SMALLEST_GAIN if quadratic else SMALLEST_GAIN
        if options.label_weight > 0:
            labels = self._labels(level)
            self.parts.append((options.label_weight, WindowStep(labels, options.smoothness), labels.similarity))
        if options.landmark_weight > 0:
            landmarks = self._landmarks(LANDMARK_SIGMA * options.smoothness)
            self.parts.append((options.landmark_weight, landmarks, landmarks.similarity))
        if len(self.parts) == 1 and isinstance(first, GradientStep):
            # Nothing pulls elsewhere.
            self.images.stay_near(first.reach)
        self.boxes = self.images.boxes

    # --- set-up ---

    def sees_as(self, other: Problem) -> bool:
        """Whether both compare the same volumes."""
        return self.seen == other.seen and self.view.same_as(other.view)

    def _term(self, fixed: torch.Tensor, level: Level, similarity: str, smooth: bool, guided: bool) -> Term:
        """The term of fixed volumes; of the correlation, if `guided`, with another one that guides it."""
        if similarity != "lncc":
            return TERMS[similarity](fixed)
        windows = FINEST_WINDOWS if level.spacing == 1 else (SMOOTH_RADIUS if smooth else WINDOW_RADIUS, 1)
        guide = (LocalCorrelation(fixed, *WIDE_WINDOWS), WIDE_WEIGHT) if guided else None
        return LocalCorrelation(fixed, *windows, guide)

    def _labels(self, level: Level) -> Compared:
        wide, margin = self.view.wide(self.grid, self.view.base * level.spacing * level.field_ratio)
        assert self.pair.labels is not None
        values = common_labels(self.pair.labels)
        if not values:
            raise InputError("The fixed and moving labels have no label in common; they cannot guide the refinement.")
        fixed, moving = self.pair.labels
        volumes = []
        for image, grid, matrix in ((fixed, self.grid, None), (moving, wide, self.pair.matrix)):
            channels = label_channels(torch.from_numpy(image.array.astype(np.int64)), values).numpy()
            parts = [resample(image.with_array(channel), grid, matrix, smooth=True).array for channel in channels]
            volumes.append(torch.stack([self.view.tensor(part) for part in parts]))
        # The mean is over where there is a label, so that small structures in a large image count.
        here = (slice(margin, -margin),) * volumes[0][0].dim()
        support = volumes[0].square().sum(0) + volumes[1].square().sum(0)[here]
        weight = (box_sum((support > 1e-3).float()[None], WINDOW_RADIUS)[0] > 0).float()
        return Compared(SquaredDifference(volumes[0]), volumes[1], None, weight, margin, 1)

    def _landmarks(self, sigma: float) -> LandmarkStep:
        assert self.pair.points is not None
        fixed, moving = (np.asarray(points, np.float64) for points in self.pair.points)
        inverse = np.linalg.inv(self.pair.matrix)
        goal = moving @ inverse[:3, :3].T + inverse[:3, 3]
        axes = [axis for axis in range(3) if self.flat is None or axis != 2 - self.flat]
        voxels = [torch.from_numpy(self.grid.to_ijk(p)[:, axes].astype(np.float32)) for p in (fixed, goal)]
        unit = LANDMARK_UNIT * mean_extent(self.grid) / float(np.min(self.grid.spacing[self.grid.size > 1]))
        shape = self.flow_of(None).shape[2:]
        return LandmarkStep(voxels[0].to(self.device), voxels[1].to(self.device), shape, sigma, unit)

    # --- the field ---

    def flow_of(self, field: DisplacementField | None) -> torch.Tensor:
        """A field as (1, d, *S) in voxels of this level's field grid."""
        if field is None:
            field = DisplacementField.identity(self.grid)
        flow = field.on_grid(self.grid).to_voxels(in_plane=True)
        return torch.from_numpy(flow).to(self.device)[None]

    def field_of(self, flow: torch.Tensor) -> DisplacementField:
        return DisplacementField.from_voxels(flow[0].cpu().numpy(), self.grid)

    def scores(self, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The similarity of the first images, and the weighted sum of all that is compared."""
        values = [similarity(flow) for _, _, similarity in self.parts]
        return values[0], sum(weight * value for (weight, _, _), value in zip(self.parts, values, strict=True))

    def step(self, flow: torch.Tensor) -> tuple[torch.Tensor, Update]:
        """The objective, and the update that raises it."""
        if len(self.parts) == 1:
            return self.parts[0][1](flow)
        found = [(weight, *step(flow)) for weight, step, _ in self.parts]

        def update(box: Box) -> torch.Tensor:
            total = sum(weight * part(box) for weight, _, part in found)
            length = total.square().sum(0).sqrt_()
            return total.mul_(WINDOW_STEP / length.clamp_min_(WINDOW_STEP))

        return sum(weight * value for weight, value, _ in found), update


def _step(images: Compared, similarity: str, factor: float, part: float, found: bool) -> WindowStep | GradientStep:
    """factor: of the smoothing. part: of the steps that are not cut, see GradientStep. found: a correlation, in detail
    that a trial found.
    """
    if images.term.quadratic:
        return WindowStep(images, factor)
    sigma = FINEST_UPDATE_SIGMA if found and images.ratio == 1 else UPDATE_SIGMA[similarity]
    return GradientStep(images, sigma * factor, part, MOMENTUM if found else 0.0)
