"""Landmark files carried through a chain: their format, order, labels and other columns are kept.

.mrk.json and .fcsv say their frame; tables (.csv, .tsv, .txt) have the columns x, y, z (or begin with three numbers) in
RAS mm, unless told otherwise.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..images.landmark_tables import read_table
from ..images.landmarks import Fcsv, decoded, is_lps, read_landmarks

MARKUPS = (".mrk.json", ".json", ".fcsv")
SUFFIXES = (*MARKUPS, ".csv", ".tsv", ".txt")
_FLIP = np.array([-1.0, -1.0, 1.0])
# What a plane or a box is does not follow from where its control points go.
_RIGID_MARKUPS = ("Plane", "ROI")
Move = Callable[[np.ndarray], np.ndarray]


def carried(path: str | Path, move: Move, frame: str | None = None) -> str:
    """The text of the file with every placed point moved. move: (N, 3) RAS mm to (N, 3). Raises InputError.

    frame: RAS or LPS, of a table whose columns do not say it (RAS when None).
    """
    path = Path(path)
    # As every reader of landmarks: it says what is unclear.
    points = read_landmarks(path).points
    placed = np.isfinite(points).all(axis=1)
    text = decoded(path.read_bytes())
    kind = path.suffix.lower()
    table = None if kind in (".json", ".fcsv") else read_table(text)
    flip = _FLIP if table is not None and frame == "LPS" and not table.states_frame else np.ones(3)
    moved = points.copy()
    moved[placed] = move(points[placed] * flip) * flip
    if table is not None:
        try:
            return table.rewritten(moved.tolist())
        except ValueError as error:
            raise InputError(
                f"{path.name} cannot be carried: {error}. Put each point into a line of its own."
            ) from error
    return _markups(text, moved, path.name) if kind == ".json" else Fcsv.of(text).rewritten(moved.tolist())


def _markups(text: str, points: np.ndarray, name: str) -> str:
    """points: of all control points of all lists, NaN where one is not placed."""
    result = copy.deepcopy(json.loads(text))
    left = iter(points)
    for markup in result["markups"]:
        if markup.get("type") in _RIGID_MARKUPS:
            raise InputError(
                f"{name} holds a {markup['type']}, which is more than its points. Carry points, lines and curves, or "
                "make a model or a segmentation of it in Slicer first."
            )
        flip = _FLIP if is_lps(markup.get("coordinateSystem", "LPS")) else np.ones(3)
        for control, point in zip(markup["controlPoints"], left, strict=False):
            if not math.isnan(point[0]):
                control["position"] = (point * flip).tolist()
        for measurement in markup.get("measurements", []):
            # Of the points as they were; Slicer measures anew when it reads the file.
            measurement.pop("value", None)
            measurement.pop("controlPointValues", None)
    return json.dumps(result, indent=4) + "\n"
