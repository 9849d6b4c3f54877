"""Tables that tell the training what it works with: CSV files with a header."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError


def read_rows(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with a header, as line number and values by column, "" for an empty or absent one.

    Raises InputError when the file cannot be read, has other columns, or has no lines.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.reader(file, skipinitialspace=True)
            lines = [(reader.line_num, [value.strip() for value in line]) for line in reader if any(line)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} is no CSV file in UTF-8.") from error
    header = lines[0][1] if lines else []
    if set(needed) - set(header) or set(header) - {*needed, *optional} or len(set(header)) < len(header):
        columns = ",".join(needed) + "".join(f"[,{name}]" for name in optional)
        raise InputError(f"The first line of {path} must be {columns}, not '{','.join(header)}'.")
    for number, values in lines[1:]:
        if len(values) != len(header):
            raise InputError(f"{path}, line {number}: {len(values)} values for {len(header)} columns.")
    if len(lines) < 2:
        raise InputError(f"{path} has a header and no lines below it.")
    empty = dict.fromkeys((*needed, *optional), "")
    return [(number, empty | dict(zip(header, values, strict=True))) for number, values in lines[1:]]
