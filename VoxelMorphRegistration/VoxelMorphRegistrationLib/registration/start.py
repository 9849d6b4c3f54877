"""Where a registration starts: a matrix, or a displacement, split into the nearest matrix and what is left."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias

import numpy as np

from ..fields.displacement import DisplacementField, grid_over
from ..images.grid import Grid, check_matrix, some_voxels, working_grid

# (4, 4), or the displacement S(x) - x of any transform S; fixed to moving, RAS mm.
Initial: TypeAlias = np.ndarray | DisplacementField
# The nearest matrix is found from so many voxels; as many are sampled in a step.
_POINTS = 20_000


def start_matrix(initial: Initial | None, fixed: Grid, region: np.ndarray) -> np.ndarray | None:
    """(4, 4), the linear part of a start, fixed to moving RAS mm; None without one.

    Of a displacement, the affine map next to it, by least squares over `region` (K, J, I) of the fixed grid; across a
    slice it keeps distances.
    """
    if initial is None:
        return None
    if not isinstance(initial, DisplacementField):
        return check_matrix(initial, "initial transform")
    kji = some_voxels(region, _POINTS)
    points = fixed.to_ras(kji[:, ::-1])
    moved = initial.transform_points(points)
    if fixed.flat_axis is not None:
        across = fixed.directions[:, 2 - fixed.flat_axis] * float(np.max(fixed.spacing * fixed.size))
        points, moved = np.concatenate([points, points + across]), np.concatenate([moved, moved + across])
    center = points.mean(0)
    found, *_ = np.linalg.lstsq(np.column_stack([points - center, np.ones(len(points))]), moved, rcond=None)
    matrix = np.eye(4)
    matrix[:3, :3] = found[:3].T
    matrix[:3, 3] = found[3] - matrix[:3, :3] @ center
    return check_matrix(matrix, "linear part of the initial transform")


def start_field(initial: Initial | None, matrix: np.ndarray, fixed: Grid) -> DisplacementField | None:
    """u of S(x) = A (x + u(x)), A = matrix (4, 4), over the fixed image; None where the start is linear."""
    if not isinstance(initial, DisplacementField):
        return None
    return initial.then_linear(np.linalg.inv(matrix)).covering(fixed)


def sampling_start(move: Callable[[np.ndarray], np.ndarray], fixed: Grid) -> Generator[None, None, DisplacementField]:
    """A start from anything that carries points, in steps: move((N, 3) fixed RAS mm) gives (N, 3) moving RAS mm.

    Sampled over the fixed image at twice its finest spacing, all that the refinement holds.
    """
    grid = grid_over(working_grid(fixed, 2 * float(np.min(fixed.spacing[fixed.size > 1]))), fixed)
    points = grid.positions().reshape(-1, 3)
    steps = np.empty(points.shape, np.float32)
    for first in range(0, len(points), _POINTS):
        some = slice(first, first + _POINTS)
        steps[some] = np.asarray(move(points[some]), np.float64).reshape(-1, 3) - points[some]
        yield
    return DisplacementField(steps.reshape(*grid.shape, 3), grid)
