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
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

CHUNK_BYTES = 4 * 2**20
PREFIX = "voxelmorph-worker-"


def make_folder() -> Path:
    """A new folder among the temporary files whose name carries this process' id."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


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
    """Remove the folders of processes that no longer live."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not process_lives(int(pid)):
            remove_folder(folder)


def process_lives(pid: int) -> bool:
    """Whether there is a process of this id."""
    if sys.platform == "win32":
        import ctypes

        synchronize, timeout = 0x00100000, 0x102
        handle = ctypes.windll.kernel32.OpenProcess(synchronize, False, pid)
        if not handle:
            return False
        lives = ctypes.windll.kernel32.WaitForSingleObject(handle, 0) == timeout
        ctypes.windll.kernel32.CloseHandle(handle)
        return lives
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
