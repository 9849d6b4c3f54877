"""Textured pairs with a known displacement between them, as small as the windows of a similarity allow."""

from functools import cache

import numpy as np

from grids import make_grid
from VoxelMorphRegistrationLib.images.grid import working_grid
from VoxelMorphRegistrationLib.images.image import Image, resample
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings

# Of the body, and within which errors are looked at: windows and smoothing see nothing of its edge there. mm.
RADIUS, INNER = 16.0, 11.0


def brightness(points, seed=0, radius=RADIUS, axes=3, slowest=0.35):
    """A body of 19 mm with smooth structure of about 6 mm, dark outside, at RAS positions (..., 3).

    axes: along which there is structure. slowest: of its waves, radians a mm.
    """
    rng = np.random.default_rng(seed)
    value = np.zeros(points.shape[:-1])
    for _ in range(12):
        direction = rng.normal(size=axes)
        direction *= rng.uniform(slowest, 0.8) / np.linalg.norm(direction)
        value += np.cos(points[..., :axes] @ direction + rng.uniform(0, 6))
    return (value + 8) * 50 / (1 + np.exp(np.linalg.norm(points, axis=-1) - radius))


def textured(grid, seed=0, center=(0, 0, 0)):
    """The body, defined in space, whatever the grid."""
    return Image(brightness(grid.positions() - np.asarray(center), seed).astype(np.float32), grid, "body")


def displacement(ras):
    """A smooth displacement of up to 5 mm within the body, det J from about 0.5 to 1.6."""
    x, y, z = np.moveaxis(np.asarray(ras), -1, 0)
    return np.stack([3.0 * np.sin(y / 9), 2.5 * np.cos(z / 8) - 1, 2.5 * np.sin(x / 8 + 0.5)], -1)


def deformed(grid, u=displacement):
    """fixed(x) = moving(x + u(x)) of the `textured` moving image, exactly."""
    points = grid.positions()
    return Image(brightness(points + u(points)).astype(np.float32), grid, "fixed")


def inner(grid):
    """(N, 3): RAS positions of the voxels within the body."""
    points = grid.positions()
    return points[np.linalg.norm(points, axis=-1) < INNER]


def refined(fixed, moving, preset="default", **settings):
    return register(
        fixed,
        moving,
        settings=Settings(model="none", refinement=preset, alignment="none", device="cpu", **settings),
    )


def other_contrast(image):
    """Brightness goes up and down over the tissues of `image`, and there is noise."""
    value = np.clip(image.array / 700, 0, 1)
    body = 1 / (1 + np.exp(-(value - 0.12) * 40))
    noise = np.random.default_rng(0).normal(0, 30, value.shape)
    return image.with_array((1000 * body * (0.5 + 0.4 * np.sin(9 * value)) + noise).astype(np.float32))


GRIDS = [
    (make_grid((40, 40, 40)), make_grid((44, 44, 44))),
    (make_grid((42, 36, 26), (1, 1.2, 1.6), (10, 25, -15), left_handed=True), make_grid((46, 46, 30), (1, 1, 1.5))),
]


@cache
def known(number=0):
    """The known pair on `GRIDS[number]`, made once; nobody may change its arrays."""
    fixed, moving = GRIDS[number]
    return deformed(fixed), textured(moving)


@cache
def found(preset="default", number=0, **settings):
    """The refinement of `known(number)`, run once for all tests that only look at it."""
    return refined(*known(number), preset, **settings)


def noisy_bodies(size, motion, body, noise, seed, finer=1.0):
    """Two bodies in voxels of 1 mm (i, j, k) with a known motion between them and noise of their own.

    motion, body: displacements and brightness at positions (..., 3) from the middle. noise: its deviation. finer:
    voxels of this part of a millimetre, between which all is interpolated, the noise as well.
    """
    grid = make_grid(size)
    points = grid.positions() - grid.center_ras
    rng = np.random.default_rng(seed)
    values = body(points + motion(points)), body(points)
    images = [Image((value + noise * rng.normal(size=grid.shape)).astype(np.float32), grid) for value in values]
    if finer > 1:
        grid = working_grid(grid, 1.0 / finer)
        images = [resample(image, grid) for image in images]
    fixed, moving = images
    return Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(grid.shape, bool))


def motion_error(pair, motion, result, radius):
    """Mean distance in mm of what was found from the motion, within a radius of the middle."""
    points = pair.fixed.grid.positions()
    local = points - pair.fixed.grid.center_ras
    inside = np.linalg.norm(local, axis=-1) < radius
    found = result.field.transform_points(points[inside])
    return np.linalg.norm(found - points[inside] - motion(local[inside]), axis=1).mean()
