"""The displacement field in RAS millimetres: T(x) = x + u(x), from fixed to moving positions.

Arrays are u[k, j, i, :] in RAS mm on a Grid of their own; between voxels u is linear, outside the grid its border
value repeats, as in Slicer's grid transforms. Files hold LPS and are converted here.
"""

from __future__ import annotations

import itertools
import shutil
import struct
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from .errors import FieldError, InputError, OutputError
from .geometry import Grid, Image, bounding_box, grid_from_sitk, set_sitk_geometry, working_grid

_FLIP = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
# Blocks of the determinant, small for the processor's cache, large against their margin of a slice on each side.
_BLOCK_VOXELS = 400_000
_SWAP = np.array([2, 1, 0])
# Of the inverse: the most rounds; the fixed point nearly always takes less than ten.
_FIXED_POINT_ROUNDS, _NEWTON_ROUNDS, _HALVINGS = 40, 20, 8
# How exact an inverse is at its voxels.
INVERSE_TOLERANCE_MM = 1e-3
# An inverse is refused where more points than this part have none.
LARGEST_PART_WITHOUT_INVERSE = 1e-3
# Of the field intent_code in a NIfTI-1 header.
_NIFTI_INTENT_OFFSET = 68


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
        return DisplacementField(np.moveaxis(flow[::-1], 0, -1) @ matrix.T, grid)

    def to_voxels(self, in_plane: bool = False) -> np.ndarray:
        """The flow (3, K, J, I) in voxels of its own grid, channel c along array axis c.

        in_plane: of a slice, (2, *S) without the axis across it.
        """
        inverse = self.grid.ras_to_ijk[:3, :3].astype(np.float32)
        flow = np.moveaxis(self.displacement_ras @ inverse.T, -1, 0)[::-1]
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
        out = np.empty((*grid.shape, 3), np.float32)
        for rows, values in self._slabs(grid):
            out[rows] = values
        return DisplacementField(out, grid)

    def _slabs(self, grid: Grid):
        """Yield (slice of k, u (k, J, I, 3) float32) over `grid`."""
        from . import sampling

        read = self._reader(grid)
        for rows in sampling.slabs(grid.shape):
            yield rows, read(rows).movedim(0, -1).numpy()

    def _reader(self, grid: Grid, to_components: np.ndarray | None = None):
        """A function from a slice of k of `grid` to the field there, a torch tensor (3, k, J, I).

        to_components: (3, 3), turns RAS mm into the components wanted; applied before sampling, which is linear.
        """
        import torch

        from . import sampling

        values = self.displacement_ras
        if to_components is not None:
            values = values @ to_components.T.astype(np.float32)
        volume = torch.from_numpy(np.moveaxis(values, -1, 0))
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
        from . import sampling

        grid = grid or self.grid
        matrix = np.asarray(matrix, dtype=np.float64)
        out = np.empty((*grid.shape, 3), np.float32)
        shift = (matrix - np.eye(4)) @ grid.ijk_to_ras
        for rows, values in self._slabs(grid):
            base = sampling.affine_positions(shift, grid.shape, rows).numpy()
            out[rows] = values @ matrix[:3, :3].T.astype(np.float32) + base
        return DisplacementField(out, grid)

    def compose(self, other: DisplacementField) -> DisplacementField:
        """x -> self(other(x)) on the grid of `other`: u_other + u_self(x + u_other)."""
        import torch

        from . import sampling

        volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.displacement_ras, -1, 0)))[None]
        out = np.empty_like(other.displacement_ras)
        for rows, positions in _warped_positions(other.grid, other, None, self.grid):
            moved = sampling.sample(volume, positions[None])[0].movedim(0, -1).numpy()
            out[rows] = other.displacement_ras[rows] + moved
        return DisplacementField(out, other.grid)

    def inverse(
        self, grid: Grid | None = None, linear: np.ndarray | None = None, tolerance_mm: float = INVERSE_TOLERANCE_MM
    ) -> DisplacementField:
        """The displacement T^-1(y) - y of T(x) = A (x + u(x)) at the voxels y of `grid` (own when None).

        linear: A (4, 4) in RAS mm (identity when None). |T(T^-1(y)) - y| is at most `tolerance_mm` at the voxels, up
        to what A enlarges it by. Raises FieldError when more than 0.1 % of them do not come within ten tolerances, as
        happens where the field folds.
        """
        from . import sampling

        grid = grid or self.grid
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
        from . import sampling

        near = None
        if grid.voxel_count > _BLOCK_VOXELS:
            coarse = working_grid(grid, 2 * grid.spacing)
            near = DisplacementField(self._inverse_after(back, coarse, tolerance_mm)[0], coarse)._reader(grid)
        out, error = np.empty((*grid.shape, 3), np.float32), np.empty(grid.shape, np.float32)
        displaced = _Displaced(self)
        to_voxels = self.grid.ras_to_ijk @ back @ grid.ijk_to_ras
        for rows in sampling.slabs(grid.shape):
            base = sampling.affine_positions(to_voxels, grid.shape, rows)
            start = None if near is None else near(rows).movedim(0, -1).reshape(-1, 3)
            v, size = _inverted(displaced, base.reshape(-1, 3), start, tolerance_mm)
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
        det, _ = _determinants(self, grid, None)
        return Image(det * np.float32(factor), grid, "Jacobian determinant")

    def folding(self, mask: np.ndarray | None = None, grid: Grid | None = None) -> Folding:
        """Counts of folded voxels and the spread of volume change over `mask` (K, J, I) of `grid` (all when None)."""
        return self.volume_change(mask, grid)[1]

    def folded_corners(self) -> np.ndarray:
        """Voxels (K, J, I) of the own grid that fold by the stricter, any-corner count."""
        folded = np.empty(self.grid.shape, bool)
        for target, inner, flow in _voxel_blocks(self, self.grid):
            sides = [[side[:, inner] for side in _differences(flow, axis)] for axis in range(3)]
            folded[target] = _any_corner_folds(sides)
        return folded

    def volume_change(self, mask: np.ndarray | None = None, grid: Grid | None = None) -> tuple[Image, Folding]:
        """The determinant map on `grid` (own when None) and the folding over `mask`, in one sweep."""
        grid = grid or self.grid
        selected = np.ones(grid.shape, bool) if mask is None else np.asarray(mask, bool)
        if selected.shape != grid.shape:
            raise InputError(f"The mask has {selected.shape} voxels, the field's grid {grid.shape}.")
        if not selected.any():
            raise InputError("The mask is empty: no voxel is left to count folds in.")
        determinant, corners = _determinants(self, grid, selected)
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


