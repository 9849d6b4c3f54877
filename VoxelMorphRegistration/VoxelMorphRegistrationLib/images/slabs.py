"""Work on volumes a slab of rows at a time: a slab stays in the processor's cache, and slabs run on all cores.

PyTorch lets go of the interpreter within its operations, so that a thread for each core serves them all: one thread
an operation costs less than many that meet after each. On a GPU a whole volume is one slab.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

# Of a slab: set by trials with 128,000 to 1,000,000 on a processor with 512 KB of cache a core and 32 MB for all. For
# one thread they are alike; of two, which hand the interpreter to each other between operations, those of small slabs
# wait for each other longer than they work (a brain: 22 s by the clock with 128,000, 15 s with 400,000).
SLAB_VOXELS = 400_000
# Up to so many, a volume is worked on by one thread.
FEW_VOXELS = 200_000
# Of fewer slabs, an odd number leaves one of two threads without work for a part that counts.
_FEW_SLABS = 16
Part = TypeVar("Part")
Result = TypeVar("Result")
# Slices along all axes.
Box = tuple[slice, ...]


def rows_of(shape: tuple[int, ...], device: torch.device, multiple: int = 1, voxels: int = SLAB_VOXELS) -> list[slice]:
    """Slabs along the first axis of *S, the same whatever the number of threads.

    multiple: their length is one of it, but for the last.
    """
    row = 1
    for size in shape[1:]:
        row *= size
    step = shape[0] if device.type != "cpu" else max(1, round(voxels / max(1, row * multiple))) * multiple
    count = -(-shape[0] // max(1, step))
    if count % 2 and 1 < count < _FEW_SLABS:
        # Two threads are ready together.
        step = -(-shape[0] // ((count + 1) * multiple)) * multiple
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], max(1, step))]


def boxes_of(
    shape: tuple[int, ...],
    device: torch.device,
    mask: torch.Tensor | None = None,
    margin: int = 0,
    voxels: int = SLAB_VOXELS,
) -> list[Box]:
    """Slabs of rows, each cut to what is within `margin` voxels of the mask (*S) in it; whole where there is none.

    On a GPU the whole volume is one box.
    """
    whole = tuple(slice(0, size) for size in shape[1:])
    if mask is None or device.type != "cpu":
        return [(rows, *whole) for rows in rows_of(shape, device, 1, voxels)]
    found = []
    # Thinner slabs, since a part of them is left.
    for rows in rows_of(shape, device, 1, voxels * 2 // 3):
        near = mask[max(rows.start - margin, 0) : rows.stop + margin].any(0)
        if near.any():
            places = near.nonzero()
            low, high = places.amin(0).tolist(), places.amax(0).tolist()
            within = (
                slice(max(a - margin, 0), min(b + 1 + margin, size))
                for a, b, size in zip(low, high, shape[1:], strict=True)
            )
            found.append((rows, *within))
    return found


def grown(box: Box, margin: int, shape: tuple[int, ...], axes: Iterable[int]) -> tuple[Box, Box]:
    """The box with `margin` more voxels along some axes, as far as there are, and the box within it."""
    wide, inner = list(box), [slice(0, part.stop - part.start) for part in box]
    for axis in axes:
        part = box[axis]
        wide[axis] = slice(max(part.start - margin, 0), min(part.stop + margin, shape[axis]))
        inner[axis] = slice(part.start - wide[axis].start, part.stop - wide[axis].start)
    return tuple(wide), tuple(inner)


def within(volumes: torch.Tensor, box: Box) -> torch.Tensor:
    """A box of volumes (C, *S)."""
    place = (slice(None), *box)
    return volumes[place]


def ends_of(box: Box) -> tuple[list[int], list[int]]:
    """The first places of a box along all axes, and those behind its last ones: what programs take (scripted.py)."""
    return [side.start for side in box], [side.stop for side in box]


def narrowed(volumes: torch.Tensor, low: list[int], high: list[int]) -> torch.Tensor:
    """From `low` to before `high` along the last axes, as many as there are of these; TorchScript, for programs."""
    first = volumes.dim() - len(low)
    for axis in range(len(low)):
        volumes = volumes.narrow(first + axis, low[axis], high[axis] - low[axis])
    return volumes


def each(function: Callable[[Part], Result], slabs: Iterable[Part]) -> list[Result]:
    """`function` of every slab, in their order, on as many threads as PyTorch has."""
    slabs = list(slabs)
    threads = min(torch.get_num_threads(), len(slabs))
    if threads <= 1:
        return [function(slab) for slab in slabs]
    results: list = [None] * len(slabs)
    left = deque(range(len(slabs)))

    def work() -> None:
        # One task a thread, not one a slab: the calling thread, told of each, would hold up those that work.
        while left:
            try:
                number = left.popleft()
            except IndexError:
                return
            try:
                results[number] = function(slabs[number])
            except BaseException:
                left.clear()
                raise

    pool = workers(torch.get_num_threads())
    try:
        first, *others = [pool.submit(work) for _ in range(threads)]
        first.result()
        for task in others:
            # One that still waits behind other work (ahead.py) would find no slab left.
            if not task.cancel():
                task.result()
    finally:
        # Who interrupts the calling thread does not wait for what is left.
        left.clear()
    return results


@contextmanager
def threads_for(voxels: int) -> Iterator[None]:
    """Within it, one thread where there are few voxels: threads that meet after each operation wait longer than they
    work (the preview of a brain: 1.4 s by the clock with two, .7 s with one).
    """
    threads = torch.get_num_threads()
    try:
        if voxels < FEW_VOXELS:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def workers(threads: int) -> ThreadPoolExecutor:
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
