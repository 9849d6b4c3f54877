"""Jacobian determinants, and where a deformation folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..images.grid import Grid, bounding_box, working_grid
from ..images.image import Image, resample

if TYPE_CHECKING:
    import torch

    from ..images.slabs import Box
    from .displacement import DisplacementField


# Blocks of the determinant, small beside the image, large against their margin of a slice on each side.
BLOCK_VOXELS = 300_000
# Pieces are a `PIECES`th of the anatomy's mean extent wide (8 mm of a head). Outside POSSIBLE their change of volume is
# told; outside BELIEVED, which leaves room for ventricles of very different sizes, the result is undone. Measured:
# between brains of two people (17 ordered pairs of six at 2 mm, three at 1 mm) such pieces change by 0.19 to 2.8,
# single voxels by 0.01 to 24; where a resection drew the surroundings in, pieces by up to 11.
POSSIBLE, BELIEVED, PIECES = (0.1, 5.0), (0.05, 8.0), 24
_SWAP = np.array([2, 1, 0])
Result = TypeVar("Result")


@dataclass(frozen=True)
class Folding:
    """How a field deforms volume, over the voxels counted.

    count, percent: voxels whose determinant by central differences is <= 0. any_corner_*: voxels where one of the
    eight determinants by one-sided differences is <= 0, which central differences can hide. minimum, maximum: of
    the central determinant. sd_log: standard deviation of log det J, determinants clipped to [1e-9, 1e9] as in
    the Learn2Reg challenges (Hering et al., IEEE TMI 2023).
    """

    voxels: int
    count: int
    percent: float
    any_corner_count: int
    any_corner_percent: float
    minimum: float
    maximum: float
    sd_log: float

    def to_dict(self) -> dict:
        return asdict(self)


def change_of_pieces(field: DisplacementField, mask: np.ndarray, grid: Grid) -> tuple[float, float]:
    """The smallest and the largest factor by which a field changes the volume of pieces of the anatomy (see `PIECES`).

    mask: (K, J, I) bool of `grid`, where the anatomy is. (1, 1) where nothing of it can be measured.
    """
    changes = changes_of_pieces(field, mask, grid).array
    found = changes[np.isfinite(changes)]
    return (float(found.min()), float(found.max())) if found.size else (1.0, 1.0)


def changes_of_pieces(field: DisplacementField, mask: np.ndarray, grid: Grid) -> Image:
    """The factor for each piece (see `PIECES`), on their own grid; NaN outside the anatomy and where it is unknown."""
    box = bounding_box(mask)
    start, size = (np.array(part)[::-1] for part in zip(*((s.start, s.stop - s.start) for s in box), strict=True))
    used = grid.size > 1
    extent = float(np.prod((size * grid.spacing)[used])) ** (1 / int(used.sum()))
    coarse = working_grid(grid.cropped(start, size), extent / PIECES)
    # Unknown outside the field, as are the pieces beside it.
    parts = [Image(np.ascontiguousarray(field.displacement_ras[..., axis]), field.grid) for axis in range(3)]
    u = np.stack([resample(part, coarse, None, np.nan, smooth=True).array for part in parts], -1).astype(np.float64)
    voxels = u @ coarse.ras_to_ijk[:3, :3].T
    jacobian = np.tile(np.eye(3), (*coarse.shape, 1, 1))
    for axis in range(3):
        if coarse.shape[axis] > 1:
            jacobian[..., 2 - axis] += np.gradient(voxels, axis=axis)
    with np.errstate(invalid="ignore"):
        determinant = np.linalg.det(jacobian)
    inside = resample(Image(mask.astype(np.uint8), grid), coarse, smooth=True).array >= 0.5
    determinant[~inside] = np.nan
    return Image(determinant, coarse)


def linear_determinant(linear: np.ndarray, grid: Grid) -> float:
    """det of the linear part; in 2D, the change of area in the plane."""
    matrix = np.asarray(linear, dtype=np.float64)[:3, :3]
    if grid.dimension == 3:
        return float(np.linalg.det(matrix))
    axes = [column for column in range(3) if grid.size[column] > 1]
    first, second = (matrix @ grid.directions[:, axis] for axis in axes)
    return float(np.linalg.norm(np.cross(first, second)))


def determinants(field: DisplacementField, grid: Grid, counted: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Central determinants (K, J, I) on `grid`, and how many `counted` voxels fold at any corner (0 when None)."""
    from .jacobian import central_determinant

    det = np.empty(grid.shape, np.float32)

    def of_block(rows: slice, inner: slice, flow) -> int:
        det[rows] = central_determinant(flow, inner.start, inner.stop).numpy()
        if counted is None or not counted[rows].any():
            return 0
        box = bounding_box(counted[rows])
        own = slice(inner.start + box[0].start, inner.start + box[0].stop)
        return int(np.count_nonzero(_folded_within(flow, (own, *box[1:])) & counted[rows][box]))

    return det, sum(each_block(field, grid, of_block))


