"""Tables of landmarks (.csv, .tsv, .txt), whichever program wrote them, or a sentence that says what is unclear.

Cells may be quoted; they are parted by commas, semicolons, tabs, bars or blanks, with decimal commas where commas part
nothing. A head names the columns; without one, there must be no doubt which three hold the position.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

_DELIMITERS = ("\t", ";", "|", ",", " ")
# Directions in which a column grows: the axis of RAS, and its sign.
_DIRECTIONS = {"r": (0, 1), "l": (0, -1), "a": (1, 1), "p": (1, -1), "s": (2, 1), "i": (2, -1)}
_PLAIN = {"x": (0, 1), "y": (1, 1), "z": (2, 1)}
_LABELS = ("label", "name", "landmark", "point", "id")
_STATUS = ("defined", "placed", "status", "positionstatus")
_EMPTY = ("", "nan", "na", "n/a", "none", "null", "-")
_NOT_PLACED = ("0", "false", "no", "undefined", "missing", "preview")
_LENGTHS = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "millimeters": 1.0, "millimetres": 1.0}


class _NoTable(ValueError):
    """What is unclear in a table, as a sentence's end."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table of points as its reader understood it.

    found: points in RAS mm, NaN where one is not placed, with their labels. states_frame: whether its columns say which
    way they grow; else RAS was taken.
    """

    found: list[tuple[list[float], str]]
    states_frame: bool
    _text: str
    _places: list[int]
    _columns: _Columns
    _delimiter: str

    def rewritten(self, points_ras: Iterable[Iterable[float]]) -> str:
        """The text with other positions, one for each of `found`, in its own frame; all else stays, gaps included."""
        lines = self._text.splitlines()
        if len(self._places) != len(self.found):
            raise ValueError("its rows run over several lines")
        rows = _rows_of([lines[place] for place in self._places], self._delimiter)
        for place, row, (old, _), new in zip(self._places, rows, self.found, points_ras, strict=True):
            if not math.isnan(old[0]):
                lines[place] = self._columns.written(row, list(new), self._delimiter)
        return "\n".join(lines) + "\n"


@functools.lru_cache(maxsize=1)
def read_table(text: str) -> Table:
    """Raises ValueError with what is unclear. The last one is kept: who carries points reads it twice."""
    numbered = [(number, line) for number, line in enumerate(text.splitlines()) if line.strip()]
    delimiters: tuple[str, ...] = _DELIMITERS
    if numbered and numbered[0][1].strip().lower().startswith("sep="):
        delimiters = (numbered.pop(0)[1].strip()[4:5] or ",",)
    comments = [line for _, line in numbered if line.lstrip()[:1] in "#%"]
    body = [(number, line) for number, line in numbered if line.lstrip()[:1] not in "#%"]
    lines = [line for _, line in body]
    if not lines:
        raise ValueError("it holds no points")
    # numpy and others put the head into a comment.
    heads = [None, *(comment.lstrip().lstrip("#% ") for comment in comments[-1:])]
    if any("lps" in comment.lower() for comment in comments) and "ras" not in "".join(comments).lower():
        raise ValueError("a comment in it speaks of LPS; name the columns l, p, s instead")
    # One that is nowhere parts nothing.
    delimiters = tuple(one for one in delimiters if one in text or (one == " " and "\t" in text)) or delimiters[:1]
    reasons: list[tuple[int, _NoTable]] = []
    for delimiter in delimiters:
        for head in heads[::-1]:
            rows = _rows(lines if head is None else [head, *lines], delimiter)
            try:
                found, columns = _points(rows, delimiter)
            except _NoTable as error:
                reasons.append((len(rows[-1]), error))
                continue
            cells = [_rows_of([line], delimiter)[0] for line in lines] if '"' in text else _rows_of(lines, delimiter)
            used = [number for (number, _), row in zip(body, cells, strict=True) if "".join(row).strip()]
            # A quoted cell may go on in the next line: then a row has no line of its own.
            one_each = len(rows) == len(used) + (head is not None)
            places = used[-len(found) :] if one_each else []
            return Table(found, columns.states_frame, text, places, columns, delimiter)
    # The reason of what parts the cells most is that of the delimiter which was meant.
    raise ValueError(*max(reasons, key=lambda reason: reason[0])[1].args)


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    rows = _rows_of(lines, delimiter)
    stripped = ([cell.strip() for cell in row] for row in rows)
    return [row for row in stripped if any(row)]


def _rows_of(lines: list[str], delimiter: str) -> list[list[str]]:
    if delimiter == " ":
        return list(csv.reader((re.sub(r"[ \t]+", " ", line.strip()) for line in lines), delimiter=" "))
    return list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))


def _points(rows: list[list[str]], delimiter: str) -> tuple[list[tuple[list[float], str]], _Columns]:
    columns = _head_columns(rows[0])
    if columns is None:
        columns, count = _headless_columns(rows, delimiter)
        start = 0
    else:
        rows, count, start = rows[1:], len(rows[0]), 1
        if not rows:
            raise _NoTable("it holds no points")
        if all(len(row) == count + 1 for row in rows):
            # The names of rows stand before the columns that the head names.
            columns = columns.moved(1)
            count += 1
    found = []
    for number, row in enumerate(rows, start=start + 1):
        while len(row) > count and not row[-1]:
            row.pop()
        if len(row) != count and not (columns.last < len(row) < count):
            raise _NoTable(f"row {number} has {len(row)} cells, and {count} are due")
        found.append(columns.read(row, number, delimiter))
    return found, columns


class _Columns:
    """Which cells of a row hold what. axes: for R, A, S the column and the sign."""

    def __init__(
        self,
        axes: list[tuple[int, int]],
        label: int | None = None,
        status: int | None = None,
        states_frame: bool = False,
    ) -> None:
        self.axes, self.label, self.status, self.states_frame = axes, label, status, states_frame
        self.last = max(column for column, _ in axes)

    def moved(self, by: int) -> _Columns:
        def shift(column: int | None) -> int | None:
            return None if column is None else column + by

        axes = [(column + by, sign) for column, sign in self.axes]
        return _Columns(axes, shift(self.label), shift(self.status), self.states_frame)

    def written(self, cells: list[str], point_ras: list[float], delimiter: str) -> str:
        """A line with another position; decimal commas where it had some."""
        for value, (column, sign) in zip(point_ras, self.axes, strict=True):
            text = f"{sign * value:.9g}"
            cells[column] = text.replace(".", ",") if delimiter != "," and "," in cells[column] else text
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter, lineterminator="").writerow(cells)
        return out.getvalue()

    def read(self, row: list[str], number: int, delimiter: str) -> tuple[list[float], str]:
        label = row[self.label] if self.label is not None and self.label < len(row) else ""
        cells = [row[column] for column, _ in self.axes]
        status = row[self.status].lower() if self.status is not None and self.status < len(row) else ""
        empty = [cell.lower() in _EMPTY for cell in cells]
        if all(empty) or status in _NOT_PLACED:
            return [math.nan] * 3, label
        if any(empty):
            raise _NoTable(f"row {number} lacks a coordinate")
        numbers = [_number(cell, delimiter) for cell in cells]
        values = [value for value in numbers if value is not None]
        if len(values) < len(numbers):
            raise _NoTable(f"row {number} has a coordinate that is no number")
        return [sign * value for value, (_, sign) in zip(values, self.axes, strict=True)], label


def _number(cell: str, delimiter: str) -> float | None:
    if delimiter != "," and cell.count(",") == 1 and "." not in cell:
        cell = cell.replace(",", ".")
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _head_columns(row: list[str]) -> _Columns | None:
    """The columns that a head names, None where the row is none. Raises _NoTable for a head without a position."""
    if any(_number(cell, ";") is not None for cell in row):
        return None
    words = [_word(cell) for cell in row]
    for names, signs in ((["x", "y", "z"], _PLAIN), *((list(frame), _DIRECTIONS) for frame in _frames())):
        found = [[n for n, word in enumerate(words) if word[0] == name] for name in names]
        if any(len(columns) > 1 for columns in found):
            raise _NoTable(f"several columns are named {'/'.join(names)}")
        if all(found):
            frame = {words[columns[0]][1] for columns in found}
            if len(frame) > 1:
                raise _NoTable("its columns are of different frames or units")
            stated_frame = frame.pop()
            lps = stated_frame == "lps" and names == ["x", "y", "z"]
            axes = [(0, 0)] * 3
            for name, columns in zip(names, found, strict=True):
                axis, sign = signs[name]
                axes[axis] = (columns[0], -sign if lps and axis < 2 else sign)
            if not stated_frame and names == ["x", "y", "z"] and "t" in {word[0] for word in words}:
                raise _NoTable(
                    "its columns x, y, z, t are those of ANTs, whose positions are LPS: name them l, p, s, or leave t "
                    "out where they are RAS"
                )
            stated = lps or names != ["x", "y", "z"] or "ras" in {words[column][1] for column, _ in axes}
            return _Columns(axes, _first(words, _LABELS), _first(words, _STATUS), stated)
    if {"i", "j", "k"} <= {word[0] for word in words}:
        raise _NoTable("it holds voxel numbers (i, j, k), and positions in mm are due")
    raise _NoTable("there are no columns x, y, z (or r, a, s, or l, p, s)")


def _frames() -> list[str]:
    return [f"{x}{y}{z}" for x in "rl" for y in "ap" for z in "si"]


def _word(cell: str) -> tuple[str, str]:
    """A column's name in small letters without unit and frame, and the frame ("ras", "lps" or "")."""
    word = cell.strip().strip("\"'").lower()
    unit = re.search(r"[(\[]([^)\]]*)[)\]]|[ _](mm|cm|m|um|voxels?|px|pixels?)$", word)
    if unit:
        name = (unit.group(1) or unit.group(2) or "").strip()
        rest = (word[: unit.start()] + word[unit.end() :]).strip(" _")
        if name in ("ras", "lps"):
            return rest, name
        if rest in ("x", "y", "z", *_DIRECTIONS) and name not in _LENGTHS:
            raise _NoTable(f"its positions are in {name}, and mm are due")
        word = rest
    parts = [part for part in re.split(r"[ _.\-]+", word) if part not in ("pos", "position", "coord", "coordinate", "")]
    frame = next((part for part in parts if part in ("ras", "lps")), "")
    parts = [part for part in parts if part != frame]
    return (parts[0] if len(parts) == 1 else "_".join(parts)), frame


