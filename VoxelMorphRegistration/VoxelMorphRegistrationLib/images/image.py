"""Images: values on a grid, and how one image is brought onto the grid of another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    import torch

    from .grid import Grid


@dataclass(frozen=True, eq=False)
class Image:
    """Voxel values on a grid. array: (K, J, I) numeric; name: what messages call it.

    told: what was doubtful when it was read, in sentences that are passed on as warnings. complete: known to have data
    in every voxel (see images.nodata), so that they are not looked for again.
    """

    array: np.ndarray = field(repr=False)
    grid: Grid
    name: str = "image"
    told: tuple[str, ...] = ()
    complete: bool = False

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise InputError(
                f"The {self.name} has an array of {self.array.shape} voxels but a grid of {self.grid.shape}."
            )
        if not self.array.dtype.isnative:
            # As nibabel gives the voxels of some files; neither PyTorch nor the writers look at the order of bytes.
            object.__setattr__(self, "array", self.array.astype(self.array.dtype.newbyteorder("=")))

    def tensor(self) -> torch.Tensor:
        """The voxels (K, J, I), float32; in the same memory where they are that already and may be written."""
        import torch

        return torch.from_numpy(np.require(self.array, np.float32, ("C", "W")))

    def with_array(self, array: np.ndarray, name: str | None = None) -> Image:
        """Other values on the same grid."""
        return Image(array, self.grid, self.name if name is None else name, self.told)

    def with_told(self, told: Iterable[str]) -> Image:
        """The same image with more that is to be told of it."""
        return replace(self, told=(*self.told, *told))

    def renamed(self, name: str) -> Image:
        return replace(self, name=name)


def resample(
    image: Image,
    grid: Grid,
    matrix_ras: np.ndarray | None = None,
    background: float = 0.0,
    smooth: bool = False,
) -> Image:
    """`image` on another grid, by one linear interpolation from its original voxels.

    matrix_ras: (4, 4) from positions of `grid` to positions in `image` (identity when None).
    background: value outside the image. smooth: suppress detail finer than `grid` can hold before sampling.
    Returns float32.
    """
    import torch

    from . import sampling
    from .slabs import each

    matrix = np.eye(4) if matrix_ras is None else np.asarray(matrix_ras, dtype=np.float64)
    to_source = image.grid.ras_to_ijk @ matrix @ grid.ijk_to_ras
    if _same_lattice(to_source):
        return Image(
            lattice_copy(image.array, np.rint(to_source).astype(int), grid.shape, background), grid, image.name
        )
    sigmas = _smoothing(to_source) if smooth else (0.0, 0.0, 0.0)
    image = _near(image, grid, to_source, sigmas)
    to_source = image.grid.ras_to_ijk @ matrix @ grid.ijk_to_ras
    source = image.tensor()
    out = np.empty(grid.shape, dtype=np.float32)
    straight = None
    # A sum with a weight of zero still sees what is not finite.
    if all(value.isfinite() for value in torch.aminmax(source)):
        straight = sampling.AxisReader.of(source[None], to_source, grid.shape, sigmas)
    if straight is not None:
        read = straight

        def copy(rows: slice) -> None:
            out[rows] = read(rows)[0].numpy()

        each(copy, sampling.slabs(grid.shape))
        for axis, line in enumerate(straight.inside):
            out[(slice(None),) * axis + (~line,)] = background
        return Image(out, grid, image.name)
    source = (sampling.gaussian_smooth(source[None, None], sigmas) if smooth else source[None, None]).contiguous()

    def sample(rows: slice) -> None:
        positions = sampling.affine_positions(to_source, grid.shape, rows)
        values = sampling.sample(source, positions[None])[0, 0]
        values[~sampling.inside(positions, image.grid.shape)] = background
        out[rows] = values.numpy()

    each(sample, sampling.slabs(grid.shape))
    return Image(out, grid, image.name)


def _near(image: Image, grid: Grid, to_source: np.ndarray, sigmas: tuple[float, ...]) -> Image:
    """The part of the image that `resample` looks at, where that is less than half of it: a plane of a large image
    needs no copy of all its voxels.
    """
    corners = np.array(list(itertools.product(*((0, n - 1) for n in grid.size), (1,)))) @ to_source[:3].T
    margin = 2 + np.ceil(3 * np.array(sigmas[::-1])).astype(int)
    low = np.maximum(np.floor(corners.min(0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + margin + 1, image.grid.size)
    if np.any(low >= high) or 2 * np.prod(high - low) > image.array.size:
        return image
    part = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    return Image(image.array[part], image.grid.cropped(low, high - low), image.name)


def smoothed(image: Image, to_source: np.ndarray) -> Image:
    """`image` without the detail that a coarser grid cannot hold, float32.

    to_source: (4, 4), voxels of that grid to voxels of the image. The Gaussian has sigma = 0.5 sqrt(ratio^2 - 1)
    voxels along each axis, ratio being how far a step of the grid moves there.
    """

    from . import sampling

    volume = image.tensor()[None, None]
    return image.with_array(sampling.gaussian_smooth(volume, _smoothing(to_source))[0, 0].numpy())


def _smoothing(to_source: np.ndarray) -> tuple[float, ...]:
    """The Gaussian of `smoothed`: sigmas in voxels of the image, along its array axes."""
    ratio = np.abs(to_source[:3, :3]).max(axis=1)
    return tuple(0.5 * np.sqrt(np.maximum(ratio**2 - 1.0, 0.0))[::-1])


def _same_lattice(to_source: np.ndarray) -> bool:
    """Whether every output voxel centre is a source voxel centre (or its continuation outside)."""
    whole = np.rint(to_source)
    return bool(np.abs(to_source - whole).max() < 1e-4 and (np.abs(whole[:3, :3]).sum(0) == 1).all())


def lattice_copy(
    array: np.ndarray,
    to_source: np.ndarray,
    shape: tuple[int, ...],
    background: float,
    dtype: np.dtype | type = np.float32,
) -> np.ndarray:
    """`array` with its axes permuted and flipped, cropped and padded, by an integer map of output to source ijk."""
    source_axis = np.abs(to_source[:3, :3]).argmax(0)
    out = np.full(shape, background, dtype)
    order, read, write = [], [], []
    for array_axis in range(3):
        voxel_axis = 2 - array_axis
        old = int(source_axis[voxel_axis])
        step, start = int(to_source[old, voxel_axis]), int(to_source[old, 3])
        count = array.shape[2 - old]
        positions = start + step * np.arange(shape[array_axis])
        valid = np.flatnonzero((positions >= 0) & (positions < count))
        order.append(2 - old)
        read.append(positions[valid])
        write.append(slice(int(valid[0]), int(valid[-1]) + 1) if valid.size else slice(0, 0))
    if all(positions.size for positions in read):
        out[tuple(write)] = array.transpose(order)[tuple(_as_slice(positions) for positions in read)]
    return out


def _as_slice(positions: np.ndarray) -> slice:
    first, last = int(positions[0]), int(positions[-1])
    if first <= last:
        return slice(first, last + 1)
    return slice(first, last - 1 if last > 0 else None, -1)
