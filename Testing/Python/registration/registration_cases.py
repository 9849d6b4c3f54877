"""Pairs of balls a known shift apart."""

import numpy as np

from grids import KINDS, make_grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.settings import Settings

SHIFT = np.array([3.0, -2.0, 4.0])
# As the grids of `KINDS`, no larger than the ball and a margin.
SMALL = {kind: {**facts, "size_ijk": tuple(-(-2 * n // 3) for n in facts["size_ijk"])} for kind, facts in KINDS.items()}


def ball(grid, center=(0.0, 0.0, 0.0), name="image"):
    """A smooth ball of 6 mm about a position in RAS mm."""
    distance = np.linalg.norm(grid.positions() - np.asarray(center), axis=-1)
    return Image((1000 * np.exp(-((distance / 6) ** 4))).astype(np.float32), grid, name)


def ball_labels(image):
    return Image((image.array > 400).astype(np.uint8), image.grid, "labels")


def settings(model, **changes):
    return Settings(**{"model": str(model), "alignment": "none", "device": "cpu", "refinement": "off", **changes})


def pair(fixed_kind="plain", moving_kind="anisotropic"):
    fixed = ball(make_grid(**{**SMALL[fixed_kind], "center": (0, 0, 0)}), name="fixed.nii")
    moving = ball(make_grid(**{**SMALL[moving_kind], "center": SHIFT}), SHIFT, "moving.nii")
    return fixed, moving
