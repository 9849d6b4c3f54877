"""Descriptors of structure that look alike in any contrast (MIND), and label maps as channels."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from ..images.boxes import box_sum, pooled
from ..images.slabs import each

# Of the descriptor: radius of the patches, distance of the neighbours, and the smallest noise, a contrast of 0.1 %.
PATCH_RADIUS, NEIGHBOUR_DISTANCE, SMALLEST_NOISE = 1, 1, 1e-6
# Of an image's noise: the part of it that is flat, how many times what is found there counts, and the slabs looked at.
FLAT_PART, NOISE_FACTOR, NOISE_SLABS = 0.1, 3.0, 12
# Patch distances up to this are rounding: the image is constant there.
CONSTANT = 1e-12
# Voxels along the first two axes that are described at a time: 16 to 48 were tried.
TILE = 24
# More labels than this share channels.
LABEL_CHANNELS = 16
# Of decorrelated descriptors: how much of its own and of each other channel goes into one, by how the edges of a cube
# that they belong to lie. Opposite edges say much the same, so that their difference counts, and what all share is
# mostly noise. Fitted to 120 synthesised pairs by Testing/Calibration/descriptor_likeness.py.
LIKENESS = {"same": 1.386, "opposite": -0.495, "parallel": -0.035, "meeting": -0.244, "skew": 0.117}
# A face of a cube: its axis, and on which side it is. An edge lies between two faces.
Face = tuple[int, int]
Edge = tuple[Face, Face]


def descriptor_noise(*volumes: torch.Tensor) -> float:
    """The smallest V for descriptors of volumes that are to be compared: that of the noisiest one's flat parts.

    Else noise in front of an empty background, or in even tissue, counts as structure that the other image lacks.
    """
    found = SMALLEST_NOISE
    halo = PATCH_RADIUS + NEIGHBOUR_DISTANCE
    for volume in volumes:
        rows = volume.shape[0]
        middles = range(rows // (2 * NOISE_SLABS), rows, max(1, rows // NOISE_SLABS))
        flat = [_distances(volume[max(n - halo, 0) : n + halo + 1])[:, min(n, halo)].mean(0) for n in middles]
        values = torch.stack(flat).flatten()
        # What is exactly constant was cut out or lies beyond the image: no part of the image, and without its noise.
        values = values[values > CONSTANT]
        if len(values):
            found = max(found, NOISE_FACTOR * float(values.kthvalue(1 + int(FLAT_PART * (len(values) - 1))).values))
    return found


def edges_of_cube(dims: int) -> list[Edge]:
    """The edges between neighbours of a voxel on different axes, one for each channel of mind_ssc, in their order."""
    sides = [(axis, sign) for axis in range(dims) for sign in (-1, 1)]
    return [(p, q) for n, p in enumerate(sides) for q in sides[n + 1 :] if p[0] != q[0]]


def lying(edge: Edge, other: Edge) -> str:
    """How two edges of a cube lie to each other: a key of LIKENESS."""
    shared = len(set(edge) & set(other))
    if {axis for axis, _ in edge} == {axis for axis, _ in other}:
        return ("opposite", "parallel", "same")[shared]
    return ("skew", "meeting")[shared]


def _likeness() -> torch.Tensor:
    edges = edges_of_cube(3)
    return torch.tensor([[LIKENESS[lying(edge, other)] for other in edges] for edge in edges])


def mind_ssc(
    volume: torch.Tensor, pool: int = 1, noise: float = SMALLEST_NOISE, decorrelated: bool = False
) -> torch.Tensor:
    """Self-similarity descriptors (C, *S / pool) of a volume (*S): C is 12, or 4 in 2D. Every axis must divide.

    Heinrich et al., MICCAI 2013: exp(-D / V) of the squared patch distances D between neighbours on different axes,
    less the smallest of them, V their mean, at least `noise`. They see structure, whatever its contrast. Averaged over
    `pool` voxels a side, they keep what fine structure has to say on a coarser grid. A tile of the first two axes at a
    time, which stays in the processor's cache: 38 % less time than a slab of as many rows.

    decorrelated: mixed by LIKENESS, so that a difference counts by how much it says; nothing in 2D.
    """
    halo = PATCH_RADIUS + NEIGHBOUR_DISTANCE
    step = pool * max(1, TILE // pool)
    dims = volume.dim()
    channels = 2 * dims * (dims - 1)
    out = torch.empty((channels, *(-(-size // pool) for size in volume.shape)), device=volume.device)
    mixed = _likeness().to(volume.device) if decorrelated and dims == 3 else None

    def describe(starts: tuple[int, ...]) -> None:
        wide, inner, target = [], [slice(None)], [slice(None)]
        for start, size in zip(starts, volume.shape, strict=False):
            stop = min(start + step, size)
            wide.append(slice(max(start - halo, 0), min(stop + halo, size)))
            inner.append(slice(start - wide[-1].start, stop - wide[-1].start))
            target.append(slice(start // pool, -(-stop // pool)))
        part = _distances(volume[tuple(wide)])[tuple(inner)]
        part = part.div_(part.mean(0).clamp_min_(noise)).neg_().exp_()
        part = pooled(part, pool)
        out[tuple(target)] = part if mixed is None else (mixed @ part.flatten(1)).reshape(part.shape)

    rows, columns = volume.shape[:2]
    if volume.device.type == "cpu":
        each(describe, itertools.product(range(0, rows, step), range(0, columns, step)))
    else:
        # It has no use for small tiles, nor for threads that hand them over.
        for start in range(0, rows, step):
            describe((start,))
    return out


def _distances(volume: torch.Tensor) -> torch.Tensor:
    """D of mind_ssc (C, *S)."""
    dims = volume.dim()
    distance = NEIGHBOUR_DISTANCE
    padded = F.pad(volume[None, None], (distance,) * (2 * dims), mode="replicate")[0, 0]

    def neighbour(axis: int, sign: int) -> torch.Tensor:
        view = padded
        for n in range(dims):
            view = view.narrow(n, distance * (1 + (sign if n == axis else 0)), volume.shape[n])
        return view

    found = torch.stack([(neighbour(*p) - neighbour(*q)).square_() for p, q in edges_of_cube(dims)])
    found = box_sum(found, PATCH_RADIUS).mul_(1.0 / (2 * PATCH_RADIUS + 1) ** dims)
    return found.sub_(found.amin(0))


def label_channels(labels: torch.Tensor, values: list[int]) -> torch.Tensor:
    """(C, *S): a channel for each of `values`, or, of many, a code word of unit length for each."""
    codes = torch.eye(len(values))
    if len(values) > LABEL_CHANNELS:
        codes = torch.randn(len(values), LABEL_CHANNELS, generator=torch.Generator().manual_seed(0))
        codes /= codes.norm(dim=1, keepdim=True)
    out = torch.zeros((codes.shape[1], *labels.shape))
    for value, code in zip(values, codes, strict=True):
        out += (labels == value) * code.reshape(-1, *[1] * labels.dim())
    return out
