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


def _resident_megabytes() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize() / MEGABYTE


# Tensors come from the same malloc.
MALLOC = """
import ctypes, resource

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.memset.argtypes, library.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
"""


def _printed(code: str) -> str:
    """What code that uses MALLOC prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MALLOC + code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stdout


def test_memory_taken_again_is_that_of_the_last_time():
    # In a process of its own, for what other tests have freed would serve as well.
    code = """
from VoxelMorphRegistrationLib.registration.heap import kept

def page_faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        place = library.malloc(64 << 20)
        library.memset(place, 1, 64 << 20)
        library.free(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

freely = page_faults(10)
with kept():
    page_faults(2)
    print(page_faults(10) < 0.5 * freely)
"""
    assert _printed(code).strip() == "True"


def test_memory_is_given_back_at_the_end():
    before = _resident_megabytes()
    with memory.kept(), memory.kept():
        for _ in range(2):
            torch.zeros(256 * MEGABYTE // 4).add_(1.0)
    assert _resident_megabytes() < before + 64


def test_an_error_within_passes_through_and_ends_it():
    with pytest.raises(KeyError), memory.kept():
        raise KeyError
    assert memory._users == 0


def test_what_a_stage_freed_is_given_back_where_images_are_large():
    # In a process of its own: how far the heap can grow depends on what other tests have left in it.
    code = """
from VoxelMorphRegistrationLib.registration import heap

def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20

with heap.kept():
    before = resident_megabytes()
    place = library.malloc(256 << 20)
    library.memset(place, 1, 256 << 20)
    library.free(place)
    heap.give_back(heap.LARGE_VOXELS - 1)
    kept = resident_megabytes()
    heap.give_back(heap.LARGE_VOXELS)
    print(before, kept, resident_megabytes())
"""
    before, kept, given_back = (int(number) for number in _printed(code).split())
    assert kept > before + 240
    assert given_back < before + 16
