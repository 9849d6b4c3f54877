"""Whether edges meet edges of the same direction: the check of an alignment that took no part in finding it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..images.image import Image
from .motion import about, rotation_matrices
from .samples import Source

if TYPE_CHECKING:
    from .pair import Pair


# The check by edges: points and displaced copies (parts of the field of view, degrees), and by how many standard
# deviations of the copies' agreement a map must exceed their mean. Measured: wrong maps reach 4.7 (rigid or scaled, of
# prostate MR and ultrasound, head and abdomen; turned by more than 45 degrees 7.1, see align.TURNED_EVIDENCE), right
# ones exceed 7.9 (other contrast, other person, half the field of view, skull against none).
EDGE_POINTS, EDGE_COPIES = 8_000, 60
COPY_SHIFTS, COPY_DEGREES = (0.2, 0.4), (20.0, 50.0)
# Points known in both images, below which nothing can be said.
FEWEST_KNOWN = 100


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges of both reduced images, to check a map by something else than what found it.

    An edge is the gradient over its length, a noise level added in squares (normalised gradient fields, Haber and
    Modersitzki 2006): its direction where there is an edge, near 0 elsewhere; its sign does not count.
    points: (N, 3) in the frame. fixed: (N, 3), edges there. moving: the components of the moving edges, as channels.
    extent: mm of the fixed field of view along the frame's axes. dimension: 2 or 3.
    """

    points: np.ndarray
    fixed: np.ndarray
    moving: Source
    extent: np.ndarray
    dimension: int
    seed: int

    @staticmethod
    def of(pair: Pair, seed: int) -> Edges:
        fixed, moving = _edge_field(pair.fixed), _edge_field(pair.moving)
        chosen = np.flatnonzero(np.isfinite(fixed[..., 0]) & pair.mask)
        if len(chosen) > EDGE_POINTS:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, EDGE_POINTS, replace=False))
        kji = np.stack(np.unravel_index(chosen, pair.mask.shape), -1)
        return Edges(
            pair.fixed.grid.to_ras(kji[:, ::-1]),
            fixed[tuple(kji.T)],
            Source.of_channels(moving, pair.moving.grid),
            np.ptp(pair.fixed.grid.corners(), axis=0),
            pair.dimension,
            seed,
        )

    def agreement(self, found: np.ndarray) -> tuple[float, float]:
        """How well edges meet under a map (4, 4), each 0 to 1: over all points, where an edge that meets none counts
        against the map, and over the points where both images have one. 0 with too few points in both."""
        everywhere, both = self._agreements(found[None])[0].tolist()
        return everywhere, both

    def _agreements(self, maps: np.ndarray) -> np.ndarray:
        """`agreement` of maps (B, 4, 4): (B, 2)."""
        import torch

        moving = self.moving.channels_at(self.points, maps)
        known = moving.isfinite().all(0)
        # A gradient is carried back by the transpose.
        linear = torch.from_numpy(maps[:, :3, :3].astype(np.float32))
        carried = torch.bmm(moving.nan_to_num_(0.0).permute(1, 2, 0), linear)
        fixed = torch.from_numpy(self.fixed)
        product = (carried * fixed).sum(-1).square_().sum(1)
        own, other = fixed.square().sum(-1) * known, carried.square_().sum(-1)
        all_points = product / (own.square().sum(1) * other.square().sum(1)).sqrt_().clamp_min_(1e-9)
        where_both = product / (own * other).sum(1).clamp_min_(1e-9)
        found = torch.stack([all_points, where_both], 1)
        return found.masked_fill_((known.sum(1) < FEWEST_KNOWN)[:, None], 0.0).double().numpy()

    def evidence(self, found: np.ndarray) -> float:
        """By how many standard deviations a map agrees better than displaced copies of it, the larger of the two."""
        copies = [found @ motion for motion in self._displacements()]
        here, *others = self._agreements(np.stack([found, *copies]))
        spread = np.std(others, 0)
        return float(((here - np.mean(others, 0)) / np.maximum(spread, 1e-6)).max())

    def _displacements(self) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        center = self.points.mean(0)
        plane = self.dimension == 2
        motions = []
        for _ in range(EDGE_COPIES):
            axis, way = rng.normal(size=(2, 3))
            if plane:
                axis[:2], way[2] = 0.0, 0.0
            turn = math.radians(rng.uniform(*COPY_DEGREES)) * axis / np.linalg.norm(axis)
            shift = rng.uniform(*COPY_SHIFTS) * self.extent * way / np.linalg.norm(way)
            motions.append(about(rotation_matrices(turn), center, center + shift))
        return motions


def _edge_field(image: Image) -> np.ndarray:
    """Edges (K, J, I, 3) of a reduced image in the frame, float32; NaN where a neighbour is unknown."""
    import torch

    from ..images import sampling

    grid = image.grid
    known = np.isfinite(image.array)
    filled = np.where(known, image.array, np.nanmedian(image.array)).astype(np.float32)
    sigma = tuple(0.7 if n > 1 else 0.0 for n in grid.shape)
    smooth = sampling.gaussian_smooth(torch.from_numpy(filled)[None, None], sigma)[0, 0].numpy()
    gradient = np.zeros((*grid.shape, 3), np.float32)
    for axis in range(3):
        if grid.shape[axis] > 1:
            gradient[..., 2 - axis] = np.gradient(smooth, axis=axis) / grid.spacing[2 - axis]
            before, after = known.copy(), np.moveaxis(known.copy(), axis, 0)
            after[1:] &= np.moveaxis(before, axis, 0)[:-1]
            after[:-1] &= np.moveaxis(before, axis, 0)[1:]
            known = np.moveaxis(after, 0, axis)
    gradient = gradient @ grid.directions.T.astype(np.float32)
    squared = (gradient**2).sum(-1, keepdims=True)
    noise = float(np.sqrt(squared[known]).mean()) if known.any() else 0.0
    edges = gradient / np.sqrt(squared + max(noise, 1e-6) ** 2)
    edges[~known] = np.nan
    return edges
