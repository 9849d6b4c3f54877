"""Free memory: limits of containers count, on every system; estimates are upper bounds."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.registration import memory

GIB = 2**30
MEMINFO = f"MemTotal: {32 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {20 * GIB // 1024} kB\n"


def system(root: Path, files: dict[str, object]) -> Path:
    """A file system with these files."""
    for name, content in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(content))
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 20 * GIB),
        # Version 2: the smallest of the groups on the way up; cached files do not count.
        (
            {
                "proc/self/cgroup": "0::/batch/job\n",
                "sys/fs/cgroup/batch/job/memory.max": "max",
                "sys/fs/cgroup/batch/job/memory.current": GIB,
                "sys/fs/cgroup/batch/memory.max": 8 * GIB,
                "sys/fs/cgroup/batch/memory.current": 3 * GIB,
                "sys/fs/cgroup/batch/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            6 * GIB,
        ),
        # In a container the path is the host's, and the mount is the group.
        (
            {
                "proc/self/cgroup": "0::/docker/abc\n",
                "sys/fs/cgroup/memory.max": 4 * GIB,
                "sys/fs/cgroup/memory.current": GIB,
            },
            3 * GIB,
        ),
        # Version 1.
        (
            {
                "proc/self/cgroup": "12:cpu,cpuacct:/x\n5:memory:/slurm/job_7\n1:name=systemd:/\n",
                "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": 2 * GIB,
                "sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes": GIB,
                "sys/fs/cgroup/memory/slurm/job_7/memory.stat": f"total_inactive_file {GIB // 2}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": 2**63 - 4096,
                "sys/fs/cgroup/memory/memory.usage_in_bytes": 9 * GIB,
            },
            3 * GIB // 2,
        ),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": GIB,
                "sys/fs/cgroup/a/memory.current": 2 * GIB,
            },
            0,
        ),
        ({"proc/self/cgroup": "nonsense", "proc/meminfo": ""}, None),
    ],
)
def test_limits_of_containers_count(files, expected, tmp_path):
    assert memory.free_on_linux(system(tmp_path, files)) == expected


def test_windows_tells_what_is_free_and_what_may_be_committed():
    class Kernel:
        def GlobalMemoryStatusEx(self, status):
            assert status._obj.length == ctypes.sizeof(memory._Status) == 64
            status._obj.free, status._obj.free_page = 5 * GIB, 3 * GIB
            return 1

    assert memory._free_on_windows(Kernel()) == 3 * GIB


def test_macos_tells_the_pages_that_can_be_had():
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:                               10.\nPages active:                          900.\n"
        "Pages inactive:                           20.\nPages speculative:                       3.\n"
        'Pages purgeable:                           7.\n"Translation faults":              12345.\n'
    )
    assert memory.free_pages(text, 16384) == 40 * 16384
    assert memory.free_pages("", 16384) is None


# Peaks of Testing/Benchmarks/memory.py, model general-3d, no refinement: (K, J, I) and bytes.
MEASURED = {
    (48, 48, 48): 168e6,
    (64, 64, 64): 322e6,
    (80, 80, 80): 345e6,
    (96, 96, 96): 551e6,
    (112, 112, 112): 272e6,
    (128, 128, 128): 394e6,
    (160, 160, 160): 397e6,
    (176, 176, 176): 364e6,
    (192, 192, 192): 336e6,
    (64, 256, 256): 433e6,
    (30, 512, 512): 310e6,
    (288, 288, 288): 650e6,
}


@pytest.mark.parametrize("shape", MEASURED)
def test_estimates_are_not_below_what_was_measured(shape):
    from VoxelMorphRegistrationLib.networks.model import read_card
    from VoxelMorphRegistrationLib.networks.shelf import find_model
    from VoxelMorphRegistrationLib.registration.settings import Settings
    from VoxelMorphRegistrationLib.registration.working import network_grid

    card: ModelCard = read_card(find_model("general-3d"))
    spacing = [180.0 / n for n in shape[::-1]]
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    # The body fills nearly all of the picture; what the network sees is never more than the whole.
    working = network_grid(grid, card, Settings()).voxel_count
    needed = memory.images_bytes(grid, grid) + memory.network_bytes(card, working)
    assert MEASURED[shape] <= needed < 6 * MEASURED[shape]
