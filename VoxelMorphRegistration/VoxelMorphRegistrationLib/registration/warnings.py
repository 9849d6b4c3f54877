"""When a result is doubted, and in which words."""

from __future__ import annotations

# A report warns when less of the fixed anatomy, in percent, is covered by the moving image.
SMALLEST_COVERAGE = 75.0


def warn(warnings: list[str], found: dict, checks: dict) -> None:
    """Add what speaks against a result. found: the measures of the report. checks: the verdicts by stage."""
    _warn(warnings, found["folding"], found["similarity"], checks)
    _warn_of_inputs(warnings, found["covered_percent"], found["tre_mm"])


def _warn_of_inputs(warnings: list[str], covered: float, errors: dict | None) -> None:
    """Warnings from coverage, and from landmarks where they are given."""
    if covered < SMALLEST_COVERAGE:
        warnings.append(
            f"Only {covered:.0f} % of the fixed anatomy lies within the moving image; there is nothing to compare in "
            "the rest. Check the alignment, or give a mask of the region that both images show."
        )
    if errors and errors["after"]["mean"] > errors["before"]["mean"]:
        warnings.append(
            f"The landmarks are further apart than before (mean {errors['before']['mean']:.2f} mm before, "
            f"{errors['after']['mean']:.2f} mm after). Do not use this result, or check that the landmarks of both "
            "images are in the same order."
        )


def _warn(warnings: list[str], folding: dict, similar: dict, checks: dict) -> None:
    inside = folding["inside"]
    if inside["count"] or inside["any_corner_count"]:
        warnings.append(
            f"The deformation folds in {inside['count']} voxels ({inside['any_corner_count']} by the stricter count). "
            "Look at the Jacobian map, and do not trust the result there."
        )
    # Mutual information, since a correlation means little between two modalities.
    if similar["aligned"]["mi"] < similar["before"]["mi"]:
        warnings.append(
            "The linear alignment made the images less similar than they lay. Choose another alignment (rigid, "
            "centers), or bring the images together by hand and choose alignment 'none'."
        )
    undone = any(not check["kept"] for check in checks.values())
    if similar["after"]["mi"] <= similar["aligned"]["mi"] and not undone:
        warnings.append(
            "The images are no more similar after the deformation than after the linear alignment. "
            "Check the alignment, and whether the model suits these images."
        )
