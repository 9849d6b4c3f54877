"""Long work on the scene as generators: a step at a time between the events of the window, or all at once.

A step takes some tens of milliseconds at most, whatever the number of segments and the size of the images.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

import numpy as np

T = TypeVar("T")
# Copying 8 MiB takes some milliseconds; one plane more or less does not matter.
COPIED_BYTES = 8 * 2**20
# Positions computed for nearest neighbours: some 50 ns each (measured on one core).
PLACED_VOXELS = 400_000


def finish(generator: Generator[None, None, T]) -> T:
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def slabs(shape: tuple[int, ...], unit: float, budget: float) -> Iterator[slice]:
    """Slices of the first axis, of at least one plane, with `budget` / `unit` elements of the array each."""
    plane = max(int(np.prod(shape[1:])), 1) * unit
    step = max(int(budget // plane), 1)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def copying(source: np.ndarray, target: np.ndarray) -> Generator[None, None, None]:
    """Copy one array into another of the same shape, whatever their kinds of numbers."""
    for part in slabs(source.shape, source.dtype.itemsize, COPIED_BYTES):
        target[part] = source[part]
        yield
