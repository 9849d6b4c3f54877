"""Jacobian determinants of displacements u (3, K, J, I) in voxels, channel c along tensor axis c (torch)."""

from __future__ import annotations

import torch

from ..images.scripted import scripted


def voxel_determinant(flow: torch.Tensor) -> torch.Tensor:
    """det(I + grad u) (K, J, I) of u (3, K, J, I) in voxels.

    By central differences, one-sided at the border; along an axis of one voxel nothing changes.
    """
    return central_determinant(flow, 0, flow.shape[1])


@scripted
def central_determinant(flow: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """`voxel_determinant` from row `start` to before `stop`, which the rows beside them count for."""
    forward, backward = _columns(flow, start, stop)
    columns = [[(forward[axis][n] + backward[axis][n]).mul_(0.5) for n in range(3)] for axis in range(3)]
    cross = [torch.empty_like(columns[0][0]) for _ in range(3)]
    _cross(columns[1], columns[2], cross)
    return _dot(columns[0], cross, torch.empty_like(cross[0]))


@scripted
def any_corner_folds(flow: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Where u (3, K, J, I) in voxels folds at a corner, bool, from row `start` to before `stop`: a determinant <= 0 in
    any of the eight combinations of forward and backward differences.
    """
    forward, backward = _columns(flow, start, stop)
    lowest = torch.ones([stop - start] + list(flow.shape)[2:], device=flow.device)
    cross, value = [torch.empty_like(lowest) for _ in range(3)], torch.empty_like(lowest)
    for second in [forward[1], backward[1]]:
        for third in [forward[2], backward[2]]:
            _cross(second, third, cross)
            for first in [forward[0], backward[0]]:
                torch.minimum(lowest, _dot(first, cross, value), out=lowest)
    return lowest <= 0.0


def _columns(flow: torch.Tensor, start: int, stop: int) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """The columns of I + grad u, one for each axis, by forward and by backward differences; equal at the border."""
    forward: list[list[torch.Tensor]] = []
    backward: list[list[torch.Tensor]] = []
    for axis in range(3):
        size = flow.shape[1 + axis]
        ahead: list[torch.Tensor] = []
        behind: list[torch.Tensor] = []
        for channel in range(3):
            values = flow[channel]
            # All of them once: the first and the last one a second time, for the border.
            shape = list(values.shape)
            shape[axis] += 1
            steps = torch.zeros(shape, dtype=flow.dtype, device=flow.device)
            if size > 1:
                inner = steps.narrow(axis, 1, size - 1)
                torch.sub(values.narrow(axis, 1, size - 1), values.narrow(axis, 0, size - 1), out=inner)
                steps.select(axis, 0).copy_(steps.select(axis, 1))
                steps.select(axis, size).copy_(steps.select(axis, size - 1))
            if channel == axis:
                steps.add_(1.0)
            ahead.append(steps.narrow(axis, 1, size).narrow(0, start, stop - start))
            behind.append(steps.narrow(axis, 0, size).narrow(0, start, stop - start))
        forward.append(ahead)
        backward.append(behind)
    return forward, backward


def _cross(b: list[torch.Tensor], c: list[torch.Tensor], out: list[torch.Tensor]) -> None:
    torch.mul(b[1], c[2], out=out[0]).addcmul_(b[2], c[1], value=-1.0)
    torch.mul(b[2], c[0], out=out[1]).addcmul_(b[0], c[2], value=-1.0)
    torch.mul(b[0], c[1], out=out[2]).addcmul_(b[1], c[0], value=-1.0)


def _dot(a: list[torch.Tensor], b: list[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    torch.mul(a[0], b[0], out=out)
    return out.addcmul_(a[1], b[1]).addcmul_(a[2], b[2])
