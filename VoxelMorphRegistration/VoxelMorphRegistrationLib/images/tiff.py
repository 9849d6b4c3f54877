"""Whether a TIFF file is whole: ITK reads the pages that are there, and keeps silent about those that are not."""

from __future__ import annotations

import struct
from pathlib import Path

# Bytes of an entry of a page's directory, of the count of entries and of an offset: TIFF, and BigTIFF.
_LAYOUTS = {42: (12, "H", "I"), 43: (20, "Q", "Q")}


def ends_early(path: Path) -> bool:
    """Whether the chain of pages leads out of the file. False for what is no TIFF file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 16:
            return False
        layout = _LAYOUTS.get(struct.unpack_from(f"{order}H", start, 2)[0])
        if layout is None:
            return False
        entry, count_form, offset_form = layout
        offset = struct.unpack_from(order + offset_form, start, 4 if offset_form == "I" else 8)[0]
        seen = set()
        while offset and offset not in seen:
            seen.add(offset)
            file.seek(offset)
            raw = file.read(struct.calcsize(count_form))
            if len(raw) < struct.calcsize(count_form):
                return True
            end = file.tell() + struct.unpack(order + count_form, raw)[0] * entry
            if end + struct.calcsize(offset_form) > size:
                return True
            file.seek(end)
            offset = struct.unpack(order + offset_form, file.read(struct.calcsize(offset_form)))[0]
    return False
