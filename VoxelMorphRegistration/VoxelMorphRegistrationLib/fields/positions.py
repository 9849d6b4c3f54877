"""Where the voxels of a grid go in another image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..images.grid import Grid

if TYPE_CHECKING:
    import torch

    from .displacement import DisplacementField


def warped_positions(
    reference: Grid,
    field: DisplacementField | None,
    matrix: np.ndarray | None,
    source: Grid,
    voxels: int | None = None,
):
    """Yield (slice of k, ijk voxel positions in `source` of A (x + u(x))) over the voxels of `reference`.

    voxels: of one slab, about.
    """
    from ..images import sampling

    at = positions_at(reference, field, matrix, source)
    for rows in sampling.slabs(reference.shape, voxels):
        yield rows, at(rows)


def positions_at(
    reference: Grid, field: DisplacementField | None, matrix: np.ndarray | None, source: Grid
) -> Callable[[slice], torch.Tensor]:
    """A function from a slice of k of `reference` to the positions of `warped_positions` there, (k, J, I, 3)."""
    from ..images import sampling

    linear = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    base = source.ras_to_ijk @ linear @ reference.ijk_to_ras
    if field is None:
        return lambda rows: sampling.affine_positions(base, reference.shape, rows)
    read = field._reader(reference, (source.ras_to_ijk @ linear)[:3, :3])
    return lambda rows: sampling.affine_positions(base, reference.shape, rows).add_(read(rows).movedim(0, -1))