def grid_over(grid: Grid, covered: Grid) -> Grid:
    """`grid` enlarged by whole voxels until its outermost voxel centres lie beyond every corner of `covered`.

    Slicer repeats the border value outside a grid transform. For u alone that is what the field means; a linear part
    would stop growing there.
    """
    corners = grid.to_ijk(covered.corners())
    low = np.minimum(np.floor(corners.min(0)), -1).astype(int)
    high = np.maximum(np.ceil(corners.max(0)), grid.size).astype(int)
    return grid.cropped(low, high - low + 1)


class _Displaced:
    """The residual v + u(y + v) of an inverse: (N, 3) RAS mm, of y (N, 3) in voxels i, j, k and v (N, 3) in mm."""

    def __init__(self, field: DisplacementField) -> None:
        import torch

        self.volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(field.displacement_ras, -1, 0)))[None]
        self.to_voxels = torch.from_numpy(field.grid.ras_to_ijk[:3, :3].astype(np.float32))

    def __call__(self, base, v):
        from . import sampling

        positions = base + v @ self.to_voxels.T
        return v + sampling.sample(self.volume, positions[None, None, None])[0, :, 0, 0].T


def _inverted(displaced: _Displaced, base, v, tolerance_mm: float):
    """v (N, 3) with a residual of at most the tolerance, where that can be had, and the residual's size (N,).

    Fixed-point iteration v <- -u(y + v) (Chen et al., Med. Phys. 2008) from v (zero when None); where it does not
    converge, because u is steep, Newton's method.
    """
    import torch

    v = torch.zeros_like(base) if v is None else v.clone()
    error = torch.full((len(base),), torch.inf)
    active = torch.arange(len(base))
    for _ in range(_FIXED_POINT_ROUNDS):
        residual = displaced(base[active], v[active])
        size = residual.norm(dim=1)
        going = (size > tolerance_mm) & (size < 0.9 * error[active])
        error[active] = size
        active, residual = active[going], residual[going]
        if len(active) == 0:
            break
        v[active] -= residual
    error[active] = torch.inf
    rest = error > tolerance_mm
    if rest.any():
        v[rest], error[rest] = _newton(displaced, base[rest], v[rest], tolerance_mm)
    return v, error


