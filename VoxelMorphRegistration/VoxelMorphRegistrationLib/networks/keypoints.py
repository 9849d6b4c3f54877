"""Points of an image that can be found again in another one: Foerstner's operator, spread over the image.

Written so that TorchScript takes it, too; all lengths are in voxels of the image given.
"""

from __future__ import annotations

import torch

# Points of the first rank are the most distinct ones of a cube of 2 * 8 + 1 voxels a side, of the next of 2 * 4 + 1,
# and so on down to 3.
LEVELS = 4
# Of the largest distinctiveness: below it is what rounding makes of an even part of the image.
LEAST_DISTINCT = 1e-6


def distinctiveness(image: torch.Tensor) -> torch.Tensor:
    """How well a place of (1, 1, *S), 2D or 3D, is told from its surroundings, (1, 1, *S), 0 where nothing is.

    1 / trace(A^-1) of the structure tensor A, smoothed products of the slopes: the inverse of the variance of a place
    found by least squares (Foerstner and Guelch, "A fast operator for detection and precise location of distinct
    points, corners and centres of circular features", ISPRS 1987). It is large only where the image changes along
    every direction.
    """
    smooth = blurred(image)
    slopes = [_slope(smooth, axis) for axis in range(2, image.dim())]
    if len(slopes) == 2:
        products = blurred(torch.cat([slopes[0] * slopes[0], slopes[0] * slopes[1], slopes[1] * slopes[1]], 1))
        a, b, c = products[:, 0:1], products[:, 1:2], products[:, 2:3]
        determinant, minors = a * c - b * b, a + c
    else:
        x, y, z = slopes[0], slopes[1], slopes[2]
        products = blurred(torch.cat([x * x, y * y, z * z, x * y, x * z, y * z], 1))
        xx, yy, zz = products[:, 0:1], products[:, 1:2], products[:, 2:3]
        xy, xz, yz = products[:, 3:4], products[:, 4:5], products[:, 5:6]
        minor_x, minor_y, minor_z = yy * zz - yz * yz, xx * zz - xz * xz, xx * yy - xy * xy
        determinant = xx * minor_x - xy * (xy * zz - xz * yz) + xz * (xy * yz - yy * xz)
        minors = minor_x + minor_y + minor_z
    # trace(A^-1) is the sum of the principal minors over the determinant.
    return determinant.clamp_min(0.0) / minors.clamp_min(1e-20)


def chosen_points(
    distinct: torch.Tensor,
    region: torch.Tensor | None,
    count: int,
    levels: int = LEVELS,
    least: float = LEAST_DISTINCT,
) -> torch.Tensor:
    """At most `count` voxels (P, d) of distinctiveness (1, 1, *S), int64, in the order of the tensor axes.

    region: (1, 1, *S), not 0 where points may lie; None: everywhere. First those that are the most distinct ones of a
    large neighbourhood, then of smaller ones, so that they cover the image and not its strongest edges alone (adaptive
    suppression of what is no maximum: Brown, Szeliski and Winder, CVPR 2005). The same image gives the same points.
    """
    if region is not None:
        distinct = torch.where(region > 0, distinct, torch.zeros_like(distinct))
    rank = torch.zeros_like(distinct)
    largest, step = distinct, 1
    for level in range(levels):
        # Of 1, 2, 4 and 8 voxels to each side.
        largest = _largest_near(largest, step)
        rank = rank + (distinct == largest).to(distinct.dtype)
        step = 1 if level == 0 else 2 * step
    greatest = distinct.max()
    allowed = (distinct > least * greatest) & (rank > 0)
    # Below 1 within a rank.
    order = (rank + 0.999 * distinct / greatest.clamp_min(1e-30)).flatten()
    candidates = torch.nonzero(allowed.flatten())[:, 0]
    found = torch.sort(order[candidates], stable=True, descending=True)[1]
    return unravelled(candidates[found[:count]], list(distinct.shape[2:]))


def unravelled(numbers: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Voxels (N, d) of a volume of `sizes` by their numbers (N,), int64."""
    parts: list[torch.Tensor] = []
    for size in sizes[::-1]:
        parts.insert(0, numbers % size)
        numbers = torch.div(numbers, size, rounding_mode="floor")
    return torch.stack(parts, 1)


def blurred(x: torch.Tensor) -> torch.Tensor:
    """(N, C, *S) after binomial weights 1, 4, 6, 4, 1 along each axis, a Gaussian of one voxel; the border repeated."""
    for axis in range(2, x.dim()):
        near, size = _repeated(x, axis, 2), x.shape[axis]
        total = 6.0 * near.narrow(axis, 2, size)
        total = total + 4.0 * (near.narrow(axis, 1, size) + near.narrow(axis, 3, size))
        x = (total + near.narrow(axis, 0, size) + near.narrow(axis, 4, size)) / 16.0
    return x


def _slope(x: torch.Tensor, axis: int) -> torch.Tensor:
    near, size = _repeated(x, axis, 1), x.shape[axis]
    return 0.5 * (near.narrow(axis, 2, size) - near.narrow(axis, 0, size))


def _repeated(x: torch.Tensor, axis: int, voxels: int) -> torch.Tensor:
    """x with the planes at both ends of an axis repeated."""
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
    return torch.cat([first] * voxels + [x] + [last] * voxels, axis)


def _largest_near(x: torch.Tensor, step: int) -> torch.Tensor:
    """The largest of each place and its neighbours `step` voxels away along the axes and diagonals.

    Of what is already the largest of so many voxels, it is that of as many more: much faster than pooling.
    """
    for axis in range(2, x.dim()):
        near, size = _repeated(x, axis, step), x.shape[axis]
        ends = torch.maximum(near.narrow(axis, 0, size), near.narrow(axis, 2 * step, size))
        x = torch.maximum(x, ends)
    return x
