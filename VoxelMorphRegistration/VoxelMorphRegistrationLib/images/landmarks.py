"""Landmarks: named points in RAS mm, some of which may not be placed, and which of two lists belong together.

Files are Slicer's markups (.mrk.json, .fcsv) and tables (.csv, .tsv, .txt; see landmark_tables.py).
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .landmark_tables import read_table
from .places import check_file

# vtkMRMLMarkupsNode::PositionDefined, as .fcsv files hold it behind the associated node.
_DEFINED, _STATUS_COLUMN = 2, 14
_NAMED = 6


@dataclass(frozen=True, eq=False)
class Landmarks:
    """A list of points. points: (N, 3) in RAS mm, NaN where one is not placed; labels: (N,), "" where there is none."""

    points: np.ndarray
    labels: tuple[str, ...]
    name: str = "landmarks"

    @property
    def placed(self) -> np.ndarray:
        """(N,) bool."""
        return np.isfinite(self.points).all(axis=1)

    @property
    def are_named(self) -> bool:
        """Whether every point has a label of its own."""
        return all(self.labels) and len(set(self.labels)) == len(self.labels)

    def called(self, number: int) -> str:
        """Point `number` (from 0) as messages call it."""
        return f"'{self.labels[number]}'" if self.labels[number] else f"number {number + 1}"


def read_landmarks(path: str | Path, name: str = "landmarks") -> Landmarks:
    """The points of a file with their labels, those that are not placed as gaps. Raises InputError.

    .mrk.json and .fcsv state their frame and are converted; a table may name its columns x, y, z (RAS mm), or by
    the directions in which they grow (r, a, s or l, p, s).
    """
    path = Path(path)
    check_file(path, name)
    try:
        text = decoded(path.read_bytes())
        found = _found(text, path.suffix.lower())
        points = np.array([point for point, _ in found], dtype=np.float64).reshape(-1, 3)
    except (
        ValueError,
        KeyError,
        IndexError,
        OverflowError,
        TypeError,
        AttributeError,
        csv.Error,
        RecursionError,
    ) as error:
        why = f": {error}" if isinstance(error, ValueError) and error.args and type(error) is ValueError else ""
        raise InputError(
            f"The {name} in {path.name} cannot be read{why}. Give Slicer markups (.mrk.json, .fcsv) or a table with "
            "the columns x, y, z in RAS mm."
        ) from error
    if np.isinf(points).any() or not np.isfinite(points).all(axis=1).any():
        raise InputError(f"The {name} in {path.name} hold no placed points, or points that are not finite.")
    return Landmarks(points, tuple(label for _, label in found), name)


def _found(text: str, suffix: str) -> list[tuple[list[float], str]]:
    if suffix == ".json":
        return _markups(text)
    return Fcsv.of(text).found() if suffix == ".fcsv" else read_table(text).found


def read_points(path: str | Path, name: str = "landmarks") -> np.ndarray:
    """The placed points (N, 3) of a file in RAS mm. Raises InputError."""
    landmarks = read_landmarks(path, name)
    return landmarks.points[landmarks.placed]


def matched(
    fixed: Landmarks | None, moving: Landmarks | None
) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """As `paired`; where a list is missing, the placed points of the other one."""
    if fixed is not None and moving is not None:
        return paired(fixed, moving)
    one, other = (None if list_ is None else list_.points[list_.placed] for list_ in (fixed, moving))
    return one, other, []


def paired(fixed: Landmarks, moving: Landmarks) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Points (P, 3) of both lists that belong together, and what is to be told of those that were left out.

    By label where every point of both lists has one of its own and some are shared, else by their place in the list,
    where points that are not placed count as places. Raises InputError when nothing belongs together.
    """
    if fixed.are_named and moving.are_named and set(fixed.labels) & set(moving.labels):
        where = {label: number for number, label in enumerate(moving.labels)}
        pairs = [(number, where[label]) for number, label in enumerate(fixed.labels) if label in where]
        told = _alone(fixed, moving)
    else:
        if len(fixed.labels) != len(moving.labels):
            raise InputError(
                f"There are {len(fixed.labels)} {fixed.name} and {len(moving.labels)} {moving.name}, and their labels "
                "do not say which belong together. Give the same number in the same order, or the same labels."
            )
        pairs = [(number, number) for number in range(len(fixed.labels))]
        told = []
    left = []
    for landmarks, side in ((fixed, 0), (moving, 1)):
        gaps = [landmarks.called(pair[side]) for pair in pairs if not landmarks.placed[pair[side]]]
        if gaps:
            left.append(f"{_listed(gaps)} of the {landmarks.name}")
    pairs = [(one, other) for one, other in pairs if fixed.placed[one] and moving.placed[other]]
    if left:
        told.append(f"Landmarks that are not placed were left out: {' and '.join(left)}. {len(pairs)} pairs were used.")
    if not pairs:
        raise InputError(f"No point of the {fixed.name} and the {moving.name} is placed in both. Place them first.")
    return fixed.points[[one for one, _ in pairs]], moving.points[[other for _, other in pairs]], told


