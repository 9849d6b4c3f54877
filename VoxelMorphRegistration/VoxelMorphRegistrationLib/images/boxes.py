"""Sums and means over boxes of voxels, and differences between neighbours, of tensors (C, K, J, I)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_BLOCK_ROWS = 12


def box_sum(volumes: torch.Tensor, radius: int) -> torch.Tensor:
    """Sums over boxes of 2 radius + 1 voxels of (C, *S), cut at the border; by blocks that fit a processor's cache."""
    out = torch.empty_like(volumes)
    rows = volumes.shape[1]
    step = _BLOCK_ROWS if volumes.device.type == "cpu" and volumes.dim() == 4 else rows
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        low, high = max(start - radius, 0), min(stop + radius, rows)
        out[:, start:stop] = _shifted_sum(volumes[:, low:high], radius)[:, start - low : stop - low]
    return out


def _shifted_sum(block: torch.Tensor, radius: int) -> torch.Tensor:
    for axis in range(1, block.dim()):
        size = block.shape[axis]
        total = block.clone()
        for shift in range(1, min(radius, size - 1) + 1):
            total.narrow(axis, 0, size - shift).add_(block.narrow(axis, shift, size - shift))
            total.narrow(axis, shift, size - shift).add_(block.narrow(axis, 0, size - shift))
        block = total
    return block


def pooled(volumes: torch.Tensor, ratio: int) -> torch.Tensor:
    """(C, *S) averaged over blocks of `ratio` voxels a side; the last ones are filled up with zeros."""
    if ratio == 1:
        return volumes
    missing = [-n % ratio for n in volumes.shape[:0:-1]]
    if any(missing):
        volumes = F.pad(volumes, [part for n in missing for part in (0, n)])
    return (F.avg_pool3d if volumes.dim() == 4 else F.avg_pool2d)(volumes, ratio)


def gradient(volume: torch.Tensor) -> torch.Tensor:
    """Central differences (d, *S) of (*S), channel c along tensor axis c, one-sided at the border."""
    return torch.stack(torch.gradient(volume))
