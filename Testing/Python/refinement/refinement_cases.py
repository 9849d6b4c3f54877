"""Textured pairs with a known displacement between them."""

from functools import cache

import numpy as np

from grids import make_grid
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings


def textured(grid, seed=0, center=(0, 0, 0)):
    """A body of 25 mm with smooth structure of about 6 mm, dark outside; defined in space, whatever the grid."""
    rng = np.random.default_rng(seed)
    points = grid.positions() - np.asarray(center)
    value = np.zeros(grid.shape)
    for _ in range(12):
        direction = rng.normal(size=3)
        direction *= rng.uniform(0.35, 0.8) / np.linalg.norm(direction)
        value += np.cos(points @ direction + rng.uniform(0, 6))
    body = 1 / (1 + np.exp(np.linalg.norm(points, axis=-1) - 22))
    return Image(((value + 8) * 50 * body).astype(np.float32), grid, "body")


def displacement(ras):
    """A smooth displacement of up to 5 mm within the body, det J from about 0.5 to 1.6."""
    x, y, z = np.moveaxis(np.asarray(ras), -1, 0)
    return np.stack([3.0 * np.sin(y / 9), 2.5 * np.cos(z / 8) - 1, 2.5 * np.sin(x / 8 + 0.5)], -1)


def known_pair(fixed_grid, moving_grid):
    """fixed(x) = moving(x + u(x)) with the known u."""
    moving = textured(moving_grid)
    fine = textured(make_grid((110, 110, 110), (0.7, 0.7, 0.7)))
    u = DisplacementField(displacement(fixed_grid.positions()).astype(np.float32), fixed_grid)
    return warp_image(fine, fixed_grid, u, background=0.0).renamed("fixed"), moving


def refined(fixed, moving, preset="default", **settings):
    return register(
        fixed,
        moving,
        settings=Settings(model="none", refinement=preset, alignment="none", device="cpu", **settings),
    )


GRIDS = [
    (make_grid((56, 56, 56)), make_grid((60, 60, 60))),
    (make_grid((60, 50, 36), (1, 1.2, 1.6), (10, 25, -15), left_handed=True), make_grid((64, 64, 40), (1, 1, 1.5))),
]


@cache
def known(number=0):
    """The known pair on `GRIDS[number]`, made once; nobody may change its arrays."""
    return known_pair(*GRIDS[number])


@cache
def found(preset="default", number=0, **settings):
    """The refinement of `known(number)`, run once for all tests that only look at it."""
    return refined(*known(number), preset, **settings)
