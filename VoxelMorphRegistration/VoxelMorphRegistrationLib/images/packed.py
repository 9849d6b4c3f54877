"""Files that may be compressed, read to their end: which way is told by the content, not by the name.

A stream that stops before its end mark, or whose check sum is wrong, is an error: what was unpacked so far is no file.
What is written is packed in parts on all cores, into one stream: by ISA-L where the package isal is there, in a quarter
of zlib's time and to four fifths of the size. It unpacks in two fifths of zlib's time. It comes with the package from
PyPI; Slicer does not ship it.
"""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import sys
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

_PART = 1 << 18
# Of a part that is packed at once.
PACKED_BYTES = 1 << 20
# Of a gzip file: no name, no time, fastest, any system.
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
Part = TypeVar("Part")
Packed = TypeVar("Packed")


class DamagedFile(Exception):
    """What is wrong with the content of a file, as the end of a sentence: "it ends early"."""


class Content:
    """The unpacked bytes of a file, from front to back. position: how many were read."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.position = 0
        self._parts = parts
        self._kept = memoryview(b"")

    def read(self, count: int) -> bytes:
        """The next bytes, fewer than `count` only at the end."""
        target = bytearray(count)
        return bytes(target[: self.fill(memoryview(target))])

    def fill(self, target: memoryview) -> int:
        """Fill `target` (bytes) with what follows; returns how many there were."""
        done = 0
        while done < len(target):
            if not self._kept:
                part = next(self._parts, b"")
                if not part:
                    break
                self._kept = memoryview(part)
            step = min(len(self._kept), len(target) - done)
            target[done : done + step] = self._kept[:step]
            self._kept = self._kept[step:]
            done += step
        self.position += done
        return done

    def skip(self, count: int) -> int:
        """Pass over bytes; returns how many there were."""
        done = 0
        while done < count and (part := self.read(min(_PART, count - done))):
            done += len(part)
        return done

    def rest(self, most: int) -> int | None:
        """Read to the end, which verifies the check sum; how many bytes there were, None where more than `most`."""
        count = len(self._kept)
        self._kept = memoryview(b"")
        for part in self._parts:
            count += len(part)
            if count > most:
                return None
        return count


@contextmanager
def unpacked(path: Path) -> Iterator[Content]:
    """The content of a plain, gzip, bzip2 or xz file. Raises DamagedFile, also from reading the content."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start[:2] == b"\x1f\x8b":
            parts = _gzip(file)
        elif start[:3] == b"BZh":
            parts = _through(bz2.BZ2File, file)
        elif start == b"\xfd7zXZ\x00":
            parts = _through(lzma.LZMAFile, file)
        elif start[:4] == b"\x28\xb5\x2f\xfd":
            raise DamagedFile("it is packed with Zstandard, which is not read here; unpack it first (zstd -d)")
        else:
            parts = iter(lambda: file.read(_PART), b"")
        yield Content(parts)


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    """Members one after the other, as gzip itself unpacks them; zeros or other bytes behind them do not count."""
    make, damaged = unpacker()
    whole = False
    data = file.read(_PART)
    while data:
        if whole and data[:2] != b"\x1f\x8b"[: len(data)]:
            return
        whole = False
        member = make(16 + zlib.MAX_WBITS)
        while not member.eof:
            if not data:
                raise DamagedFile("it ends early: the compressed data stop before their end")
            try:
                part = member.decompress(data)
            except damaged as error:
                raise DamagedFile("its compressed data are damaged") from error
            if part:
                yield part
            data = b"" if member.eof else file.read(_PART)
        whole = True
        data = member.unused_data or file.read(_PART)
        if len(data) == 1:
            data += file.read(_PART)


def _through(kind: type[bz2.BZ2File] | type[lzma.LZMAFile], file: BinaryIO) -> Iterator[bytes]:
    try:
        with kind(file) as stream:
            while part := stream.read(_PART):
                yield part
    except EOFError as error:
        raise DamagedFile("it ends early: the compressed data stop before their end") from error
    except (OSError, lzma.LZMAError) as error:
        raise DamagedFile("its compressed data are damaged") from error


def in_order(function: Callable[[Part], Packed], parts: Iterable[Part]) -> Iterator[Packed]:
    """`function` of every part, in their order, on all cores; only a few parts ahead are held."""
    count = threads()
    if count == 1:
        yield from map(function, parts)
        return
    with ThreadPoolExecutor(count) as pool:
        ahead: deque[Future[Packed]] = deque()
        for part in parts:
            ahead.append(pool.submit(function, part))
            if len(ahead) > 2 * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def together(tasks: Sequence[Callable[[], object]]) -> None:
    """Run tasks that do not depend on each other, on all cores: while one computes, others pack, read or write.

    With one core, one after the other. Raises what the first of them raised, when those that run are at their end.
    """
    count = min(threads(), len(tasks))
    if count <= 1:
        for task in tasks:
            task()
        return
    # Of tasks that silence warnings, one puts back what the other has set.
    with warnings.catch_warnings(), ThreadPoolExecutor(count) as pool:
        running = [pool.submit(task) for task in tasks]
        try:
            for future in running:
                future.result()
        except BaseException:
            # Those that run are waited for: what they write is cleared away next.
            for future in running:
                future.cancel()
            raise


def threads() -> int:
    """As many as PyTorch uses, where it is loaded, else as OpenMP would."""
    torch = sys.modules.get("torch")
    # While it is being loaded by another thread, it has nothing yet.
    if torch is not None and hasattr(torch, "get_num_threads"):
        return torch.get_num_threads()
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) > 0 else os.cpu_count() or 1


def unpacker():
    """What makes a decompressor, as zlib.decompressobj, and the error that it raises of damaged data."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj, zlib.error
    return isal_zlib.decompressobj, isal_zlib.error


def packer(wbits: int, strategy: int = zlib.Z_DEFAULT_STRATEGY):
    """A fast compressor, as of zlib.compressobj. strategy: what zlib is to look for."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(1, zlib.DEFLATED, wbits, zlib.DEF_MEM_LEVEL, strategy)
    return isal_zlib.compressobj(1, isal_zlib.DEFLATED, wbits)


def write_gzip(file: BinaryIO, parts: Iterable[bytes | memoryview], strategy: int = zlib.Z_DEFAULT_STRATEGY) -> None:
    """One gzip stream of the parts, each packed by itself (RFC 1952)."""

    def pack(part: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
        stream = packer(-zlib.MAX_WBITS, strategy)
        # Ends on a whole byte, so that the next part can follow.
        return stream.compress(part) + stream.flush(zlib.Z_FULL_FLUSH), part

    check, size = 0, 0
    file.write(_GZIP_HEAD)
    for packed, part in in_order(pack, parts):
        file.write(packed)
        check, size = zlib.crc32(part, check), size + len(part)
    file.write(zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS).flush())
    file.write(struct.pack("<LL", check, size & 0xFFFFFFFF))
