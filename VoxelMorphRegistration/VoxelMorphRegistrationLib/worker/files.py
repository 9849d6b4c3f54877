"""The folder through which arrays go from one process to the other, as .npy files.

Writing, reading and removing are generators that do a piece of the work (CHUNK_BYTES, or a file) at a time, because
the panel's process does them between the events of its window.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from ..results.locks import Lock, is_held

CHUNK_BYTES = 4 * 2**20
PREFIX = "voxelmorph-worker-"
LOCK = "lock"
# A folder gets its lock within milliseconds.
LOCKLESS_S = 60.0


class HeldFolder:
    """A new folder among the temporary files, with a lock in it that this process holds as long as it needs it.

    Raises OSError when it cannot be made.
    """

    def __init__(self) -> None:
        # The number of the process is for who looks at the folders, no more.
        made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.path = extended(made, sys.platform)
        self._lock = Lock(self.path / LOCK)
        self._lock.acquire()

    def release(self) -> None:
        """From now on the folder is anybody's to remove."""
        self._lock.release()


def extended(path: Path, platform: str) -> Path:
    """The path in the form that lets names in it go beyond 260 characters on Windows."""
    text = str(path)
    if platform != "win32" or text.startswith("\\\\"):
        return path
    return type(path)(f"\\\\?\\{text}")


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it; what cannot be removed stays."""
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        # The other process may have written a file meanwhile.
        if not folder.exists():
            return


def removing(folder: Path) -> Generator[None, None, None]:
    """remove_folder, a file at a time: files of hundreds of megabytes take their time.

    What cannot be removed, such as a file that the other process still maps on Windows, stays.
    """
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError):
            if path.is_file():
                path.unlink()
        yield
    remove_folder(folder)


def remove_stale_folders() -> None:
    """Remove the folders that no process holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = folder / LOCK
        with contextlib.suppress(OSError):
            # One without a lock may be in the making.
            stale = not is_held(lock) if lock.exists() else time.time() - folder.stat().st_mtime > LOCKLESS_S
            if stale:
                remove_folder(folder)


# --- arrays ------------------------------------------------------------------------------------------------


def writing(path: Path, array: np.ndarray) -> Generator[None, None, None]:
    """Write an array of numbers to a new .npy file, piece by piece."""
    facts = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    count = CHUNK_BYTES // array.dtype.itemsize
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, facts)
        # Open to type checkers: numpy types what it yields as a tuple, also of one array.
        pieces: Any = np.nditer(array, flags=["external_loop", "buffered", "zerosize_ok"], buffersize=count, order="C")
        for piece in pieces:
            file.write(piece)
            yield


def reading(path: Path) -> Generator[None, None, np.ndarray]:
    """Read a file that `writing` wrote, piece by piece; the generator returns the array.

    Raises OSError or ValueError when the file is missing or damaged.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        array = np.empty(shape, dtype)
        octets = array.reshape(-1).view(np.uint8)
        for start in range(0, octets.size, CHUNK_BYTES):
            piece = octets[start : start + CHUNK_BYTES]
            if file.readinto(piece.data) != piece.size:
                raise ValueError(f"The file {path.name} is cut short.")
            yield
    return array


def mapped(path: Path) -> np.ndarray:
    """The array of a file without reading it all; changes stay in memory."""
    # A plain array: a memmap would pass its type on to what is computed from it.
    return np.load(path, mmap_mode="c").view(np.ndarray)
