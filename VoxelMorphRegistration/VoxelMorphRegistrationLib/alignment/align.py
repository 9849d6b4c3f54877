"""The linear step before the network: centres, rigid or affine by mutual information, or a matrix from a file.

A matrix here is (4, 4) float64 and maps fixed RAS mm to moving RAS mm, as the deformation that follows it does.

How rigid and affine work: both images are reduced to about `WORK_VOXELS` voxels and brought into one frame (fixed
RAS about the fixed centre; for slices the fixed plane), on grids with right angles even where a parent transform
shears the image. A coarse search over rotations and shifts proposes starts, among large rotations, too, where the
others give little evidence. From the best of them, SimpleITK's Mattes mutual information refines a rigid, similarity
and affine transform. A step that leads to an implausible or a worse result is dropped; a warning says so where that
leaves something to be desired.

Mutual information always finds some map that it likes, also between images in which it sees nothing in common. So the
answer is checked by a measure that took no part in finding it, whether edges meet edges of the same direction: unless
it stands out there among displaced copies of itself, it may be chance, and the start is kept (`edges.Edges`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, SettingsError
from ..images.grid import check_matrix
from ..images.image import Image
from .edges import Edges
from .fit import STAGES, Sitk
from .judging import NO_GAIN, SMALLEST_EVIDENCE, fault_of
from .motion import about, angle, shift
from .pair import Pair, check_contrast
from .reduced import mass_center
from .search import SMALLEST_TURN, best_start, near_start, turned_start

if TYPE_CHECKING:
    from .fit import Progress


METHODS = ("none", "centers", "mass", "rigid", "similarity", "affine")
# The rigid refinement is repeated while its last stage, then its last pass, moves the image by more than this, in work
# voxels: where bright edges outweigh what lies within, the steps shrink before the answer is reached. From a sure start
# on the way to scales and shears, by more than the second: brains move by .26 between the two stages of a pass, back
# and forth, and a second pass changed no answer of four pairs.
MORE_PASSES, CONVERGED, NEARLY_CONVERGED = 3, 0.15, 0.5
# Evidence by edges from which on no other start is looked for. A large rotation is taken where it raises the similarity
# of the start by this factor: right ones raised it by 1.5 and more; and doubt is told where it comes near that.
SURE_EVIDENCE, CLEAR_TURN, UNCLEAR_TURN, DIFFERENT_DEGREES = 15.0, 1.15, 0.97, 30.0
# Evidence from which on a start nearby is gone on from. Right ones, by at most 3 mm, from rotations to 28 degrees and
# shifts to 29 mm: 19.4 to 20.5 (brains in one space, T1 and T2 or FLAIR), 14.4 to 16.7 (brains of two people on grids
# of their own, T1 and PD of a head, T1 and FLAIR of one person at two dates from 26 starts); wrong ones: 9.4, see
# `_searched`. MR and ultrasound of a prostate: 1.3 to 3.7, so that all is searched.
NEAR_EVIDENCE = 12.0
# Evidence from which on a map is believed that was searched for and turns the images by more than SMALLEST_TURN: among
# so many turns chance comes further. Right ones of random turns by 70 to 180 degrees ended at 9.1 and more (36 starts:
# T1 and PD of a head and parts of it, brains of two people and their slices, T1 and FLAIR, a brain and a head, parts of
# an abdomen), wrong ones at up to 7.1 (MR and ultrasound of a prostate, 40 starts; as they come, two of the eight pairs
# were laid across each other, with 6.7 and 7.0).
TURNED_EVIDENCE = 8.0


@dataclass(frozen=True)
class Alignment:
    """A linear alignment.

    matrix: (4, 4), fixed RAS mm to moving RAS mm. method: the one asked for. similarity_before, similarity_after:
    at `initial` (identity if there is none) and at `matrix`, from 0 (unrelated, or no overlap) to 1: the entropy
    correlation coefficient 2 I(f, m) / (H(f) + H(m)) over the overlap of the fields of view (Maes et al. 1997),
    lowered where less than `TRUSTED_OVERLAP` of the smaller one overlaps. evidence: by how many standard deviations
    edges agree better under `matrix` than under displaced copies of it; None where that was not looked at.
    """

    matrix: np.ndarray
    method: str
    similarity_before: float
    similarity_after: float
    warnings: list[str] = field(default_factory=list)
    evidence: float | None = None


def align(
    fixed: Image,
    moving: Image,
    method: str = "affine",
    *,
    initial: np.ndarray | None = None,
    fixed_mask: Image | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    quick: bool = False,
) -> Alignment:
    """Find the linear map from fixed RAS mm to moving RAS mm.

    method: "none" (identity), "centers" (of the fields of view), "mass" (centres of the bright foreground),
    "rigid", "similarity" (rigid with one scale) or "affine" (mutual information, so the modalities may differ).
    initial: (4, 4), the start for every method; with "none" it is the answer. What is found is applied before it,
    matrix = initial @ found; the last three then start from there alone, instead of searching. fixed_mask: its
    voxels > 0 are where these three measure the similarity. seed: of the sampling; the same input and seed give the
    same answer. progress: called with the part done, 0 to 1; what it raises ends the alignment and reaches the
    caller. quick: where edges clearly speak for the start, leave the finest rigid stage to the affine ones.

    When what these three find may be chance, the answer is `initial`, or without it the images as they lie or their
    centres, whichever is more similar, and a warning says so.

    Two single slices are aligned within their plane. Where a slice lies along its normal cannot be seen in it, so
    every method, "none" included, also carries the fixed plane onto the moving one (a shift along the normal, and
    the few degrees by which they may be tilted); otherwise what follows would look past the moving slice.

    Raises SettingsError for an unknown method; InputError when the images do not overlap, are constant where
    contrast is needed, are one slice and one volume, or are two slices that are not parallel.
    """
    if method not in METHODS:
        raise SettingsError(f"The alignment '{method}' is unknown. Choose one of {', '.join(METHODS)}.")
    if fixed.grid.dimension != moving.grid.dimension:
        flat, solid = (fixed, moving) if fixed.grid.dimension == 2 else (moving, fixed)
        raise InputError(
            f"The {flat.name} is a single slice and the {solid.name} a volume. Give two slices or two volumes."
        )
    report = progress or (lambda fraction: None)
    report(0.0)
    evidence = None
    start = np.eye(4) if initial is None else check_matrix(initial, "initial transform")
    pair = Pair.of(fixed, moving, start, fixed_mask, seed)
    report(0.1)
    found = np.eye(4)
    warnings: list[str] = []
    if method == "centers":
        found = shift(pair.moving_center - pair.fixed_center)
    elif method == "mass":
        check_contrast(pair)
        found = shift(mass_center(pair.moving) - mass_center(pair.fixed))
    elif method != "none":
        check_contrast(pair)
        edges = Edges.of(pair, seed)
        found, rigid, warnings = _registered(pair, edges, method, initial is None, seed, report, quick)
        if method == "similarity":
            found = _with_one_scale(pair, edges, found, seed, report)
        judged = pair.judge(found)
        if judged.overlap > 0 and judged.similarity <= pair.judge(np.eye(4)).similarity:
            # Where the images lie already; whether that may be chance is asked next.
            found = rigid = np.eye(4)
        trusted, evidence, doubt = _trusted(pair, edges, method, found, rigid, initial is None)
        if doubt is not None:
            found, warnings = trusted, [doubt]
    before, after = pair.judge(np.eye(4)), pair.judge(found)
    if after.overlap == 0:
        raise InputError(
            f"The {fixed.name} and the {moving.name} do not overlap in space. "
            "Choose the alignment 'centers' (or rigid, affine), or give an initial transform that brings them together."
        )
    report(1.0)
    return Alignment(pair.to_ras(found), method, before.similarity, after.similarity, warnings, evidence)


def _registered(
    pair: Pair, edges: Edges, method: str, search: bool, seed: int, report: Progress, quick: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The map of "rigid", or of "affine" (the way to "similarity", too), the rigid one on the way to it, and what is to
    be said of it."""
    start, doubts, sure = _searched(pair, edges, report) if search else (np.eye(4), [], False)
    if pair.judge(start).overlap == 0:
        return start, start, []
    kinds = ("rigid",) if method == "rigid" else ("rigid", "similarity", "affine")
    quick = quick and sure and method != "rigid"
    converged = NEARLY_CONVERGED if sure and method != "rigid" else CONVERGED
    # Without the finest affine one as well, T1 and T2 of one person came to 2.13 instead of 1.50 mm.
    stages = {kind: STAGES[kind][:1] if quick and kind == "rigid" else STAGES[kind] for kind in kinds}
    total = sum(stage.cost for kind in kinds for stage in stages[kind])
    work = Sitk.of(pair)
    best, rigid, kept, done, warnings = start, start, "coarse" if search else "given", 0.0, doubts

    def through(kind: str, spent: float, counts: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """`best` before and after the last stage of its refinement. spent: cost of what is done; counts: whether this
        adds to it, for the progress."""
        before: np.ndarray = best
        found: np.ndarray | None = best
        for stage in stages[kind]:
            cost = stage.cost if counts else 0.0

            def tell(fraction: float, spent: float = spent, cost: float = cost) -> None:
                report(0.35 + 0.6 * (spent + cost * fraction) / total)

            if found is not None:
                before, found = found, work.refined(found, kind, stage, seed, tell, sure)
            spent += cost
        return before, found

    for kind in kinds:
        before, found = through(kind, done, counts=True)
        done += sum(stage.cost for stage in stages[kind])
        fault = fault_of(pair, edges, found, best, kind)
        if fault is None and found is not None:
            best, kept = found, kind
        elif kind == method != "similarity" and fault not in NO_GAIN:
            warnings.append(f"The {method} alignment was not used, because {fault}; the {kept} one was kept.")
        if kind == "rigid":
            for _ in range(0 if quick else MORE_PASSES):
                if fault is not None or work.moved(before, best) <= converged:
                    break
                before = best
                _, found = through(kind, done, counts=False)
                fault = fault_of(pair, edges, found, best, kind)
                if fault is None and found is not None:
                    best = found
            rigid = best
    return best, rigid, warnings


def _searched(pair: Pair, edges: Edges, report: Progress) -> tuple[np.ndarray, list[str], bool]:
    """The best start of the coarse search, what is to be said against it, and whether edges clearly speak for it.

    Most images lie nearly alike, so that the whole search is made only where the best start nearby may be wrong, and
    large rotations are looked at only where the best of that may be: right ones for one modality reach 19 and more
    standard deviations, brains turned by 180 degrees at most 9.4.
    """
    near = near_start(pair)
    if edges.evidence(near) >= NEAR_EVIDENCE:
        return near, [], True
    near = best_start(pair, report)
    evidence = edges.evidence(near)
    if evidence >= SURE_EVIDENCE:
        return near, [], True
    far = turned_start(pair)
    gain = pair.judge(far).similarity / max(pair.judge(near).similarity, 1e-9)
    other = edges.evidence(far)
    if gain >= CLEAR_TURN and other > evidence:
        return far, [], False
    turn = math.degrees(angle(near[:3, :3].T @ far[:3, :3]))
    if gain >= UNCLEAR_TURN and other >= max(evidence, SMALLEST_EVIDENCE) and turn > DIFFERENT_DEGREES:
        doubt = f"The images agree as well when the moving one is turned by {turn:.0f} degrees"
        return near, [f"{doubt}: the alignment may be wrong."], False
    return near, [], False


def _safe_start(pair: Pair, search: bool) -> tuple[np.ndarray, str]:
    """What is kept when nothing better can be trusted, and its name: the start that was given; else the images as they
    lie or their centres, whichever is more similar."""
    if not search:
        return np.eye(4), "the given start was kept"
    centers = shift(pair.moving_center - pair.fixed_center)
    if pair.judge(centers).similarity > pair.judge(np.eye(4)).similarity:
        return centers, "only the centres of the images were aligned"
    return np.eye(4), "the images were left as they lie"


def _trusted(
    pair: Pair, edges: Edges, method: str, found: np.ndarray, rigid: np.ndarray, search: bool
) -> tuple[np.ndarray, float, str | None]:
    """`found` if it stands out from chance, else `rigid` if that does, else the safe start; the evidence for what is
    kept, and why that is not `found`. search: whether no start was given."""
    evidence = edges.evidence(found)
    needed = TURNED_EVIDENCE if search and angle(rigid[:3, :3]) > SMALLEST_TURN else SMALLEST_EVIDENCE
    if evidence >= needed:
        return found, evidence, None
    if found is not rigid and edges.evidence(rigid) >= needed:
        trusted, kept = rigid, "the rigid one was kept"
    else:
        trusted, kept = _safe_start(pair, search)
    reason = (
        f"The {method} alignment was not used, because under it the edges of the images agree hardly better than by "
        f"chance ({evidence:.1f} standard deviations above displaced copies, {needed:g} are needed); {kept}."
    )
    return trusted, edges.evidence(trusted), reason


def _with_one_scale(pair: Pair, edges: Edges, affine: np.ndarray, seed: int, report: Progress) -> np.ndarray:
    """The similarity next to an affine map, refined. Mutual information finds the scale sooner on the way of affine."""
    center = pair.samples.points.mean(0)
    d = pair.dimension
    u, _, vt = np.linalg.svd(affine[:d, :d])
    linear = np.eye(3)
    linear[:d, :d] = abs(np.linalg.det(affine[:d, :d])) ** (1 / d) * (u @ vt)
    start = about(linear, center, affine[:3, :3] @ center + affine[:3, 3])
    work = Sitk.of(pair)
    for stage in STAGES["rigid"]:
        found = work.refined(start, "similarity", stage, seed, lambda fraction: report(0.95 + 0.05 * fraction))
        if found is not None and fault_of(pair, edges, found, start, "rigid") is None:
            start = found
    return start
