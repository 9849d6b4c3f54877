"""Images and label maps carried through a chain, by one interpolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import InputError
from ..fields.warp import labels_at
from ..images.grid import Grid, bounding_box, working_grid
from .chain import Chain
from .frames import Frames

INTERPOLATIONS = ("nearest", "linear", "cubic", "labels")
# Frames of no more voxels are carried together, so that where they go is computed once.
_TOGETHER_VOXELS = 100_000_000
# Of one slab: positions that fit the caches (two thirds of the time of four million, measured), values that fit memory.
_SLAB_VOXELS, _SLAB_VALUES = 500_000, 8_000_000


def carried(
    frames: Frames,
    chain: Chain,
    reference: Grid,
    interpolation: str = "linear",
    background: float | None = None,
) -> Frames:
    """Every frame on `reference`: out(x) = in(T(x)), in the frames' own type, whole numbers rounded.

    interpolation: nearest, linear, cubic (convolution, Keys 1981) or labels (the one of the largest linear weight).
    background: outside the input (its smallest value when None, 0 for labels).
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"There is no interpolation '{interpolation}': use one of {', '.join(INTERPOLATIONS)}.")
    values = frames.values
    if background is None:
        background = 0.0 if interpolation == "labels" else smallest(values)
    kind = values.dtype
    if kind.kind in "iu" and not np.iinfo(kind).min <= background <= np.iinfo(kind).max:
        raise InputError(f"The background {background:g} does not fit the image's type {kind}. Give another one.")
    out = np.empty((len(values), *reference.shape), kind)
    group = max(1, _TOGETHER_VOXELS // frames.grid.voxel_count)
    for start in range(0, len(values), group):
        some = slice(start, start + group)
        _carry(values[some], out[some], frames.grid, chain, reference, interpolation, background)
    return frames.on(out, reference)


def smallest(values: np.ndarray) -> float:
    """The smallest value that is finite, 0 where there is none; an int of whole numbers, which may have 64 bits."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return finite.min().item() if finite.size else 0.0


def _carry(
    values: np.ndarray,
    out: np.ndarray,
    grid: Grid,
    chain: Chain,
    reference: Grid,
    interpolation: str,
    background: float,
) -> None:
    """Fill out (F, K, J, I) from values (F, K', J', I') on `grid`."""
    from ..images import sampling

    read = _reader(values, grid, interpolation)
    slab = max(1, min(_SLAB_VOXELS, _SLAB_VALUES // len(values)))
    for rows, voxels in chain.voxels(reference, grid, slab):
        inside = sampling.inside(voxels, grid.shape)
        found = read(voxels.reshape(-1, 3)).reshape(len(values), *inside.shape)
        if out.dtype.kind in "iu" and found.dtype.kind == "f":
            _fit(np.rint(found), out[:, rows])
        else:
            out[:, rows] = found
        if not bool(inside.all()):
            np.copyto(out[:, rows], out.dtype.type(background), where=~inside.numpy())


def _fit(values: np.ndarray, out: np.ndarray) -> None:
    """Set `out`, of whole numbers, to the nearest ones of its type: those beyond its ends would come out at the other
    end. A cubic curve overshoots.
    """
    limits = np.iinfo(out.dtype)
    high = values.dtype.type(limits.max)
    # The end of 64 bits is no floating-point number: the next one lies beyond it.
    most = high if int(high) <= limits.max else np.nextafter(high, values.dtype.type(0))
    np.copyto(out, np.clip(values, limits.min, most), casting="unsafe")
    np.copyto(out, limits.max, where=values >= high)


def _reader(values: np.ndarray, grid: Grid, interpolation: str) -> Callable:
    """A function from positions (P, 3) in voxels, float32, to values (F, P)."""
    import torch

    from ..images import sampling
    from . import cubic

    if interpolation in ("nearest", "labels"):
        mode = "linear" if interpolation == "labels" else "nearest"
        volumes = [np.ascontiguousarray(frame) for frame in values]
        if len(volumes) == 1:
            return lambda voxels: labels_at(volumes[0], voxels, mode)[None]
        return lambda voxels: np.stack([labels_at(volume, voxels, mode) for volume in volumes])
    # Whole numbers of 32 bits and more are not exact in single precision.
    single = values.dtype.itemsize < 4 or values.dtype == np.float32
    volume = torch.from_numpy(np.ascontiguousarray(values, np.float32 if single else np.float64))
    last = torch.from_numpy(grid.size - 1.0).to(volume)

    def read(voxels):
        voxels = voxels.to(volume)
        if interpolation == "cubic":
            return cubic.sample(volume, torch.minimum(voxels.clamp_min(0.0), last), cubic.convolution_weights).numpy()
        return sampling.sample(volume[None], voxels[None, None, None])[0, :, 0, 0].numpy()

    return read


def spaced(grid: Grid, spacing: list[float]) -> Grid:
    """`grid` with other voxels over the same extent; spacing: one for all axes, or one each, in mm."""
    if len(spacing) not in (1, 3):
        raise InputError(f"Give one spacing for all axes or three, not {len(spacing)}.")
    return working_grid(grid, spacing[0] if len(spacing) == 1 else (spacing[0], spacing[1], spacing[2]))


def cropped(frames: Frames, background: float) -> Frames:
    """The smallest box that holds everything but the background; the frames as they are where there is nothing else."""
    content = (frames.values != background).any(0)
    if not content.any():
        return frames
    box = bounding_box(content)
    grid = frames.grid.cropped([part.start for part in box][::-1], [part.stop - part.start for part in box][::-1])
    within = (slice(None), *box)
    return frames.on(np.ascontiguousarray(frames.values[within]), grid)
