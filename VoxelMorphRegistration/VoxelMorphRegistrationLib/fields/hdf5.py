"""HDF5 files without the time of day: the same field gives the same bytes.

ITK's writer leaves it to the HDF5 library to note four times in every object header, and has no switch for it. The
places are those of the HDF5 File Format Specification 3.0, IV.A.1.b: "OHDR", version 2, flags, the times, the size of
the messages, the messages, and a checksum of all that (Bob Jenkins' lookup3).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_SIGNATURE = b"OHDR\x02"
_HAS_TIMES, _HAS_LIMITS, _SIZE_BITS = 0x20, 0x10, 0x03
_MASK = 0xFFFFFFFF


def remove_times(path: Path) -> None:
    """Set the times of a file's object headers to zero. Raises OSError."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        start = data.find(_SIGNATURE)
        while start >= 0:
            _clear(data, start)
            start = data.find(_SIGNATURE, start + 1)


def _clear(data: mmap.mmap, start: int) -> None:
    """Clear one header; what only looks like one has no right checksum, and stays."""
    flags = data[start + 5]
    if not flags & _HAS_TIMES:
        return
    place = start + 6 + 16 + (4 if flags & _HAS_LIMITS else 0)
    width = 1 << (flags & _SIZE_BITS)
    end = place + width + int.from_bytes(data[place : place + width], "little")
    if end + 4 > len(data) or data[end : end + 4] != _checksum(data[start:end]):
        return
    data[start + 6 : start + 22] = bytes(16)
    data[end : end + 4] = _checksum(data[start:end])


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _checksum(key: bytes) -> bytes:
    """lookup3's hashlittle (Jenkins 2006, public domain) of the bytes, as HDF5 stores it."""
    a = b = c = (0xDEADBEEF + len(key)) & _MASK
    while len(key) > 12:
        x, y, z = struct.unpack_from("<III", key)
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        for bits in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & _MASK) ^ _rotated(c, bits)
            c = (c + b) & _MASK
            a, b, c = b, c, a
        key = key[12:]
    if key:
        x, y, z = struct.unpack("<III", key.ljust(12, b"\0"))
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        for bits in (14, 11, 25, 16, 4, 14, 24):
            c = ((c ^ b) - _rotated(b, bits)) & _MASK
            a, b, c = b, c, a
        # Seven steps turn the three names by one.
        c = b
    return struct.pack("<I", c)
