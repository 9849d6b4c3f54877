"""Small copies of the images, and what of them counts."""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError
from ..images.blocks import block_means
from ..images.grid import Grid, working_grid
from ..images.image import Image, resample

# Size of the reduced copies, in voxels (3D) or pixels (2D); 250,000 voxels are 3 mm for a head.
WORK_VOXELS = 250_000
WORK_PIXELS = 60_000


def extent(grid: Grid) -> float:
    """Volume of a grid in mm3; area in mm2 of a slice."""
    volume = abs(np.linalg.det(grid.ijk_to_ras[:3, :3])) * grid.voxel_count
    return volume / grid.spacing[grid.across] if grid.dimension == 2 else volume


def work_spacing(fixed: Grid, moving: Grid, part: float) -> float:
    """Spacing in mm at which the smaller image has `part` of the work voxels and the larger at most four times that."""
    wanted = part * (WORK_PIXELS if fixed.dimension == 2 else WORK_VOXELS)
    small, large = sorted((extent(fixed), extent(moving)))
    return (max(small, large / 4) / wanted) ** (1 / fixed.dimension)


def reduced(image: Image, spacing: float) -> Image:
    """`image`, with data everywhere, with voxels of at least `spacing` mm on right angles; 0 to 1 between robust
    limits, NaN outside.
    """
    # Means over whole blocks first: much cheaper than smoothing every voxel.
    image = block_means(image, spacing)
    flat = -1 if image.grid.dimension == 3 else image.grid.across
    wanted = [s if axis == flat else max(s, spacing) for axis, s in enumerate(image.grid.spacing)]
    small = resample(image, working_grid(image.grid, tuple(wanted)), background=math.nan, smooth=True)
    low, high = np.nanpercentile(small.array, [0.1, 99.8])
    if high <= low:
        low, high = np.nanmin(small.array), np.nanmax(small.array)
    scale = 1.0 / (high - low) if high > low else 0.0
    return small.with_array(np.clip((small.array - low) * np.float32(scale), 0.0, 1.0))


def usable_voxels(fixed: Image, mask: Image | None, frame: np.ndarray) -> np.ndarray:
    """Where the reduced fixed image may be compared, (K, J, I) bool. Raises InputError for an empty mask."""
    usable = np.isfinite(fixed.array)
    if mask is None:
        return usable
    inside = Image((mask.array > 0).astype(np.float32), mask.grid, mask.name)
    usable &= resample(inside, fixed.grid, frame, smooth=True).array > 0.25
    if np.count_nonzero(usable) < 50:
        raise InputError(
            f"The fixed mask ({mask.name}) marks almost nothing of the {fixed.name}. "
            "Check that it lies over the image, or leave it out."
        )
    return usable


def _foreground(image: Image) -> np.ndarray:
    """Voxels brighter than Otsu's threshold (1979), (K, J, I) bool."""
    counts, edges = np.histogram(image.array[np.isfinite(image.array)], 128, (0.0, 1.0))
    middle = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * middle)
    spread = (moment[-1] * below / total - moment) ** 2 / np.maximum(below * (total - below), 1)
    return image.array > edges[1:][np.argmax(spread)]


def mass_center(image: Image) -> np.ndarray:
    """Centre of the foreground in the frame, each voxel weighted by its intensity."""
    chosen = np.argwhere(_foreground(image))
    weights = image.array[tuple(chosen.T)].astype(np.float64)
    return image.grid.to_ras((weights[:, None] * chosen[:, ::-1]).sum(0) / weights.sum())
