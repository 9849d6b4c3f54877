"""Memory that is kept during a computation and given back afterwards, with the C library of Linux."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from VoxelMorphRegistrationLib.registration import heap as memory

MEGABYTE = 1 << 20


def _page_faults(megabytes: int, times: int) -> int:
    """Pages asked of the kernel while a tensor of this size is made and freed so many times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(megabytes * MEGABYTE // 4).add_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident_megabytes() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize() / MEGABYTE


def test_a_tensor_made_again_takes_the_memory_of_the_last_one():
    # In a process of its own: what other tests have freed would serve as well.
    code = (
        "import test_memory as t\n"
        "freely = t._page_faults(64, 10)\n"
        "with t.memory.kept():\n"
        "    t._page_faults(64, 2)\n"
        "    print(t._page_faults(64, 10) < 0.5 * freely)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "True"


def test_memory_is_given_back_at_the_end():
    before = _resident_megabytes()
    with memory.kept(), memory.kept():
        _page_faults(256, 2)
    assert _resident_megabytes() < before + 64


def test_an_error_within_passes_through_and_ends_it():
    with pytest.raises(KeyError), memory.kept():
        raise KeyError
    assert memory._users == 0
