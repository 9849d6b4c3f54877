"""Sums and means over boxes of voxels, and differences between neighbours, of tensors (C, K, J, I)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .slabs import Box, each, grown, rows_of

# Of a slab, of each of the few volumes that are summed together.
_SLAB_VOXELS = 64_000


def box_sum(volumes: torch.Tensor, radius: int) -> torch.Tensor:
    """Sums over boxes of 2 radius + 1 voxels of (C, *S), cut at the border."""
    out = torch.empty_like(volumes)

    def sum_rows(rows: slice) -> None:
        out[:, rows] = box_sum_rows(volumes, rows, radius)

    each(sum_rows, rows_of(volumes.shape[1:], volumes.device, 1, _SLAB_VOXELS))
    return out


def box_sum_rows(volumes: torch.Tensor, rows: slice, radius: int) -> torch.Tensor:
    """The rows of box_sum."""
    size = volumes.shape[1]
    low, high = max(rows.start - radius, 0), min(rows.stop + radius, size)
    ends = [radius] * (2 * (volumes.dim() - 2)) + [low - rows.start + radius, rows.stop + radius - high]
    total = F.pad(volumes[:, low:high], ends)
    for axis in range(1, volumes.dim()):
        total = _run_sum(total, axis, 2 * radius + 1)
    return total


def _run_sum(volumes: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Sums of so many voxels in a row, by sums of powers of two of them: the axis is shorter by length - 1."""
    result = volumes.shape[axis] - length + 1
    total: torch.Tensor | None = None
    done, run, power = 0, volumes, 1
    while True:
        if length & power:
            part = run.narrow(axis, done, result)
            total = part if total is None else total + part
            done += power
        power *= 2
        if total is not None and power > length:
            return total
        size = run.shape[axis] - power // 2
        run = run.narrow(axis, 0, size) + run.narrow(axis, power // 2, size)


def pooled(volumes: torch.Tensor, ratio: int) -> torch.Tensor:
    """(C, *S) averaged over blocks of `ratio` voxels a side, a power of two; the last ones are filled up with zeros."""
    if ratio == 1:
        return volumes
    dims = volumes.dim() - 1
    left = ratio
    while left > 1:
        for axis in range(1, dims + 1):
            volumes = _pairs(volumes, axis)
        left //= 2
    return volumes.mul_(ratio**-dims)


def _pairs(volumes: torch.Tensor, axis: int) -> torch.Tensor:
    """Sums of two neighbours along an axis."""
    before = (slice(None),) * axis
    even, odd = (*before, slice(0, None, 2)), (*before, slice(1, None, 2))
    first, second = volumes[even], volumes[odd]
    if first.shape == second.shape:
        return first + second
    out = first.clone(memory_format=torch.contiguous_format)
    out.narrow(axis, 0, second.shape[axis]).add_(second)
    return out


def gradient(volume: torch.Tensor) -> torch.Tensor:
    """Central differences (d, *S) of (*S), channel c along tensor axis c, one-sided at the border."""
    return torch.stack(torch.gradient(volume))


def gradient_box(volume: torch.Tensor, box: Box) -> list[torch.Tensor]:
    """A box of `gradient`, one part for each axis."""
    found = []
    for axis in range(volume.dim()):
        wide, inner = grown(box, 1, volume.shape, [axis])
        found.append(_central(volume[wide], axis)[inner])
    return found


def _central(volume: torch.Tensor, axis: int) -> torch.Tensor:
    inner = volume.shape[axis] - 2
    out = torch.empty_like(volume)
    torch.sub(volume.narrow(axis, 2, inner), volume.narrow(axis, 0, inner), out=out.narrow(axis, 1, inner)).mul_(0.5)
    for place, upper in ((0, 1), (inner + 1, inner + 1)):
        one, other = (volume.narrow(axis, n, 1) for n in (upper, upper - 1))
        torch.sub(one, other, out=out.narrow(axis, place, 1))
    return out
