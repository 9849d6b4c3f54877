"""Memory of a computation with many short-lived volumes."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator

# Parameters of mallopt(3), and what glibc's own adaption arrives at after some large volumes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
_KEEPING = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 512 << 20))

# Images from which on a stage gives back what it has freed: of a CT of 73 million voxels the largest memory falls by a
# quarter, and less than a second is lost. A brain at 1 mm has 7 million.
LARGE_VOXELS = 20_000_000

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within it, memory that is freed stays with this process and is used again; afterwards it is given back.

    glibc otherwise asks the kernel for each large tensor and gives it back after the operation, which costs a
    registration up to a third of its processor time. Without effect where the C library is another one.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _count(library, 1)
    try:
        yield
    finally:
        _count(library, -1)


def give_back(voxels: int) -> None:
    """Give back what a stage has freed, where an image has so many voxels that the next one needs room for it."""
    library = _glibc()
    if library is not None and voxels >= LARGE_VOXELS:
        library.malloc_trim(0)


def _count(library: ctypes.CDLL, change: int) -> None:
    global _users
    with _lock:
        _users += change
        if change > 0 and _users == 1:
            _set(library, _KEEPING)
        elif _users == 0:
            _set(library, _USUAL)
            library.malloc_trim(0)


def _set(library: ctypes.CDLL, values: tuple[tuple[int, int], ...]) -> None:
    for parameter, value in values:
        library.mallopt(parameter, value)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    # Other C libraries of Linux have neither.
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
