"""What a transform is and does: its parts, grids, how far it moves, whether it folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..fields.digital import non_diffeomorphic_percent
from ..fields.displacement import DisplacementField
from ..images.grid import Grid
from .chain import Chain
from .parts import Bent, Matrix
from .spline import SplineField


@dataclass(frozen=True)
class Measured:
    """Of a transform on a grid: displacement in mm, its percentiles, and folds of the whole map.

    folds, corner_folds: voxels with a determinant <= 0 by central and by any one-sided differences (fields.folding);
    ndv_percent: the volume that is turned inside out (fields.digital). determinant: least and largest.
    """

    grid: Grid
    largest_mm: float
    mean_mm: float
    voxels: int
    folds: int
    corner_folds: int
    ndv_percent: float
    determinant: tuple[float, float]

    def to_dict(self) -> dict:
        return {
            "grid": grid_facts(self.grid),
            "largest_displacement_mm": self.largest_mm,
            "mean_displacement_mm": self.mean_mm,
            "voxels": self.voxels,
            "folded_voxels": self.folds,
            "folded_voxels_any_corner": self.corner_folds,
            "non_diffeomorphic_volume_percent": self.ndv_percent,
            "determinant": list(self.determinant),
        }


def measured(chain: Chain, grid: Grid) -> Measured:
    """Of T on `grid`. Raises FieldError where an inverse among the parts does not exist."""
    field = chain.field_on(grid)
    folding = field.folding()
    size = np.linalg.norm(field.displacement_ras, axis=-1)
    return Measured(
        grid,
        float(size.max()),
        float(size.mean(dtype=np.float64)),
        folding.voxels,
        folding.count,
        folding.any_corner_count,
        non_diffeomorphic_percent(field),
        (folding.minimum, folding.maximum),
    )


def parts_facts(chain: Chain) -> list[dict]:
    """Each part: its kind and grid, or its matrix with what it does."""
    return [_matrix_facts(part) if isinstance(part, Matrix) else _bent_facts(part) for part in chain.parts]


def _bent_facts(part: Bent) -> dict:
    kind = "displacement field" if isinstance(part.u, DisplacementField) else "cubic B-spline"
    values = part.u.coefficients_ras if isinstance(part.u, SplineField) else part.u.displacement_ras
    return {
        "kind": f"inverse of a {kind}" if part.backward else kind,
        "grid": grid_facts(part.grid),
        "largest_mm": float(np.linalg.norm(values, axis=-1).max()),
    }


def _matrix_facts(part: Matrix) -> dict:
    matrix = part.matrix
    u, scales, vt = np.linalg.svd(matrix[:3, :3])
    turn = u @ vt
    mirrored = bool(np.linalg.det(matrix[:3, :3]) < 0)
    angle = np.degrees(np.arccos(np.clip((np.trace(-turn if mirrored else turn) - 1) / 2, -1, 1)))
    rigid = bool(np.abs(scales - 1).max() < 1e-5)
    return {
        "kind": "rigid matrix" if rigid else "affine matrix",
        "matrix": matrix.tolist(),
        "rotation_degrees": float(angle),
        "scales": scales.tolist(),
        "determinant": float(np.linalg.det(matrix[:3, :3])),
        "mirrored": mirrored,
        "translation_mm": matrix[:3, 3].tolist(),
    }


def grid_facts(grid: Grid) -> dict:
    return {
        "size": grid.size.tolist(),
        "spacing_mm": grid.spacing.round(6).tolist(),
        "orientation": grid.orientation,
        "origin_ras": grid.ijk_to_ras[:3, 3].round(6).tolist(),
    }


@dataclass(frozen=True)
class InverseError:
    """|T(S(y)) - y| in mm of an inverse S: at the voxels of its grid, and between them, over points that S leads into
    the grid that T was measured on."""

    at_voxels_mm: float
    between_mean_mm: float
    between_max_mm: float


def inverse_error(chain: Chain, inverse: DisplacementField) -> InverseError:
    """chain: T. inverse: S on its grid. Some 20,000 voxels, and as many places between them, are looked at."""
    rng = np.random.default_rng(0)
    grid = inverse.grid
    count = min(20_000, grid.voxel_count)
    nodes = rng.integers(0, grid.size, (count, 3))
    between = rng.uniform(0, np.maximum(grid.size - 1, 1e-9), (count, 3))
    errors = []
    for voxels in (nodes, between):
        y = grid.to_ras(voxels)
        errors.append(np.linalg.norm(chain.transform_points(inverse.transform_points(y)).points - y, axis=1))
    return InverseError(float(errors[0].max()), float(errors[1].mean()), float(errors[1].max()))
