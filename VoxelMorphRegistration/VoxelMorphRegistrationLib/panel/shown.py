"""The result that the panel shows: the nodes of one run, and the one that was kept to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..mrml.names import REPORT_ATTRIBUTE
from ..mrml.records import report_of
from ..mrml.results import results_of
from .choices import kept_of_this_pair, named_outputs


@dataclass(frozen=True)
class Shown:
    """Nodes of the result that are in the scene, None for the others. labels: by side, "fixed", "moving", "warped".

    transform: None without a result. report: its numbers; refused: why they
    cannot be shown. kept, kept_warped, kept_report: of the result A.
    """

    transform: Any = None
    fixed: Any = None
    moving: Any = None
    warped: Any = None
    jacobian: Any = None
    expected_error: Any = None
    labels: dict = field(default_factory=dict)
    report: dict = field(default_factory=dict)
    refused: str = ""
    kept: Any = None
    kept_warped: Any = None
    kept_report: dict = field(default_factory=dict)


def shown_result(parameters) -> Shown:
    """What the panel shows for these choices: the output, else the result that was kept."""
    kept = kept_of_this_pair(parameters) if parameters else None
    transform = _with_report(parameters.outputTransform if parameters else None) or kept
    if transform is None:
        return Shown()
    found = results_of(transform, named_outputs(parameters))
    report, refused = _report_and_refusal(transform)
    return Shown(
        transform=transform,
        fixed=found.fixed,
        moving=found.moving,
        warped=_present(found.volume),
        jacobian=_present(found.jacobian),
        expected_error=_present(found.expected_error),
        labels={
            "fixed": _present(parameters.fixedLabels),
            "moving": _present(parameters.movingLabels),
            "warped": _present(found.labels),
        },
        report=report,
        refused=refused,
        kept=kept,
        kept_warped=None if kept is None else _present(results_of(kept).volume),
        kept_report=_report_and_refusal(kept)[0],
    )


def _report_and_refusal(transform) -> tuple[dict, str]:
    """The report on a transform, and why it cannot be shown."""
    try:
        return report_of(transform), ""
    except InputError as error:
        return {}, str(error)


def _with_report(transform):
    present = _present(transform)
    return present if present is not None and present.GetAttribute(REPORT_ATTRIBUTE) else None


def _present(node):
    return node if node is not None and node.GetScene() is not None else None
