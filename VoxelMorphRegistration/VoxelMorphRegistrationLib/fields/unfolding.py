"""Folds smoothed away where they are, and nothing else changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .displacement import DisplacementField
from .folding import folded_voxels

if TYPE_CHECKING:
    import torch

    from ..images.slabs import Box

# Deviation in voxels of the smoothing, and how often it is done at most.
SIGMA, ROUNDS = 2.0, 20
# Folds within a cube of so many voxels a side are smoothed together.
CUBE = 24


def unfolded(flow: torch.Tensor, folded: np.ndarray | None = None) -> torch.Tensor:
    """`flow` (1, d, *S), in its own voxels, with its folds by the any-corner count, if any, smoothed away.

    folded: where they are, as `folded_voxels` gives it, when that is known.
    """
    from ..images.slabs import grown
    from ..images.smoothing import gaussian_radius

    shape = tuple(flow.shape[2:])
    reach = gaussian_radius(max(shape), SIGMA)
    folded = folded_voxels(flow[0]) if folded is None else folded
    if folded.any():
        flow = flow.clone()
    for _ in range(ROUNDS):
        if not folded.any():
            break
        folded = folded.reshape(shape)
        boxes = _around(folded, reach)
        _smooth_at(flow, folded, boxes, reach)
        # Elsewhere it is as it was: only what changed and its neighbours are looked at again.
        folded = folded_voxels(flow[0], [grown(box, 1, shape, range(len(shape)))[0] for box in boxes])
    return flow


def _smooth_at(flow: torch.Tensor, folded: np.ndarray, boxes: list[Box], reach: int) -> None:
    """Smooth `flow` at and around folds (*S), which lie `reach` voxels within the boxes."""
    import torch

    from ..images import sampling
    from ..images.slabs import each, grown

    dims = folded.ndim
    sigma = (SIGMA,) * dims

    def place(box: Box) -> tuple:
        return (slice(None), slice(None), *box)

    def smoothed(box: Box) -> torch.Tensor:
        wide, inner = grown(box, reach, folded.shape, range(dims))
        spot = torch.from_numpy(folded[wide].astype(np.float32))[None, None].to(flow.device)
        near = (sampling.gaussian_smooth(spot, sigma) * 20).clamp_max(1.0)
        part = flow[place(wide)]
        return torch.lerp(part, sampling.gaussian_smooth(part, sigma), near)[place(inner)]

    # Where boxes overlap they agree but for rounding: the last one counts, whatever the number of threads.
    for box, mixed in zip(boxes, each(smoothed, boxes), strict=True):
        flow[place(box)] = mixed


def _around(folded: np.ndarray, reach: int) -> list[Box]:
    """Boxes of all that lies within `reach` voxels of folds (*S): around those of each cube that has some, or around
    all of them where that is less.
    """
    places = np.argwhere(folded)
    _, cubes = np.unique(places // CUBE, axis=0, return_inverse=True)
    order = np.argsort(cubes.ravel(), kind="stable")
    parts = np.split(places[order], np.flatnonzero(np.diff(cubes.ravel()[order])) + 1)

    def box(part: np.ndarray) -> Box:
        low, high = np.maximum(part.min(0) - reach, 0), np.minimum(part.max(0) + reach + 1, folded.shape)
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))

    boxes, whole = [box(part) for part in parts], box(places)
    sizes = [np.prod([side.stop - side.start + 2 * reach for side in one]) for one in (*boxes, whole)]
    return boxes if sum(sizes[:-1]) < sizes[-1] else [whole]


def without_folds(field: DisplacementField) -> tuple[DisplacementField, int]:
    """The field `unfolded` on its own grid, and how many of its voxels folded. A field without folds is as it was."""
    import torch

    flow = torch.from_numpy(field.to_voxels(in_plane=True))[None]
    folded = folded_voxels(flow[0])
    count = int(np.count_nonzero(folded))
    if not count:
        return field, 0
    return DisplacementField.from_voxels(unfolded(flow, folded)[0].numpy(), field.grid), count