def folded_corners(field: DisplacementField) -> np.ndarray:
    """Voxels (K, J, I) of the field's grid that fold by the stricter, any-corner count."""
    folded = np.empty(field.grid.shape, bool)
    whole = slice(0, field.grid.shape[1]), slice(0, field.grid.shape[2])

    def of_block(rows: slice, inner: slice, flow) -> None:
        folded[rows] = _folded_within(flow, (inner, *whole))

    each_block(field, field.grid, of_block)
    return folded


def folded_voxels(flow: torch.Tensor, boxes: list[Box] | None = None) -> np.ndarray:
    """As `folded_corners`, of a flow (d, *S) in voxels of its own grid, torch, channel c along tensor axis c.

    boxes: of *S, what is looked at; the rest counts as not folded. Returns bool (K, J, I).
    """
    from ..images.slabs import each, rows_of

    if len(flow) == 2:
        flow = flow.new_zeros((3, 1, *flow.shape[1:])).index_copy_(0, flow.new_tensor([1, 2]).long(), flow[:, None])
        boxes = None if boxes is None else [(slice(0, 1), *box) for box in boxes]
    shape = tuple(flow.shape[1:])
    boxes = [tuple(slice(0, size) for size in shape)] if boxes is None else boxes
    folded = np.zeros(shape, bool)
    parts = []
    for first, *others in boxes:
        size = (first.stop - first.start, *(side.stop - side.start for side in others))
        rows = rows_of(size, flow.device, 1, BLOCK_VOXELS)
        parts += [(slice(first.start + part.start, first.start + part.stop), *others) for part in rows]

    def look(part: Box) -> None:
        folded[part] = _folded_within(flow, part)

    each(look, parts)
    return folded


def _folded_within(flow: torch.Tensor, box: Box) -> np.ndarray:
    """`folded_voxels` of a box of a flow (3, K, J, I): the voxels beside it count as well."""
    from ..images.slabs import grown
    from .jacobian import any_corner_folds

    wide, (rows, *others) = grown(box, 1, tuple(flow.shape[1:]), range(3))
    near, inner = (slice(None), *wide), (slice(None), *others)
    return any_corner_folds(flow[near], rows.start, rows.stop)[inner].cpu().numpy()


def each_block(field: DisplacementField, grid: Grid, function: Callable[..., Result]) -> list[Result]:
    """`function` of each block of `grid`, in their order, on all cores: its slice of k, the slice that takes the margin
    of a row off, and the flow (3, k, J, I) with it, in voxels of the grid (torch).

    The determinant is the same in voxels as in mm, whatever the grid's directions: det(A^-1 M A) = det M.
    """
    from ..images.sampling import slabs
    from ..images.slabs import each

    read = field._reader(grid, grid.ras_to_ijk[:3, :3][_SWAP])

    def of_block(rows: slice) -> Result:
        wide, inner = _with_margin(rows, grid.shape[0])
        return function(rows, inner, read(wide).contiguous())

    return each(of_block, slabs(grid.shape, BLOCK_VOXELS))


def _with_margin(rows: slice, size: int) -> tuple[slice, slice]:
    """A slice of `size` rows with one more on each side, and what takes them off again."""
    wide = slice(max(rows.start - 1, 0), min(rows.stop + 1, size))
    return wide, slice(rows.start - wide.start, rows.stop - wide.start)
