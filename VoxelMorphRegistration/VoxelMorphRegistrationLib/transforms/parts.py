"""The parts of a chain: a matrix, or a displacement and its inverse."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..fields.displacement import DisplacementField, inverse_tolerance
from ..fields.inverse import inverted
from ..images.grid import Grid
from .spline import SplineField

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Matrix:
    """x -> A x, (4, 4) in RAS mm."""

    matrix: np.ndarray

    def inverse(self) -> Matrix:
        return Matrix(np.linalg.inv(self.matrix))

    def points(self, ras: np.ndarray) -> np.ndarray:
        return ras @ self.matrix[:3, :3].T + self.matrix[:3, 3]


@dataclass(frozen=True, eq=False)
class Bent:
    """x -> x + u(x), or, `backward`, its inverse.

    Outside the grid of u the displacement at the nearest place of its border holds, forward and backward.
    """

    u: DisplacementField | SplineField = field(repr=False)
    backward: bool = False

    def inverse(self) -> Bent:
        return Bent(self.u, not self.backward)

    @property
    def grid(self) -> Grid:
        return self.u.grid

    @property
    def tolerance_mm(self) -> float:
        """How exact the inverse is."""
        return inverse_tolerance(self.grid)

    @cached_property
    def _sampler(self):
        """From positions (P, 3) in voxels, float32, to displacements (P, 3) in RAS mm."""
        if isinstance(self.u, SplineField):
            return self.u.sampler()
        import torch

        from ..images import sampling

        volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.u.displacement_ras, -1, 0)))[None]
        return lambda voxels: sampling.sample(volume, voxels[None, None, None])[0, :, 0, 0].T

    def displaced(self, ras: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Positions (P, 3) in RAS mm, float64, moved; and, backward, by how many mm each misses (P,)."""
        import torch

        to_ijk = torch.from_numpy(self.grid.ras_to_ijk)
        voxels = (ras @ to_ijk[:3, :3].T + to_ijk[:3, 3]).float()
        if not self.backward:
            return ras + self._sampler(voxels), None
        moved, missed = inverted(_Residual(self._sampler, to_ijk[:3, :3].float()), voxels, None, self.tolerance_mm)
        return ras + moved, missed

    def points(self, ras: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """As `displaced`, for points (N, 3) in float64."""
        if not self.backward:
            return ras + self.u.at(ras), None
        import torch

        # Float32 finds the place; what it lacks, a few fixed-point steps in float64 add.
        moved = self.displaced(torch.from_numpy(np.ascontiguousarray(ras, np.float64)))[0].numpy()
        size = None
        for _ in range(4):
            residual = moved + self.u.at(moved) - ras
            now = np.linalg.norm(residual, axis=1)
            better = np.ones(len(ras), bool) if size is None else now < size
            if size is None:
                best, size = moved.copy(), now
            best[better], size[better] = moved[better], now[better]
            moved = moved - residual
        return best, size


class _Residual:
    """v + u(y + v) of y (N, 3) in voxels and v (N, 3) in mm, as `inverted` asks for it."""

    def __init__(self, sampler, to_voxels: torch.Tensor) -> None:
        self._sampler, self.to_voxels = sampler, to_voxels

    def __call__(self, base: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return v + self._sampler(base + v @ self.to_voxels.T)
