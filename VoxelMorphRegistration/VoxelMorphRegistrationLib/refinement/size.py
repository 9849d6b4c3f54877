"""How large the finest grid of a refinement is, and how much memory it takes. Without torch, for whoever only asks."""

from __future__ import annotations

# Voxels: larger grids are thinned to this many. A refinement in detail then takes 1.5 GB, and a brain at 1 mm keeps its
# voxels.
LARGEST_GRID = 6_000_000
# Voxels along each axis. Of known warps of 4 to 6 slices (four are the fewest that are taken) of 40x40 voxels, at three
# spacings, no similarity saw anything on four layers, all but descriptors did on five, and those, too, on six.
FEWEST_LAYERS = 6
# How far beyond the fixed region the moving image is read, as a part of the region's mean extent (13 mm of a brain).
MARGIN = 0.08
# Of float32 volumes, those of the region and those with the margin: with the 1.56 times that these are of a cube, 6 %
# above what the correlation with a field as fine as the image took at 5 million voxels; others take about two thirds.
# Of volumes of 512x512x5 and twice 1024x1024x5 voxels, where these are 5, 7 and 11 times, 0.93, 2.8 and 3.5 GB were
# taken; 0.95, 3.5 and 4.7 are told.
_VOLUMES, _WIDE_VOLUMES, _FURTHER_VOLUMES, _USUAL_WIDTH = 44, 12.2, 32, (1 + 2 * MARGIN) ** 3


def grid_bytes(voxels: int, further: int = 0, width: float = _USUAL_WIDTH) -> int:
    """Estimated peak of a refinement without labels whose finest grid has so many voxels.

    further: pairs of images besides the first. width: how many times as many voxels the grid with its margin has.
    """
    return int(4 * (_VOLUMES + _WIDE_VOLUMES * width + _FURTHER_VOLUMES * further) * voxels)
