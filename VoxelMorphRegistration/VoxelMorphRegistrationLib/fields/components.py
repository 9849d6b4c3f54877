"""Vectors in a volume, from one frame to another."""

from __future__ import annotations

import sys

import numpy as np

# Of a slab, which all cores have some of.
SLAB_VOXELS = 500_000


def turned(vectors: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`matrix` (3, 3) times vectors (K, J, I, 3), into `out` of the same shape; either may be a view of components
    that lie apart. A matrix along the axes, as most are, only scales them.
    """
    sources = [np.flatnonzero(row) for row in matrix]
    along_axes = all(len(source) == 1 for source in sources)

    def turn(rows: slice) -> None:
        if along_axes:
            for n, (source,) in enumerate(sources):
                np.multiply(vectors[rows, ..., source], matrix[n, source], out=out[rows, ..., n])
        else:
            out[rows] = vectors[rows] @ matrix.T

    shape = vectors.shape[:3]
    step = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    slabs = [slice(start, start + step) for start in range(0, shape[0], step)]
    if "torch" in sys.modules:
        from ..images.slabs import each

        each(turn, slabs)
    else:
        for rows in slabs:
            turn(rows)
    return out
