"""The expected error of a registration, place by place, in mm: its median, and a bound it stays under with 90 %."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..images.grid import Grid
from ..images.image import Image
from .bound import BOUND, MEDIAN, curves, error_quantiles

if TYPE_CHECKING:
    from ..fields.displacement import DisplacementField
    from ..refinement.pair import Pair

EFFORTS = ("quick", "full")
# A pair needs this many voxels of the working grid along every axis: the ensemble sees it four times coarser.
SMALLEST_SIZE = 24
# Nothing above this part of the mean extent is told apart: then it is lost anyway.
LARGEST_PART = 0.5


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """bound: mm on the fixed grid, float32, that the error stays under with 90 %; 0 where there is no anatomy, about
    which nothing is said. effort: one of EFFORTS. median: as the bound, with 50 %; None where it was not kept.
    """

    bound: Image
    effort: str
    median: Image | None = None

    @property
    def known(self) -> np.ndarray:
        """(K, J, I): where there is something to say."""
        return self.bound.array > 0


def bound_at(bound: Image, points_ras: np.ndarray) -> np.ndarray:
    """The bound in mm (N,) at fixed positions (N, 3) in RAS mm; NaN where nothing is said. bound: of an ErrorMap."""
    ijk = np.rint(bound.grid.to_ijk(np.asarray(points_ras, np.float64).reshape(-1, 3))).astype(int)
    inside = ((ijk >= 0) & (ijk < bound.grid.size)).all(1)
    found = np.full(len(ijk), np.nan)
    i, j, k = ijk[inside].T
    values = bound.array[k, j, i]
    found[inside] = np.where(values > 0, values, np.nan)
    return found


def error_map(
    pair: Pair,
    field: DisplacementField,
    similarity: str,
    moving_region: np.ndarray,
    effort: str,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> ErrorMap:
    """Of T(x) = A (x + u(x)), u = `field`, A of the pair. moving_region: (K, J, I) of the moving grid, its anatomy.

    similarity: what suits the pair, one of refinement.levels.SIMILARITIES. effort: "quick" or "full". progress may
    raise to cancel.
    """
    from .quantities import NAMES, quantities
    from .runs import PLANS, answers, without_guides

    pair = without_guides(pair)
    found = answers(
        pair, field, similarity, moving_region, PLANS[effort], device=device, progress=lambda part: progress(0.9 * part)
    )
    seen = quantities(pair, field, found, similarity)
    told = error_quantiles(seen.values, NAMES, curves(effort))
    fixed = pair.fixed.grid
    known = _spread(seen.inside.astype(np.float32), seen.grid, fixed) > 0.5
    largest = LARGEST_PART * float(np.max(seen.grid.size * seen.grid.spacing))
    images = {}
    for name, title in ((BOUND, "expected error, 90 %"), (MEDIAN, "expected error, median")):
        # Factors lie between places, not sums.
        values = np.exp(_spread(np.log(told[name] * seen.unit), seen.grid, fixed))
        images[name] = Image(np.where(known, np.minimum(values, largest), 0.0).astype(np.float32), fixed, title)
    progress(1.0)
    return ErrorMap(images[BOUND], effort, images[MEDIAN])


def large_enough(grid: Grid) -> bool:
    """Whether a working grid has enough voxels for an ensemble."""
    return min(n for n in grid.shape if n > 1) >= SMALLEST_SIZE


def _spread(values: np.ndarray, grid: Grid, onto: Grid) -> np.ndarray:
    """Values of a coarse grid on a finer one, linear, the border's beyond it."""
    import torch

    from ..images import sampling

    volume = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    matrix = grid.ras_to_ijk @ onto.ijk_to_ras
    out = np.empty(onto.shape, np.float32)
    for rows in sampling.slabs(onto.shape):
        out[rows] = sampling.sample(volume, sampling.affine_positions(matrix, onto.shape, rows)[None])[0, 0].numpy()
    return out
