"""The inverse of a displacement field, point by point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from .displacement import DisplacementField


# Of the inverse: the most rounds; the fixed point nearly always takes less than ten.
_FIXED_POINT_ROUNDS, _NEWTON_ROUNDS, _HALVINGS = 40, 20, 8
# How exact an inverse is at its voxels, as a part of their size.
INVERSE_TOLERANCE = 1e-3
# An inverse is refused where more points than this part have none.
LARGEST_PART_WITHOUT_INVERSE = 1e-3


class Residual(Protocol):
    """v + u(y + v) (N, 3) in RAS mm, of y (N, 3) in voxels i, j, k and v (N, 3) in mm."""

    to_voxels: torch.Tensor

    def __call__(self, base: torch.Tensor, v: torch.Tensor) -> torch.Tensor: ...


class Displaced:
    """The residual v + u(y + v) of an inverse: (N, 3) RAS mm, of y (N, 3) in voxels i, j, k and v (N, 3) in mm."""

    def __init__(self, field: DisplacementField) -> None:
        import torch

        self.volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(field.displacement_ras, -1, 0)))[None]
        self.to_voxels = torch.from_numpy(field.grid.ras_to_ijk[:3, :3].astype(np.float32))

    def __call__(self, base, v):
        from ..images import sampling

        positions = base + v @ self.to_voxels.T
        return v + sampling.sample(self.volume, positions[None, None, None])[0, :, 0, 0].T


def inverted(displaced: Residual, base, v, tolerance_mm: float):
    """v (N, 3) with a residual of at most the tolerance, where that can be had, and the residual's size (N,).

    Fixed-point iteration v <- -u(y + v) (Chen et al., Med. Phys. 2008) from v (zero when None); where it does not
    converge, because u is steep, Newton's method.
    """
    import torch

    v = torch.zeros_like(base) if v is None else v.clone()
    error = torch.full((len(base),), torch.inf)
    active = torch.arange(len(base))
    for _ in range(_FIXED_POINT_ROUNDS):
        residual = displaced(base[active], v[active])
        size = residual.norm(dim=1)
        going = (size > tolerance_mm) & (size < 0.9 * error[active])
        error[active] = size
        active, residual = active[going], residual[going]
        if len(active) == 0:
            break
        v[active] -= residual
    error[active] = torch.inf
    rest = error > tolerance_mm
    if rest.any():
        v[rest], error[rest] = _newton(displaced, base[rest], v[rest], tolerance_mm)
    return v, error


def _newton(displaced: Residual, base, v, tolerance_mm: float):
    """As _inverted, from v, by Newton's method with steps that are halved until the residual falls."""
    import torch

    residual = displaced(base, v)
    size = residual.norm(dim=1)
    # A part of a voxel, within which the field is linear but for its edges.
    step = 0.05 * torch.linalg.inv(displaced.to_voxels)
    back = torch.linalg.inv(step)
    active = torch.arange(len(v))
    for _ in range(_NEWTON_ROUNDS):
        active = active[size[active] > tolerance_mm]
        if len(active) == 0:
            break
        here, now = base[active], v[active]
        slopes = [(displaced(here, now + h) - displaced(here, now - h)) / 2 for h in step.T]
        jacobian = torch.stack(slopes, -1) @ back
        update, _ = torch.linalg.solve_ex(jacobian, residual[active][..., None])
        update = update[..., 0].nan_to_num(0.0, 0.0, 0.0)
        left = torch.arange(len(active))
        for _ in range(_HALVINGS):
            trial = now[left] - update[left]
            found = displaced(here[left], trial)
            length = found.norm(dim=1)
            better = length < size[active[left]]
            taken = active[left[better]]
            v[taken], residual[taken], size[taken] = trial[better], found[better], length[better]
            left = left[~better]
            if len(left) == 0:
                break
            update[left] *= 0.5
        # Where no step helps, none will.
        stuck = torch.zeros(len(active), dtype=torch.bool)
        stuck[left] = True
        active = active[~stuck]
    return v, size
