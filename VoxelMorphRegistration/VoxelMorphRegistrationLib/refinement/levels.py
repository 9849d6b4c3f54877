"""Presets, and the stages that they mean for a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..images.grid import Grid
from .descriptors import NEIGHBOUR_DISTANCE, PATCH_RADIUS
from .size import FEWEST_LAYERS
from .size import LARGEST_GRID as LARGEST_GRID
from .terms import WINDOW_RADIUS


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

    def field_voxels(self, region: Grid) -> int:
        """About how many the field has over a region at the finest spacing."""
        return region.voxel_count // (self.spacing * self.field_ratio) ** region.dimension


PRESETS = {
    "coarse": (Level(4, 1, 40, 20),),
    "fast": (Level(4, 1, 60), Level(2, 1, 30, 20)),
    "default": (Level(4, 1, 60), Level(2, 1, 30, 20), Level(1, 2, 30, 6), Level(1, 1, 0, 7)),
    "accurate": (Level(4, 1, 100), Level(2, 1, 60, 40), Level(1, 2, 60, 15), Level(1, 1, 0, 40)),
}
# For the ensemble behind the expected error: from a start nearby, at one level.
PRESETS["return"] = (Level(2, 1, 16),)
# Of label maps drawn alike, after the images: at the finest level alone.
PRESETS["labels"] = (Level(1, 1, 25),)
SIMILARITIES = ("lncc", "mind", "mi", "mse")
# How many voxels around a voxel a similarity looks at.
REACH = {"lncc": WINDOW_RADIUS, "mind": PATCH_RADIUS + NEIGHBOUR_DISTANCE, "mi": 0, "mse": 0}
# Steps with descriptors that lead the correlation, below the coarsest level; they are made where the coarsest level
# explained at least this part of the difference: 0.51 to 0.59 in eight known warps of CT (0.41 to 0.62 in six of T1, T2
# and FLAIR), 0.35 to 0.48 in 36 pairs of T1 brains of different people. Without them three warps of an abdomen ended at
# 1.67, 2.34 and 1.40 mm instead of 1.17, 1.26 and 0.93; with them brains end where they do without (Dice within 0.0002
# in three pairs), for a fifth more of the time. So rather too often than too seldom.
LEAD_STEPS, LEAD_EXPLAINED = 12, 0.45
# Detail is real where the trial explained at least this part of the difference. Correlation: 0.61 between brains of
# different people, 0.19 to 0.30 of one person's under a smooth warp; descriptors: 0.105, 0.015 to 0.018. What is asked
# beside it, and of slices, is in detail.
REAL_DETAIL = {"lncc": 0.45, "mind": 0.045}
# Descriptors that found detail between people, in images like negatives, are joined by the correlation where its mean
# square in windows is at least this: 0.44 to 0.46 in T2 onto T1 of another person (three pairs), up to 0.27 in MR onto
# ultrasound (eight), which it would spoil (mean Dice 0.63 to 0.59). What is no negative it spoils at any correlation.
LEAST_CORRELATED = 0.35
# Weight of the correlation there beside the descriptors': of 1 and 2, Dice of the three 0.714 and 0.716, without 0.695.
CORRELATION_WEIGHT = 2.0
# A level needs this many voxels along every axis.
SMALLEST_SIZE = 16


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
class Stage:
    """A level, what is compared there, and with how much smoothing.

    kind: "plain", the similarity's own; of correlation and descriptors "smooth", "trial" (for detail) or "chosen" by
    the trial; of the descriptors before the correlation "coarse", and "lead" at finer levels; "joined", descriptors and
    the correlation side by side.
    """

    level: Level
    similarity: str
    kind: str = "plain"

    def smooth(self, detailed: bool | None) -> bool:
        """detailed: what the trial found, if there was one."""
        return self.kind in ("smooth", "joined") or (self.kind == "chosen" and not detailed)

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

    @property
    def unseen(self) -> Stage | None:
        """Of a trial by correlation of means over two voxels a side: its field before the voxels themselves."""
        if self.kind != "trial" or self.similarity != "lncc" or self.level.spacing != 2:
            return None
        return Stage(Level(1, 2 * self.level.field_ratio, self.level.steps), "lncc", "smooth")

    @property
    def sees_all(self) -> bool:
        """Of a trial by correlation: whether there is nothing finer, as in small volumes."""
        return self.kind == "trial" and self.similarity == "lncc" and self.level.spacing == 1

    def cost(self, detailed: bool | None, lead: bool, joins: bool) -> float:
        """Of all its steps, in those of the finest images; 0 where it is left out."""
        left_out = (self.kind == "lead" and not lead) or (self.kind == "joined" and not joins)
        return 0.0 if left_out else self.steps(detailed) / self.level.spacing**3

    def steps(self, detailed: bool | None) -> int:
        return self.level.detail_steps if self.in_detail(detailed) else self.level.steps


def stages_of(options: Options, region: Grid) -> list[Stage]:
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
        finest = described[-1]
        trial = Stage(replace(finest, detail_steps=finest.steps), "mind", "trial")
        return [*(Stage(level, "mind", "smooth") for level in described), trial, Stage(finest, "mind", "joined")]
    usable = _usable_levels(levels, region)
    if options.similarity != "lncc":
        return [Stage(level, options.similarity) for level in usable]
    lead: list[Stage] = []
    if len(usable) > 1:
        coarsest, *finer = described[: len(usable) - 1]
        shorter = [replace(level, steps=min(level.steps, LEAD_STEPS)) for level in finer]
        lead = [Stage(coarsest, "mind", "coarse"), *(Stage(level, "mind", "lead") for level in shorter)]
        usable = usable[1:]
    first, *others = usable + for_detail
    kinds = [Stage(first, "lncc", "smooth"), Stage(first, "lncc", "trial")]
    return lead + kinds + [Stage(level, "lncc", "chosen") for level in others]


def _usable_levels(levels: Sequence[Level], region: Grid) -> list[Level]:
    """The levels on which the region still has enough voxels; else the finest, and of few layers one finer yet."""
    smallest = min(n for n in region.shape if n > 1)
    usable = [level for level in levels if smallest >= SMALLEST_SIZE * level.spacing]
    if usable:
        return usable
    spacing = levels[-1].spacing
    while spacing > 1 and smallest < FEWEST_LAYERS * spacing:
        spacing //= 2
    return [replace(levels[-1], spacing=spacing)]
