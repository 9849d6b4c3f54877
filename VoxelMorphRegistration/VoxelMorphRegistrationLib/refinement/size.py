"""How large the finest grid of a refinement is, and how much memory it takes. Without torch, for whoever only asks."""

from __future__ import annotations

# Voxels: larger grids are thinned to this many. A refinement in detail then takes 1.5 GB, and a brain at 1 mm keeps its
# voxels.
LARGEST_GRID = 6_000_000
# Of float32: 6 % above what the correlation with a field as fine as the image took at 5 million voxels; others take
# about two thirds.
_VOLUMES, _FURTHER_VOLUMES = 63, 32


def grid_bytes(voxels: int, further: int = 0) -> int:
    """Estimated peak of a refinement without labels whose finest grid has so many voxels.

    further: pairs of images besides the first.
    """
    return 4 * (_VOLUMES + _FURTHER_VOLUMES * further) * min(voxels, LARGEST_GRID)
