"""All reports of a batch in one table, and which pairs stand out: what a person looks at first.

A robust z-score says how far a measure lies from the median of all pairs, in units of 1.4826 times the median distance
from it (Iglewicz and Hoaglin 1993): some bad pairs do not hide themselves by widening the spread.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..results.outputs import REPORT
from ..results.verdict import BAD, GOOD, LOOK, verdict
from .pair import Pair
from .places import JOB, Places, read_json, write_text
from .table import Table

TABLE, PAGE = "summary.csv", "index.html"
# Measures, and on which side of the others a pair is doubted.
_DOUBTED = {
    "local_after": -1,
    "ncc_after": -1,
    "mi_after": -1,
    "dice_after": -1,
    "tre_mm_after": 1,
    "folded_percent": 1,
    "folded_strict_percent": 1,
    "determinant_min": -1,
    "determinant_max": 1,
    "sd_log_determinant": 1,
    "largest_displacement_mm": 1,
    "covered_percent": -1,
    "expected_error_mm": 1,
    "expected_error_p90_mm": 1,
}
# Where most pairs have the very same value, any other one is far off: further than this says nothing more.
_FURTHEST = 99.0
# From here on a value is an outlier (Iglewicz and Hoaglin).
OUTLIER = 3.5
_STANDING = {BAD: 3, LOOK: 2, GOOD: 0}


@dataclass
class Line:
    """One pair. state: done, failed, or open. values: measures by column. z: robust, by measure. message: why not."""

    id: str
    state: str
    pair: Pair | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    level: str = ""
    message: str = ""
    z: dict[str, float] = field(default_factory=dict)

    @property
    def doubt(self) -> float:
        """The largest z-score on the side that is doubted."""
        return max((_DOUBTED[name] * value for name, value in self.z.items()), default=0.0) + 0.0

    @property
    def reasons(self) -> list[str]:
        """The measures that are outliers, the worst first."""
        found = sorted(((_DOUBTED[name] * value, name) for name, value in self.z.items()), reverse=True)
        return [f"{name} {self.values[name]:.4g} (z {self.z[name]:+.1f})" for z, name in found if z > OUTLIER]


def check_table(path: str | Path, output: str | Path) -> None:
    """Raise InputError for a table of pairs that the summary in `output` would replace."""
    summary = Path(output) / TABLE
    if summary.exists() and Path(path).exists() and summary.samefile(path):
        raise InputError(f"The table {path} would be replaced by the summary. Copy it to another name first.")


def summarise(places: Places, table: Table) -> list[Line]:
    """Write summary.csv and index.html from what lies in the folder. Raises OutputError."""
    from .page import page_of

    lines = lines_of(places, table)
    try:
        write_text(places.root / TABLE, csv_of(lines))
        write_text(places.root / PAGE, page_of(lines, places.root.absolute().name))
    except OSError as error:
        raise OutputError(f"The summary could not be written to {places.root}: {error.strerror}.") from error
    return lines


def lines_of(places: Places, table: Table) -> list[Line]:
    """The pairs of a table, the most doubtful first: failed ones, then by verdict and z-score."""
    lines = [_line(places, pair) for pair in table.pairs]
    lines += [Line(where, "failed", message=why) for where, why in table.bad.items()]
    _score(lines)
    order = {"failed": 2, "open": 1, "done": 0}
    return sorted(lines, key=lambda one: (-order[one.state], -_STANDING.get(one.level, 0), -one.doubt, one.id))


def _line(places: Places, pair: Pair) -> Line:
    folder = places.folder(pair.id)
    report, job = read_json(folder / REPORT), read_json(folder / JOB)
    failure = read_json(places.failure(pair.id))
    if not report or not job:
        return Line(pair.id, "failed" if failure else "open", pair, message=str(failure.get("error", "")))
    found = verdict(report)
    line = Line(pair.id, "failed" if failure else "done", pair, _measures(report), _facts(report, job), found.level)
    line.message = str(failure.get("error", "")) if failure else found.reason
    return line


def _measures(report: dict) -> dict[str, float | None]:
    def of(*names: str) -> float | None:
        value = report
        for name in names:
            value = (value or {}).get(name)  # type: ignore[assignment]
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

    stages = ("before", "aligned", "after")
    found = {f"{name}_{stage}": of("similarity", stage, name) for name in ("local", "ncc", "mi") for stage in stages}
    for name in ("dice", "hd95_mm", "tre_mm"):
        found |= {f"{name}_{stage}": of(name, stage, "mean") for stage in stages}
    return found | {
        "folded_percent": of("folding", "inside", "percent"),
        "folded_strict_percent": of("folding", "inside", "any_corner_percent"),
        "determinant_min": of("folding", "inside", "minimum"),
        "determinant_max": of("folding", "inside", "maximum"),
        "sd_log_determinant": of("folding", "inside", "sd_log"),
        "largest_displacement_mm": of("largest_displacement_mm"),
        "covered_percent": of("covered_percent"),
        "inverse_error_mm": of("inverse", "max_mm"),
        "expected_error_mm": of("expected_error", "median"),
        "expected_error_p90_mm": of("expected_error", "p90"),
        **{f"expected_under_{limit}mm_percent": of("expected_error", f"under_{limit}mm") for limit in (1, 2, 5)},
        "seconds": of("seconds", "total"),
    }


def _facts(report: dict, job: dict) -> dict[str, str]:
    refined = report.get("refinement") or {}
    return {
        "model": str((report.get("model") or {}).get("name", "")),
        "refinement": str(refined.get("preset", "off")),
        "similarity": str(refined.get("similarity", "")),
        "device": str(report.get("device", "")),
        "computer": str(job.get("computer", "")),
        "finished": str(job.get("finished", "")),
        "version": str(report.get("version", "")),
        "warnings": " ".join(map(str, report.get("warnings") or [])),
    }


def _score(lines: Sequence[Line]) -> None:
    for name in _DOUBTED:
        known = [line for line in lines if line.values.get(name) is not None]
        values = np.array([line.values[name] for line in known], np.float64)
        for line, z in zip(known, robust_z(values), strict=True):
            line.z[name] = float(z)


def robust_z(values: np.ndarray) -> np.ndarray:
    """Of each of (N,) values; 0 of fewer than three. Where half of them are equal, by the mean distance (factor
    1.2533, Iglewicz and Hoaglin 1993).
    """
    if len(values) < 3:
        return np.zeros(len(values))
    away = values - np.median(values)
    spread = 1.4826 * np.median(np.abs(away))
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        spread = 1.2533 * np.mean(np.abs(away))
    if spread == 0:
        return np.zeros(len(values))
    return np.clip(away / spread, -_FURTHEST, _FURTHEST)


def csv_of(lines: Sequence[Line]) -> str:
    """One row a pair. Texts that a spreadsheet would take for a formula get an apostrophe in front; numbers do not."""
    notes = list(dict.fromkeys(name for line in lines if line.pair for name in line.pair.notes))
    measures = list(next((line.values for line in lines if line.values), {}))
    used = [name for name in measures if any(line.values.get(name) is not None for line in lines)]
    facts = list(next((line.facts for line in lines if line.facts), {}))
    scored = [name for name in _DOUBTED if name in used]
    head = ["id", "state", "verdict", "doubt", "reason", "fixed", "moving", *notes, *used]
    head += [*(f"z_{name}" for name in scored), *facts, "settings"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_plain, head))
    for line in lines:
        writer.writerow(_cells(line, notes, used, scored, facts))
    return file.getvalue()


def _cells(line: Line, notes: list[str], used: list[str], scored: list[str], facts: list[str]) -> Iterator[str]:
    pair = line.pair
    yield from map(_plain, (line.id, line.state, line.level))
    yield f"{line.doubt:.2f}" if line.z else ""
    yield _plain(line.message)
    yield from (_plain(pair.files.fixed), _plain(pair.files.moving)) if pair else ("", "")
    yield from (_plain(pair.notes.get(name, "")) if pair else "" for name in notes)
    for name in used:
        value = line.values.get(name)
        yield "" if value is None else f"{value:.6g}"
    yield from (f"{line.z[name]:.2f}" if name in line.z else "" for name in scored)
    yield from (_plain(line.facts.get(name, "")) for name in facts)
    yield _plain(json.dumps(_changed(pair))) if pair else ""


def _changed(pair: Pair) -> dict:
    """The settings that are not the usual ones."""
    usual = type(pair.settings)()
    return {name: value for name, value in vars(pair.settings).items() if value != getattr(usual, name)}


def _plain(text: str) -> str:
    text = " ".join(str(text).split())
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_summary(path: str | Path) -> list[dict[str, str]]:
    """The rows of a summary.csv."""
    return list(csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8"))))
