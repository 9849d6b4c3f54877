"""Gaussian smoothing of volumes (torch)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from .scripted import scripted
from .slabs import Box, each, ends_of, narrowed, rows_of

# Weights of a Gaussian below this part of their sum are rounding.
_NEGLIGIBLE = 2e-6
# A kernel of at most this many voxels to each side is a sum of shifted volumes, a longer one a product with the band
# matrix, in blocks (`_blocks`); where a band is hardly smaller than the matrix, it is one product.
_SHIFTED = 2


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
        self._sizes = list(shape)
        self._radii = [gaussian_radius(size, sigma) for size, sigma in zip(shape, sigmas, strict=True)]
        self._bands = [
            _band(size, float(sigma), radius).to(device, dtype)
            for size, sigma, radius in zip(shape, sigmas, self._radii, strict=True)
        ]
        # The weights of the kernels that are sums of shifted volumes; none of the others.
        self._weights = [
            band[size // 2, size // 2 : size // 2 + radius + 1].tolist()
            if device.type == "cpu" and 0 < radius <= _SHIFTED and size > 2 * radius
            else []
            for size, radius, band in zip(shape, self._radii, self._bands, strict=True)
        ]

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        if not self.radius:
            return volume
        slabs = rows_of(self.shape, self.device)
        first = torch.empty_like(volume, memory_format=torch.contiguous_format)

        whole = tuple(slice(0, size) for size in self.shape[1:])

        def across(rows: slice) -> None:
            self.across(volume[:, rows], (rows, *whole), first[:, rows])

        each(across, slabs)
        if not self._radii[0]:
            return first
        out = torch.empty_like(first)

        def along(rows: slice) -> None:
            self.along(first, (rows, *whole), out[:, rows])

        each(along, slabs)
        return out

    @property
    def radius(self) -> int:
        """How far it reaches."""
        return max(self._radii)

    def across(self, parts: torch.Tensor, box: Box, out: torch.Tensor, inner: Box | None = None) -> None:
        """A box (C, *P) of volumes (C, *S), smoothed along all axes but the first, as if there were zeros around it,
        but for the border of the volumes. out: takes what is within `inner` of it, or all.
        """
        starts = [side.start for side in box]
        low, high = ends_of(inner) if inner is not None else ([0] * len(box), [side.stop - side.start for side in box])
        _across(parts, out, starts, low, high, self._sizes, self._radii, self._weights, self._bands)

    def along(self, volumes: torch.Tensor, box: Box, out: torch.Tensor) -> None:
        """A box of volumes (C, *S), smoothed along the first axis, into `out` (C, *P)."""
        low, high = ends_of(box)
        _along(volumes, out, low, high, self._radii[0], self._bands[0])


@scripted
def _across(
    parts: torch.Tensor,
    out: torch.Tensor,
    starts: list[int],
    low: list[int],
    high: list[int],
    sizes: list[int],
    radii: list[int],
    weights: list[list[float]],
    bands: list[torch.Tensor],
) -> None:
    for n in range(len(parts)):
        part = parts[n]
        for back in range(1, len(sizes)):
            axis = len(sizes) - back
            if radii[axis] == 0:
                continue
            start, size, radius = starts[axis], sizes[axis], radii[axis]
            if len(weights[axis]) > 0:
                part = _sum(part, axis, start, size, weights[axis])
            elif back == 1:
                part = _last(part, start, radius, bands[axis])
            else:
                part = _middle(part, start, radius, bands[axis])
        out[n].copy_(narrowed(part, low, high))


@scripted
def _along(
    volumes: torch.Tensor, out: torch.Tensor, low: list[int], high: list[int], radius: int, band: torch.Tensor
) -> None:
    size = volumes.shape[1]
    begin, end = max(low[0] - radius, 0), min(high[0] + radius, size)
    for n in range(len(volumes)):
        part = narrowed(volumes[n], [begin] + low[1:], [end] + high[1:])
        if radius == 0:
            out[n].copy_(part)
        else:
            smooth = torch.matmul(band[low[0] : high[0], begin:end], part.reshape(end - begin, -1))
            out[n].copy_(smooth.view([high[0] - low[0]] + list(part.shape)[1:]))


def _blocks(start: int, count: int, radius: int, device: torch.device) -> list[tuple[int, int]]:
    """Of `count` voxels from `start` on, those that are made by one product with a part of the band."""
    block = max(32, 2 * radius)
    end = start + count
    if device.type != "cpu" or count <= 2 * block:
        return [(start, end)]
    return [(a, min(a + block, end)) for a in range(start, end, block)]


def _middle(volume: torch.Tensor, start: int, radius: int, band: torch.Tensor) -> torch.Tensor:
    """(B, n, I) along its middle axis, from the voxel `start` on."""
    end = start + volume.shape[1]
    parts: list[torch.Tensor] = []
    for low, high in _blocks(start, volume.shape[1], radius, band.device):
        first, last = max(low - radius, start), min(high + radius, end)
        part = band[low:high, first:last].expand(len(volume), -1, -1)
        parts.append(torch.bmm(part, volume[:, first - start : last - start]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _last(volume: torch.Tensor, start: int, radius: int, band: torch.Tensor) -> torch.Tensor:
    """(..., n) along its last axis, from the voxel `start` on."""
    count = volume.shape[-1]
    end = start + count
    blocks = _blocks(start, count, radius, band.device)
    if len(blocks) == 1:
        return torch.matmul(volume, band[start:end, start:end].t())
    volume = volume.contiguous()
    out = torch.empty_like(volume)
    lines, smooth = volume.view(-1, count), out.view(-1, count)
    for low, high in blocks:
        first, last = max(low - radius, start), min(high + radius, end)
        source = lines[:, first - start : last - start]
        torch.mm(source, band[low:high, first:last].t(), out=smooth[:, low - start : high - start])
    return out


def _sum(volume: torch.Tensor, axis: int, start: int, size: int, weights: list[float]) -> torch.Tensor:
    """Along an axis of `size` voxels, from `start` on, as a sum of shifted volumes."""
    out = volume * weights[0]
    count = volume.shape[axis]
    for shift in range(1, len(weights)):
        weight, inner = weights[shift], count - shift
        if inner > 0:
            out.narrow(axis, 0, inner).add_(volume.narrow(axis, shift, inner), alpha=weight)
            out.narrow(axis, shift, inner).add_(volume.narrow(axis, 0, inner), alpha=weight)
        edge = min(shift, count)
        if start == 0:
            out.narrow(axis, 0, edge).add_(volume.narrow(axis, 0, 1), alpha=weight)
        if start + count == size:
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
