"""The pair that is refined, and how much memory that takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..images.blocks import block_means
from ..images.grid import Grid, bounding_box, working_grid
from ..images.image import Image
from .descriptors import LABEL_CHANNELS
from .size import FEWEST_LAYERS, LARGEST_GRID, MARGIN, grid_bytes


@dataclass(frozen=True, eq=False)
class Channel:
    """Two images that are compared with each other. windows: as of a Pair. similarity: one of levels.SIMILARITIES, or
    None, for that of the options. weight: of its term; those of all channels are taken in parts of their sum.
    """

    fixed: Image
    moving: Image
    windows: tuple[tuple[float, float], tuple[float, float]]
    similarity: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Pair:
    """What is compared, and where.

    matrix: A (4, 4), fixed to moving RAS mm. windows: for each image the offset and scale that bring its values to
    [0, 1]. mask: (K, J, I) of the fixed grid, where the images are compared. moving_mask: on the moving grid, where
    the moving image counts. labels: fixed and moving label map. points: fixed and moving landmarks (N, 3) in RAS mm.
    weight: of these images; further: more that lie as these do, each on a grid of its own.
    """

    fixed: Image
    moving: Image
    matrix: np.ndarray
    windows: tuple[tuple[float, float], tuple[float, float]]
    mask: np.ndarray
    moving_mask: Image | None = None
    labels: tuple[Image, Image] | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None
    weight: float = 1.0
    further: tuple[Channel, ...] = ()

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All that are compared, the first one these images."""
        return Channel(self.fixed, self.moving, self.windows, None, self.weight), *self.further

    @cached_property
    def thin(self) -> Pair:
        """The pair without voxels far finer than the finest that a refinement looks at. Made once: each that looks at a
        large image would have to smooth all of it.
        """
        region = region_grid(self.fixed.grid, self.mask)
        return thinned(self, float(np.min(region.spacing[region.size > 1])))


def region_grid(grid: Grid, mask: np.ndarray) -> Grid:
    """The fixed voxels around the mask, with a margin of a few voxels, isotropic to the mean voxel size, or finer where
    few thin slices would be less than FEWEST_LAYERS; of about LARGEST_GRID voxels at most.
    """
    box = bounding_box(mask)
    start = np.array([max(s.start - 4, 0) if n > 1 else 0 for s, n in zip(box, grid.shape, strict=True)])
    stop = np.array([min(s.stop + 4, n) for s, n in zip(box, grid.shape, strict=True)])
    cropped = grid.cropped(start[::-1], (stop - start)[::-1])
    used = cropped.size > 1
    extents = (cropped.size * cropped.spacing)[used]
    axes = int(used.sum())
    mean = float(np.prod(cropped.spacing[used])) ** (1 / axes)
    least = (float(np.prod(extents)) / LARGEST_GRID) ** (1 / axes)
    return working_grid(cropped, max(min(mean, float(extents.min()) / FEWEST_LAYERS), least))


def thinned(pair: Pair, spacing: float) -> Pair:
    """The pair with means over blocks in place of voxels far finer than `spacing` mm. Labels and landmarks stay."""

    def most(mask: np.ndarray, image: Image) -> np.ndarray:
        return block_means(image.with_array(mask.astype(np.uint8)), spacing).array >= 0.5

    fixed, moving = block_means(pair.fixed, spacing), block_means(pair.moving, spacing)
    mask, moving_mask = pair.mask, pair.moving_mask
    if fixed is not pair.fixed:
        mask = most(mask, pair.fixed)
    if moving is not pair.moving and moving_mask is not None:
        moving_mask = moving.with_array(most(moving_mask.array > 0, pair.moving).astype(np.uint8))
    further = tuple(
        replace(one, fixed=block_means(one.fixed, spacing), moving=block_means(one.moving, spacing))
        for one in pair.further
    )
    return replace(pair, fixed=fixed, moving=moving, mask=mask, moving_mask=moving_mask, further=further)


def mean_extent(grid: Grid) -> float:
    """Geometric mean in mm of the extents along the axes with more than one voxel."""
    used = grid.size > 1
    return float(np.prod((grid.size * grid.spacing)[used])) ** (1 / int(used.sum()))


def margin_of(grid: Grid, spacing: float) -> int:
    """How many voxels of `spacing` mm the moving image is read beyond a grid, for what a field brings in."""
    return max(1, int(np.ceil(MARGIN * mean_extent(grid) / spacing)))


def memory_bytes(pair: Pair) -> int:
    """Estimated peak of a refinement: that of its finest grid, and with labels two of the larger label map for each
    channel, which is the making of their channels. Without labels an upper bound.
    """
    region = region_grid(pair.fixed.grid, pair.mask)
    used = region.size > 1
    margin = margin_of(region, float(np.min(region.spacing[used])))
    width = float(np.prod(1 + 2 * margin / region.size[used]))
    needed = grid_bytes(region.voxel_count, len(pair.further), width)
    if pair.labels is not None:
        channels = min(len(common_labels(pair.labels)), LABEL_CHANNELS)
        needed += 4 * 2 * channels * max(image.array.size for image in pair.labels)
    return needed


def common_labels(labels: tuple[Image, Image]) -> list[int]:
    """The labels but 0 that both maps have."""
    fixed, moving = (set(np.unique(image.array)) for image in labels)
    return sorted((fixed & moving) - {0})
