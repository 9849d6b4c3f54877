"""How much of a deformation is no diffeomorphism, by volume: the digital measure.

Central differences see neighbours but not the voxel between them, and so miss folds. Here each cell of eight voxels is
cut into five tetrahedra, in the two ways that there are, and the deformation is taken as linear in each; where one
turns inside out, its volume counts: the non-diffeomorphic volume of Liu et al. ("On finite difference Jacobian
computation in deformable image registration", IJCV 2024), here over cells, whose corners give the same determinants.
In a slice cells of four voxels and triangles take their place (the non-diffeomorphic area).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from .folding import each_block

if TYPE_CHECKING:
    from .displacement import DisplacementField


def non_diffeomorphic_percent(field: DisplacementField, mask: np.ndarray | None = None) -> float:
    """The volume (area, in a slice) that is turned inside out, in percent of that of the cells counted.

    mask (K, J, I): cells with all their corners in it count (all when None). NaN where there is no cell.
    """
    grid = field.grid
    axes = [axis for axis in range(3) if grid.shape[axis] > 1]
    if len(axes) < 2:
        return float("nan")

    def of_block(rows: slice, inner: slice, flow) -> tuple[float, int]:
        # The cells above a voxel's row reach one row further.
        stop = inner.stop + 1 if 0 in axes else inner.stop
        block = flow[:, inner.start : stop]
        corners = _corners(block, axes)
        counted = np.ones(corners[(0, 0, 0)].shape[1:], bool)
        if mask is not None:
            own = mask[rows.start : rows.start + block.shape[1]]
            counted = np.logical_and.reduce([own[part] for part in _parts(own.shape, axes).values()])
        volume = (_tetrahedra(corners) if len(axes) == 3 else _triangles(corners, axes)).numpy()
        return float(volume[counted].sum(dtype=np.float64)), int(np.count_nonzero(counted))

    parts = each_block(field, grid, of_block)
    turned, cells = sum(part[0] for part in parts), sum(part[1] for part in parts)
    return 100.0 * turned / cells if cells else float("nan")


def _parts(shape: tuple[int, ...], axes: list[int]) -> dict[tuple[int, ...], tuple[slice, ...]]:
    """For each corner of the cells, (0 or 1 along each array axis), the voxels that are it."""
    return {
        corner: tuple(
            slice(step, shape[axis] - 1 + step) if axis in axes else slice(None) for axis, step in enumerate(corner)
        )
        for corner in itertools.product(*((0, 1) if axis in axes else (0,) for axis in range(3)))
    }


def _corners(flow, axes: list[int]) -> dict:
    """(3, k, j, i) displacements in voxels at each corner of the cells, channel c along array axis c."""
    parts = _parts(tuple(flow.shape[1:]), axes)
    everywhere = {corner: (slice(None), *part) for corner, part in parts.items()}
    return {corner: flow[part] for corner, part in everywhere.items()}


def _edge(corners: dict, start: tuple[int, ...], end: tuple[int, ...]):
    """(3, k, j, i), from one moved corner to another."""
    edge = corners[end] - corners[start]
    for axis in range(3):
        if end[axis] != start[axis]:
            edge[axis] += end[axis] - start[axis]
    return edge


def _flipped(corner: tuple[int, ...], *axes: int) -> tuple[int, ...]:
    return tuple(1 - step if axis in axes else step for axis, step in enumerate(corner))


def _tetrahedra(corners: dict):
    """Volume turned inside out in each cell, the mean of both ways to cut it: eight corners of 1/6 and two cores of
    1/3, each belonging to one of the ways."""
    total: Any = None
    for corner in corners:
        # The tetrahedron of a corner and its three neighbours.
        sign = float(np.prod([1 - 2 * step for step in corner]))
        volume = sign * _determinant([_edge(corners, corner, _flipped(corner, axis)) for axis in range(3)]) / 6
        inside_out = (-volume).clamp_min(0.0)
        total = inside_out if total is None else total.add_(inside_out)
    for first, sign in (((0, 0, 0), -1.0), ((1, 1, 1), 1.0)):
        # The core between the four corners that are an even number of steps from `first`.
        others = [_flipped(first, *pair) for pair in ((0, 1), (0, 2), (1, 2))]
        volume = sign * _determinant([_edge(corners, first, other) for other in others]) / 6
        total.add_((-volume).clamp_min(0.0))
    return 0.5 * total


def _triangles(corners: dict, axes: list[int]):
    total: Any = None
    for corner in corners:
        first, second = (_edge(corners, corner, _flipped(corner, axis))[axes] for axis in axes)
        sign = float(np.prod([1 - 2 * corner[axis] for axis in axes]))
        inside_out = (-sign * (first[0] * second[1] - first[1] * second[0]) / 2).clamp_min(0.0)
        total = inside_out if total is None else total.add_(inside_out)
    return 0.5 * total


def _determinant(columns: list):
    a, b, c = columns
    return a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])