def _newton(displaced: _Displaced, base, v, tolerance_mm: float):
    """As _inverted, from v, by Newton's method with steps that are halved until the residual falls."""
    import torch

    residual = displaced(base, v)
    size = residual.norm(dim=1)
    # A part of a voxel, within which the field is linear but for its edges.
    step = 0.05 * torch.linalg.inv(displaced.to_voxels)
    back = torch.linalg.inv(step)
    active = torch.arange(len(v))
    for _ in range(_NEWTON_ROUNDS):
        active = active[size[active] > tolerance_mm]
        if len(active) == 0:
            break
        here, now = base[active], v[active]
        slopes = [(displaced(here, now + h) - displaced(here, now - h)) / 2 for h in step.T]
        jacobian = torch.stack(slopes, -1) @ back
        update, _ = torch.linalg.solve_ex(jacobian, residual[active][..., None])
        update = update[..., 0].nan_to_num(0.0, 0.0, 0.0)
        left = torch.arange(len(active))
        for _ in range(_HALVINGS):
            trial = now[left] - update[left]
            found = displaced(here[left], trial)
            length = found.norm(dim=1)
            better = length < size[active[left]]
            taken = active[left[better]]
            v[taken], residual[taken], size[taken] = trial[better], found[better], length[better]
            left = left[~better]
            if len(left) == 0:
                break
            update[left] *= 0.5
        # Where no step helps, none will.
        stuck = torch.zeros(len(active), dtype=torch.bool)
        stuck[left] = True
        active = active[~stuck]
    return v, size


def linear_determinant(linear: np.ndarray, grid: Grid) -> float:
    """det of the linear part; in 2D, the change of area in the plane."""
    matrix = np.asarray(linear, dtype=np.float64)[:3, :3]
    if grid.dimension == 3:
        return float(np.linalg.det(matrix))
    axes = [column for column in range(3) if grid.size[column] > 1]
    first, second = (matrix @ grid.directions[:, axis] for axis in axes)
    return float(np.linalg.norm(np.cross(first, second)))


def _voxel_blocks(field: DisplacementField, grid: Grid):
    """Yield (target slice of k, slice that takes the margin off, flow (3, k, J, I) in voxels of `grid`, torch).

    The determinant is the same in voxels as in mm, whatever the grid's directions: det(A^-1 M A) = det M.
    """
    from .sampling import slabs

    read = field._reader(grid, grid.ras_to_ijk[:3, :3][_SWAP])
    for rows in slabs(grid.shape, _BLOCK_VOXELS):
        wide = slice(max(rows.start - 1, 0), min(rows.stop + 1, grid.shape[0]))
        inner = slice(rows.start - wide.start, rows.stop - wide.start)
        yield rows, inner, read(wide).contiguous()


def _differences(flow, axis: int):
    """Forward and backward differences of (3, k, J, I) along array axis `axis`; equal at the border."""
    import torch

    size = flow.shape[1 + axis]
    if size == 1:
        zero = torch.zeros_like(flow)
        return zero, zero
    step = flow.narrow(1 + axis, 1, size - 1) - flow.narrow(1 + axis, 0, size - 1)
    forward = torch.cat([step, step.narrow(1 + axis, size - 2, 1)], 1 + axis)
    backward = torch.cat([step.narrow(1 + axis, 0, 1), step], 1 + axis)
    return forward, backward


