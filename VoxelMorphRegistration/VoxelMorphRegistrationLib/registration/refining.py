"""The refinement as the pipeline calls it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fields.warp import warp_image
from .both_ways import NOTHING_SHARED, ONE_WAY, both_ways, may_be_chance, told_of
from .channels import facts_of
from .device import check_memory
from .intensity import intensity_window, measured_region
from .memory import images_bytes, is_out_of_memory
from .result import Preview
from .starts import NOTHING, best_of, held_bytes

if TYPE_CHECKING:
    from ..fields.displacement import DisplacementField
    from ..images.grid import Grid
    from ..refinement.levels import Options
    from ..refinement.pair import Pair
    from ..refinement.refine import Refined
    from .guard import Checks
    from .inputs import Inputs
    from .progress import Run
    from .settings import Settings
    from .starts import Starts


def pair_of(inputs: Inputs, matrix: np.ndarray) -> Pair:
    """What refinement and checks compare, without labels and landmarks. matrix: A (4, 4), fixed to moving RAS mm."""
    from ..refinement.pair import Pair

    windows = []
    for image in (inputs.fixed, inputs.moving):
        low, high = intensity_window(image, 0.5, 99.5)
        windows.append((low, 1.0 / (high - low)))
    return Pair(inputs.fixed, inputs.moving, matrix, (windows[0], windows[1]), inputs.region, inputs.moving_mask)


def guided(pair: Pair, inputs: Inputs, settings: Settings) -> Pair:
    """The pair with what guides its refinement: labels and landmarks that the settings weight."""
    if settings.label_weight and inputs.fixed_labels is not None and inputs.moving_labels is not None:
        pair = replace(pair, labels=(inputs.fixed_labels, inputs.moving_labels))
    if settings.landmark_weight and inputs.fixed_points is not None and inputs.moving_points is not None:
        pair = replace(pair, points=(inputs.fixed_points, inputs.moving_points))
    return pair


def checks_of(inputs: Inputs, settings: Settings) -> Checks:
    """What keeps every stage from making it worse."""
    from . import guard

    overlap = None
    if inputs.fixed_labels is not None and inputs.moving_labels is not None:
        overlap = guard.Overlap(inputs.fixed_labels, inputs.moving_labels, settings.label_interpolation)
    return guard.Checks(overlap, settings.similarity)


def show_preview(work: Pair, field: DisplacementField, background: float | None, run: Run) -> None:
    """Tell the moving image under the field so far."""
    if run.preview is not None:
        warped = warp_image(work.moving, work.fixed.grid, field, work.matrix, background)
        run.preview(Preview(field, work.matrix, warped))


def refine_pair(
    work: Pair,
    start: DisplacementField | None,
    device: str,
    settings: Settings,
    run: Run,
    checks: Checks,
    evidence: float | None = None,
    starts: Starts | None = None,
) -> tuple[DisplacementField, dict]:
    """The refined field and what the report says of it. work: the pair with what guides it. evidence: of the alignment
    by edges; None where it was not looked at. starts: what one modality is refined from as well.
    """
    from ..refinement.choice import choose_similarity
    from ..refinement.levels import Options
    from ..refinement.pair import memory_bytes
    from ..refinement.refine import Enough
    from ..refinement.unmatched import left_out, without_counterpart
    from ..trust.runs import swapped

    if device == "mps":
        # Apple's GPU lacks 3D interpolation.
        device = "cpu"
        run.warnings.append("The refinement ran on the CPU: the Apple GPU cannot interpolate volumes.")

    def check(pair: Pair) -> None:
        held = held_bytes(pair.fixed.grid, pair.mask) if starts else 0
        check_memory(memory_bytes(pair) + held + images_bytes(work.fixed.grid, work.moving.grid), "The refinement")

    check(work)
    similarity, reason = (settings.channel_similarities or (settings.similarity,))[0], "As set."
    if similarity == "auto":
        similarity, reason = choose_similarity(work, start)
    back: Pair | None = None
    if start is None and may_be_chance(work, similarity, evidence):
        back = swapped(work, measured_region(work.moving, None))
        check(back)
    weights = settings.smoothness, settings.label_weight, settings.landmark_weight
    options = Options(settings.refinement, similarity, *weights)

    def report(fraction: float) -> None:
        run.report(fraction)
        if run.stopping:
            # What ends here needs no finer volumes.
            run.ahead.drop()
            raise Enough

    show = None
    if run.preview is not None:

        def show(field: DisplacementField) -> None:
            show_preview(work, field, settings.background, run)

    several = starts if similarity == "lncc" else None
    with run.part(0, several.parts if several else 1):
        result, device = _refined(work, start, options, device, run, progress=report, preview=show)
    began = NOTHING if several else None
    tried: list[dict] = []
    next_best: list[tuple[str, Refined]] = []
    if several and not result.stopped:

        def refined(field: DisplacementField, in_detail: bool | None) -> Refined:
            # Once more, smoothly: what was told before does not begin anew.
            tell = (lambda _: report(1.0)) if in_detail is False else report
            return _refined(work, field, options, device, run, progress=tell, in_detail=in_detail)[0]

        ((began, result), *next_best), tried = best_of(result, several, refined, checks.judge(work), run)
    finished = result.improved and not result.stopped
    agreement: float | None = None
    if finished and back is not None:
        returned, _ = _refined(back, None, options, device, run, progress=lambda _: report(1.0))
        finished = False
        if returned.stopped:
            result = replace(result, stopped=True)
            run.warnings.append(ONE_WAY)
        else:
            both = both_ways(work, result.field, returned.field)
            agreement, result = both.agreement, replace(result, field=both.field, improved=both.agreement > 0)
            run.warnings.append(told_of(both))
    region = without_counterpart(work, result.field) if finished else None
    if region is not None:
        others = left_out(work, region)
        without, _ = _refined(others, start, options, device, run, progress=lambda _: report(1.0))
        if without.stopped:
            result = replace(result, stopped=True)
        elif without.improved:
            result = without
            run.warnings.append(_told_of(region, work.moving.grid))
    if result.stopped:
        run.cut_short()
    # Not known of a mean of both ways.
    after = result.similarity_after if agreement is None else None
    guides = [what for what, given in (("labels", work.labels), ("landmarks", work.points)) if given is not None]
    field, improved = result.field, result.improved
    if improved:
        smooth = start is not None and result.decorrelated and result.detailed is False
        field, improved = checks.refinement(work, start, field, similarity, smooth)
        # Given labels may tell that the images were misled from one start, and not from another.
        for name, other in next_best:
            if improved or not other.improved:
                break
            field, improved = checks.refinement(work, start, other.field, similarity)
            if improved:
                began, result, after = name, other, other.similarity_after
    else:
        checks.unrefined(work, start, similarity, None if agreement is None else NOTHING_SHARED)
    for what in guides:
        run.warnings.append(f"The {what} guided the refinement, so that their agreement is no independent measure.")
    return field, {
        "preset": settings.refinement,
        "similarity": similarity,
        "reason": reason,
        "start": began,
        "starts": tried,
        "value": {
            "before": result.similarity_before,
            "after": after if improved else result.similarity_before,
        },
        "steps": list(result.steps),
        "detailed": result.detailed,
        "improved": improved,
        "stopped": result.stopped,
        "agreement": agreement,
        "guided_by": guides,
        "channels": facts_of(work),
    }


def _refined(
    pair: Pair, start: DisplacementField | None, options: Options, device: str, run: Run, **told: Any
) -> tuple[Refined, str]:
    """The refinement on a device, or on the CPU where the GPU is too small for it, and which of them it was."""
    from ..refinement.refine import refine

    try:
        return refine(pair, start, options, device=device, ahead=run.ahead, **told), device
    except RuntimeError as error:
        if device == "cpu" or not is_out_of_memory(error):
            raise
    run.warnings.append("The GPU has too little memory for this pair; the refinement ran on the CPU.")
    return refine(pair, start, options, ahead=run.ahead, **told), "cpu"


def _told_of(region: np.ndarray, grid: Grid) -> str:
    """What is said of a region (bool) of the moving image that was left out."""
    volume = np.count_nonzero(region) * float(np.prod(grid.spacing)) / 1000
    place = ", ".join(f"{value:.0f}" for value in grid.to_ras(np.argwhere(region)[:, ::-1].mean(0)))
    return (
        f"The fixed image seems to lack what the moving image shows around ({place}) mm RAS (a resection, a lesion, "
        f"another field of view). About {volume:.3g} ml were left out of the comparison; do not trust the result there."
    )
