"""Whether a stage of a registration left the images less similar, or the labels further apart, than it found them.

Similarity is compared at the voxels of the measured region that both fields carry into the moving image: what lies
outside has nothing to be compared with. The images are averaged over blocks of voxels first: what a stage gains or
loses shows on a coarser grid as well, at a small part of the cost. Labels, where both images have them, are compared
on the whole fixed grid, since their overlap is what a report tells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..fields.displacement import DisplacementField
from ..fields.folding import BELIEVED, change_of_pieces
from ..fields.warp import warp_image, warp_labels
from ..images.boxes import box_sum
from ..images.grid import Grid, bounding_box
from ..images.image import Image
from ..refinement.choice import choose_similarity
from ..refinement.descriptors import descriptor_noise, mind_ssc
from ..refinement.levels import REACH
from ..refinement.pair import Pair
from ..refinement.problem import TERMS
from ..refinement.terms import WINDOW_RADIUS
from . import evaluation

# About as many voxels are compared, fewer with descriptors, which take ten times as long.
VOXELS, DESCRIPTOR_VOXELS = 300_000, 120_000
# A field that carries less of what its start covered into the moving image than this part is worse in any case.
LEAST_COVERED = 0.5
# What measures tell apart besides rounding: a part of the similarity at the start, and of Dice.
SIMILARITY_TOLERANCE, DICE_TOLERANCE = 1e-4, 1e-4
# The part of what a start gained that its refinement may lose where the motion between images of one person and two
# contrasts is smooth: a network's field is rougher, and fits noise. Of 15 such starts (T1, T2 and FLAIR under known
# warps, drawn pairs) the 14 that were refined to less of an error lost up to 5 % (one 11 %), another one 23 %.
SMOOTH_LOSS = 0.1
# Labels that gain this much in mean Dice are believed against the images.
CLEAR_GAIN = 0.01
# Why a refinement is undone that gave up by itself.
NOTHING_BETTER = "it did not make the images more similar; its start was kept"
# What messages call the measures, and the sign of what they show.
_NAMES = {
    "lncc": ("local correlation", 1),
    "mind": ("difference of descriptors", -1),
    "mi": ("mutual information", 1),
    "mse": ("mean squared difference", -1),
}


@dataclass(frozen=True)
class Comparison:
    """Similarity with the field that a stage started from, and with its own; larger is better.

    covered: the part of the voxels covered with the first that are still covered with the second. allowed: how much
    may be lost.
    """

    measure: str
    before: float
    after: float
    covered: float
    allowed: float = 0.0

    @property
    def worse(self) -> bool:
        """Whether the second is worse, beyond rounding."""
        lost = self.before - self.after
        told_apart = SIMILARITY_TOLERANCE * max(abs(self.before), 1e-3)
        return self.covered < LEAST_COVERED or lost > max(told_apart, self.allowed)

    def __str__(self) -> str:
        if self.covered < LEAST_COVERED:
            return f"{100 * self.covered:.0f} % of the anatomy seen in the moving image before is still seen in it"
        name, sign = _NAMES[self.measure]
        return f"{name} {sign * self.before:.4f} before, {sign * self.after:.4f} after"


@dataclass(frozen=True, eq=False)
class Carried:
    """The moving labels carried onto the fixed grid, and their Dice with the fixed ones per label of these."""

    image: Image
    dice: dict[int, float]

    @property
    def mean(self) -> float:
        return evaluation.mean_dice(self.dice)


class Overlap:
    """Carries the moving labels over and measures their overlap with the fixed ones. mode: as in warp_labels."""

    def __init__(self, fixed: Image, moving: Image, mode: str) -> None:
        self.fixed, self.moving, self.mode = fixed, moving, mode
        self.labels = evaluation.label_values(fixed)

    def carried(self, matrix: np.ndarray, field: DisplacementField | None = None) -> Carried:
        """By T(x) = A (x + u(x)), A = matrix (4, 4) in RAS mm."""
        image = warp_labels(self.moving, self.fixed.grid, field, matrix, self.mode)
        image = Image(image.array, self.fixed.grid, image.name)
        return Carried(image, evaluation.dice(self.fixed, image, self.labels))


@dataclass(frozen=True)
class Verdict:
    """Of a stage: the comparisons made, mean Dice before and after it (None without labels), and why it was worse,
    "" where it was not.
    """

    comparisons: tuple[Comparison, ...]
    dice: tuple[float, float] | None
    reason: str

    def to_dict(self) -> dict:
        return {
            "kept": not self.reason,
            "reason": self.reason,
            "similarity": [asdict(comparison) for comparison in self.comparisons],
            "dice": None if self.dice is None else dict(zip(("before", "after"), self.dice, strict=True)),
        }


def verdict(
    comparisons: tuple[Comparison, ...],
    dice: tuple[float, float] | None = None,
    guided: bool = False,
    pieces: tuple[float, float] = (1.0, 1.0),
) -> Verdict:
    """Labels are the truth: a stage that lowers their overlap is worse, whatever the images say, and one that raises
    it clearly is not. Else it is worse when any measure of the images is.

    guided: the stage followed labels or landmarks by the user's wish, and has come closer to them: the images may
    pay for it. pieces: the smallest and the largest factor by which it changes the volume of pieces of the anatomy.
    """
    gained = 0.0
    if dice is not None:
        gained = dice[1] - dice[0]
        if gained < -DICE_TOLERANCE:
            return Verdict(
                comparisons,
                dice,
                f"the given labels overlap less (mean Dice {dice[0]:.4f} before, {dice[1]:.4f} after)",
            )
    if not guided and not gained > CLEAR_GAIN:
        for comparison in comparisons:
            if comparison.worse:
                return Verdict(comparisons, dice, f"the images are less similar ({comparison})")
        if pieces[0] < BELIEVED[0] or pieces[1] > BELIEVED[1]:
            factors = f"{pieces[0]:.2g} to {pieces[1]:.2g}"
            reason = f"it changed the volume of pieces of the anatomy by factors of {factors}, as no tissue does"
            return Verdict(comparisons, dice, reason)
    return Verdict(comparisons, dice, "")


class Judge:
    """Compares fields for one pair of images. pair: as for the refinement; labels and landmarks are not looked at."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._coarse: dict[int, Pair] = {}

    def choose(self) -> str:
        """The similarity that suits the pair, as the refinement chooses it."""
        return choose_similarity(self._averaged(VOXELS), None)[0]

    def pieces(self, field: DisplacementField) -> tuple[float, float]:
        """By which factors a field changes the volume of pieces of the region, the smallest and the largest."""
        return change_of_pieces(field, self.pair.thin.mask, self.pair.thin.fixed.grid)

    def compare(
        self, similarity: str, before: DisplacementField | None, after: DisplacementField, smooth: bool = False
    ) -> tuple[Comparison, ...]:
        """How alike the images are with each of two fields (None: no displacement).

        Descriptors are what a refinement of two modalities raises itself; mutual information, which sees the same
        images otherwise, must not fall meanwhile.

        smooth: the second is the smooth motion between images of one person that decorrelated descriptors found from
        the first: these are compared, and SMOOTH_LOSS of what the first gained over no displacement may be lost.
        """
        names = {"mind": ("mind", "mi")}.get(similarity, (similarity,))
        found = [self._compare(name, before, after, smooth) for name in names]
        if smooth and before is not None:
            gained = [self._compare(name, None, before, smooth) for name in names]
            found = [
                replace(one, allowed=SMOOTH_LOSS * max(gain.after - gain.before, 0.0))
                for one, gain in zip(found, gained, strict=True)
            ]
        return tuple(found)

    def _compare(
        self, measure: str, before: DisplacementField | None, after: DisplacementField, decorrelated: bool = False
    ) -> Comparison:
        pair = self._averaged(DESCRIPTOR_VOXELS if measure == "mind" else VOXELS)
        grid = pair.fixed.grid
        images = [warp_image(pair.moving, grid, field, pair.matrix, np.nan).array for field in (before, after)]
        fixed, mask, *warped = (_tensor(array, grid.flat_axis) for array in (pair.fixed.array, pair.mask, *images))
        # The surroundings belong to it: what is bright and even inside has its contrast at the edge.
        region = box_sum(mask[None], WINDOW_RADIUS)[0] > 0
        first, second = (image.isfinite() for image in warped)
        covered = int((region & first & second).sum()) / max(int((region & first).sum()), 1)
        weight = _counted(region, first & second, REACH[measure])
        volumes = [fixed, *(image.nan_to_num(0.0) for image in warped)]
        if measure == "mind":
            noise = descriptor_noise(*volumes)
            volumes = [mind_ssc(volume, noise=noise, decorrelated=decorrelated) for volume in volumes]
        else:
            volumes = [volume[None] for volume in volumes]
        term = TERMS[measure](volumes[0])
        alike = (float(term.evaluate(volume, weight, with_slope=False)[0]) for volume in volumes[1:])
        without, with_it = alike
        return Comparison(measure, without, with_it, covered)

    def _averaged(self, voxels: int) -> Pair:
        """The pair averaged over blocks until the region has about `voxels`, cut to it, with values in [0, 1]."""
        if voxels not in self._coarse:
            pair = self.pair.thin
            spacing = _spacing(pair.fixed.grid, pair.mask, voxels)
            fixed, moving = (
                _averaged(image, spacing, window)
                for image, window in zip((pair.fixed, pair.moving), pair.windows, strict=True)
            )
            if pair.moving_mask is not None:
                seen = _averaged(pair.moving_mask.with_array((pair.moving_mask.array > 0).astype(np.float32)), spacing)
                moving = moving.with_array(np.where(seen.array > 0.5, moving.array, np.nan))
            mask = _averaged(Image(pair.mask.astype(np.float32), pair.fixed.grid), spacing).array >= 0.5
            if not mask.any():
                mask[:] = True
            box = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in bounding_box(mask))
            array, mask = fixed.array[box], mask[box]
            grid = fixed.grid.cropped([s.start for s in box][::-1], array.shape[::-1])
            windows = (0.0, 1.0), (0.0, 1.0)
            self._coarse[voxels] = Pair(Image(array, grid), moving, pair.matrix, windows, mask)
        return self._coarse[voxels]


