"""Grids and images with a known answer, for the tests."""

import numpy as np

from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """A rotation about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def make_grid(size_ijk, spacing=(1.0, 1.0, 1.0), degrees=(0.0, 0.0, 0.0), left_handed=False, center=(0.0, 0.0, 0.0)):
    """A grid of a size, spacing, direction and handedness whose centre lies at `center` (RAS mm)."""
    directions = rotation(degrees)
    if left_handed:
        directions = directions @ np.diag([1.0, 1.0, -1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = directions * np.asarray(spacing)
    matrix[:3, 3] = np.asarray(center) - matrix[:3, :3] @ ((np.asarray(size_ijk) - 1) / 2)
    return Grid(tuple(size_ijk[::-1]), matrix)


# Every kind of grid that has broken registration software.
KINDS = {
    "plain": dict(size_ijk=(40, 44, 36)),
    "anisotropic": dict(size_ijk=(40, 30, 16), spacing=(0.9, 1.3, 2.5)),
    "oblique": dict(size_ijk=(38, 40, 42), degrees=(20.0, -15.0, 35.0)),
    "left-handed": dict(size_ijk=(40, 36, 34), left_handed=True),
    "oblique, anisotropic, left-handed": dict(
        size_ijk=(36, 28, 20), spacing=(1.1, 1.4, 2.2), degrees=(-25.0, 40.0, 10.0), left_handed=True, center=(5, -8, 3)
    ),
}


def smooth_function(ras: np.ndarray) -> np.ndarray:
    """A smooth intensity pattern of positions in RAS mm, 0 to about 1000, of wavelengths of 25 mm and more."""
    x, y, z = np.moveaxis(np.asarray(ras), -1, 0)
    return 500 + 160 * (np.sin(x / 7) + np.cos(y / 8 + 0.5) + np.sin(z / 6 + 0.2 * np.cos(x / 9)))


def smooth_image(grid: Grid, name: str = "image") -> Image:
    return Image(smooth_function(grid.positions()).astype(np.float32), grid, name)


def smooth_displacement(ras: np.ndarray) -> np.ndarray:
    """A smooth displacement of positions in RAS mm, up to about 3 mm, with det J > 0 everywhere."""
    x, y, z = np.moveaxis(np.asarray(ras), -1, 0)
    return np.stack([2.0 * np.sin(y / 10), 1.5 * np.cos(z / 9 + x / 14), 1.8 * np.sin(x / 11 + y / 20)], -1)


def blobs(grid: Grid, seed: int = 0, count: int = 12, radius=(4.0, 9.0), name: str = "image") -> Image:
    """Smooth bright blobs on a dark background around the centre of the grid."""
    rng = np.random.default_rng(seed)
    extent = (grid.size * grid.spacing).min() / 2
    ras = grid.positions() - grid.center_ras
    array = np.zeros(grid.shape)
    for _ in range(count):
        center = rng.uniform(-0.5, 0.5, 3) * extent
        array += rng.uniform(50, 150) * np.exp(-((ras - center) ** 2).sum(-1) / (2 * rng.uniform(*radius) ** 2))
    return Image(array.astype(np.float32), grid, name)