def _alone(fixed: Landmarks, moving: Landmarks) -> list[str]:
    """A sentence about labels that only one list has."""
    parts = []
    for one, other in ((fixed, moving), (moving, fixed)):
        alone = [f"'{label}'" for label in one.labels if label not in set(other.labels)]
        if alone:
            parts.append(f"{_listed(alone)} of the {one.name}")
    return [f"Landmarks without a partner of the same label were left out: {' and '.join(parts)}."] if parts else []


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _point(values, lps: bool) -> list[float]:
    x, y, z = (float(value) for value in values)
    return [-x, -y, z] if lps else [x, y, z]


def _markups(text: str) -> list[tuple[list[float], str]]:
    found = []
    for markup in json.loads(text)["markups"]:
        units = markup.get("coordinateUnits", "mm")
        if any(str(unit) not in ("mm", "[mm]") for unit in (units if isinstance(units, list) else [units])):
            raise ValueError(f"its positions are in {units}, not in mm")
        lps = is_lps(markup.get("coordinateSystem", "LPS"))
        for control in markup["controlPoints"]:
            position = control.get("position")
            placed = bool(position) and control.get("positionStatus", "defined") == "defined"
            label = str(control.get("label", "") or "").strip()
            found.append((_point(position, lps) if placed else [np.nan] * 3, label))
    return found


def is_lps(system) -> bool:
    word = str(system).strip().upper()
    if word in ("LPS", "1", "SCANNER_LPS"):
        return True
    if word in ("RAS", "0"):
        return False
    raise ValueError(f"its positions are in the frame {word}, and RAS or LPS is due")


@dataclass(frozen=True, eq=False)
class Fcsv:
    """Slicer's older list (.fcsv). Its comments state the frame (RAS before they did) and the columns.

    rows: of each point its line's number and cells. axes, label: columns.
    """

    lines: list[str]
    rows: list[tuple[int, list[str]]]
    lps: bool
    axes: list[int]
    label: int

    @staticmethod
    def of(text: str) -> Fcsv:
        lines = text.splitlines()
        stated = {}
        for line in lines:
            if line.startswith("#") and "=" in line:
                key, value = line[1:].split("=", 1)
                stated[key.strip().lower()] = value.strip()
        columns = [word.strip().lower() for word in stated.get("columns", "id,x,y,z").split(",")]
        rows = [
            (number, next(csv.reader([line])))
            for number, line in enumerate(lines)
            if line.strip() and not line.startswith("#")
        ]
        return Fcsv(
            lines,
            rows,
            is_lps(stated.get("coordinatesystem", "RAS")),
            [columns.index(axis) for axis in "xyz"],
            columns.index("label") if "label" in columns else 11,
        )

    def found(self) -> list[tuple[list[float], str]]:
        """Points in RAS mm, NaN where one is not placed, with their labels."""
        result = []
        for _, row in self.rows:
            name = row[self.label].strip() if len(row) > self.label else ""
            placed = _is_placed(row)
            result.append((_point((row[axis] for axis in self.axes), self.lps) if placed else [np.nan] * 3, name))
        return result

    def rewritten(self, points_ras: list[list[float]]) -> str:
        """The text with other positions, one for each row; those that are not placed stay."""
        lines = list(self.lines)
        for (number, row), point in zip(self.rows, points_ras, strict=True):
            if _is_placed(row):
                cells = list(row)
                for axis, value in zip(self.axes, _point(point, self.lps), strict=True):
                    cells[axis] = f"{value:.9g}"
                out = io.StringIO()
                csv.writer(out, lineterminator="").writerow(cells)
                lines[number] = out.getvalue()
        return "\n".join(lines) + "\n"


def _is_placed(row: list[str]) -> bool:
    status = row[_STATUS_COLUMN].strip() if len(row) > _STATUS_COLUMN else ""
    return not status or int(status) == _DEFINED
