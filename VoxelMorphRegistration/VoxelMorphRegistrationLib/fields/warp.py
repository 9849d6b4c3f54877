"""Images and label maps carried through a transform, by one interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..images.grid import Grid
from ..images.image import Image
from .positions import positions_at

if TYPE_CHECKING:
    import torch

    from .displacement import DisplacementField

# Of a slab: its positions and what is made of them stay few, and all cores have some.
SLAB_VOXELS = 250_000


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

    from ..images import sampling
    from ..images.slabs import each

    if interpolation not in ("linear", "nearest"):
        raise InputError(f"There is no interpolation '{interpolation}': use linear or nearest.")
    if background is None:
        background = float(image.array.min())
    volume = image.tensor()[None, None]
    mode = "bilinear" if interpolation == "linear" else "nearest"
    out = np.empty(reference.shape, np.float32)
    at = positions_at(reference, field, matrix, image.grid)

    def warp(rows: slice) -> None:
        positions = at(rows)
        values = sampling.sample(volume, positions[None], mode)[0, 0]
        values[~sampling.inside(positions, image.grid.shape)] = background
        out[rows] = values.numpy()

    each(warp, sampling.slabs(reference.shape, SLAB_VOXELS))
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
    from ..images import sampling
    from ..images.slabs import each

    source = np.ascontiguousarray(labels.array)
    out = np.zeros(reference.shape, source.dtype)
    at = positions_at(reference, field, matrix, labels.grid)

    def warp(rows: slice) -> None:
        positions = at(rows)
        inside = sampling.inside(positions, source.shape).numpy()
        result = labels_at(source, positions.reshape(-1, 3), mode).reshape(inside.shape)
        result[~inside] = 0
        out[rows] = result

    each(warp, sampling.slabs(reference.shape, SLAB_VOXELS))
    return Image(out, reference, labels.name)


def labels_at(labels: np.ndarray, voxels: torch.Tensor, mode: str = "linear") -> np.ndarray:
    """(P,): the labels of a map (K, J, I) at positions (P, 3) in its voxels, i, j, k; mode: as in warp_labels."""
    if mode not in ("linear", "nearest"):
        raise InputError(f"There is no label interpolation '{mode}': use linear or nearest.")
    import torch

    size = np.array(labels.shape[::-1])
    strides = np.array([1, size[0], size[0] * size[1]])
    flat = labels.ravel()
    points = voxels.clamp(torch.zeros(3), torch.from_numpy(size - 1.0).float())
    near = flat[(points.round().long() @ torch.from_numpy(strides)).numpy()]
    if mode == "linear":
        _vote(near, points.numpy(), flat, size, strides)
    return near


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
