"""The rows of the comparison: one method in one case, kept in a CSV, printed as a table, and their means."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from resources import BenchmarkError

DONE = "done"
BEFORE, ALIGNED = "before", "aligned"
# The largest part of the error of a known shift that a method may leave (see cases.CONVENTION_SHIFT).
CONVENTION_PART = 0.33


@dataclass(frozen=True)
class Row:
    """One method in one case. status: done, or why there are no figures. cpu_s, wall_s: with this project's
    alignment where the method took it. The other figures as in scores.Scores and resources.Cost.
    """

    seed: int
    shrink: int
    threads: int
    case: str
    group: str
    method: str
    status: str
    labels: str = ""
    dice: float | None = None
    dice138: float | None = None
    hd95_mm: float | None = None
    tre_mm: float | None = None
    tre95_mm: float | None = None
    folds: float | None = None
    folds_corner: float | None = None
    folds_volume: float | None = None
    folds_volume_corner: float | None = None
    ndv_percent: float | None = None
    sd_log_j: float | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    peak_mb: float | None = None

    @property
    def key(self) -> tuple:
        return self.seed, self.shrink, self.threads, self.case, self.method


NUMBERS = tuple(f.name for f in fields(Row) if "float" in f.type)
_WHOLE = ("seed", "shrink", "threads")


class Results:
    """The rows of OUT/results.csv, written anew after each row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple, Row] = {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                for row in map(_row, csv.DictReader(stream)):
                    self.rows[row.key] = row

    def add(self, row: Row) -> None:
        self.rows[row.key] = row
        part = self.path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [f.name for f in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows.values())
        part.replace(self.path)


def _row(values: dict[str, str]) -> Row:
    """A row of the CSV. Raises BenchmarkError when the columns are others."""
    if set(values) != {f.name for f in fields(Row)}:
        raise BenchmarkError("results.csv is of another version of this program: give another folder.")
    numbers = {name: float(values[name]) if values[name] else None for name in NUMBERS}
    return Row(**{**values, **numbers, **{name: int(values[name]) for name in _WHOLE}})


# Title, width and format of the printed columns.
COLUMNS = {
    "dice": ("Dice", 7, ".3f"),
    "dice138": ("Dice138", 9, ".3f"),
    "hd95_mm": ("HD95", 7, ".2f"),
    "tre_mm": ("TRE", 7, ".2f"),
    "folds": ("folds", 8, ".0f"),
    "folds_corner": ("corner", 8, ".0f"),
    "folds_volume": ("volume", 8, ".0f"),
    "folds_volume_corner": ("corner", 8, ".0f"),
    "ndv_percent": ("NDV %", 9, ".4f"),
    "sd_log_j": ("SDlogJ", 8, ".3f"),
    "cpu_s": ("CPU s", 8, ".1f"),
    "wall_s": ("wall s", 8, ".1f"),
    "peak_mb": ("MB", 7, ".0f"),
}


def table_head() -> str:
    return f"{'case':<21}{'method':<26}" + "".join(f"{title:>{width}}" for title, width, _ in COLUMNS.values())


def table_row(row: Row) -> str:
    head = f"{row.case:<21}{row.method:<26}"
    if row.status != DONE:
        return f"{head}  {row.status}"
    values = ((getattr(row, name), width, form) for name, (_, width, form) in COLUMNS.items())
    return head + "".join(f"{'-' if value is None else format(value, form):>{width}}" for value, width, form in values)


def means(rows: Iterable[Row]) -> list[Row]:
    """A row for each group and method that is done in at least one case: means over the cases that are done."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.status == DONE:
            groups.setdefault((row.group, row.method), []).append(row)
    result = []
    for (group, method), found in groups.items():
        numbers = {}
        for name in NUMBERS:
            values = [getattr(row, name) for row in found if getattr(row, name) is not None]
            numbers[name] = float(np.mean(values)) if values else None
        first = found[0]
        place = (first.seed, first.shrink, first.threads, f"{group} ({len(found)})", group, method)
        result.append(Row(*place, DONE, first.labels, **numbers))
    return result


def wrong_conventions(rows: Iterable[Row]) -> list[str]:
    """Methods that did not undo the known shift of the convention cases."""
    rows = [row for row in rows if row.group == "convention" and row.status == DONE]
    start = {row.case: row.tre_mm for row in rows if row.method == BEFORE}
    return [f"{r.method} ({r.case})" for r in rows if r.method != BEFORE and r.tre_mm > CONVENTION_PART * start[r.case]]
