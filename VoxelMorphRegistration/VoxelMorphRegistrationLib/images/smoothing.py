"""Gaussian smoothing of volumes (torch)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from .slabs import Box, each, rows_of

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

        whole = tuple(slice(0, size) for size in self.shape[1:])

        def across(rows: slice) -> None:
            for source, target in zip(volume, first, strict=True):
                target[rows] = self.across(source[rows], (rows, *whole))

        each(across, slabs)
        if self._axes[0][0] != 0:
            return first
        out = torch.empty_like(first)

        def along(rows: slice) -> None:
            for source, target in zip(first, out, strict=True):
                target[rows] = self.along(source, (rows, *whole))

        each(along, slabs)
        return out

    @property
    def radius(self) -> int:
        """How far it reaches."""
        return max((kernel.radius for _, kernel in self._axes), default=0)

    def across(self, part: torch.Tensor, box: Box) -> torch.Tensor:
        """A box of a volume (*S), smoothed along all axes but the first, as if there were zeros around it, but for the
        border of the volume.
        """
        for axis, kernel in reversed(self._axes):
            if axis:
                start = box[axis].start
                part = kernel.last(part, start) if axis == part.dim() - 1 else kernel.middle(part, start)
        return part

    def along(self, volume: torch.Tensor, box: Box) -> torch.Tensor:
        """A box of a volume (*S), smoothed along the first axis."""
        if self._axes and self._axes[0][0] == 0:
            return self._axes[0][1].first(volume, box)
        return volume[box]


class _Axis:
    """The Gaussian along one axis of `size` voxels."""

    def __init__(self, size: int, radius: int, band: torch.Tensor) -> None:
        self.size, self.radius, self.band = size, radius, band
        self.block = max(_BLOCK, 2 * radius)
        middle = size // 2
        self.weights = band[middle, middle : middle + radius + 1].tolist()
        self.shifted = band.device.type == "cpu" and radius <= _SHIFTED and size > 2 * radius

    def _blocks(self, start: int, count: int) -> list[tuple[slice, slice, torch.Tensor]]:
        """Of `count` voxels from `start` on: those to make, those they are made from, and the matrix between."""
        end = start + count
        if self.band.device.type != "cpu" or count <= 2 * self.block:
            places = [(start, end)]
        else:
            places = [(a, min(a + self.block, end)) for a in range(start, end, self.block)]
        found = []
        for low, high in places:
            first, last = max(low - self.radius, start), min(high + self.radius, end)
            found.append(
                (slice(low - start, high - start), slice(first - start, last - start), self.band[low:high, first:last])
            )
        return found

    def first(self, volume: torch.Tensor, box: Box) -> torch.Tensor:
        """A box of (size, *S') along its first axis."""
        rows, *others = box
        low, high = max(rows.start - self.radius, 0), min(rows.stop + self.radius, self.size)
        place = (slice(low, high), *others)
        part = volume[place]
        smooth = self.band[rows, low:high] @ part.reshape(high - low, -1)
        return smooth.view(-1, *part.shape[1:])

    def middle(self, volume: torch.Tensor, start: int) -> torch.Tensor:
        """(B, n, I) along its middle axis, from the voxel `start` on."""
        if self.shifted:
            return self._sum(volume, 1, start)
        blocks = self._blocks(start, volume.shape[1])
        parts = [torch.bmm(band.expand(len(volume), -1, -1), volume[:, source]) for _, source, band in blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def last(self, volume: torch.Tensor, start: int) -> torch.Tensor:
        """(..., n) along its last axis, from the voxel `start` on."""
        if self.shifted:
            return self._sum(volume, volume.dim() - 1, start)
        blocks = self._blocks(start, volume.shape[-1])
        if len(blocks) == 1:
            return volume @ blocks[0][2].T
        volume = volume.contiguous()
        out = torch.empty_like(volume)
        lines, smooth = (values.view(-1, volume.shape[-1]) for values in (volume, out))
        for target, source, band in blocks:
            torch.mm(lines[:, source], band.T, out=smooth[:, target])
        return out

    def _sum(self, volume: torch.Tensor, axis: int, start: int) -> torch.Tensor:
        out = volume * self.weights[0]
        count = volume.shape[axis]
        for shift, weight in enumerate(self.weights[1:], start=1):
            inner = count - shift
            if inner > 0:
                out.narrow(axis, 0, inner).add_(volume.narrow(axis, shift, inner), alpha=weight)
                out.narrow(axis, shift, inner).add_(volume.narrow(axis, 0, inner), alpha=weight)
            if start == 0:
                out.narrow(axis, 0, min(shift, count)).add_(volume.narrow(axis, 0, 1), alpha=weight)
            if start + count == self.size:
                edge = min(shift, count)
                out.narrow(axis, count - edge, edge).add_(volume.narrow(axis, count - 1, 1), alpha=weight)
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
