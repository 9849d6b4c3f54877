"""Sums and means over boxes of voxels, and differences between neighbours, of tensors (C, K, J, I)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .scripted import scripted
from .slabs import Box, each, ends_of, narrowed, rows_of

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
    return _box_sum_rows(volumes, rows.start, rows.stop, radius)


def summed_rows(volumes: torch.Tensor, start: int, stop: int, radius: int) -> torch.Tensor:
    """`box_sum_rows` in TorchScript, for programs (see scripted.py)."""
    size = volumes.shape[1]
    low, high = max(start - radius, 0), min(stop + radius, size)
    ends = [radius] * (2 * (volumes.dim() - 2)) + [low - start + radius, stop + radius - high]
    total = F.pad(volumes[:, low:high], ends)
    for axis in range(1, volumes.dim()):
        total = _run_sum(total, axis, 2 * radius + 1)
    return total


def _run_sum(volumes: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Sums of so many voxels in a row, an odd number, by sums of powers of two of them: the axis is shorter by
    length - 1.
    """
    result = volumes.shape[axis] - length + 1
    total = volumes.narrow(axis, 0, result)
    done, run, power = 1, volumes, 1
    while 2 * power <= length:
        power *= 2
        size = run.shape[axis] - power // 2
        run = run.narrow(axis, 0, size) + run.narrow(axis, power // 2, size)
        if length & power:
            total = total + run.narrow(axis, done, result)
            done += power
    return total


_box_sum_rows = scripted(summed_rows)


def pooled(volumes: torch.Tensor, ratio: int) -> torch.Tensor:
    """(C, *S) averaged over blocks of `ratio` voxels a side, a power of two; the last ones are filled up with zeros."""
    return volumes if ratio == 1 else _pooled(volumes, ratio)


def pooled_blocks(volumes: torch.Tensor, ratio: int) -> torch.Tensor:
    """`pooled` in TorchScript, for programs (see scripted.py)."""
    if ratio == 1:
        return volumes
    dims = volumes.dim() - 1
    left = ratio
    while left > 1:
        for axis in range(1, dims + 1):
            volumes = _pairs(volumes, axis)
        left = left // 2
    return volumes.mul_(float(ratio) ** -dims)


def _pairs(volumes: torch.Tensor, axis: int) -> torch.Tensor:
    """Sums of two neighbours along an axis."""
    half, odd = volumes.shape[axis] // 2, volumes.shape[axis] % 2
    pairs = volumes.narrow(axis, 0, 2 * half).unflatten(axis, [half, 2])
    first, second = pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)
    if odd == 0:
        return first + second
    sizes = list(volumes.shape)
    sizes[axis] = half + 1
    out = torch.empty(sizes, dtype=volumes.dtype, device=volumes.device)
    torch.add(first, second, out=out.narrow(axis, 0, half))
    out.narrow(axis, half, 1).copy_(volumes.narrow(axis, 2 * half, 1))
    return out


_pooled = scripted(pooled_blocks)


def gradient(volume: torch.Tensor) -> torch.Tensor:
    """Central differences (d, *S) of (*S), channel c along tensor axis c, one-sided at the border."""
    return torch.stack(torch.gradient(volume))


def gradient_box(volume: torch.Tensor, box: Box) -> list[torch.Tensor]:
    """A box of `gradient`, one part for each axis."""
    low, high = ends_of(box)
    return [slope_along(volume, axis, low, high) for axis in range(volume.dim())]


def slope_along(volume: torch.Tensor, axis: int, low: list[int], high: list[int]) -> torch.Tensor:
    """A box of `gradient` along one axis, in TorchScript, for programs (see scripted.py)."""
    size = volume.shape[axis]
    begin, end = max(low[axis] - 1, 0), min(high[axis] + 1, size)
    part = narrowed(volume, low[:axis] + [begin] + low[axis + 1 :], high[:axis] + [end] + high[axis + 1 :])
    inner = end - begin - 2
    out = torch.empty_like(part)
    torch.sub(part.narrow(axis, 2, inner), part.narrow(axis, 0, inner), out=out.narrow(axis, 1, inner)).mul_(0.5)
    # One-sided, where the box ends with the volume; elsewhere it is not asked for.
    torch.sub(part.narrow(axis, 1, 1), part.narrow(axis, 0, 1), out=out.narrow(axis, 0, 1))
    torch.sub(part.narrow(axis, inner + 1, 1), part.narrow(axis, inner, 1), out=out.narrow(axis, inner + 1, 1))
    return out.narrow(axis, low[axis] - begin, high[axis] - low[axis])
