"""Mutual information at sample points, for many maps at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

from ..images.grid import Grid
from ..images.image import Image
from .reduced import extent

# Below this part of the smaller field of view, similarity falls with the square of the overlap: slivers match by luck.
TRUSTED_OVERLAP = 0.6


@dataclass(frozen=True, eq=False)
class Samples:
    """Points of the fixed image with their grey level, and the moving image to compare them with.

    points: (N, 3) in the frame. levels: (N,) ints below `bins`. smaller: moving field of view as a part of the
    sampled one, at most 1.
    """

    points: np.ndarray
    levels: np.ndarray
    moving: Source
    bins: int
    smaller: float

    @staticmethod
    def of(fixed: Image, usable: np.ndarray, moving: Image, count: int, bins: int, seed: int) -> Samples:
        """Draw `count` points from the usable voxels, off the voxel centres.

        On coinciding lattices, unjittered points favour maps by whole voxels (Pluim et al. 2000).
        """
        rng = np.random.default_rng(seed)
        chosen = np.flatnonzero(usable)
        if len(chosen) > count:
            chosen = np.sort(rng.choice(chosen, count, replace=False))
        ijk = np.stack(np.unravel_index(chosen, usable.shape), -1)[:, ::-1].astype(np.float64)
        ijk += rng.uniform(-0.5, 0.5, ijk.shape) * (fixed.grid.size > 1)
        points = fixed.grid.to_ras(ijk)
        values = Source.of(fixed).at(points, np.eye(4)[None])[0]
        known = np.isfinite(values)
        levels = np.minimum((values[known] * bins).astype(np.int64), bins - 1)
        sampled = extent(fixed.grid) * np.count_nonzero(usable) / usable.size
        smaller = min(1.0, extent(moving.grid) * np.isfinite(moving.array).mean() / sampled)
        return Samples(points[known], levels, Source.of(moving), bins, smaller)

    def score(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarity as in Alignment, and overlap as a part of the smaller field of view: (B,) of maps (B, 4, 4)."""
        batch = max(1, 1_500_000 // len(self.points))
        parts = [self._score(maps[i : i + batch]) for i in range(0, len(maps), batch)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _score(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = self.moving.at(self.points, maps)
        known = np.isfinite(values)
        position = np.where(known, values, 0.0) * (self.bins - 1)
        lower = np.minimum(position.astype(np.int64), self.bins - 2)
        upper_part = position - lower
        cell = (np.arange(len(maps))[:, None] * self.bins + self.levels) * self.bins + lower
        cells = len(maps) * self.bins**2
        joint = np.bincount(cell.ravel(), (known * (1 - upper_part)).ravel(), cells)
        joint += np.bincount(cell.ravel() + 1, (known * upper_part).ravel(), cells)[:cells]
        joint = joint.reshape(len(maps), self.bins, self.bins)
        total = joint.sum((1, 2))
        joint = joint / np.maximum(total, 1)[:, None, None]
        both = _entropy(joint.reshape(len(maps), -1))
        each = _entropy(joint.sum(1)) + _entropy(joint.sum(2))
        similarity = np.where(each > 1e-9, 2 * (each - both) / np.maximum(each, 1e-9), 0.0)
        overlap = np.minimum(total / len(self.points) / self.smaller, 1.0)
        return similarity * np.minimum(1.0, overlap / TRUSTED_OVERLAP) ** 2, overlap


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """In nats, of (B, N)."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)


@dataclass(frozen=True, eq=False)
class Source:
    """An image to be looked up under many maps: its voxels within a margin of NaN, so that outside is unknown too.

    volume: (1, C, K, J, I) tensor. to_volume: (3, 4), frame to the (i, j, k) of grid_sample, -1 to 1.
    """

    volume: torch.Tensor
    to_volume: np.ndarray

    @staticmethod
    def of(image: Image) -> Source:
        return Source.of_channels(image.array[..., None], image.grid)

    @staticmethod
    def of_channels(array: np.ndarray, grid: Grid) -> Source:
        """array: (K, J, I, C), several values a voxel."""
        import torch

        margin = [int(n > 1) for n in grid.shape]
        widths = [*((m, m) for m in margin), (0, 0)]
        array = np.pad(array.astype(np.float32), widths, constant_values=math.nan)
        scale = 2.0 / np.array(array.shape[2::-1])
        to_volume = grid.ras_to_ijk[:3] * scale[:, None]
        to_volume[:, 3] += (np.array(margin[::-1]) + 0.5) * scale - 1.0
        return Source(torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0)))[None], to_volume)

    def at(self, points: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Linearly interpolated values (B, N) where `maps` (B, 4, 4) take `points` (N, 3); NaN where unknown."""
        return self.channels_at(points, maps)[0].numpy()

    def channels_at(self, points: np.ndarray, maps: np.ndarray) -> torch.Tensor:
        """The values `at` gives, of every channel, (C, B, N)."""
        import torch
        import torch.nn.functional as F

        matrices = torch.from_numpy((self.to_volume @ maps).astype(np.float32))
        flat = torch.from_numpy(points.astype(np.float32)).expand(len(maps), -1, -1)
        positions = torch.baddbmm(matrices[:, None, :, 3], flat, matrices[:, :, :3].transpose(1, 2))
        return F.grid_sample(self.volume, positions[None, None], padding_mode="border", align_corners=False)[0, :, 0]
