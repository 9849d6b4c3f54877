"""Displacement fields in space: positions in RAS mm to positions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from ..errors import FieldError, InputError
from ..images.grid import Grid, working_grid
from ..images.image import Image
from .components import turned
from .folding import BLOCK_VOXELS, Folding, determinants, folded_corners, linear_determinant
from .inverse import INVERSE_TOLERANCE, LARGEST_PART_WITHOUT_INVERSE, Displaced, inverted
from .positions import warped_positions

# How far in voxels the voxels of two grids may lie apart and count as the same.
SAME_LATTICE = 1e-4


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """u (K, J, I, 3) float32 in RAS mm on `grid`. Raises FieldError when the shape or the numbers are wrong."""

    displacement_ras: np.ndarray = field(repr=False)
    grid: Grid

    def __post_init__(self) -> None:
        array = np.asarray(self.displacement_ras, dtype=np.float32)
        if array.shape != (*self.grid.shape, 3):
            raise FieldError(
                f"A field on a grid of {self.grid.shape} needs an array of {(*self.grid.shape, 3)}, not {array.shape}."
            )
        if not np.isfinite(array).all():
            raise FieldError("The displacement field holds numbers that are not finite.")
        object.__setattr__(self, "displacement_ras", array)

    @staticmethod
    def identity(grid: Grid) -> DisplacementField:
        return DisplacementField(np.zeros((*grid.shape, 3), np.float32), grid)

    @staticmethod
    def from_voxels(flow: np.ndarray, grid: Grid, step_grid: Grid | None = None) -> DisplacementField:
        """From a network flow (3, K, J, I), or (2, *S) within the plane of a slice, channel c along array axis c.

        In voxels of `step_grid`, a grid with the same axes (`grid` itself when None).
        """
        if grid.flat_axis is not None and len(flow) == 2:
            flow = np.insert(np.expand_dims(flow, 1 + grid.flat_axis), grid.flat_axis, 0.0, axis=0)
        matrix = (step_grid or grid).ijk_to_ras[:3, :3].astype(np.float32)
        vectors = np.moveaxis(flow[::-1], 0, -1)
        return DisplacementField(
            turned(vectors, matrix, np.empty(vectors.shape, np.result_type(vectors, matrix))), grid
        )

    def to_voxels(self, in_plane: bool = False) -> np.ndarray:
        """The flow (3, K, J, I) in voxels of its own grid, channel c along array axis c.

        in_plane: of a slice, (2, *S) without the axis across it.
        """
        inverse = self.grid.ras_to_ijk[:3, :3].astype(np.float32)
        flow = np.empty((3, *self.grid.shape), np.float32)
        turned(self.displacement_ras, inverse, np.moveaxis(flow[::-1], 0, -1))
        if in_plane and self.grid.flat_axis is not None:
            flow = np.delete(flow, self.grid.flat_axis, axis=0).squeeze(1 + self.grid.flat_axis)
        return np.ascontiguousarray(flow)

    # --- evaluation at points and on other grids ---

    def at(self, points_ras: np.ndarray) -> np.ndarray:
        """Displacement (N, 3) in RAS mm at points (N, 3) in RAS mm, float64 arithmetic."""
        points = np.asarray(points_ras, dtype=np.float64).reshape(-1, 3)
        ijk = np.clip(self.grid.to_ijk(points), 0, self.grid.size - 1)
        low = np.minimum(np.floor(ijk).astype(np.intp), np.maximum(self.grid.size - 2, 0))
        fraction = ijk - low
        result = np.zeros((len(points), 3))
        for corner in np.ndindex(2, 2, 2):
            index = np.minimum(low + corner, self.grid.size - 1)
            weight = np.prod(np.where(corner, fraction, 1 - fraction), axis=1)
            result += weight[:, None] * self.displacement_ras[index[:, 2], index[:, 1], index[:, 0]]
        return result

    def transform_points(self, points_ras: np.ndarray) -> np.ndarray:
        """T(x) for points (N, 3) in RAS mm."""
        points = np.asarray(points_ras, dtype=np.float64).reshape(-1, 3)
        return points + self.at(points)

    def on_grid(self, grid: Grid) -> DisplacementField:
        """The same field sampled on another grid (linear; border value outside)."""
        if grid.same_as(self.grid, 1e-6):
            return self
        from ..images import sampling
        from ..images.slabs import each

        shifted = self._shifted(grid)
        if shifted is not None:
            return shifted
        out = np.empty((*grid.shape, 3), np.float32)
        read = self._reader(grid)

        def copy(rows: slice) -> None:
            out[rows] = read(rows).movedim(0, -1).numpy()

        each(copy, sampling.slabs(grid.shape))
        return DisplacementField(out, grid)

    def _shifted(self, grid: Grid) -> DisplacementField | None:
        """`on_grid` where the voxels of both grids are the same, cut and continued: many times faster than reading."""
        to_field = self.grid.ras_to_ijk @ grid.ijk_to_ras
        start = np.rint(to_field[:3, 3]).astype(int)
        # How far the first voxel lies off, and how far the ends of each axis do from it.
        off = np.abs(np.c_[to_field[:3, 3] - start, (to_field[:3, :3] - np.eye(3)) * (grid.size - 1)])
        if off.sum(1).max() > SAME_LATTICE:
            return None
        stop = start + grid.size
        low, high = np.maximum(start, 0), np.minimum(stop, self.grid.size)
        if np.any(low >= high):
            return None
        part = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
        widths = [*zip((low - start)[::-1], (stop - high)[::-1], strict=True), (0, 0)]
        return DisplacementField(np.pad(self.displacement_ras[part], widths, mode="edge"), grid)

    def _reader(self, grid: Grid, to_components: np.ndarray | None = None):
        """A function from a slice of k of `grid` to the field there, a torch tensor (3, k, J, I).

        to_components: (3, 3), turns RAS mm into the components wanted; applied before sampling, which is linear.
        """
        import torch

        from ..images import sampling

        if to_components is None:
            values = np.moveaxis(np.require(self.displacement_ras, requirements=("W",)), -1, 0)
        else:
            values = np.empty((3, *self.grid.shape), np.float32)
            turned(self.displacement_ras, to_components.astype(np.float32), np.moveaxis(values, 0, -1))
        volume = torch.from_numpy(values)
        if grid.same_as(self.grid, 1e-6):
            return lambda rows: volume[:, rows]
        to_field = self.grid.ras_to_ijk @ grid.ijk_to_ras
        straight = sampling.AxisReader.of(volume, to_field, grid.shape)
        if straight is not None:
            return straight
        volume = volume.contiguous()[None]
        return lambda rows: sampling.sample(volume, sampling.affine_positions(to_field, grid.shape, rows)[None])[0]

    def padded(self, voxels: int = 1, across: bool = False) -> DisplacementField:
        """The same field with its border value repeated in `voxels` more layers on every side.

        A slice stays a slice, unless `across`.

        With a linear part folded in, a field must reach beyond the outermost image voxels: outside its grid
        readers repeat the border or take zero, and neither is linear.
        """
        widths = [0 if axis == self.grid.flat_axis and not across else voxels for axis in range(3)]
        array = np.pad(self.displacement_ras, [*((w, w) for w in widths), (0, 0)], mode="edge")
        start = -np.array(widths[::-1])
        return DisplacementField(array, self.grid.cropped(start, self.grid.size + 2 * np.array(widths[::-1])))

    def covering(self, grid: Grid) -> DisplacementField:
        """The same field with its border value repeated as far as needed to hold all voxel centres of `grid`."""
        corners = self.grid.to_ijk(grid.to_ras(np.array(list(itertools.product(*((0, n - 1) for n in grid.size))))))
        below = np.maximum(np.ceil(-corners.min(0) - 1e-6), 0).astype(int)
        above = np.maximum(np.ceil(corners.max(0) - (self.grid.size - 1) - 1e-6), 0).astype(int)
        if self.grid.flat_axis is not None:
            below[2 - self.grid.flat_axis] = above[2 - self.grid.flat_axis] = 0
        if not below.any() and not above.any():
            return self
        widths = [*zip(below[::-1], above[::-1], strict=True), (0, 0)]
        array = np.pad(self.displacement_ras, widths, mode="edge")
        return DisplacementField(array, self.grid.cropped(-below, self.grid.size + below + above))

    # --- algebra ---

    def then_linear(self, matrix: np.ndarray, grid: Grid | None = None) -> DisplacementField:
        """The displacement of x -> A (x + u(x)), A (4, 4) in RAS mm, on the own grid or another."""
        from ..images import sampling
        from ..images.slabs import each

        grid = grid or self.grid
        matrix = np.asarray(matrix, dtype=np.float64)
        if np.array_equal(matrix, np.eye(4)):
            return self.on_grid(grid)
        out = np.empty((*grid.shape, 3), np.float32)
        shift = (matrix - np.eye(4)) @ grid.ijk_to_ras
        read, linear = self._reader(grid), matrix[:3, :3].T.astype(np.float32)

        def carry(rows: slice) -> None:
            base = sampling.affine_positions(shift, grid.shape, rows).numpy()
            out[rows] = read(rows).movedim(0, -1).numpy() @ linear + base

        each(carry, sampling.slabs(grid.shape))
        return DisplacementField(out, grid)

    def compose(self, other: DisplacementField) -> DisplacementField:
        """x -> self(other(x)) on the grid of `other`: u_other + u_self(x + u_other)."""
        import torch

        from ..images import sampling

        volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.displacement_ras, -1, 0)))[None]
        out = np.empty_like(other.displacement_ras)
        for rows, positions in warped_positions(other.grid, other, None, self.grid):
            moved = sampling.sample(volume, positions[None])[0].movedim(0, -1).numpy()
            out[rows] = other.displacement_ras[rows] + moved
        return DisplacementField(out, other.grid)

    def inverse(
        self, grid: Grid | None = None, linear: np.ndarray | None = None, tolerance_mm: float | None = None
    ) -> DisplacementField:
        """The displacement T^-1(y) - y of T(x) = A (x + u(x)) at the voxels y of `grid` (own when None).

        linear: A (4, 4) in RAS mm (identity when None). |T(T^-1(y)) - y| is at most `tolerance_mm` at the voxels (that
        of `inverse_tolerance` when None), up to what A enlarges it by. Raises FieldError when more than 0.1 % of them
        do not come within ten tolerances, as happens where the field folds.
        """
        from ..images import sampling

        grid = grid or self.grid
        tolerance_mm = inverse_tolerance(self.grid, grid) if tolerance_mm is None else tolerance_mm
        back = np.eye(4) if linear is None else np.linalg.inv(np.asarray(linear, np.float64))
        out, error = self._inverse_after(back, grid, tolerance_mm)
        bad = float(np.mean(error > 10 * tolerance_mm))
        if bad > LARGEST_PART_WITHOUT_INVERSE:
            raise FieldError(
                f"The displacement field cannot be inverted: {100 * bad:.2f} % of the points have no stable inverse. "
                "It folds there; use a smoother field."
            )
        shift = (back - np.eye(4)) @ grid.ijk_to_ras
        for rows in sampling.slabs(grid.shape):
            out[rows] += sampling.affine_positions(shift, grid.shape, rows).numpy()
        return DisplacementField(out, grid)

    def _inverse_after(self, back: np.ndarray, grid: Grid, tolerance_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """v (K, J, I, 3) with x + v + u(x + v) = x at x = back y, y the voxels of `grid`; and the error left (K, J, I).

        On large grids the search starts from the answer on one half as fine.
        """
        from ..images import sampling

        near = None
        if grid.voxel_count > BLOCK_VOXELS:
            coarse = working_grid(grid, 2 * grid.spacing)
            near = DisplacementField(self._inverse_after(back, coarse, tolerance_mm)[0], coarse)._reader(grid)
        out, error = np.empty((*grid.shape, 3), np.float32), np.empty(grid.shape, np.float32)
        displaced = Displaced(self)
        to_voxels = self.grid.ras_to_ijk @ back @ grid.ijk_to_ras
        for rows in sampling.slabs(grid.shape):
            base = sampling.affine_positions(to_voxels, grid.shape, rows)
            start = None if near is None else near(rows).movedim(0, -1).reshape(-1, 3)
            v, size = inverted(displaced, base.reshape(-1, 3), start, tolerance_mm)
            out[rows], error[rows] = v.reshape(base.shape).numpy(), size.reshape(base.shape[:3]).numpy()
        return out, error

    # --- volume change ---

    def jacobian_determinant(self, grid: Grid | None = None, linear: np.ndarray | None = None) -> Image:
        """det of dT/dx by central differences (one-sided at the border) on `grid` (own when None), float32.

        linear: (4, 4) applied after the field, for the determinant of A (x + u(x)). In 2D the derivative along the
        flat axis is taken as the identity.
        """
        grid = grid or self.grid
        factor = 1.0 if linear is None else linear_determinant(linear, grid)
        det, _ = determinants(self, grid, None)
        return Image(det * np.float32(factor), grid, "Jacobian determinant")

    def folding(self, mask: np.ndarray | None = None, grid: Grid | None = None) -> Folding:
        """Counts of folded voxels and the spread of volume change over `mask` (K, J, I) of `grid` (all when None)."""
        return self.volume_change(mask, grid)[1]

    def folded_corners(self) -> np.ndarray:
        """Voxels (K, J, I) of the own grid that fold by the stricter, any-corner count."""
        return folded_corners(self)

    def volume_change(self, mask: np.ndarray | None = None, grid: Grid | None = None) -> tuple[Image, Folding]:
        """The determinant map on `grid` (own when None) and the folding over `mask`, in one sweep."""
        grid = grid or self.grid
        selected = np.ones(grid.shape, bool) if mask is None else np.asarray(mask, bool)
        if selected.shape != grid.shape:
            raise InputError(f"The mask has {selected.shape} voxels, the field's grid {grid.shape}.")
        if not selected.any():
            raise InputError("The mask is empty: no voxel is left to count folds in.")
        determinant, corners = determinants(self, grid, selected)
        values = determinant[selected]
        count = int(np.count_nonzero(values <= 0))
        folding = Folding(
            voxels=int(values.size),
            count=count,
            percent=100.0 * count / values.size,
            any_corner_count=corners,
            any_corner_percent=100.0 * corners / values.size,
            minimum=float(values.min()),
            maximum=float(values.max()),
            sd_log=float(np.log(np.clip(values, 1e-9, 1e9).astype(np.float64)).std()),
        )
        return Image(determinant, grid, "Jacobian determinant"), folding


def inverse_tolerance(*grids: Grid) -> float:
    """How exact an inverse of a field on one of the grids, at the voxels of another, is, in mm."""
    # Of a single voxel, all axes count.
    axes = [grid.spacing[grid.size > 1] if grid.voxel_count > 1 else grid.spacing for grid in grids]
    return INVERSE_TOLERANCE * float(np.min(np.concatenate(axes)))


def grid_over(grid: Grid, covered: Grid) -> Grid:
    """`grid` enlarged by whole voxels until its outermost voxel centres lie beyond every corner of `covered`.

    Slicer repeats the border value outside a grid transform. For u alone that is what the field means; a linear part
    would stop growing there.
    """
    corners = grid.to_ijk(covered.corners())
    low = np.minimum(np.floor(corners.min(0)), -1).astype(int)
    high = np.maximum(np.ceil(corners.max(0)), grid.size).astype(int)
    return grid.cropped(low, high - low + 1)
