"""Grids: where voxels are in the patient.

Frames: positions are RAS millimetres, as in Slicer. Arrays are (K, J, I), slowest axis first, as numpy and
Slicer's `arrayFromVolume` have them; matrices act on (i, j, k). A 2D image is a grid with exactly one axis of a single
voxel.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Two axes are at right angles up to this cosine of their angle: more than files round away, and still less than a
# tenth of a voxel over a hundred. On every road, files and scene.
LARGEST_SHEAR = 1.1e-3
# Labels and masks belong to an image's voxels when their own are this part of one away at most, along every axis.
SAME_VOXELS = 0.05
_AXIS_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular voxel grid in space.

    shape: (K, J, I), each at least 1. ijk_to_ras: (4, 4), the centre of voxel (i, j, k) in RAS mm; any
    direction, spacing and handedness. Raises InputError on a singular or non-finite matrix.
    """

    shape: tuple[int, ...]
    ijk_to_ras: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"A grid needs three sizes of at least one voxel, not {self.shape}.")
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise InputError("The matrix from voxels to space must be 4x4 with finite numbers.")
        columns = np.linalg.norm(matrix[:3, :3], axis=0)
        if columns.min() <= 0 or abs(np.linalg.det(matrix[:3, :3] / columns)) < 1e-6:
            raise InputError(
                "The matrix from voxels to space is singular: two image axes coincide or a spacing is zero. "
                "Correct the image's spacing and directions."
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def ras_to_ijk(self) -> np.ndarray:
        return np.linalg.inv(self.ijk_to_ras)

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along i, j, k in mm."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3), unit vectors of the i, j, k axes in RAS as columns."""
        return self.ijk_to_ras[:3, :3] / self.spacing

    @property
    def size(self) -> np.ndarray:
        """Numbers of voxels along i, j, k."""
        return np.array(self.shape[::-1])

    @property
    def voxel_count(self) -> int:
        return math.prod(self.shape)

    @property
    def dimension(self) -> int:
        """2 if exactly one axis has a single voxel, else 3."""
        return 2 if self.shape.count(1) == 1 else 3

    @property
    def flat_axis(self) -> int | None:
        """The array axis (0 for k) that has a single voxel in a 2D grid."""
        return self.shape.index(1) if self.dimension == 2 else None

    @property
    def across(self) -> int:
        """Which of i, j, k (0 for i) has a single voxel, in a 2D grid."""
        return 2 - self.shape.index(1)

    @property
    def center_ras(self) -> np.ndarray:
        return self.to_ras((self.size - 1) / 2.0)

    @property
    def is_orthogonal(self) -> bool:
        """Whether the axes are at right angles, to `LARGEST_SHEAR`."""
        return self.shear < LARGEST_SHEAR

    @property
    def shear(self) -> float:
        """The largest cosine of the angle between two axes: 0 at right angles."""
        return float(np.abs(self.directions.T @ self.directions - np.eye(3)).max())

    @property
    def orientation(self) -> str:
        """Directions in which i, j, k grow, such as "RAS" or "LIA"."""
        axes = enumerate(_closest_axes(self))
        return "".join(_AXIS_LETTERS[axis][int(self.directions[axis, column] > 0)] for column, axis in axes)

    def to_ras(self, ijk: ArrayLike) -> np.ndarray:
        """Positions (..., 3) in voxels (i, j, k) to RAS mm."""
        return np.asarray(ijk, dtype=np.float64) @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]

    def to_ijk(self, ras: ArrayLike) -> np.ndarray:
        """Positions (..., 3) in RAS mm to voxels (i, j, k)."""
        inverse = self.ras_to_ijk
        return np.asarray(ras, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def positions(self) -> np.ndarray:
        """RAS position of every voxel centre, (K, J, I, 3) float64."""
        k, j, i = np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij")
        return self.to_ras(np.stack([i, j, k], -1))

    def corners(self) -> np.ndarray:
        """The eight outer corners (voxel edges, not centres) in RAS mm, (8, 3)."""
        ends = [(-0.5, n - 0.5) for n in self.size]
        return self.to_ras(np.array(list(itertools.product(*ends))))

    def contains(self, ras: ArrayLike) -> np.ndarray:
        """Whether positions (..., 3) lie within the outer voxel edges."""
        ijk = self.to_ijk(ras)
        return np.all((ijk >= -0.5 - 1e-6) & (ijk <= self.size - 0.5 + 1e-6), axis=-1)

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both have the same shape and their corners agree within `tolerance` voxels along every axis."""
        if self.shape != other.shape:
            return False
        apart = (other.corners() - self.corners()) @ self.ras_to_ijk[:3, :3].T
        return bool(np.abs(apart).max() < tolerance)

    def transformed(self, matrix: np.ndarray) -> Grid:
        """The grid moved by a 4x4 matrix in RAS."""
        return Grid(self.shape, np.asarray(matrix, dtype=np.float64) @ self.ijk_to_ras)

    def cropped(self, start_ijk: ArrayLike, size_ijk: ArrayLike) -> Grid:
        """The same lattice of voxels with another start (may be negative) and size."""
        matrix = self.ijk_to_ras.copy()
        matrix[:3, 3] = self.to_ras(start_ijk)
        return Grid(tuple(int(n) for n in np.asarray(size_ijk)[::-1]), matrix)

    def to_json(self) -> dict:
        return {"shape_kji": list(self.shape), "ijk_to_ras": self.ijk_to_ras.tolist()}


def _closest_axes(grid: Grid) -> tuple[int, ...]:
    """For i, j, k the RAS axis each follows best, one axis each."""
    size = np.abs(grid.directions)
    return max(itertools.permutations(range(3)), key=lambda p: sum(size[p[c], c] for c in range(3)))


def reoriented(grid: Grid, orientation: str) -> Grid:
    """The same voxels with i, j, k permuted and flipped to lie as close as possible to `orientation`, e.g. "LIA"."""
    wanted = [next(a for a, letters in enumerate(_AXIS_LETTERS) if c in letters) for c in orientation]
    if sorted(wanted) != [0, 1, 2]:
        raise InputError(f"'{orientation}' is not an orientation: give one letter of each pair L/R, P/A, I/S.")
    axes = _closest_axes(grid)
    matrix = np.eye(4)
    matrix[:3, 3] = grid.ijk_to_ras[:3, 3]
    size = []
    for new, (ras_axis, letter) in enumerate(zip(wanted, orientation, strict=True)):
        old = axes.index(ras_axis)
        column = grid.ijk_to_ras[:3, old]
        if (column[ras_axis] > 0) != (letter == _AXIS_LETTERS[ras_axis][1]):
            matrix[:3, 3] += column * (grid.size[old] - 1)
            column = -column
        matrix[:3, new] = column
        size.append(int(grid.size[old]))
    return Grid(tuple(size[::-1]), matrix)


def check_right_angles(grid: Grid, name: str) -> None:
    """Raise InputError, with the image's name and the angle, where the axes of its voxels are not at right angles."""
    if not grid.is_orthogonal:
        off = math.degrees(math.asin(min(grid.shear, 1.0)))
        raise InputError(
            f"The {name} has sheared axes: two of them are {off:.2g} degrees off a right angle. Resample it onto a "
            "grid with right angles first (in Slicer, with the Resample Scalar/Vector/DWI Volume module)."
        )


def orthogonalised(grid: Grid) -> Grid:
    """`grid` itself if its axes are at right angles, else the closest orthogonal grid that covers it.

    A linear parent transform may shear a grid; the axes are then those of the polar decomposition.
    """
    if grid.is_orthogonal:
        return grid
    u, _, vt = np.linalg.svd(grid.directions)
    rotation = u @ vt
    corners = grid.corners() @ rotation
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    spacing = grid.spacing
    size = np.maximum(np.ceil(extent / spacing - 1e-6).astype(int), 1)
    size[grid.size == 1] = 1
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing
    first = low + extent / 2 - (size - 1) * spacing / 2
    matrix[:3, 3] = rotation @ first
    return Grid(tuple(size[::-1]), matrix)


def working_grid(
    fixed: Grid,
    spacing_mm: ArrayLike | None = None,
    stride: int = 1,
    orientation: str | None = None,
) -> Grid:
    """The grid on which a network sees the images: it covers every voxel of `fixed`, edges included.

    spacing_mm: along i, j, k after reorientation (None keeps the fixed spacing). Where it equals the fixed
    spacing (to 0.1 %), the voxel centres coincide, so that nothing is interpolated. Sizes are rounded up to
    multiples of `stride`, evenly on both sides; a 2D grid stays one voxel thick.
    """
    base = orthogonalised(fixed)
    if orientation is not None:
        base = reoriented(base, orientation)
    old = base.spacing
    new = old if spacing_mm is None else np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), (3,))
    if not np.isfinite(new).all() or min(new) <= 0:
        raise InputError(f"A voxel size must be positive, not {np.asarray(spacing_mm).tolist()} mm.")
    matrix = base.ijk_to_ras.copy()
    size, start = [], []
    for axis in range(3):
        count = int(base.size[axis])
        if base.dimension == 2 and count == 1:
            size.append(1)
            start.append(0.0)
            continue
        ratio = new[axis] / old[axis]
        if abs(ratio - 1) < 1e-3:
            ratio, needed = 1.0, count
        else:
            needed = max(1, math.ceil(count / ratio - 1e-6))
        padded = -(-needed // stride) * stride
        size.append(padded)
        matrix[:3, axis] *= ratio
        # Same lattice: pad by whole voxels. Otherwise: centred on the fixed field of view.
        start.append(-float((padded - needed) // 2) if ratio == 1.0 else (count - 1 - (padded - 1) * ratio) / 2)
    matrix[:3, 3] = base.to_ras(start)
    return Grid(tuple(size[::-1]), matrix)


def rotation(angles: np.ndarray) -> np.ndarray:
    """(3, 3), the rotations by `angles` (3,) in radians about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        result = turn @ result
    return result


def some_voxels(mask: np.ndarray, count: int) -> np.ndarray:
    """(N, 3), k, j, i: voxels of a mask (K, J, I), evenly taken, `count` or fewer than twice as many where it has them.

    Plane by plane: of a large mask, the places of all voxels take more memory than an image.
    """
    step = max(1, int(np.count_nonzero(mask)) // count)
    found, seen = [np.zeros((0, 3), np.intp)], 0
    for k, plane in enumerate(mask):
        inside = np.flatnonzero(plane)
        taken = inside[-seen % step :: step]
        seen += inside.size
        found.append(np.stack([np.full(taken.size, k), *np.unravel_index(taken, plane.shape)], -1))
    return np.concatenate(found)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box of slices that holds all True voxels of a mask (K, J, I) with at least one."""
    ranges = (np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    return tuple(slice(int(r[0]), int(r[-1]) + 1) for r in ranges)


def check_matrix(matrix: np.ndarray, what: str) -> np.ndarray:
    """A linear transform as a (4, 4) float64 array; raises InputError when it is not affine and invertible."""
    result = np.array(matrix, dtype=np.float64)
    if result.shape != (4, 4) or not np.isfinite(result).all() or np.abs(result[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise InputError(f"The {what} must be a 4x4 matrix of finite numbers whose last row is 0 0 0 1.")
    # Of a matrix that only scales all axes alike, this is 1: metres are as good as millimetres.
    longest = np.linalg.norm(result[:3, :3], axis=0).max()
    if longest == 0 or abs(np.linalg.det(result[:3, :3] / longest)) < 1e-6:
        raise InputError(f"The {what} is singular: it flattens space. Give an invertible matrix.")
    return result
