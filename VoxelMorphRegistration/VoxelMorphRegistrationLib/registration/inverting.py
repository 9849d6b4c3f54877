"""The inverse of the whole transform, over the moving image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FieldError
from ..fields.displacement import DisplacementField, grid_over, inverse_tolerance
from ..images.grid import Grid, working_grid
from .measures import carried

if TYPE_CHECKING:
    from .inputs import Inputs


def inverse_over(moving: Grid, deformation: DisplacementField, linear: np.ndarray) -> DisplacementField:
    """The displacement of T^-1, from moving to fixed positions, over the moving grid.

    T(x) = A (x + u(x)), A = linear (4, 4) in RAS mm. Its voxels are half as large as the field's, since it bends more
    between them, but no smaller than the moving image's. Raises FieldError where the field folds.
    """
    own, seen = (float(np.min(grid.spacing[grid.size > 1])) for grid in (deformation.grid, moving))
    grid = working_grid(moving, max(own / 2, min(own, seen)))
    return deformation.inverse(grid_over(grid, moving), linear)


def inverse_of(
    inputs: Inputs, deformation: DisplacementField, matrix: np.ndarray, warnings: list[str]
) -> tuple[DisplacementField | None, dict[str, float] | None]:
    """The inverse transform and what the report says of it; None twice, and a warning, where there is none."""
    moving = inputs.moving.grid
    try:
        backward = inverse_over(moving, deformation, matrix)
    except FieldError as error:
        warnings.append(f"There is no inverse transform. {error}")
        return None, None
    goal = carried(inputs.fixed.grid, inputs.region, matrix, deformation)
    goal = goal[moving.contains(goal)]
    again = deformation.transform_points(backward.transform_points(goal)) @ matrix[:3, :3].T + matrix[:3, 3]
    missed = np.linalg.norm(again - goal, axis=1)
    largest, mean = (float(f(missed)) if missed.size else float("nan") for f in (np.max, np.mean))
    return backward, {
        "tolerance_mm": inverse_tolerance(deformation.grid, backward.grid),
        "mean_mm": mean,
        "max_mm": largest,
    }
