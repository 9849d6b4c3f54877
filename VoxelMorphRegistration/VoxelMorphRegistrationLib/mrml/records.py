"""What registrations recorded on nodes, read again: a scene may be of another version, damaged, or a stranger's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import InputError
from ..images.grid import check_matrix
from ..results.table import rows
from ..results.verdict import verdict
from .names import REPORT_ATTRIBUTE

# A report on 138 structures and 300 landmarks has some 60 kB.
_MOST_CHARACTERS = 8 * 2**20
# Of what display nodes hold: switches, opacities, widths of lines.
_LARGEST = 1000


def recorded(node, attribute: str) -> Any:
    """The value of an attribute, from JSON; None where there is none. Raises InputError for what is no JSON."""
    text = node.GetAttribute(attribute)
    if not text:
        return None
    try:
        if len(text) > _MOST_CHARACTERS:
            raise ValueError
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(node, attribute) from error


def recorded_matrix(node, attribute: str, *keys: str) -> np.ndarray:
    """(4, 4) at `keys` of an attribute. Raises InputError where it is missing or no invertible matrix."""
    value = recorded(node, attribute)
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    try:
        return check_matrix(value, attribute)
    except (InputError, TypeError, ValueError) as error:
        raise _refusal(node, attribute) from error


def recorded_look(node, attribute: str, kinds: Mapping[str, type]) -> dict:
    """The properties of a display node, of these names and kinds, that an attribute holds; others are left out."""
    try:
        value = recorded(node, attribute)
    except InputError:
        return {}
    known = value if isinstance(value, Mapping) else {}
    numbers = {name: known[name] for name in kinds if isinstance(known.get(name), (int, float))}
    return {name: kinds[name](number) for name, number in numbers.items() if abs(number) < _LARGEST}


def report_of(node) -> dict:
    """The report that a registration left on a transform; empty without one.

    Raises InputError for one that cannot be shown.
    """
    text = node.GetAttribute(REPORT_ATTRIBUTE) if node is not None else None
    if not text:
        return {}
    report = _known_report(text) if len(text) <= _MOST_CHARACTERS else None
    if report is None:
        raise _refusal(node, REPORT_ATTRIBUTE)
    return report


@lru_cache(maxsize=8)
def _known_report(text: str) -> dict | None:
    """The report, if all that is shown of it is as this version writes it."""
    try:
        report = json.loads(text)
        warnings = report.get("warnings", [])
        for row in rows(report):
            row.cells()
        verdict(report)
        well = isinstance(warnings, list) and all(isinstance(line, str) for line in warnings)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        # What is missing or of another kind shows in many ways where it is read.
        return None
    return report if well else None


def _refusal(node, attribute: str) -> InputError:
    what = "report" if attribute == REPORT_ATTRIBUTE else f"record '{attribute}'"
    return InputError(
        f"The {what} on '{node.GetName()}' cannot be used: it was written by another version of this extension, or it "
        "is damaged. Register again."
    )