def _determinants(field: DisplacementField, grid: Grid, counted: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Central determinants (K, J, I) on `grid`, and how many `counted` voxels fold at any corner (0 when None)."""
    det = np.empty(grid.shape, np.float32)
    corners = 0
    for target, inner, flow in _voxel_blocks(field, grid):
        sides = [[side[:, inner] for side in _differences(flow, axis)] for axis in range(3)]
        columns = [(0.5 * (forward + backward)) for forward, backward in sides]
        for axis in range(3):
            columns[axis][axis] += 1.0
        det[target] = _dot(columns[0], _cross(columns[1], columns[2])).numpy()
        if counted is not None and counted[target].any():
            box = bounding_box(counted[target])
            folded = _any_corner_folds([[side[(slice(None), *box)] for side in pair] for pair in sides])
            corners += int(np.count_nonzero(folded & counted[target][box]))
    return det, corners


def _any_corner_folds(sides: list) -> np.ndarray:
    """Voxels with a determinant <= 0 in any of the eight combinations of forward and backward differences.

    sides: for each array axis the two differences (3, k, J, I) of u in voxels.
    """
    columns = [[side.clone() for side in pair] for pair in sides]
    for axis in range(3):
        for side in columns[axis]:
            side[axis] += 1.0
    lowest = None
    for second in columns[1]:
        for third in columns[2]:
            product = _cross(second, third)
            for first in columns[0]:
                value = _dot(first, product)
                lowest = value if lowest is None else lowest.minimum(value)
    return (lowest <= 0).numpy()


def _cross(b, c):
    return (
        (b[1] * c[2]).addcmul_(b[2], c[1], value=-1),
        (b[2] * c[0]).addcmul_(b[0], c[2], value=-1),
        (b[0] * c[1]).addcmul_(b[1], c[0], value=-1),
    )


def _dot(a, b):
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def integrate_velocity(velocity: DisplacementField, steps: int = 7, backward: bool = False) -> DisplacementField:
    """The displacement exp(v) of a stationary velocity field in RAS mm, by scaling and squaring.

    The border is replicated. `backward` integrates -v: the inverse transform.
    """
    import torch

    from . import sampling

    flow = torch.from_numpy(velocity.to_voxels())[None]
    if backward:
        flow = -flow
    return DisplacementField.from_voxels(sampling.integrate(flow, steps)[0].numpy(), velocity.grid)


# --- warping --------------------------------------------------------------------------------------------------


def _warped_positions(reference: Grid, field: DisplacementField | None, matrix: np.ndarray | None, source: Grid):
    """Yield (slice of k, ijk voxel positions in `source` of A (x + u(x))) over the voxels of `reference`."""
    from . import sampling

    linear = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    base = source.ras_to_ijk @ linear @ reference.ijk_to_ras
    if field is None:
        for rows in sampling.slabs(reference.shape):
            yield rows, sampling.affine_positions(base, reference.shape, rows)
        return
    read = field._reader(reference, (source.ras_to_ijk @ linear)[:3, :3])
    for rows in sampling.slabs(reference.shape):
        positions = sampling.affine_positions(base, reference.shape, rows)
        yield rows, positions.add_(read(rows).movedim(0, -1))


def warp_image(
    image: Image,
    reference: Grid,
    field: DisplacementField | None = None,
    matrix: np.ndarray | None = None,
    background: float | None = None,
    interpolation: str = "linear",
) -> Image:
    """The moving `image` on the grid `reference`: out(x) = image(A (x + u(x))), one interpolation.

    matrix: A (4, 4) in RAS mm (identity when None). background: value outside the image (its minimum when None).
    Returns float32 for "linear"; the image's own type for "nearest".
    """
    import torch

    from . import sampling

    if interpolation not in ("linear", "nearest"):
        raise InputError(f"There is no interpolation '{interpolation}': use linear or nearest.")
    if background is None:
        background = float(image.array.min())
    volume = torch.from_numpy(np.ascontiguousarray(image.array, dtype=np.float32))[None, None]
    mode = "bilinear" if interpolation == "linear" else "nearest"
    out = np.empty(reference.shape, np.float32)
    for rows, positions in _warped_positions(reference, field, matrix, image.grid):
        values = sampling.sample(volume, positions[None], mode)[0, 0]
        values[~sampling.inside(positions, image.grid.shape)] = background
        out[rows] = values.numpy()
    return Image(out if interpolation == "linear" else out.astype(image.array.dtype), reference, image.name)


def warp_labels(
    labels: Image,
    reference: Grid,
    field: DisplacementField | None = None,
    matrix: np.ndarray | None = None,
    mode: str = "linear",
) -> Image:
    """A label map on the grid `reference`; 0 outside. Returns the labels' own type.

    mode: "nearest", or "linear": the label whose linearly interpolated membership is largest, which keeps
    boundaries smooth without inventing labels (ties go to the nearest voxel's label).
    """
    if mode not in ("linear", "nearest"):
        raise InputError(f"There is no label interpolation '{mode}': use linear or nearest.")
    import torch

    from . import sampling

    source = np.ascontiguousarray(labels.array)
    size = labels.grid.size
    out = np.zeros(reference.shape, source.dtype)
    flat = source.ravel()
    strides = np.array([1, size[0], size[0] * size[1]])
    for rows, positions in _warped_positions(reference, field, matrix, labels.grid):
        inside = sampling.inside(positions, source.shape).numpy()
        points = positions.reshape(-1, 3).clamp(torch.zeros(3), torch.from_numpy(size - 1.0).float())
        near = flat[(points.round().long() @ torch.from_numpy(strides)).numpy()]
        if mode == "linear":
            _vote(near, points.numpy(), flat, size, strides)
        result = near.reshape(inside.shape)
        result[~inside] = 0
        out[rows] = result
    return Image(out, reference, labels.name)


def _vote(near: np.ndarray, points: np.ndarray, flat: np.ndarray, size: np.ndarray, strides: np.ndarray) -> None:
    """Replace, where the eight corners disagree, the nearest label by the one with the largest linear weight.

    near (P,) is changed in place; points (P, 3), size and strides are ordered i, j, k; flat: the labels raveled.
    """
    low = np.minimum(points.astype(np.intp), np.maximum(size - 2, 0))
    steps = np.where(size > 1, strides, 0)
    start = low @ strides
    corners = [flat[start + int(np.array(corner) @ steps)] for corner in np.ndindex(2, 2, 2)]
    mixed = np.flatnonzero(np.logical_or.reduce([corner != corners[0] for corner in corners[1:]]))
    if mixed.size == 0:
        return
    values = np.stack([corner[mixed] for corner in corners])
    fraction = points[mixed] - low[mixed]
    weights = np.stack([np.prod(np.where(corner, fraction, 1 - fraction), axis=1) for corner in np.ndindex(2, 2, 2)])
    best = np.zeros(mixed.size)
    own = near[mixed]
    for label in range(8):
        total = np.where(values == values[label], weights, 0).sum(0)
        # The nearest label keeps its place unless another is clearly heavier.
        better = total > best + 1e-6
        best = np.where(better, total, best)
        own = np.where(better, values[label], own)
    near_total = np.where(values == near[mixed], weights, 0).sum(0)
    near[mixed] = np.where(near_total >= best - 1e-6, near[mixed], own)


# --- files ------------------------------------------------------------------------------------------------------


def write_field(field: DisplacementField, path: str | Path) -> None:
    """Write as a transform (.h5, .tfm) or as a displacement image (.nii, .nii.gz, .nrrd, .mha).

    LPS on disk, but for NIfTI, whose displacement intent (1006) means RAS; ITK converts when reading it. ITK, ANTs
    and Slicer read the files as displacement field transforms. Raises OutputError.
    """
    import SimpleITK as sitk

    path = Path(path)
    nifti = path.name.endswith((".nii", ".nii.gz"))
    values = field.displacement_ras if nifti else field.displacement_ras * _FLIP
    try:
        if path.suffix in (".h5", ".tfm"):
            _reserve(path, 24 * field.grid.voxel_count)
            vectors = sitk.GetImageFromArray(values.astype(np.float64), isVector=True)
            set_sitk_geometry(vectors, field.grid)
            sitk.WriteTransform(sitk.DisplacementFieldTransform(vectors), str(path))
            return
        vectors = sitk.GetImageFromArray(values, isVector=True)
        set_sitk_geometry(vectors, field.grid)
        if nifti:
            _write_displacement_nifti(vectors, path)
        else:
            sitk.WriteImage(vectors, str(path), useCompression=True, compressionLevel=1)
    except (RuntimeError, OSError) as error:
        raise OutputError(
            f"The displacement field could not be written to {path}: check the folder's permissions and the free space."
        ) from error


def _reserve(path: Path, size: int) -> None:
    """Raise OSError unless a file of `size` bytes fits: the HDF5 library crashes later when the disk is full."""
    try:
        with open(path, "wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))
    finally:
        path.unlink(missing_ok=True)


def _write_displacement_nifti(vectors, path: Path) -> None:
    """SimpleITK writes vectors with the general vector intent only: set the displacement intent in the header."""
    import gzip

    import SimpleITK as sitk

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "field.nii"
        sitk.WriteImage(vectors, str(plain))
        with open(plain, "r+b") as file:
            file.seek(_NIFTI_INTENT_OFFSET)
            file.write(struct.pack("<h", 1006))
        if path.suffix == ".nii":
            shutil.move(plain, path)
            return
        with open(plain, "rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def read_field(path: str | Path) -> DisplacementField:
    """Read a displacement field from a transform file or a vector image (LPS on disk). Raises InputError."""
    import SimpleITK as sitk

    path = Path(path)
    if not path.is_file():
        raise InputError(f"The displacement field cannot be read: there is no file {path}.")
    try:
        if path.suffix in (".h5", ".tfm"):
            transform = sitk.ReadTransform(str(path))
            if transform.GetName() == "CompositeTransform" or transform.GetDimension() != 3:
                raise InputError(f"{path.name} is not a single 3D displacement field.")
            vectors = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        else:
            vectors = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path.name} holds no displacement field, or it is damaged.") from error
    if vectors.GetNumberOfComponentsPerPixel() != 3 or vectors.GetDimension() != 3:
        raise InputError(f"{path.name} holds no 3D displacement field (three values a voxel are due).")
    array = sitk.GetArrayFromImage(vectors).astype(np.float32) * _FLIP
    return DisplacementField(array, grid_from_sitk(vectors))
