"""What a registration writes as transforms, and what is derived from a written one later: computed, not yet stored.

Apart from Slicer's scene, because the worker's process does it: it takes seconds, and torch.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..fields.displacement import DisplacementField, grid_over
from ..images.grid import Grid
from ..images.image import Image
from ..registration.inverting import inverse_over
from ..registration.report import Report
from ..registration.result import Registration
from ..trust.error_map import ErrorMap
from .overview import overview as draw

INSIDE, SEPARATE = "inside", "separate"


@dataclass(frozen=True, eq=False)
class Wanted:
    """The transforms to be made of a registration.

    fixed, moving: grids of the volumes in the world. moving_to_world, fixed_to_world: (4, 4), their parent transforms
    P and F. transform, inverse: whether each is wanted. linear: where the linear part goes, INSIDE or SEPARATE.
    """

    fixed: Grid
    moving: Grid
    moving_to_world: np.ndarray
    fixed_to_world: np.ndarray
    transform: bool = True
    inverse: bool = False
    linear: str = INSIDE


@dataclass(frozen=True, eq=False)
class Fields:
    """transform: world-fixed to moving-local positions, without the linear part (4, 4) where that is separate.

    inverse: world-moving to fixed-local positions. None for what is not wanted.
    """

    transform: DisplacementField | None = None
    linear: np.ndarray | None = None
    inverse: DisplacementField | None = None


@dataclass(frozen=True, eq=False)
class Product:
    """What is written of a registration: its fields, and its images on the fixed grid as in Registration."""

    fields: Fields
    warped: Image
    jacobian: Image
    report: Report
    warped_labels: Image | None = None
    expected_error: ErrorMap | None = None


def product_of(registration: Registration, wanted: Wanted) -> Product:
    """Compute what is wanted. Raises FieldError where the inverse fails."""
    r = registration
    return Product(fields_of(r, wanted), r.warped, r.jacobian, r.report, r.warped_labels, r.expected_error)


def fields_of(registration: Registration, wanted: Wanted) -> Fields:
    """Compute what is wanted. Raises FieldError where the inverse fails."""
    transform = linear = inverse = None
    if wanted.transform:
        matrix = np.linalg.inv(wanted.moving_to_world) @ registration.linear
        if wanted.linear == INSIDE:
            covering = grid_over(registration.field.grid, wanted.fixed)
            transform = registration.field.then_linear(matrix, covering)
        else:
            transform, linear = registration.field, matrix
    if wanted.inverse:
        inverse = inverse_field(registration.field, registration.linear, wanted.moving, wanted.fixed_to_world)
    return Fields(transform, linear, inverse)


def inverse_field(
    deformation: DisplacementField, linear: np.ndarray, moving: Grid, fixed_to_world: np.ndarray
) -> DisplacementField:
    """From world-moving to fixed-local positions, on a grid over the moving volume at the field's resolution.

    deformation: u of T(x) = A (x + u(x)); linear: A; moving: the moving volume's grid in the world. T^-1, then the
    inverse of the fixed volume's parent transform. Raises FieldError where the field folds.
    """
    inverse = inverse_over(moving, deformation, linear)
    return inverse.then_linear(np.linalg.inv(fixed_to_world))


@dataclass(frozen=True, eq=False)
class Stored:
    """A written transform as it lies in the scene: T(x) = A outer (x + v(x)), A the report's linear part (4, 4)."""

    field: DisplacementField
    outer: np.ndarray
    linear: np.ndarray

    def deformation(self) -> DisplacementField:
        """u of T(x) = A (x + u(x))."""
        return self.field.then_linear(self.outer)

    def inverse(self, moving: Grid, fixed_to_world: np.ndarray) -> DisplacementField:
        """As inverse_field."""
        return inverse_field(self.deformation(), self.linear, moving, fixed_to_world)

    def overview(
        self, fixed: Image, moving: Image, warped: Image, jacobian: Image, report: Report, error: ErrorMap | None = None
    ) -> np.ndarray:
        """The overview of overview.py: the bytes of a PNG, as uint8. error: the expected error, if there is a map."""
        registration = Registration(self.deformation(), self.linear, warped, jacobian, report, expected_error=error)
        with tempfile.TemporaryDirectory(prefix="voxelmorph-overview-") as folder:
            path = Path(folder) / "overview.png"
            draw(registration, fixed, moving, path)
            return np.frombuffer(path.read_bytes(), np.uint8)
