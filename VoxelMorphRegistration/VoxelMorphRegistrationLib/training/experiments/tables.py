"""The table of an experiment: what its rows hold, as CSV and on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .scores import PairScores

Row = dict[str, Any]


def spread(name: str, values: Iterable[float]) -> Row:
    """Mean of the finite values as `name`, and their standard deviation over the pairs as `name`_sd."""
    finite = [value for value in values if np.isfinite(value)]
    mean, deviation = (float(np.mean(finite)), float(np.std(finite))) if finite else (float("nan"), float("nan"))
    return {name: mean, f"{name}_sd": deviation}


def mean(name: str, values: Iterable[float]) -> Row:
    return {name: spread(name, values)[name]}


def folds(scores: list[PairScores], prefix: str = "") -> Row:
    """Mean percentages of folded voxels."""
    return {
        **mean(f"{prefix}folds_percent", (one.folds_percent for one in scores)),
        **mean(f"{prefix}folds_any_corner_percent", (one.folds_any_corner_percent for one in scores)),
    }


def write_table(rows: list[Row], path: Path) -> None:
    """Write the rows, which have the same columns, as CSV; what could not be measured stays empty."""
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: _cell(value, "{:.6g}") for key, value in row.items()} for row in rows)
    partial.replace(path)


def formatted(rows: list[Row]) -> str:
    """The rows as aligned text."""
    lines = [list(rows[0]), *([_cell(value, "{:.4g}") or "-" for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(value: object, form: str) -> str:
    if isinstance(value, float):
        return form.format(value) if np.isfinite(value) else ""
    return str(value)
