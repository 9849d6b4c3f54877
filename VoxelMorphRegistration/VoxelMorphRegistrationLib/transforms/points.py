"""Landmark files carried through a chain: their format, order, labels and other columns are kept.

.mrk.json and .fcsv say their frame; tables (.csv, .tsv, .txt) have the columns x, y, z (or begin with three numbers) in
RAS mm, unless told otherwise.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError

SUFFIXES = (".mrk.json", ".json", ".fcsv", ".csv", ".tsv", ".txt")
FRAMES = ("RAS", "LPS")
_FLIP = np.array([-1.0, -1.0, 1.0])
# What a plane or a box is does not follow from where its control points go.
_RIGID_MARKUPS = ("Plane", "ROI")
Move = Callable[[np.ndarray], np.ndarray]


def carried(path: str | Path, move: Move, frame: str = "RAS") -> str:
    """The text of the file with every point moved. move: (N, 3) RAS mm to (N, 3). Raises InputError.

    frame: of a table's columns, RAS or LPS.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The landmarks cannot be read: there is no file {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return _markups(text, move, path.name)
        return _fcsv(text, move) if path.suffix == ".fcsv" else _table(text, move, frame == "LPS")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"The landmarks in {path.name} cannot be read. Give Slicer markups (.mrk.json, .fcsv) or a table with the "
            "columns x, y, z."
        ) from error


def _moved(points: list, move: Move, lps: bool) -> np.ndarray:
    array = np.array(points, np.float64).reshape(-1, 3)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError("no points")
    flip = _FLIP if lps else np.ones(3)
    return move(array * flip) * flip


def _markups(text: str, move: Move, name: str) -> str:
    content = json.loads(text)
    result = copy.deepcopy(content)
    for markup in result["markups"]:
        if markup.get("type") in _RIGID_MARKUPS:
            raise InputError(
                f"{name} holds a {markup['type']}, which is more than its points. Carry points, lines and curves, or "
                "make a model or a segmentation of it in Slicer first."
            )
        placed = [point for point in markup["controlPoints"] if point.get("positionStatus", "defined") == "defined"]
        lps = str(markup.get("coordinateSystem", "LPS")) in ("LPS", "1")
        for point, position in zip(placed, _moved([p["position"] for p in placed], move, lps), strict=True):
            point["position"] = position.tolist()
        for measurement in markup.get("measurements", []):
            # Of the points as they were; Slicer measures anew when it reads the file.
            measurement.pop("value", None)
            measurement.pop("controlPointValues", None)
    return json.dumps(result, indent=4) + "\n"


def _fcsv(text: str, move: Move) -> str:
    lines = text.splitlines()
    header = next((line for line in lines if line.startswith("#") and "CoordinateSystem" in line), "= RAS")
    lps = header.split("=")[-1].strip() in ("LPS", "1")
    rows = {n: next(csv.reader([line])) for n, line in enumerate(lines) if line.strip() and not line.startswith("#")}
    moved = _moved([[float(value) for value in row[1:4]] for row in rows.values()], move, lps)
    for (number, row), position in zip(rows.items(), moved, strict=True):
        row[1:4] = [f"{value:.9g}" for value in position]
        out = io.StringIO()
        csv.writer(out, lineterminator="").writerow(row)
        lines[number] = out.getvalue()
    return "\n".join(lines) + "\n"


def _table(text: str, move: Move, lps: bool) -> str:
    lines = text.splitlines()
    used = [n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    first = lines[used[0]]
    separator = next((mark for mark in ("\t", ";", ",") if mark in first), None)

    def cells(line: str) -> list[str]:
        return next(csv.reader([line], delimiter=separator)) if separator else re.split(r"\s+", line.strip())

    columns = [0, 1, 2]
    header = [word.strip().lower() for word in cells(first)]
    if {"x", "y", "z"} <= set(header):
        columns = [header.index(axis) for axis in "xyz"]
        used = used[1:]
    rows = [cells(lines[n]) for n in used]
    moved = _moved([[float(row[column]) for column in columns] for row in rows], move, lps)
    for number, row, position in zip(used, rows, moved, strict=True):
        for column, value in zip(columns, position, strict=True):
            row[column] = f"{value:.9g}"
        out = io.StringIO()
        csv.writer(out, delimiter=separator or " ", lineterminator="").writerow(row)
        lines[number] = out.getvalue()
    return "\n".join(lines) + "\n"
