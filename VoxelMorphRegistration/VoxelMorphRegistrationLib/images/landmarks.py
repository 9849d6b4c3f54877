"""Landmark files: Slicer markups (.mrk.json, .fcsv) and plain tables (.csv, .txt), read as RAS mm."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from ..errors import InputError


def read_points(path: str | Path, name: str = "landmarks") -> np.ndarray:
    """Points (N, 3) in RAS mm. Raises InputError.

    .mrk.json and .fcsv state their frame and are converted; the columns x, y, z (or the first three numbers) of
    a .csv or .txt are taken as RAS mm.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The {name} cannot be read: there is no file {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        points = _markups(text) if path.suffix == ".json" else _fcsv(text) if path.suffix == ".fcsv" else _table(text)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"The {name} in {path.name} cannot be read. Give Slicer markups (.mrk.json, .fcsv) or a table with the "
            "columns x, y, z in RAS mm."
        ) from error
    result = np.array(points, dtype=np.float64).reshape(-1, 3)
    if len(result) == 0 or not np.isfinite(result).all():
        raise InputError(f"The {name} in {path.name} hold no points, or points that are not finite.")
    return result


def _to_ras(points: list, lps: bool) -> list:
    return [[-p[0], -p[1], p[2]] for p in points] if lps else points


def _markups(text: str) -> list:
    points = []
    for markup in json.loads(text)["markups"]:
        own = [c["position"] for c in markup["controlPoints"] if c.get("positionStatus", "defined") == "defined"]
        points += _to_ras(own, str(markup.get("coordinateSystem", "LPS")) in ("LPS", "1"))
    return points


def _fcsv(text: str) -> list:
    lines = text.splitlines()
    header = next((line for line in lines if line.startswith("#") and "CoordinateSystem" in line), "")
    system = header.split("=")[-1].strip() if header else "RAS"
    rows = list(csv.reader(line for line in lines if line.strip() and not line.startswith("#")))
    return _to_ras([[float(value) for value in row[1:4]] for row in rows], system in ("LPS", "1"))


def _table(text: str) -> list:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = [line.replace(",", " ").replace(";", " ").split() for line in lines]
    columns = [0, 1, 2]
    header = [word.strip().lower() for word in rows[0]]
    if {"x", "y", "z"} <= set(header):
        columns = [header.index(axis) for axis in "xyz"]
        rows = rows[1:]
    return [[float(row[column]) for column in columns] for row in rows]
