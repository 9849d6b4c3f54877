"""When a result is doubted, and in which words: one sentence an event, and none where there is nothing to do."""

from __future__ import annotations

from ..alignment.align import SURE_EVIDENCE
from ..fields.folding import POSSIBLE
from .both_ways import NOTHING_SHARED

# A report warns when less of the fixed anatomy, in percent, is covered by the moving image: where the alignment may be
# wrong, and where it is sure (two crops of one image, which show half of each other, are a good result).
SMALLEST_COVERAGE, SURE_COVERAGE = 75.0, 25.0
# Of images whose local correlation is this high already, nobody misses a deformation. Brains of two people reach 0.8
# after their registration; two crops of one CT have 0.97.
ALIKE = 0.9
# Said of inputs, before anything is done (see inputs.accepted).
COPIES = "The fixed and the moving image hold the same values in the same places: is one of them the wrong file?"
# A loss of mutual information by less than this part is none: interpolation costs as much.
SMALLEST_LOSS = 0.03


def warn(
    warnings: list[str], found: dict, gains: dict[str, tuple[float, float]], checks: dict, evidence: float | None
) -> None:
    """Add what speaks against a result.

    found: the measures of the report. gains: as of Measures. checks: the verdicts by stage. evidence: of the alignment
    by edges, in standard deviations (None: it was not looked at).
    """
    _warn_of_alignment(warnings, found["covered_percent"], gains["aligned"], evidence)
    if COPIES not in warnings:
        _warn_of_stages(warnings, gains["after"], checks)
    _warn_of_folds(warnings, found["folding"])
    _warn_of_landmarks(warnings, found["tre_mm"])


def _warn_of_alignment(warnings: list[str], covered: float, gain: tuple[float, float], evidence: float | None) -> None:
    # Mutual information, since a correlation means little between two modalities. Where edges were looked at, the
    # alignment has weighed this itself.
    if evidence is None and gain[1] < (1 - SMALLEST_LOSS) * gain[0]:
        warnings.append(
            "The linear alignment made the images less similar than they lay. Choose another alignment (rigid, "
            "centers), or bring the images together by hand and choose alignment 'none'."
        )
    sure = evidence is not None and evidence >= SURE_EVIDENCE
    if covered < (SURE_COVERAGE if sure else SMALLEST_COVERAGE):
        warnings.append(little_covered(covered))


def little_covered(percent: float) -> str:
    """What is said of so much of the fixed anatomy that the moving image covers."""
    return (
        f"Only {percent:.0f} % of the fixed anatomy lies within the moving image; there is nothing to compare in "
        "the rest. Check the alignment, or give a mask of the region that both images show."
    )


def _warn_of_stages(warnings: list[str], gain: tuple[float, float], checks: dict) -> None:
    undone = {stage: check for stage, check in checks.items() if not check["kept"]}
    # A refinement that went well has replaced what the network did.
    if checks.get("refinement", {}).get("kept"):
        undone.pop("network", None)
    # Of ways that have nothing in common is told where they are compared.
    told = {
        stage: check["reason"]
        for stage, check in undone.items()
        if not _alike(check) and check["reason"] != NOTHING_SHARED
    }
    if "alignment" in told:
        warnings.append(f"The alignment made things worse and was undone: {told.pop('alignment')}.")
    if told:
        stages = f"{' and the '.join(told)} made things worse and {'was' if len(told) == 1 else 'were'} undone"
        warnings.append(f"The {stages}: {'; '.join(dict.fromkeys(told.values()))}.")
    elif not undone and gain[1] <= gain[0] and not any(map(_gained, checks.values())):
        warnings.append(
            "The images are no more similar after the deformation than after the linear alignment. "
            "Check the alignment, and whether the model suits these images."
        )


def _alike(check: dict) -> bool:
    """Whether a stage was undone only because the images were alike before."""
    first = next(iter(check["similarity"]), None)
    lost = check["dice"] is not None and check["dice"]["after"] < check["dice"]["before"]
    return first is not None and not lost and first["measure"] == "lncc" and first["before"] >= ALIKE


def _gained(check: dict) -> bool:
    """Whether a stage made the images more similar in what it was judged by, or labels overlap more."""
    dice = check["dice"]
    return any(one["after"] > one["before"] + 1e-3 * abs(one["before"]) for one in check["similarity"]) or (
        dice is not None and dice["after"] > dice["before"]
    )


def _warn_of_folds(warnings: list[str], folding: dict) -> None:
    inside = folding["inside"]
    if inside["count"] or inside["any_corner_count"]:
        warnings.append(
            f"The deformation folds in {inside['count']} voxels ({inside['any_corner_count']} by the stricter count). "
            "Look at the Jacobian map, and do not trust the result there."
        )
        return
    low, high = folding["pieces"]["minimum"], folding["pieces"]["maximum"]
    if low < POSSIBLE[0] or high > POSSIBLE[1]:
        warnings.append(
            f"The deformation changes the volume of pieces of the anatomy by factors of {low:.2g} to {high:.2g}, as no "
            "tissue does: one image may show what the other lacks (a resection, another field of view). Look at the "
            "Jacobian map, and do not trust the result there."
        )


def _warn_of_landmarks(warnings: list[str], errors: dict | None) -> None:
    if errors and errors["after"]["mean"] > errors["before"]["mean"]:
        warnings.append(
            f"The landmarks are further apart than before (mean {errors['before']['mean']:.2f} mm before, "
            f"{errors['after']['mean']:.2f} mm after). Do not use this result, or check that the landmarks of both "
            "images are in the same order."
        )
