"""Cubic interpolation: 64 neighbours of each position, mirrored at the border (torch)."""

from __future__ import annotations

from collections.abc import Callable

import torch

Weights = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def spline_weights(f: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of the coefficients at -1, 0, 1, 2 of a cubic B-spline, f in [0, 1) after 0 (Unser, IEEE SPM 1999)."""
    square, rest = f * f, 1 - f
    return (
        rest * rest * rest / 6,
        2 / 3 - 0.5 * square * (2 - f),
        2 / 3 - 0.5 * rest * rest * (1 + f),
        square * f / 6,
    )


def convolution_weights(f: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of the values at -1, 0, 1, 2 by cubic convolution with a = -1/2, which keeps them (Keys, IEEE ASSP 1981)."""
    square = f * f
    cube = square * f
    return (
        -0.5 * cube + square - 0.5 * f,
        1.5 * cube - 2.5 * square + 1,
        -1.5 * cube + 2 * square + 0.5 * f,
        0.5 * cube - 0.5 * square,
    )


def sample(volume: torch.Tensor, voxels: torch.Tensor, weights: Weights) -> torch.Tensor:
    """(C, P): `volume` (C, K, J, I) at `voxels` (P, 3), ordered i, j, k."""
    flat = volume.reshape(len(volume), -1)
    stride, axes = 1, []
    for axis in range(3):
        size = volume.shape[3 - axis]
        low = voxels[:, axis].floor()
        line = [_mirrored(low.long() + step, size) * stride for step in (-1, 0, 1, 2)]
        axes.append(list(zip(line, weights(voxels[:, axis] - low), strict=True)))
        stride *= size
    out = torch.zeros(len(volume), len(voxels), dtype=volume.dtype)
    for k, by_k in axes[2]:
        for j, by_j in axes[1]:
            row, by_row = k + j, by_k * by_j
            for i, by_i in axes[0]:
                out.addcmul_(flat[:, row + i], by_row * by_i)
    return out


def _mirrored(index: torch.Tensor, size: int) -> torch.Tensor:
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * (size - 1))
    return torch.minimum(index, 2 * (size - 1) - index)
