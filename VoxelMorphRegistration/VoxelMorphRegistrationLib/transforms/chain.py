"""Chains of transforms, composed only where they are looked up: one interpolation, however long the chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FieldError
from ..fields.displacement import DisplacementField
from ..fields.inverse import LARGEST_PART_WITHOUT_INVERSE
from ..fields.positions import warped_positions
from ..images.grid import Grid
from .parts import Bent, Matrix

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Moved:
    """points (N, 3) in RAS mm; missed (N,): by how many mm the inverses among the parts miss, 0 without any."""

    points: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True, eq=False)
class Chain:
    """T(x) = last(... (first(x))): from positions in the reference (fixed) to those in the input (moving), RAS mm.

    parts: the first one first, no two matrices side by side.
    """

    parts: tuple[Matrix | Bent, ...] = ()

    @staticmethod
    def of(parts: Iterable[Matrix | Bent]) -> Chain:
        """Matrices side by side become one; an identity is left out."""
        merged: list[Matrix | Bent] = []
        for part in parts:
            last = merged[-1] if merged else None
            if isinstance(part, Matrix) and isinstance(last, Matrix):
                merged[-1] = Matrix(part.matrix @ last.matrix)
            else:
                merged.append(part)
        return Chain(tuple(p for p in merged if not (isinstance(p, Matrix) and np.array_equal(p.matrix, np.eye(4)))))

    def then(self, other: Chain) -> Chain:
        """x -> other(self(x))."""
        return Chain.of((*self.parts, *other.parts))

    def inverse(self) -> Chain:
        return Chain(tuple(part.inverse() for part in reversed(self.parts)))

    @property
    def matrix(self) -> np.ndarray | None:
        """(4, 4) of a linear chain, else None."""
        if not self.parts:
            return np.eye(4)
        only = self.parts[0]
        return only.matrix if len(self.parts) == 1 and isinstance(only, Matrix) else None

    @property
    def bent(self) -> list[Bent]:
        return [part for part in self.parts if isinstance(part, Bent)]

    @property
    def own_grid(self) -> Grid | None:
        """The grid of the first displacement, where it lies in the space that the chain starts from, else None."""
        if self.parts and isinstance(self.parts[0], Bent) and not self.parts[0].backward:
            return self.parts[0].grid
        return None

    def transform_points(self, points_ras: np.ndarray) -> Moved:
        """Points (N, 3) in RAS mm, in float64."""
        points = np.asarray(points_ras, np.float64).reshape(-1, 3)
        missed = np.zeros(len(points))
        for part in self.parts:
            if isinstance(part, Matrix):
                points = part.points(points)
                continue
            points, lack = part.points(points)
            if lack is not None:
                missed = np.maximum(missed, lack)
        return Moved(points, missed)

    def positions(self, reference: Grid, voxels: int | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield (slice of k, T(x) (k, J, I, 3) in RAS mm, float64) over the voxels x of `reference`.

        voxels: of one slab, about. Raises FieldError in the end where an inverse among the parts does not exist.
        """
        import torch

        from ..images import sampling

        parts, lead = list(self.parts), np.eye(4)
        first = parts[0] if parts else None
        if isinstance(first, Matrix):
            lead = first.matrix
            parts = parts[1:]
            first = parts[0] if parts else None
        grid = reference.transformed(lead)
        read = None
        if isinstance(first, Bent) and not first.backward and isinstance(first.u, DisplacementField):
            # On a grid, not at scattered positions: a third of the time where the axes agree.
            read = first.u._reader(grid)
            parts = parts[1:]
        bad = 0
        for rows in sampling.slabs(reference.shape, voxels):
            ras = sampling.affine_positions(grid.ijk_to_ras, grid.shape, rows, torch.float64)
            shape = ras.shape
            if read is not None:
                ras = ras.add_(read(rows).movedim(0, -1))
            ras = ras.reshape(-1, 3)
            for part in parts:
                if isinstance(part, Matrix):
                    matrix = torch.tensor(part.matrix)
                    ras = ras @ matrix[:3, :3].T + matrix[:3, 3]
                    continue
                ras, missed = part.displaced(ras)
                if missed is not None:
                    bad += int((missed > 10 * part.tolerance_mm).sum())
            yield rows, ras.reshape(shape)
        if bad > LARGEST_PART_WITHOUT_INVERSE * reference.voxel_count:
            raise FieldError(
                f"The transform cannot be inverted: {100 * bad / reference.voxel_count:.2f} % of the voxels have no "
                "stable inverse. It folds there; use a smoother field, or the inverse that the program wrote with it."
            )

    def voxels(self, reference: Grid, source: Grid, voxels: int | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """As `positions`, in voxels i, j, k of `source`, float32."""
        from ..images import sampling

        first, *rest = self.parts or (None,)
        field = first.u if isinstance(first, Bent) and not first.backward else None
        if isinstance(field, DisplacementField) and (not rest or (isinstance(rest[-1], Matrix) and len(rest) == 1)):
            # As nearly always; in half the time.
            matrix = rest[0].matrix if rest and isinstance(rest[0], Matrix) else np.eye(4)
            yield from warped_positions(reference, field, matrix, source, voxels)
            return
        if self.matrix is not None:
            matrix = source.ras_to_ijk @ self.matrix @ reference.ijk_to_ras
            for rows in sampling.slabs(reference.shape, voxels):
                yield rows, sampling.affine_positions(matrix, reference.shape, rows)
            return
        for rows, found in self.then(Chain((Matrix(source.ras_to_ijk),))).positions(reference, voxels):
            yield rows, found.float()

    def field_on(self, grid: Grid) -> DisplacementField:
        """T(x) - x at the voxels of `grid`."""
        from ..images import sampling

        only = self.parts[0] if len(self.parts) == 1 else None
        if isinstance(only, Bent) and not only.backward and isinstance(only.u, DisplacementField):
            return only.u.on_grid(grid)
        out = np.empty((*grid.shape, 3), np.float32)
        for rows, ras in self.positions(grid):
            out[rows] = (ras - sampling.affine_positions(grid.ijk_to_ras, grid.shape, rows, ras.dtype)).numpy()
        return DisplacementField(out, grid)
