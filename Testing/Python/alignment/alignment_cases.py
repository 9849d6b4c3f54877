"""Images with known motions between them."""

from __future__ import annotations

import numpy as np

from VoxelMorphRegistrationLib.alignment.motion import rotation_matrices
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image

# Centre (mm), radius (mm) and brightness of the soft blobs that make the head; no symmetry.
BLOBS = (
    ((0, 0, 0), (52, 64, 56), 60),
    ((18, 30, 10), (14, 10, 12), 50),
    ((-22, 20, -12), (12, 16, 9), -45),
    ((10, -34, 18), (16, 12, 10), 35),
    ((-14, -20, 26), (10, 12, 14), 55),
    ((26, -6, -24), (11, 15, 12), -40),
    ((-30, 4, 8), (8, 14, 12), 40),
    ((4, 8, -34), (15, 9, 10), 45),
)


def head(positions: np.ndarray) -> np.ndarray:
    """Brightness at RAS positions (..., 3): an ellipsoid with a soft edge and blobs inside."""
    total = np.zeros(positions.shape[:-1])
    for number, (center, radius, value) in enumerate(BLOBS):
        distance = np.sqrt((((positions - center) / radius) ** 2).sum(-1))
        total += value / (1 + np.exp(12 * (distance - 1))) if number == 0 else value * np.exp(-(distance**2))
    return total


def picture(grid: Grid, motion: np.ndarray | None = None, name: str = "moving image") -> Image:
    """The head moved by `motion` (4, 4), as a scanner with this grid would see it."""
    back = np.linalg.inv(np.eye(4) if motion is None else motion)
    return Image(head(grid.positions() @ back[:3, :3].T + back[:3, 3]).astype(np.float32), grid, name)


def grid_of(size, spacing, rotation=(0, 0, 0), center=(0, 0, 0), linear=None) -> Grid:
    """A grid of `size` and `spacing` along i, j, k, turned, or with an arbitrary linear part, about `center`."""
    matrix = np.eye(4)
    directions = rotation_matrices(np.array(rotation, dtype=float)) if linear is None else np.array(linear)
    matrix[:3, :3] = directions * np.array(spacing, dtype=float)
    matrix[:3, 3] = np.array(center) - matrix[:3, :3] @ ((np.array(size) - 1) / 2)
    return Grid(tuple(size[::-1]), matrix)


def motion_of(rotation=(0, 0, 0), shift=(0, 0, 0), scales=(1, 1, 1)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrices(np.array(rotation, dtype=float)) * np.array(scales, dtype=float)
    matrix[:3, 3] = shift
    return matrix


def distance(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in mm between two maps over the head."""
    points = np.random.default_rng(1).normal(size=(500, 3)) * 30
    return float(np.linalg.norm((points @ (found - truth)[:3, :3].T) + (found - truth)[:3, 3], axis=1).mean())


# Of 160, 176 and 160 mm.
VOXEL = 16 / 3
FIXED_GRID = grid_of((30, 33, 30), (VOXEL, VOXEL, VOXEL))


def axial(motion: np.ndarray | None = None, height: float = 0.0, name: str = "moving slice") -> Image:
    return picture(grid_of((56, 60, 1), (3, 3, 5), center=(0, 0, height)), motion, name)