class Checks:
    """Looks at each stage of one registration; its start is returned where it made things worse.

    overlap: of the given labels, or None. similarity: as the settings name it. found: the verdicts by stage, for the
    report and its warnings. carried: the moving labels on the fixed grid "before", "aligned" and with the
    deformation so far ("after"), where both images have labels.
    """

    def __init__(self, overlap: Overlap | None, similarity: str) -> None:
        self._overlap, self._similarity = overlap, similarity
        self._judge: Judge | None = None
        self.found: dict[str, dict] = {}
        self.carried: dict[str, Carried] = {}

    @property
    def warped_labels(self) -> Image | None:
        """The moving labels with the deformation so far."""
        return self.carried["after"].image if self.carried else None

    def alignment(self, start: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The linear part (4, 4), or `start` where the labels overlap less with it. What the images say of it, the
        alignment weighs itself.
        """
        if self._overlap is None:
            return matrix
        before = aligned = self._overlap.carried(start)
        if not np.array_equal(start, matrix):
            aligned = self._overlap.carried(matrix)
            if not self._kept("alignment", verdict((), (before.mean, aligned.mean))):
                matrix, aligned = start, before
        self.carried = {"before": before, "aligned": aligned, "after": aligned}
        return matrix

    def started(self, matrix: np.ndarray, field: DisplacementField) -> None:
        """The field that the deformation starts from carries the labels as well."""
        if self._overlap is not None:
            self.carried["after"] = self._overlap.carried(matrix, field)

    def network(
        self, pair: Pair, field: DisplacementField, start: DisplacementField | None = None
    ) -> DisplacementField:
        """The network's field, or what it started from (None: zero)."""
        similarity = self.judge(pair).choose() if self._similarity == "auto" else self._similarity
        if self._deformed("network", pair, start, field, similarity):
            return field
        return start if start is not None else DisplacementField.identity(field.grid)

    def refinement(
        self,
        pair: Pair,
        start: DisplacementField | None,
        field: DisplacementField,
        similarity: str,
        smooth: bool = False,
    ) -> tuple[DisplacementField, bool]:
        """The refined field, or what it started from, and whether it is the former. pair: with what guided it. smooth:
        as in Judge.compare.
        """
        if self._deformed("refinement", pair, start, field, similarity, smooth):
            return field, True
        return start if start is not None else DisplacementField.identity(field.grid), False

    def unrefined(
        self, pair: Pair, start: DisplacementField | None, similarity: str, reason: str | None = None
    ) -> None:
        """The refinement found nothing better than its start, or nothing of it is kept for another reason."""
        field = start if start is not None else DisplacementField.identity(pair.fixed.grid)
        comparisons = self.judge(pair).compare(similarity, start, field)
        self._kept("refinement", Verdict(comparisons, None, reason or NOTHING_BETTER))

    def judge(self, pair: Pair) -> Judge:
        """The judge of the pair, made once."""
        if self._judge is None:
            self._judge = Judge(pair)
        return self._judge

    def _deformed(self, stage: str, pair: Pair, start, field, similarity: str, smooth: bool = False) -> bool:
        comparisons = self.judge(pair).compare(similarity, start, field, smooth)
        dice, carried, nearer = None, None, False
        if self._overlap is not None:
            carried = self._overlap.carried(pair.matrix, field)
            dice = self.carried["after"].mean, carried.mean
            nearer = pair.labels is not None and dice[1] > dice[0]
        if pair.points is not None:
            nearer = nearer or _landmark_error(pair, field) < _landmark_error(pair, start)
        kept = self._kept(stage, verdict(comparisons, dice, nearer, self.judge(pair).pieces(field)))
        if kept and carried is not None:
            self.carried["after"] = carried
        return kept

    def _kept(self, stage: str, found: Verdict) -> bool:
        self.found[stage] = found.to_dict()
        return not found.reason


def _landmark_error(pair: Pair, field: DisplacementField | None) -> float:
    """Mean distance in mm of the landmarks."""
    assert pair.points is not None
    fixed, moving = (np.asarray(points, np.float64) for points in pair.points)
    moved = fixed if field is None else field.transform_points(fixed)
    moved = moved @ pair.matrix[:3, :3].T + pair.matrix[:3, 3]
    return float(evaluation.target_registration_error(moved, moving).mean())


def _spacing(grid: Grid, mask: np.ndarray, voxels: int) -> float:
    """Of an isotropic grid that covers the box around the mask with `voxels`."""
    used = grid.size > 1
    extent = np.array([s.stop - s.start for s in bounding_box(mask)])[::-1] * grid.spacing
    return float(np.prod(extent[used]) / voxels) ** (1 / int(used.sum()))


def _averaged(image: Image, spacing: float, window: tuple[float, float] = (0.0, 1.0)) -> Image:
    """The image averaged over blocks of about `spacing`, whole voxels a side; window: as in refinement.pair.Pair."""
    factor = np.clip(np.ceil(spacing / image.grid.spacing - 0.2).astype(int), 1, np.maximum(image.grid.size // 4, 1))
    values = image.tensor()[None, None]
    if (factor > 1).any():
        values = F.avg_pool3d(values, tuple(int(n) for n in factor[::-1]))
    low, scale = window
    array = ((values[0, 0] - low) * scale).clamp_(0, 1).numpy()
    matrix = image.grid.ijk_to_ras.copy()
    matrix[:3, 3] = image.grid.to_ras((factor - 1) / 2)
    matrix[:3, :3] *= factor
    return Image(array, Grid(array.shape, matrix), image.name)


def _tensor(array: np.ndarray, flat: int | None) -> torch.Tensor:
    array = np.ascontiguousarray(array, np.float32)
    return torch.from_numpy(array if flat is None else array.squeeze(flat))


def _counted(region: torch.Tensor, known: torch.Tensor, reach: int) -> torch.Tensor:
    """The known voxels of the region with nothing unknown in their windows; any known where none would be left."""
    alone = region & (box_sum((~known).float()[None], reach)[0] == 0)
    return (alone if alone.any() else region & known).float()
