"""Interpolation, smoothing and integration on regular voxel grids (torch), shared by images, fields and networks.

Tensors are (N, C, *S) with S the tensor axes (K, J, I) in 3D, (J, I) in 2D. Displacements and velocities are
(N, d, *S) in voxels, channel c along tensor axis c. Everything here repeats the border value outside the grid,
as Slicer does with displacement fields.

This room stands below `field` and `networks` so that an image is interpolated by one piece of code wherever it
is warped; numpy callers use `geometry` and `field`, which import it only when they need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .scripted import scripted
from .slabs import narrowed
from .smoothing import gaussian_band, gaussian_radius, gaussian_smooth

__all__ = ["gaussian_smooth"]
# Sampling a slab at a time keeps the coordinates of a full clinical volume out of memory.
SLAB_VOXELS = 1_000_000
# The margin absorbs float32 rounding, so that a voxel on the very edge is not lost.
_HALF_A_VOXEL = 0.501
# Positions along an axis that differ by less, in voxels, are the same.
_ROUNDING = 1e-4
# Of longer axes no smoothed voxels are kept: they grow with the square, and 16 of this one are 32 MB.
_KEPT_SIZE = 512


def voxel_positions(displacement: torch.Tensor) -> torch.Tensor:
    """Positions p + u(p) as (N, *S, d) in voxels, last axis i, j(, k): the reverse of the tensor axes."""
    dims = displacement.dim() - 2
    parts = []
    for axis in reversed(range(dims)):
        shape = [1] * (dims + 1)
        size = displacement.shape[2 + axis]
        shape[1 + axis] = size
        line = torch.arange(size, dtype=displacement.dtype, device=displacement.device)
        parts.append(displacement[:, axis] + line.reshape(shape))
    return torch.stack(parts, -1)


def sample(volume: torch.Tensor, positions: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Interpolate `volume` (N, C, *S) at `positions` (N, *P, d) in voxels, last axis i, j(, k).

    `mode` is "bilinear" (linear in any dimension) or "nearest". Positions outside take the border value.
    Returns (N, C, *P).
    """
    sizes = torch.tensor(volume.shape[:1:-1], dtype=positions.dtype, device=positions.device)
    # align_corners=False stays defined on axes with one voxel: (2 p + 1) / n - 1.
    normalised = torch.addcmul(1.0 / sizes - 1.0, positions, 2.0 / sizes)
    return F.grid_sample(volume, normalised, mode=mode, padding_mode="border", align_corners=False)


def warp(volume: torch.Tensor, displacement: torch.Tensor, margin: int = 0) -> torch.Tensor:
    """The spatial transformer: warped(p) = volume(p + u(p)), linear (Balakrishnan et al. 2019, eq. 3).

    volume (N, C, *S), displacement (N, d, *P) in voxels of the volume, its channel c along tensor axis c. margin: how
    many voxels the volume begins before the displacement's first one, along each axis. Returns (N, C, *P).
    """
    # As `sample`, its scaling done along with the sum.
    parts = []
    for axis in reversed(range(displacement.dim() - 2)):
        size = volume.shape[2 + axis]
        shape = [1] * (displacement.dim() - 1)
        shape[1 + axis] = -1
        line = torch.arange(displacement.shape[2 + axis], dtype=displacement.dtype, device=displacement.device)
        line = (2.0 * (line + margin) + 1.0) / size - 1.0
        parts.append(torch.add(line.reshape(shape), displacement[:, axis], alpha=2.0 / size))
    return F.grid_sample(volume, torch.stack(parts, -1), mode="bilinear", padding_mode="border", align_corners=False)


def warp_box(volume: torch.Tensor, displacement: torch.Tensor, first: tuple[int, ...]) -> torch.Tensor:
    """A box of `warp`, without gradients: volume (C, *S), displacement (d, *P) of voxels from `first` of S on.

    Returns (C, *P).
    """
    return _warp_box(volume, displacement, list(first))


def warped_part(volume: torch.Tensor, displacement: torch.Tensor, first: list[int]) -> torch.Tensor:
    """`warp_box` in TorchScript, for programs (see scripted.py)."""
    if volume.dim() == 4 and volume.device.type == "cpu" and volume.shape[1] > 1:
        return _warp_layers(volume, displacement, first)
    parts: list[torch.Tensor] = []
    for n in range(len(displacement)):
        axis = len(displacement) - 1 - n
        size = volume.shape[1 + axis]
        parts.append(torch.add(_centres(displacement, axis, first[axis], size), displacement[axis], alpha=2.0 / size))
    return _linear(volume[None], torch.stack(parts, -1)[None])[0]


