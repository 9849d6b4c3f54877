"""The refinement as the pipeline calls it."""

from __future__ import annotations

from .device import check_memory, out_of_memory
from .intensity import intensity_window


def pair_of(fixed, moving, matrix, mask, moving_mask):
    """What refinement and checks compare, without labels and landmarks."""
    from ..refinement.pair import Pair

    windows = []
    for image in (fixed, moving):
        low, high = intensity_window(image, 0.5, 99.5)
        windows.append((low, 1.0 / (high - low)))
    return Pair(fixed, moving, matrix, tuple(windows), mask, moving_mask)


def checks_of(fixed_labels, moving_labels, settings, run):
    """What keeps every stage from making it worse."""
    from . import guard

    overlap = None
    if fixed_labels is not None:
        overlap = guard.Overlap(fixed_labels, moving_labels, settings.label_interpolation)
    return guard.Checks(overlap, settings.similarity, run.warnings)


def refine_pair(work, start, device, settings, run, checks):
    """The refined field and what the report says of it. work: the pair with what guides it."""
    from ..refinement.choice import choose_similarity
    from ..refinement.levels import Options
    from ..refinement.pair import memory_bytes
    from ..refinement.refine import refine

    if device == "mps":
        # Apple's GPU lacks 3D interpolation.
        device = "cpu"
        run.warnings.append("The refinement ran on the CPU: the Apple GPU cannot interpolate volumes.")
    check_memory(memory_bytes(work), "The refinement")
    similarity, reason = settings.similarity, "As set."
    if similarity == "auto":
        similarity, reason = choose_similarity(work, start)
    weights = settings.smoothness, settings.label_weight, settings.landmark_weight
    options = Options(settings.refinement, similarity, *weights)
    try:
        result = refine(work, start, options, device=device, progress=run.report)
    except RuntimeError as error:
        if device == "cpu" or not out_of_memory(error):
            raise
        run.warnings.append("The GPU has too little memory for this pair; the refinement ran on the CPU.")
        result = refine(work, start, options, progress=run.report)
    guided = [what for what, given in (("labels", work.labels), ("landmarks", work.points)) if given is not None]
    field, improved = result.field, result.improved
    if improved:
        field, improved = checks.refinement(work, start, field, similarity)
    else:
        run.warnings.append("The refinement did not make the images more similar; its start was kept.")
    for what in guided:
        run.warnings.append(f"The {what} guided the refinement, so that their agreement is no independent measure.")
    return field, {
        "preset": settings.refinement,
        "similarity": similarity,
        "reason": reason,
        "value": {
            "before": result.similarity_before,
            "after": result.similarity_after if improved else result.similarity_before,
        },
        "steps": list(result.steps),
        "detailed": result.detailed,
        "improved": improved,
        "guided_by": guided,
    }
