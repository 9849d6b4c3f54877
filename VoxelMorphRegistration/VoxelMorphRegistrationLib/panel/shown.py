"""The result that the panel shows: the nodes of one run, and the one that was kept to compare with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..mrml.names import REPORT_ATTRIBUTE
from ..mrml.results import results_of
from .choices import kept_of_this_pair, named_outputs


@dataclass(frozen=True)
class Shown:
    """Nodes of the result that are in the scene, None for the others. labels: by side, "fixed", "moving", "warped".

    transform: None without a result. report: its numbers. kept, kept_warped, kept_report: of the result A.
    """

    transform: Any = None
    fixed: Any = None
    moving: Any = None
    warped: Any = None
    jacobian: Any = None
    expected_error: Any = None
    labels: dict = field(default_factory=dict)
    report: dict = field(default_factory=dict)
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
        report=report_of(transform),
        kept=kept,
        kept_warped=None if kept is None else _present(results_of(kept).volume),
        kept_report=report_of(kept),
    )


def report_of(transform) -> dict:
    """The report that a registration left on its transform; empty without one."""
    text = transform.GetAttribute(REPORT_ATTRIBUTE) if transform is not None else None
    return json.loads(text) if text else {}


def _with_report(transform):
    present = _present(transform)
    return present if present is not None and present.GetAttribute(REPORT_ATTRIBUTE) else None


def _present(node):
    return node if node is not None and node.GetScene() is not None else None
