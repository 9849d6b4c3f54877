"""Work on volumes a slab of rows at a time: a slab stays in the processor's cache, and slabs run on all cores.

PyTorch lets go of the interpreter within its operations, so that a thread for each core serves them all: one thread
an operation costs less than many that meet after each. On a GPU a whole volume is one slab.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

# Of a slab: set by trials with 32,000 to 512,000 on a processor with 512 KB of cache a core.
SLAB_VOXELS = 128_000
Result = TypeVar("Result")


def rows_of(shape: tuple[int, ...], device: torch.device, multiple: int = 1, voxels: int = SLAB_VOXELS) -> list[slice]:
    """Slabs along the first axis of *S, the same whatever the number of threads.

    multiple: their length is one of it, but for the last.
    """
    row = 1
    for size in shape[1:]:
        row *= size
    step = shape[0] if device.type != "cpu" else max(1, round(voxels / max(1, row * multiple))) * multiple
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], max(1, step))]


def each(function: Callable[[slice], Result], slabs: Iterable[slice]) -> list[Result]:
    """`function` of every slab, in their order, on as many threads as PyTorch has."""
    slabs = list(slabs)
    threads = torch.get_num_threads()
    if threads == 1 or len(slabs) == 1:
        return [function(slab) for slab in slabs]
    return list(_workers(threads).map(function, slabs))


_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def _workers(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads use one thread for each operation, as the calling one goes on using its own number."""
    global _pool, _size
    with _lock:
        if _pool is None or _size != threads:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _size, _pool = threads, ThreadPoolExecutor(threads, "voxelmorph-slab")
            # All are started before the number of this thread, which new threads take over, is set again.
            meet = threading.Barrier(threads)

            def start() -> None:
                torch.set_num_threads(1)
                # Asked for, else a thread takes over the number of others with its first operation.
                torch.get_num_threads()
                meet.wait()

            for started in [_pool.submit(start) for _ in range(threads)]:
                started.result()
            torch.set_num_threads(threads)
        return _pool


def _forget() -> None:
    """A forked process has no threads but one."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
