"""Whether a legacy .vtk image is whole: ITK reads one that ends early as if it were.

Source: The VTK User's Guide, "VTK File Formats", simple legacy formats: a head in text with the dimensions and the kind
of the values, then the values, in text or big-endian.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

_BYTES = {
    **dict.fromkeys(("char", "unsigned_char"), 1),
    **dict.fromkeys(("short", "unsigned_short"), 2),
    **dict.fromkeys(("int", "unsigned_int", "float"), 4),
    **dict.fromkeys(("long", "unsigned_long", "vtktypeint64", "vtktypeuint64", "double"), 8),
}
_HEAD = 1 << 14
_DIMENSIONS = re.compile(rb"^\s*DIMENSIONS\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})", re.IGNORECASE | re.MULTILINE)
_VALUES = re.compile(
    rb"^\s*(SCALARS|VECTORS|NORMALS|TENSORS|COLOR_SCALARS)[ \t]+\S+[ \t]+(\w+)(?:[ \t]+(\d{1,4}))?[ \t]*\r?\n"
    rb"(?:\s*LOOKUP_TABLE[ \t]+\S+[ \t]*\r?\n)?",
    re.IGNORECASE | re.MULTILINE,
)
_COUNTS = {b"VECTORS": 3, b"NORMALS": 3, b"TENSORS": 9}


def ends_early(path: Path) -> bool:
    """Whether there are fewer values than the head says. False for what is no such image, and for unknown kinds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not head.startswith(b"# vtk DataFile"):
            return False
        dimensions, values = _DIMENSIONS.search(head), _VALUES.search(head)
        if dimensions is None or values is None:
            # A whole head fits many times.
            return size < _HEAD
        form = values.group(1).upper()
        count = math.prod(map(int, dimensions.groups())) * (_COUNTS.get(form) or int(values.group(3) or 1))
        kind = values.group(2).decode("latin-1").lower()
        if re.search(rb"^\s*BINARY\s*$", head, re.IGNORECASE | re.MULTILINE):
            return kind in _BYTES and size < values.end() + count * _BYTES[kind]
        file.seek(values.end())
        return _fewer_words(file, count)


def _fewer_words(file, count: int) -> bool:
    """Whether less than `count` words follow."""
    found, open_word = 0, False
    while found < count:
        part = file.read(1 << 20)
        if not part:
            return True
        found += len(part.split()) - (open_word and not part[:1].isspace())
        open_word = not part[-1:].isspace()
    return False