def _first(words: list[tuple[str, str]], names: tuple[str, ...]) -> int | None:
    for name in names:
        for column, (word, _) in enumerate(words):
            if word == name:
                return column
    return None


def _headless_columns(rows: list[list[str]], delimiter: str) -> tuple[_Columns, int]:
    """Three columns of numbers, beside words, or behind the numbers of the points."""
    count = len(rows[0])
    if [cell for cell in rows[0] if cell] == ["0", "1", "2"]:
        raise _NoTable("its first row, 0 1 2, looks like numbers of columns; name them x, y, z")
    if any(len(row) != count for row in rows):
        uneven = next(n for n, row in enumerate(rows, start=1) if len(row) != count)
        raise _NoTable(f"row {uneven} has {len(rows[uneven - 1])} cells, and row 1 has {count}")
    values = [[_number(row[column], delimiter) for row in rows] for column in range(count)]
    numeric = [column for column in range(count) if all(value is not None for value in values[column])]
    empty = [column for column in range(count) if all(not row[column] for row in rows)]
    words = [column for column in range(count) if column not in numeric and column not in empty]
    if len(numeric) == 4 and len(rows) > 1:
        numbers = [value for value in values[numeric[0]] if value is not None]
        if all(value == n + numbers[0] for n, value in enumerate(numbers)) and numbers[0] in (0, 1):
            numeric = numeric[1:]
    if len(numeric) < 3:
        raise _NoTable("there are no columns x, y, z, nor three columns of numbers")
    if len(numeric) > 3 or numeric != list(range(numeric[0], numeric[0] + 3)):
        raise _NoTable(
            f"it has {len(numeric)} columns of numbers and no head that says which are x, y and z; add the row x, y, z"
        )
    axes = [(numeric[0], 1), (numeric[1], 1), (numeric[2], 1)]
    return _Columns(axes, words[0] if words else None), count
