"""Jacobian determinants, and where a deformation folds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..images.grid import Grid, bounding_box, working_grid
from ..images.image import Image, resample

if TYPE_CHECKING:
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


def voxel_blocks(field: DisplacementField, grid: Grid):
    """Yield (target slice of k, slice that takes the margin off, flow (3, k, J, I) in voxels of `grid`, torch).

    The determinant is the same in voxels as in mm, whatever the grid's directions: det(A^-1 M A) = det M.
    """
    from ..images.sampling import slabs

    read = field._reader(grid, grid.ras_to_ijk[:3, :3][_SWAP])
    for rows in slabs(grid.shape, BLOCK_VOXELS):
        wide, inner = _with_margin(rows, grid.shape[0])
        yield rows, inner, read(wide).contiguous()


def differences(flow, axis: int):
    """Forward and backward differences of (3, k, J, I) along array axis `axis`; equal at the border. Views of one."""
    import torch

    size = flow.shape[1 + axis]
    if size == 1:
        zero = torch.zeros_like(flow)
        return zero, zero
    shape = list(flow.shape)
    shape[1 + axis] += 1
    steps = torch.empty(shape, dtype=flow.dtype, device=flow.device)
    inner = steps.narrow(1 + axis, 1, size - 1)
    torch.sub(flow.narrow(1 + axis, 1, size - 1), flow.narrow(1 + axis, 0, size - 1), out=inner)
    for end, beside in ((0, 1), (size, size - 1)):
        steps.select(1 + axis, end).copy_(steps.select(1 + axis, beside))
    return steps.narrow(1 + axis, 1, size), steps.narrow(1 + axis, 0, size)


def determinants(field: DisplacementField, grid: Grid, counted: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Central determinants (K, J, I) on `grid`, and how many `counted` voxels fold at any corner (0 when None)."""
    det = np.empty(grid.shape, np.float32)

    def of_block(target: slice, sides: list) -> int:
        det[target] = _central_determinant(sides).numpy()
        if counted is None or not counted[target].any():
            return 0
        box = bounding_box(counted[target])
        within = (slice(None), *box)
        folded = any_corner_folds([[side[within] for side in pair] for pair in sides])
        return int(np.count_nonzero(folded & counted[target][box]))

    return det, sum(_each_block(field, grid, of_block))


def folded_corners(field: DisplacementField) -> np.ndarray:
    """Voxels (K, J, I) of the field's grid that fold by the stricter, any-corner count."""
    folded = np.empty(field.grid.shape, bool)

    def of_block(target: slice, sides: list) -> None:
        folded[target] = any_corner_folds(sides)

    _each_block(field, field.grid, of_block)
    return folded


def folded_voxels(flow, looked_at=None) -> np.ndarray:
    """As `folded_corners`, of a flow (d, *S) in voxels of its own grid, torch, channel c along tensor axis c.

    looked_at: bool (*S), torch, the voxels to look at; the others count as not folded. Returns bool (K, J, I).
    """
    from ..images.slabs import each, rows_of

    if len(flow) == 2:
        flow = flow.new_zeros((3, 1, *flow.shape[1:])).index_copy_(0, flow.new_tensor([1, 2]).long(), flow[:, None])
    shape = tuple(flow.shape[1:])
    if looked_at is not None:
        found = np.zeros(shape, bool)
        places = looked_at.reshape(shape).nonzero()
        found[tuple(places.cpu().numpy().T)] = any_corner_folds([_differences_at(flow, places, a) for a in range(3)])
        return found
    folded = np.empty(shape, bool)

    def of_rows(rows: slice) -> None:
        wide, inner = _with_margin(rows, flow.shape[1])
        sides = [[side[:, inner] for side in differences(flow[:, wide], axis)] for axis in range(3)]
        folded[rows] = any_corner_folds(sides)

    each(of_rows, rows_of(shape, flow.device, 1, BLOCK_VOXELS))
    return folded


def _differences_at(flow, places, axis: int) -> list:
    """`differences` of (3, K, J, I) at voxels (N, 3) in the order of the array axes: two of (3, N)."""
    size = flow.shape[1 + axis]
    sides = []
    for first in (places[:, axis].clamp(max=size - 2), (places[:, axis] - 1).clamp(min=0)):
        near, far = list(places.T), list(places.T)
        near[axis], far[axis] = first.clamp(min=0), (first + 1).clamp(max=size - 1)
        sides.append(flow[:, far[0], far[1], far[2]] - flow[:, near[0], near[1], near[2]])
    return sides


def _each_block(field: DisplacementField, grid: Grid, function: Callable[[slice, list], Result]) -> list[Result]:
    """`function` of each block's slice of k and its differences along each array axis, on all cores."""
    from ..images.sampling import slabs
    from ..images.slabs import each

    read = field._reader(grid, grid.ras_to_ijk[:3, :3][_SWAP])

    def of_block(rows: slice) -> Result:
        wide, inner = _with_margin(rows, grid.shape[0])
        flow = read(wide).contiguous()
        return function(rows, [[side[:, inner] for side in differences(flow, axis)] for axis in range(3)])

    return each(of_block, slabs(grid.shape, BLOCK_VOXELS))


def _with_margin(rows: slice, size: int) -> tuple[slice, slice]:
    """A slice of `size` rows with one more on each side, and what takes them off again."""
    wide = slice(max(rows.start - 1, 0), min(rows.stop + 1, size))
    return wide, slice(rows.start - wide.start, rows.stop - wide.start)


def voxel_determinant(flow):
    """det(I + grad u) (K, J, I) of u (3, K, J, I) in voxels, torch, channel c along tensor axis c.

    By central differences, one-sided at the border; along an axis of one voxel nothing changes.
    """
    return _central_determinant([differences(flow, axis) for axis in range(3)])


def _central_determinant(sides):
    """The determinant from the forward and backward differences (3, k, J, I) along each array axis."""
    columns = [0.5 * (forward + backward) for forward, backward in sides]
    for axis in range(3):
        columns[axis][axis] += 1.0
    return _dot(columns[0], _cross(columns[1], columns[2]))


def any_corner_folds(sides: list) -> np.ndarray:
    """Voxels with a determinant <= 0 in any of the eight combinations of forward and backward differences.

    sides: for each array axis the two differences (3, k, J, I) of u in voxels.
    """
    import torch

    # With the sum of a row's differences below one, I + grad u is dominated by its diagonal, its determinant positive.
    steep = functools.reduce(torch.add, (torch.maximum(*(side.abs() for side in pair)) for pair in sides))
    doubtful = (steep.amax(0) >= 1).cpu()
    folded = doubtful.numpy()
    if not folded.any():
        return folded
    columns = [[side[:, doubtful.to(side.device)] for side in pair] for pair in sides]
    for axis in range(3):
        for side in columns[axis]:
            side[axis] += 1.0
    products = (_cross(second, third) for second in columns[1] for third in columns[2])
    values = (_dot(first, product) for product in products for first in columns[0])
    folded[folded] = (functools.reduce(torch.minimum, values) <= 0).cpu().numpy()
    return folded


def _cross(b, c):
    return (
        (b[1] * c[2]).addcmul_(b[2], c[1], value=-1),
        (b[2] * c[0]).addcmul_(b[0], c[2], value=-1),
        (b[0] * c[1]).addcmul_(b[1], c[0], value=-1),
    )


def _dot(a, b):
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])
