"""The result of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..fields.displacement import DisplacementField
from ..images.grid import Grid
from ..images.image import Image

if TYPE_CHECKING:
    from ..trust.error_map import ErrorMap
    from .report import Report


@dataclass(frozen=True, eq=False)
class Preview:
    """What a registration has while it improves. field, linear, warped: as in Registration, not yet guarded."""

    field: DisplacementField
    linear: np.ndarray
    warped: Image


@dataclass(frozen=True, eq=False)
class Registration:
    """The result. T(x) = A (x + u(x)) carries fixed to moving positions, both in RAS mm of the world.

    field: u on the network's flow grid. linear: A (4, 4). warped: the moving image on the fixed grid.
    warped_labels: the moving labels on the fixed grid. jacobian: determinant map, on the fixed grid or on larger voxels
    over the same volume, as the settings want it. inverse: the displacement of T^-1, from moving to fixed positions, on
    a grid over the moving image, if it was asked for.
    expected_error: the map of the error that is expected, if one was made.
    """

    field: DisplacementField
    linear: np.ndarray
    warped: Image
    jacobian: Image
    report: Report
    warped_labels: Image | None = None
    inverse: DisplacementField | None = None
    expected_error: ErrorMap | None = None

    def total_field(self, grid: Grid | None = None) -> DisplacementField:
        """The displacement of T, A (x + u(x)) - x, on the field's grid or another.

        Of a slice, three layers: readers of transform files take a single layer for a 2D transform.
        """
        field = self.field
        if grid is None and field.grid.dimension == 2:
            field = field.padded(across=True)
        return field.then_linear(self.linear, grid)

    def transform_points(self, points_ras: np.ndarray) -> np.ndarray:
        """Fixed positions (N, 3) in RAS mm to moving positions."""
        moved = self.field.transform_points(points_ras)
        return moved @ self.linear[:3, :3].T + self.linear[:3, 3]
