"""Gaussian smoothing of volumes (torch)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from .slabs import each, rows_of

# Weights of a Gaussian below this part of their sum are rounding.
_NEGLIGIBLE = 2e-6
# A kernel of at most this many voxels to each side is a sum of shifted volumes, a longer one a product with the band
# matrix, in blocks of at least so many rows; where a band is hardly smaller than the matrix, it is one product.
_SHIFTED, _BLOCK = 2, 32


def gaussian_smooth(volume: torch.Tensor, sigmas: tuple[float, ...]) -> torch.Tensor:
    """Separable Gaussian of (N, C, *S) with `sigmas` in voxels per tensor axis, border replicated.

    Along each axis a multiplication with a band matrix: several times faster than a convolution with one channel,
    which the libraries are not made for.
    """
    shape = volume.shape
    smoother = Smoother(shape[2:], sigmas, volume.device, volume.dtype)
    return smoother(volume.reshape(-1, *shape[2:])).reshape(shape)


class Smoother:
    """The Gaussian of `gaussian_smooth` for volumes (C, *S) of one shape, in two sweeps over slabs of rows.

    The first sweep smooths along all axes but the first, for which rows are enough; the second along the first axis,
    for which the result of the first must be there.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        sigmas: tuple[float, ...],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape, self.device = tuple(shape), device
        self._axes = [
            (axis, _Axis(size, radius, _band(size, float(sigma), radius).to(device, dtype)))
            for axis, (size, sigma) in enumerate(zip(shape, sigmas, strict=True))
            if (radius := gaussian_radius(size, sigma)) > 0
        ]

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        if not self._axes:
            return volume
        slabs = rows_of(self.shape, self.device)
        first = torch.empty_like(volume, memory_format=torch.contiguous_format)

        def across(rows: slice) -> None:
            for source, target in zip(volume, first, strict=True):
                target[rows] = self.across(source[rows])

        each(across, slabs)
        if self._axes[0][0] != 0:
            return first
        out = torch.empty_like(first)

        def along(rows: slice) -> None:
            for source, target in zip(first, out, strict=True):
                self.along(source, rows, target[rows])

        each(along, slabs)
        return out

    def across(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (k, *S') of a volume, smoothed along all axes but the first."""
        for axis, kernel in reversed(self._axes):
            if axis:
                rows = kernel.last(rows) if axis == rows.dim() - 1 else kernel.middle(rows)
        return rows

    def along(self, volume: torch.Tensor, rows: slice, out: torch.Tensor) -> torch.Tensor:
        """The rows of a volume (*S) smoothed along the first axis, in `out`, contiguous (k, *S')."""
        if self._axes and self._axes[0][0] == 0:
            return self._axes[0][1].first(volume, rows, out)
        return out.copy_(volume[rows])


class _Axis:
    """The Gaussian along one axis of `size` voxels."""

    def __init__(self, size: int, radius: int, band: torch.Tensor) -> None:
        self.size, self.radius, self.band = size, radius, band
        block = max(_BLOCK, 2 * radius)
        whole = band.device.type != "cpu" or size <= 2 * block
        self.blocks = [(0, size)] if whole else [(a, min(a + block, size)) for a in range(0, size, block)]
        middle = size // 2
        self.weights = band[middle, middle : middle + radius + 1].tolist()
        self.shifted = band.device.type == "cpu" and radius <= _SHIFTED and size > 2 * radius

    def _read(self, low: int, high: int) -> tuple[int, int]:
        """The voxels that those from `low` to `high` are made from."""
        return max(low - self.radius, 0), min(high + self.radius, self.size)

    def first(self, volume: torch.Tensor, rows: slice, out: torch.Tensor) -> torch.Tensor:
        """The rows of (size, *S') along its first axis, in `out`."""
        low, high = self._read(rows.start, rows.stop)
        part = volume[low:high].reshape(high - low, -1)
        torch.mm(self.band[rows, low:high], part, out=out.view(len(out), -1))
        return out

    def middle(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, size, I) along its middle axis."""
        if self.shifted:
            return self._sum(volume, 1)

        def product(start: int, stop: int) -> torch.Tensor:
            low, high = self._read(start, stop)
            return torch.bmm(self.band[start:stop, low:high].expand(len(volume), -1, -1), volume[:, low:high])

        if len(self.blocks) == 1:
            return product(*self.blocks[0])
        out = torch.empty_like(volume)
        for start, stop in self.blocks:
            out[:, start:stop] = product(start, stop)
        return out

    def last(self, volume: torch.Tensor) -> torch.Tensor:
        """(..., size) along its last axis."""
        if self.shifted:
            return self._sum(volume, volume.dim() - 1)
        if len(self.blocks) == 1:
            return volume @ self.band.T
        out = torch.empty_like(volume)
        lines, smooth = volume.view(-1, self.size), out.view(-1, self.size)
        for start, stop in self.blocks:
            low, high = self._read(start, stop)
            torch.mm(lines[:, low:high], self.band[start:stop, low:high].T, out=smooth[:, start:stop])
        return out

    def _sum(self, volume: torch.Tensor, axis: int) -> torch.Tensor:
        out = volume * self.weights[0]
        last = self.size - 1
        for shift, weight in enumerate(self.weights[1:], start=1):
            inner = self.size - shift
            out.narrow(axis, 0, inner).add_(volume.narrow(axis, shift, inner), alpha=weight)
            out.narrow(axis, shift, inner).add_(volume.narrow(axis, 0, inner), alpha=weight)
            out.narrow(axis, inner, shift).add_(volume.narrow(axis, last, 1), alpha=weight)
            out.narrow(axis, 0, shift).add_(volume.narrow(axis, 0, 1), alpha=weight)
        return out


def gaussian_radius(size: int, sigma: float) -> int:
    """How far the Gaussian reaches along an axis of `size` voxels."""
    if sigma <= 1e-3:
        return 0
    radius = int(np.ceil(3.0 * sigma))
    while radius > 1 and np.exp(-0.5 * (radius / sigma) ** 2) < _NEGLIGIBLE:
        radius -= 1
    return min(radius, size - 1)


def gaussian_band(size: int, sigma: float, radius: int) -> torch.Tensor:
    """(size, size): each row the Gaussian around its voxel, what lies beyond the border added to the outermost one."""
    line = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (line / sigma) ** 2)
    columns = (torch.arange(size)[:, None] + line).clamp_(0, size - 1)
    band = torch.zeros(size, size)
    return band.scatter_add_(1, columns, (kernel / kernel.sum()).repeat(size, 1))


_band: Callable[[int, float, int], torch.Tensor] = lru_cache(64)(gaussian_band)
