"""Tables of pairs: CSV, TSV and JSON lines; one image to many; all pairs of a list.

A damaged row costs itself alone: every line is read for itself, and what is wrong with it is kept beside the pairs.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from pathlib import Path

from ..errors import InputError, VoxelMorphError
from ..images.places import check_place
from ..registration.settings import Settings
from .pair import Pair, check_columns, column, pair_of, with_ids

_DELIMITERS = {".csv": ",;\t", ".tsv": "\t", ".txt": "\t,;"}
_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Table:
    """pairs: in the order of the rows. bad: {which row: what is wrong with it}. told: what a user should know."""

    pairs: list[Pair]
    bad: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def part(self, number: int, count: int) -> Table:
        """Part `number`, from 1, of `count`; bad rows are told by the first one."""
        return Table(self.pairs[number - 1 :: count], self.bad if number == 1 else {}, self.told)


def read_table(path: str | Path, settings: Settings | None = None, inverse: bool = False) -> Table:
    """The pairs of a file; names in it are relative to its folder. Raises InputError where it is no table at all."""
    path = Path(path)
    check_place(path, "table")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The table {path} is no UTF-8 text. Save it as CSV in UTF-8.") from error
    except OSError as error:
        raise InputError(f"The table {path} cannot be read: {error.strerror}.") from error
    suffix = path.suffix.lower()
    if not text.strip():
        raise InputError(f"The table {path} is empty.")
    if suffix in _LINES:
        rows = _json_rows(text)
    elif suffix in _DELIMITERS:
        rows = _csv_rows(text, _DELIMITERS[suffix], path)
    else:
        raise InputError(f"The table {path} is neither .csv, .tsv nor .jsonl (one JSON object a line).")
    return table_of(rows, settings, path.parent, inverse, what="line")


def table_of(
    rows: Iterable[tuple[str, Mapping | VoxelMorphError]],
    settings: Settings | None = None,
    folder: Path | None = None,
    inverse: bool = False,
    what: str = "pair",
) -> Table:
    """The table of rows (where it stands, {column: value} or what is wrong with it). folder: of relative names."""
    settings, folder = settings or Settings(), folder or Path()
    found: list[tuple[str, Pair]] = []
    bad: dict[str, str] = {}
    notes: dict[str, None] = {}
    for where, row in rows:
        try:
            if isinstance(row, VoxelMorphError):
                raise row
            pair = pair_of(row, settings, folder, inverse)
            check_columns(pair.notes)
        except VoxelMorphError as error:
            bad[f"{what} {where}"] = str(error)
            continue
        notes.update(dict.fromkeys(pair.notes))
        found.append((where, pair))
    named = with_ids([pair for _, pair in found])
    pairs, twice = once(zip((where for where, _ in found), named, strict=True), what)
    told = []
    if notes:
        told.append(f"Columns that set nothing go into summary.csv: {', '.join(notes)}.")
    return Table(pairs, {**bad, **twice}, told)


def once(given: Iterable[tuple[str, Pair]], what: str) -> tuple[list[Pair], dict[str, str]]:
    """The pairs of (where it stands, pair) with an id of their own, and what is wrong with the others."""
    pairs: list[Pair] = []
    bad: dict[str, str] = {}
    taken: dict[str, str] = {}
    for where, pair in given:
        # Windows and macOS take names that differ by case for the same.
        first = taken.setdefault(pair.id.lower(), where)
        if first != where:
            bad[f"{what} {where}"] = f"The id '{pair.id}' is that of {what} {first}, too. Give each pair its own id."
            continue
        pairs.append(pair)
    return pairs, bad


def _csv_rows(text: str, delimiters: str, path: Path) -> Iterator[tuple[str, Mapping | VoxelMorphError]]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    delimiter = max(delimiters, key=lines[0][1].count)
    head = [column(name) for name in _cells(lines[0][1], delimiter)]
    check_columns(head)
    missing = [name for name in ("fixed", "moving") if name not in head]
    if missing:
        raise InputError(f"The first line of {path} has no column '{missing[0]}'. It must name the columns.")
    if len(set(head)) < len(head):
        raise InputError(f"The first line of {path} names a column twice.")
    if len(lines) == 1:
        raise InputError(f"The table {path} has no pair below its first line.")
    for number, line in lines[1:]:
        try:
            cells = _cells(line, delimiter)
            if len(cells) > len(head):
                raise InputError(f"There are {len(cells)} cells for {len(head)} columns.")
        except InputError as error:
            yield str(number), error
            continue
        yield str(number), {name: cell.strip() for name, cell in zip(head, cells, strict=False)}


def _cells(line: str, delimiter: str) -> list[str]:
    if "\0" in line:
        raise InputError("The line holds characters that are no text: the file is damaged.")
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"The line cannot be read ({error}).") from error


def _json_rows(text: str) -> Iterator[tuple[str, Mapping | VoxelMorphError]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise InputError("The line is no JSON object with names and values.")
        except (ValueError, RecursionError) as error:
            yield str(number), InputError(f"The line is no JSON ({error}).")
        except InputError as error:
            yield str(number), error
        else:
            yield str(number), row


def one_to_many(side: str, image: str, others: Sequence[str], extras: Mapping[str, str]) -> list[dict]:
    """Rows with `image` as the `side` ("fixed" or "moving") of all, and `others` as the other side.

    extras: further columns of all rows.
    """
    other = "moving" if side == "fixed" else "fixed"
    # As lists: a semicolon in a name parts no names here.
    return [{side: [image], other: [name], **extras} for name in listed(others)]


def all_pairs(images: Sequence[str], both_ways: bool = False) -> list[dict]:
    """Rows of any two of a list, the earlier one fixed; or each way."""
    names = listed(images)
    if len(names) < 2:
        raise InputError("Pairs of a list need at least two images.")
    return [
        {"fixed": [fixed], "moving": [moving]}
        for fixed, moving in (permutations(names, 2) if both_ways else combinations(names, 2))
    ]


def listed(names: Sequence[str]) -> list[str]:
    """Names of images, each once; of a .txt file the names in it, a line each, relative to its folder."""
    return list(dict.fromkeys(names_of(names)))


def names_of(names: Sequence[str]) -> list[str]:
    """As `listed`, however often each is named."""
    found: list[str] = []
    for name in names:
        if Path(name).suffix.lower() != ".txt":
            found.append(name)
            continue
        try:
            lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The list {name} cannot be read as a text with a file name a line.") from error
        found += [str(Path(name).parent / line.strip()) for line in lines if line.strip()]
    return found
