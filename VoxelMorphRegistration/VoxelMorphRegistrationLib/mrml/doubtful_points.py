"""What is said at control points that are carried by a registration: the error in mm that is not exceeded with 90 %."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from .error_map import bound_at
from .results import results_of

_TEXT = "expected error up to {:.1f} mm (90 %)"
_OURS = re.compile(r"(?:; )?expected error up to [\d.]+ mm \(90 %\)$")


def positions_of(markups_node) -> np.ndarray:
    """Control points (N, 3) where they are in the world."""
    found = np.empty((markups_node.GetNumberOfControlPoints(), 3))
    place = [0.0] * 3
    for n in range(len(found)):
        markups_node.GetNthControlPointPositionWorld(n, place)
        found[n] = place
    return found


def describe(transform_node, markups_node, fixed_ras: np.ndarray) -> None:
    """Add the expected error to the description of each control point, behind what the user wrote there.

    transform_node: of the registration; without a map of the error nothing changes. fixed_ras: (N, 3), where the points
    lie on the fixed volume, in the world.
    """
    volume = results_of(transform_node).expected_error
    if volume is None or not len(fixed_ras):
        return
    undescribe([markups_node])
    for n, bound in enumerate(bound_at(volume, fixed_ras)):
        if np.isfinite(bound):
            own = markups_node.GetNthControlPointDescription(n)
            text = _TEXT.format(bound)
            markups_node.SetNthControlPointDescription(n, f"{own}; {text}" if own else text)


def undescribe(nodes: Iterable) -> None:
    """Take the expected errors out of the descriptions of control points."""
    for node in nodes:
        if node.IsA("vtkMRMLMarkupsNode"):
            for n in range(node.GetNumberOfControlPoints()):
                own = node.GetNthControlPointDescription(n) or ""
                if _OURS.search(own):
                    node.SetNthControlPointDescription(n, _OURS.sub("", own))
