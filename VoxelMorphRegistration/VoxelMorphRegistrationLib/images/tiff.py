"""Whether a TIFF file is sound, by the tags of its pages, before libtiff sees it.

libtiff follows pages that come back to an earlier one for ever, and ITK keeps silent about pages that are not there.
Sources: TIFF 6.0 (Adobe, 1992), sections 2 and 15; BigTIFF (Aware Systems).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .packed import DamagedFile

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS_PER_STRIP, _PLANAR = 256, 257, 258, 259, 277, 278, 284
_PHOTOMETRIC, _SHARED_COLOURS = 262, 6
_STRIPS, _TILES, _TILE_WIDTH, _TILE_LENGTH = (273, 279), (324, 325), 322, 323
_WHOLE_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
# The most bytes that come out of one: no compression, LZW (strings of 4096 bytes in 12 bits), deflate, PackBits. Some
# fax, JPEG and newer ways have no such limit.
_LARGEST_RATIO = {1: 1, 5: 2731, 8: 1032, 32946: 1032, 32773: 64}
_EARLY = "it ends early"
# The libtiff of ITK 5.4 counts them in 16 bits.
_MOST_PAGES = 65535


@dataclass(frozen=True)
class _Layout:
    """Of TIFF, or BigTIFF. order: of bytes, for struct; the letters: of a directory's count and of an offset."""

    order: str
    count: str
    offset: str
    entry: int


def check(path: Path) -> None:
    """Raise DamagedFile where the pages of a TIFF file have no end, or are not in the file. Other files pass."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 16:
            return
        version = struct.unpack_from(f"{order}H", start, 2)[0]
        if version not in (42, 43):
            return
        layout = _Layout(order, "H", "I", 12) if version == 42 else _Layout(order, "Q", "Q", 20)
        first = struct.unpack_from(order + layout.offset, start, 4 if version == 42 else 8)[0]
        stated = 0.0
        for number, entries in enumerate(_pages(file, layout, first, size), 1):
            if number > _MOST_PAGES:
                raise DamagedFile(f"it has more than {_MOST_PAGES} pages, which its reader does not count")
            stated += _stated_bytes(_Page(file, layout, size, entries))
    if stated > size:
        raise DamagedFile(_EARLY + ", or it states more pixels than it can hold")


def _pages(file: BinaryIO, layout: _Layout, offset: int, size: int) -> Iterator[bytes]:
    """The entries of the pages' directories, one after the other."""
    seen, read = set(), 0
    count_bytes, offset_bytes = struct.calcsize(layout.count), struct.calcsize(layout.offset)
    while offset:
        if offset in seen:
            raise DamagedFile("its pages have no end: one is followed by an earlier one")
        seen.add(offset)
        file.seek(min(offset, size))
        raw = file.read(count_bytes)
        if len(raw) < count_bytes:
            raise DamagedFile(_EARLY)
        length = struct.unpack(layout.order + layout.count, raw)[0] * layout.entry
        if file.tell() + length + offset_bytes > size:
            raise DamagedFile(_EARLY)
        read += length
        if read > size:
            raise DamagedFile("the directories of its pages overlap")
        entries = file.read(length)
        offset = struct.unpack(layout.order + layout.offset, file.read(offset_bytes))[0]
        yield entries


class _Page:
    """The tags of a page that hold whole numbers."""

    def __init__(self, file: BinaryIO, layout: _Layout, size: int, entries: bytes) -> None:
        self._file, self._layout, self.size = file, layout, size
        self._entries: dict[int, tuple[int, int, bytes]] = {}
        form = f"{layout.order}HH{layout.offset}"
        for begin in range(0, len(entries), layout.entry):
            tag, kind, count = struct.unpack_from(form, entries, begin)
            # As libtiff does, where a tag is there twice.
            self._entries.setdefault(tag, (kind, count, entries[begin + struct.calcsize(form) : begin + layout.entry]))

    def numbers(self, tag: int) -> np.ndarray:
        """The values of a tag (N,), none where it is not there. Raises DamagedFile where they are not in the file."""
        kind, count, value = self._entries.get(tag, (3, 0, b""))
        if kind not in _WHOLE_NUMBERS:
            raise DamagedFile(f"its tag {tag} holds no whole numbers")
        dtype = np.dtype(_WHOLE_NUMBERS[kind]).newbyteorder("<" if self._layout.order == "<" else ">")
        length = count * dtype.itemsize
        if length > len(value):
            place = struct.unpack(self._layout.order + self._layout.offset, value)[0]
            if place + length > self.size:
                raise DamagedFile(_EARLY)
            self._file.seek(place)
            value = self._file.read(length)
        return np.frombuffer(value, dtype, count).astype(np.float64)

    def number(self, tag: int, default: float | None = None) -> float:
        """The first value of a tag. Raises DamagedFile where it is 0, or missing without a default."""
        found = self.numbers(tag)
        value = float(found[0]) if len(found) else default
        if not value:
            raise DamagedFile(f"a page has no value for its tag {tag}")
        return value


def _stated_bytes(page: _Page) -> float:
    """The least bytes that the pixels of a page take in the file. Raises DamagedFile where its parts are not in it."""
    width, length = page.number(_WIDTH), page.number(_LENGTH)
    samples = page.number(_SAMPLES, 1)
    planes = samples if page.number(_PLANAR, 1) == 2 else 1
    if len(page.numbers(_TILES[0])):
        places, sizes = _TILES
        across, down = width / page.number(_TILE_WIDTH), length / page.number(_TILE_LENGTH)
        parts = np.ceil(across) * np.ceil(down) * planes
    else:
        places, sizes = _STRIPS
        parts = np.ceil(length / page.number(_ROWS_PER_STRIP, length)) * planes
    begins, lengths = page.numbers(places), page.numbers(sizes)
    if len(begins) < parts or (len(lengths) and len(lengths) < parts):
        raise DamagedFile(f"it ends early: a page has {len(begins)} of its {parts:.0f} parts")
    # Where lengths are missing, libtiff takes them from the sizes.
    count = int(parts)
    if (begins[:count] + (lengths[:count] if len(lengths) else 1) > page.size).any():
        raise DamagedFile(_EARLY)
    ratio = _LARGEST_RATIO.get(int(page.number(_COMPRESSION, 1)))
    if ratio is None or _SHARED_COLOURS in page.numbers(_PHOTOMETRIC):
        return 0.0
    return width * length * samples * page.number(_BITS, 1) / 8 / ratio
