"""A smooth displacement through what is known at scattered points, each more or less surely."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# How much bending costs against a miss of one standard deviation, in voxels; what a place is known to at best, since a
# point lies in a voxel, not on a spot; fits after the first, in which a point that is far off for its spread counts
# less (Cauchy's weights). Set on held-out pairs of random shapes under known warps (docs/training.md): a third to three
# times the stiffness, or a least spread of 0.1 to 1, change the error by 4 % at most; without refits it is 2 % larger.
STIFFNESS = 3.0
LEAST_SPREAD = 0.3
REFITS = 2
# Of the slopes of the affine part, whose squares cost so little that only points in a plane, or too few, notice.
_HOLD = 1e-9


def fitted(
    points: torch.Tensor,
    values: torch.Tensor,
    spread: torch.Tensor,
    shape: tuple[int, ...],
    stiffness: float = STIFFNESS,
    refits: int = REFITS,
) -> torch.Tensor:
    """The thin-plate spline (C, *shape) nearest to values (P, C) at points (P, d), in voxels of a grid of `shape`.

    spread: (P,), the standard deviation of each value. A spline minimises sum |f(p) - v|^2 / spread^2 plus its bending
    energy over all space (Duchon 1977; Wahba, "Spline models for observational data", 1990, ch. 2.4; Rohr et al., IEEE
    TMI 20(6), 2001, for landmarks with errors): affine maps bend nothing and come out as they are, on every grid. With
    fewer points than an affine map needs, what is left open does not change across the image.
    """
    import torch

    places, known = points.double(), values.double()
    count, dims = places.shape
    variance = spread.detach().double().square() + LEAST_SPREAD**2
    middle = places.mean(0)
    extent = (places - middle).abs().max().clamp_min(1.0)
    plane = torch.cat([torch.ones_like(places[:, :1]), (places - middle) / extent], 1)
    kernel = _bending((places[:, None] - places[None]).square().sum(-1), dims)
    hold = torch.full((dims + 1,), -_HOLD, dtype=torch.float64, device=places.device)
    hold[0] = 0.0
    right = torch.cat([known, known.new_zeros(dims + 1, known.shape[1])])
    weight = torch.ones_like(variance)
    for number in range(refits + 1):
        left = torch.cat(
            [
                torch.cat([kernel + torch.diag(stiffness * variance / weight), plane], 1),
                torch.cat([plane.T, torch.diag(hold)], 1),
            ]
        )
        solved = torch.linalg.solve(left, right)
        if number < refits:
            with torch.no_grad():
                missed = (known - kernel @ solved[:count] - plane @ solved[count:]).square().sum(1) / variance
                weight = 1.0 / (1.0 + missed / missed.median().clamp_min(1e-12))
    return _drawn(solved[:count], solved[count:], places, middle, extent, shape).to(values.dtype)


def _bending(squared: torch.Tensor, dims: int) -> torch.Tensor:
    """The spline's kernel by squared distances: -r in space, r^2 log r in the plane."""
    if dims == 3:
        return -squared.sqrt()
    return 0.5 * squared * squared.clamp_min(1e-12).log()


def _drawn(
    bends: torch.Tensor,
    slopes: torch.Tensor,
    places: torch.Tensor,
    middle: torch.Tensor,
    extent: torch.Tensor,
    shape: tuple[int, ...],
) -> torch.Tensor:
    """The spline (C, *shape), plane by plane along the first axis, float32."""
    import torch

    dims = len(shape)
    lines = [torch.arange(size, dtype=torch.float64, device=places.device) for size in shape]
    apart = [(line[:, None] - place).square().float() for line, place in zip(lines, places.unbind(1), strict=True)]
    # Over all axes but the first: (*rest, P).
    across = apart[1] if dims == 2 else apart[1][:, None] + apart[2][None]
    weights = bends.float()
    planes = torch.stack([_bending(across + first, dims) @ weights for first in apart[0]])
    affine = slopes[0]
    for axis, line in enumerate(lines):
        view = [1] * (dims + 1)
        view[axis] = -1
        affine = affine + ((line - middle[axis]) / extent).reshape(view) * slopes[1 + axis]
    return (planes + affine.float()).movedim(-1, 0)
