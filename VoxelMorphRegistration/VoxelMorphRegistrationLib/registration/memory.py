"""How much memory there is, and how much a registration takes at most."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceError

if TYPE_CHECKING:
    from ..images.grid import Grid
    from ..networks.card import ModelCard

# Set on registrations of 15 sizes from 48^3 to 288^3 voxels and a slice (see Testing/Benchmarks/memory.py), so that
# none took more. Libraries that load on the way and the alignment: 23 to 134 MB.
BASE_BYTES = 250_000_000
# PyTorch unfolds small volumes for its 3D convolutions, in float32: up to 4.1 times the activations of the estimate
# (general-3d at 96^3); volumes of more than a million voxels take 1.4 times of them.
UNFOLDED_VOXELS, UNFOLDED_PART, WHOLE_PART = 1_000_000, 3.0, 1.4
# Copies of the images on their own grids: filtered, warped, displacement, determinant; some 11 bytes for a voxel of
# both at 288^3, int16.
FIXED_VOXEL_BYTES, MOVING_VOXEL_BYTES = 20, 12
# What the results of several starts of a slice take for each voxel of the finest refined grid: some five displacements
# are held at once. 53 to 61 bytes of 1, 4, 6 and 9 million pixels, refined in detail.
STARTS_VOXEL_BYTES = 62
_SIGNS = ("out of memory", "can't allocate memory", "failed to allocate", "bad_alloc", "not enough memory")


def images_bytes(fixed: Grid, moving: Grid) -> int:
    """What every registration takes beside network and refinement."""
    return BASE_BYTES + FIXED_VOXEL_BYTES * fixed.voxel_count + MOVING_VOXEL_BYTES * moving.voxel_count


def network_bytes(card: ModelCard, working_voxels: int) -> int:
    """What the passes of a network take at most on a working grid of so many voxels."""
    activations = card.memory_bytes(working_voxels)
    unfolded = card.memory_bytes(min(working_voxels, UNFOLDED_VOXELS))
    return int(WHOLE_PART * activations + UNFOLDED_PART * unfolded)


def is_out_of_memory(error: BaseException) -> bool:
    """Of Python, numpy, SimpleITK and PyTorch, on a processor or a graphics card."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)


def too_little_memory() -> DeviceError:
    return DeviceError(
        "There is too little memory for these images. Close other programs, crop the fixed image, or set a coarser "
        "working spacing."
    )


# --- what is free ------------------------------------------------------------------------------------------------


def available_memory(device: str) -> int | None:
    """Free bytes on the device, or None where that cannot be told."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    if sys.platform == "win32":
        return _free_on_windows()
    if sys.platform == "darwin":
        return _free_on_macos()
    return free_on_linux()


def free_on_linux(root: Path = Path("/")) -> int | None:
    """What the kernel calls available, or less where a container or a job of a batch system has a limit.

    root: of the file system in which /proc and /sys are.
    """
    found = [*_cgroup_free(root)]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    return min(found, default=None)


# Files of a control group: its limit, its use, and of its statistics what of that is only cached files.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def _cgroup_free(root: Path) -> list[int]:
    """What is left of the limits of this process' control groups and of those they are in."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, inner = rest.partition(":")
        if number == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", _VERSION_2
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", _VERSION_1
        else:
            continue
        # In a container the inner path may be the host's, and is not there: then the mount is the group itself.
        parts = [part for part in inner.split("/") if part and part != ".."]
        for count in range(len(parts), -1, -1):
            left = _left(base.joinpath(*parts[:count]), names)
            if left is not None:
                found.append(left)
    return found


def _left(group: Path, names: tuple[str, str, str]) -> int | None:
    limit_name, use_name, cached_name = names
    try:
        limit = int((group / limit_name).read_text(encoding="ascii"))
        used = int((group / use_name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        # No group, or "max".
        return None
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == cached_name:
                used -= int(value)
    return max(limit - max(used, 0), 0)


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "free", "total_page", "free_page", "total_virtual")),
        ("free_virtual", ctypes.c_uint64),
        ("free_extended", ctypes.c_uint64),
    )


def _free_on_windows(library=None) -> int | None:
    """library: kernel32. Free memory, and no more than may be committed."""
    status = _Status(length=ctypes.sizeof(_Status))
    if library is None:
        library = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    if not library.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(min(status.free, status.free_page))


def _free_on_macos() -> int | None:
    """Pages that are free or can be had at once, by vm_stat."""
    if sys.platform == "win32":
        return None
    try:
        done = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return free_pages(done.stdout, os.sysconf("SC_PAGE_SIZE"))


def free_pages(text: str, page: int) -> int | None:
    """Bytes of what vm_stat lists as free, inactive, speculative or purgeable."""
    counts = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        with contextlib.suppress(ValueError):
            counts[name.strip()] = int(value.strip().rstrip("."))
    names = ("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")
    known = [counts[name] for name in names if name in counts]
    return page * sum(known) if known else None
