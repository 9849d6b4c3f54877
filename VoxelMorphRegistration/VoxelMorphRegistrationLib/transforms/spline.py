"""Displacements of cubic B-splines: control points on a grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..images.grid import Grid

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class SplineField:
    """u(x) = sum of c b(x): coefficients c (K, J, I, 3) in RAS mm on `grid`.

    Outside the region in which all 64 control points exist, the nearest place of its border holds.
    """

    coefficients_ras: np.ndarray = field(repr=False)
    grid: Grid

    def at(self, points_ras: np.ndarray) -> np.ndarray:
        """Displacement (N, 3) in RAS mm at points (N, 3) in RAS mm, in float64."""
        import torch

        voxels = torch.from_numpy(self.grid.to_ijk(np.asarray(points_ras, np.float64).reshape(-1, 3)))
        return self._sampled(voxels, torch.float64).numpy()

    def sampler(self):
        """A function from positions (P, 3) in voxels of `grid`, float32, to displacements (P, 3) in RAS mm."""
        import torch

        return lambda voxels: self._sampled(voxels, torch.float32)

    def _sampled(self, voxels: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        import torch

        from . import cubic

        volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.coefficients_ras, -1, 0))).to(kind)
        size = torch.from_numpy(self.grid.size).to(voxels)
        voxels = torch.minimum(voxels.clamp_min(1.0), (size - 2.0).clamp_min(1.0))
        return cubic.sample(volume, voxels, cubic.spline_weights).T