def _linear(volume: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """grid_sample, linear, the border repeated, align_corners=False."""
    return torch.grid_sampler(volume, positions, 0, 1, False)


_warp_box = scripted(warped_part)


def doubled_part(volume: torch.Tensor, low: list[int], high: list[int]) -> torch.Tensor:
    """A box of volumes (C, *S), from `low` to before `high`, on a grid twice as fine, linear, the border repeated: two
    voxels a side for each. TorchScript, for programs (see scripted.py).
    """
    sizes = volume.shape[1:]
    begins = [max(begin - 1, 0) for begin in low]
    part = narrowed(volume, begins, [min(high[n] + 1, sizes[n]) for n in range(len(high))])
    for n in range(1, volume.dim()):
        axis = volume.dim() - n
        count = high[axis - 1] - low[axis - 1]
        part = _doubled(part, axis).narrow(axis, 2 * (low[axis - 1] - begins[axis - 1]), 2 * count)
    return part


def _doubled(volume: torch.Tensor, axis: int) -> torch.Tensor:
    sizes = list(volume.shape)
    out = torch.empty(sizes[: axis + 1] + [2] + sizes[axis + 1 :], device=volume.device)
    near, inner = volume * 0.75, sizes[axis] - 1
    for side in range(2):
        # The voxel before or behind; at the border the voxel itself.
        begin, end = side, 1 - side
        target = out.select(axis + 1, side)
        torch.add(
            near.narrow(axis, end, inner),
            volume.narrow(axis, begin, inner),
            alpha=0.25,
            out=target.narrow(axis, end, inner),
        )
        edge = begin * inner
        target.select(axis, edge).copy_(volume.select(axis, edge))
    return out.reshape(sizes[:axis] + [2 * sizes[axis]] + sizes[axis + 1 :])


def _centres(flow: torch.Tensor, axis: int, begin: int, size: int) -> torch.Tensor:
    """Where the voxels of (d, *P) lie along `axis` of a volume, from its voxel `begin` on, in units of grid_sample."""
    shape = [1] * (flow.dim() - 1)
    shape[axis] = -1
    line = torch.arange(flow.shape[1 + axis], dtype=flow.dtype, device=flow.device)
    return ((2.0 * (line + begin) + 1.0) / size - 1.0).reshape(shape)


def _warp_layers(volume: torch.Tensor, flow: torch.Tensor, first: list[int]) -> torch.Tensor:
    """`warp_box` of volumes: between two interpolations within layers, which PyTorch does with vector instructions,
    as it does not those of volumes. The layers lie below each other in one image.
    """
    count, depth, height, width = volume.shape
    between = (flow[0] + torch.arange(first[0], first[0] + flow.shape[1])[:, None, None]).clamp_(0, depth - 1)
    layer = between.floor().clamp_(max=depth - 2)
    least, most = torch.aminmax(layer)
    if bool(least.isnan()):
        # PyTorch reads at 0 where a position is NaN.
        between.nan_to_num_(0.0)
        least, most = torch.aminmax(layer.nan_to_num_(0.0))
    between.sub_(layer)
    low, high = int(least), int(most)
    image = volume[:, low : high + 2].reshape(1, count, -1, width)
    size = image.shape[2]
    positions = torch.empty([flow.shape[1], flow.shape[2], flow.shape[3], 2])
    across, down = positions.select(3, 0), positions.select(3, 1)
    torch.add(_centres(flow, 2, first[2], width), flow[2], alpha=2.0 / width, out=across)
    line = torch.add(_centres(flow, 1, first[1], size), flow[1], alpha=2.0 / size)
    # A layer ends where the next one begins.
    line.clamp_(1.0 / size - 1.0, (2.0 * height - 1.0) / size - 1.0)
    torch.add(line, layer.sub_(low), alpha=2.0 * height / size, out=down)
    positions = positions.view(1, -1, flow.shape[3], 2)
    lower = _linear(image, positions)
    down.add_(2.0 * height / size)
    upper = _linear(image, positions)
    shape = [count, flow.shape[1], flow.shape[2], flow.shape[3]]
    return lower.view(shape).lerp_(upper.view(shape), between)


def moved_rows(displacement: torch.Tensor, update: torch.Tensor, rows: slice) -> torch.Tensor:
    """Rows of p -> p + w + u(p + w), u and w being `displacement` (d, *S) and `update` (d, k, *S'), in voxels.

    Between a voxel and its neighbours towards which w points, u is linear there: as good as between the corners of
    the voxel's cell while |w| adds up to less than 1 over the axes, and without any look-up.
    """
    return _moved_rows(displacement, update, rows.start, rows.stop)


@scripted
def _moved_rows(displacement: torch.Tensor, update: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    out = displacement[:, start:stop] + update
    low, high = max(start - 1, 0), min(stop + 1, displacement.shape[1])
    for axis in range(len(update)):
        ahead, back = update[axis].clamp_min(0), update[axis].clamp_max(0)
        for n in range(len(out)):
            own, values = out[n], displacement[n]
            if axis == 0:
                step = values[low + 1 : high] - values[low : high - 1]
                begin, end = start - low, high - stop
                count = len(own) - 1 + end
                own[:count].addcmul_(ahead[:count], step[begin:])
                own[1 - begin :].addcmul_(back[1 - begin :], step[: len(own) - 1 + begin])
            else:
                values = values[start:stop]
                inner = values.shape[axis] - 1
                step = values.narrow(axis, 1, inner) - values.narrow(axis, 0, inner)
                own.narrow(axis, 0, inner).addcmul_(ahead.narrow(axis, 0, inner), step)
                own.narrow(axis, 1, inner).addcmul_(back.narrow(axis, 1, inner), step)
    return out


def compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Displacement of p -> first(second(p)): u2 + u1(p + u2), both (N, d, *S) in voxels."""
    return second + warp(first, second)


def integrate(velocity: torch.Tensor, steps: int) -> torch.Tensor:
    """Exponential of a stationary velocity by scaling and squaring (Arsigny et al. 2006; Dalca et al. 2019).

    velocity (N, d, *S) in voxels of its own grid; `steps` squarings after a division by 2**steps.
    Returns the displacement (N, d, *S) in the same unit.
    """
    displacement = velocity / float(2**steps)
    # A third of the time on a processor; it has no gradients.
    layered = len(velocity) == 1 and not velocity.requires_grad and velocity.dtype == torch.float32
    layered = layered and min(velocity.shape[2:]) > 1
    for _ in range(steps):
        if layered:
            displacement = displacement + warp_box(displacement[0], displacement[0], (0,) * (velocity.dim() - 2))
        else:
            displacement = compose(displacement, displacement)
    return displacement


def affine_positions(
    matrix: np.ndarray, shape: tuple[int, ...], rows: slice, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Source voxel positions of the slabs `rows` of an output grid.

    `matrix` (4, 4) maps output ijk to source ijk; `shape` is (K, J, I). Returns (k, J, I, 3), ordered ijk. dtype: of
    positions in space, float64: far from its origin, float32 is no better than millimetres.
    """
    k = np.arange(rows.start, rows.stop)[:, None] * matrix[:3, 2] + matrix[:3, 3]
    j = np.arange(shape[1])[:, None] * matrix[:3, 1]
    i = np.arange(shape[2])[:, None] * matrix[:3, 0]
    parts = [torch.from_numpy(part).to(dtype) for part in (k, j, i)]
    return parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None]


class AxisReader:
    """Linear interpolation on a grid whose axes run along those of the source, axis by axis.

    The same as `sample` at `affine_positions`, border repeated, in a third of the time; where the grid's voxels are
    some of the source's, they are only picked. volume (C, K', J', I'). inside: for each array axis of the grid, which
    of its planes lie within the source's voxels, as `inside` says. What is read may be a view of the volume.
    """

    def __init__(
        self, volume: torch.Tensor, order: list[int], lines: list[slice | torch.Tensor], inside: list[np.ndarray]
    ) -> None:
        """lines: for each axis as `_along` takes them."""
        self.inside = inside
        self._volume = volume.permute(0, *(1 + axis for axis in order))
        if any(not isinstance(line, slice) and line.dim() == 2 for line in lines):
            self._volume = self._volume.contiguous()
        self._lines = lines

    @staticmethod
    def of(
        volume: torch.Tensor,
        matrix: np.ndarray,
        shape: tuple[int, ...],
        sigmas: tuple[float, ...] = (0.0, 0.0, 0.0),
    ) -> AxisReader | None:
        """For output voxels ijk of `shape` (K, J, I), which `matrix` (4, 4) maps to source voxels ijk; None where it
        turns the axes by other than right angles. sigmas: of a Gaussian beforehand, in voxels of each source axis.
        """
        along = np.abs(matrix[:3, :3]).argmax(1)
        across = np.array(matrix[:3, :3], np.float64)
        across[np.arange(3), along] = 0.0
        # What float32 positions are good for in a large volume.
        if sorted(along) != [0, 1, 2] or (np.abs(across) @ (np.array(shape[::-1]) - 1.0)).max() > _ROUNDING:
            return None
        order: list[int] = []
        lines: list[slice | torch.Tensor] = []
        within = []
        for axis, size in enumerate(shape):
            source = int(np.flatnonzero(along == 2 - axis)[0])
            order.append(2 - source)
            positions = matrix[source, 2 - axis] * np.arange(size) + matrix[source, 3]
            count, sigma = volume.shape[1 + order[-1]], sigmas[order[-1]]
            whole = _whole_voxels(positions, count) if sigma <= 0 else None
            lines.append(_linear_band(positions, count, sigma).to(volume) if whole is None else whole)
            within.append((positions >= -_HALF_A_VOXEL) & (positions <= count - 1 + _HALF_A_VOXEL))
        return AxisReader(volume, order, lines, within)

    def __call__(self, rows: slice) -> torch.Tensor:
        """The slab `rows` of the output, (C, k, J, I)."""
        first, second, third = self._lines
        if isinstance(first, slice):
            begin, step = first.start, first.step
            first = slice(begin + step * rows.start, begin + step * (rows.stop - 1) + 1, step)
        else:
            first = first[rows]
        # Axis by axis, the one whose product is largest last.
        part = _along(self._volume, 1, first)
        return _along(_along(part, 2, second), 3, third)


def _along(part: torch.Tensor, axis: int, line: slice | torch.Tensor) -> torch.Tensor:
    """(C, k, J, I) read along an axis: voxels by a slice or their numbers (n,), or sums of them by a matrix (n, m)."""
    if isinstance(line, slice):
        return part[(slice(None),) * axis + (line,)]
    if line.dim() == 1:
        return part.index_select(axis, line)
    if axis == 3:
        return part @ line.T
    if axis == 2:
        return torch.matmul(line, part)
    used = torch.nonzero(line.any(0))[:, 0]
    low, high = int(used[0]), int(used[-1]) + 1
    part = part[:, low:high]
    count, _, height, width = part.shape
    return torch.matmul(line[:, low:high], part.reshape(count, high - low, -1)).reshape(count, -1, height, width)


def _whole_voxels(positions: np.ndarray, size: int) -> slice | torch.Tensor | None:
    """The voxels at positions along an axis of so many, the border repeated, where each is one of them."""
    voxels = np.rint(positions)
    if np.abs(positions - voxels).max() > _ROUNDING:
        return None
    numbers = voxels.clip(0, size - 1).astype(np.int64)
    step = 1 if len(numbers) == 1 else int(numbers[1] - numbers[0])
    if step > 0 and np.array_equal(numbers, voxels):
        return slice(int(numbers[0]), int(numbers[-1]) + 1, step)
    return torch.from_numpy(numbers)


def _linear_band(positions: np.ndarray, size: int, sigma: float) -> torch.Tensor:
    """(len(positions), size): the weights of linear interpolation at positions in voxels, after a Gaussian."""
    positions = np.clip(positions, 0.0, size - 1.0)
    low = np.minimum(positions.astype(np.intp), max(size - 2, 0))
    high = np.minimum(low + 1, size - 1)
    radius = gaussian_radius(size, sigma)
    smoothed = _smoothed_voxels if size <= _KEPT_SIZE else _smoothed_voxels.__wrapped__
    kernels = smoothed(size, sigma, radius) if radius else np.eye(size)
    part = (positions - low)[:, None]
    return torch.from_numpy(((1.0 - part) * kernels[low] + part * kernels[high]).astype(np.float32))


@lru_cache(16)
def _smoothed_voxels(size: int, sigma: float, radius: int) -> np.ndarray:
    return gaussian_band(size, sigma, radius).double().numpy()


def slabs(shape: tuple[int, ...], voxels: int | None = None) -> Iterator[slice]:
    """Slices along the first axis of (K, J, I), each of about `voxels` (SLAB_VOXELS when None) voxels."""
    step = max(1, (voxels or SLAB_VOXELS) // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def inside(positions: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """True where ijk `positions` (..., 3) lie within the voxels, edges included, of `shape` (K, J, I)."""
    size = torch.tensor(shape[::-1], dtype=positions.dtype, device=positions.device)
    lowest, highest = torch.full_like(size, -_HALF_A_VOXEL), size - 1 + _HALF_A_VOXEL
    lines = positions.reshape(-1, positions.shape[-2] * 3)
    if len(lines) and bool(
        (lines.amin(0).reshape(-1, 3) >= lowest).all() and (lines.amax(0).reshape(-1, 3) <= highest).all()
    ):
        # As nearly always: five times as fast.
        return torch.ones(positions.shape[:-1], dtype=torch.bool, device=positions.device)
    kept = positions.clamp(lowest, highest) == positions
    return kept[..., 0] & kept[..., 1] & kept[..., 2]
