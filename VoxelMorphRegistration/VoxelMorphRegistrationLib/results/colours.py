"""Colours of the overview picture."""

from __future__ import annotations

import math

import numpy as np

# As in the Slicer display of Jacobian maps (display.py): a fold has a colour that no other value has.
FOLD_COLOUR = (0, 255, 0)
# The colour scale of determinants is logarithmic and ends at 1 / JACOBIAN_LIMIT and JACOBIAN_LIMIT.
JACOBIAN_LIMIT = 3.0


def ramp(positions: np.ndarray, stops: tuple[tuple[float, tuple[int, int, int]], ...]) -> np.ndarray:
    """Colours (..., 3) uint8 of `positions`, linear between `stops`."""
    where = [stop for stop, _ in stops]
    channels = [np.interp(positions, where, [colour[c] for _, colour in stops]) for c in range(3)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


_SHRINK_TO_GROW = (
    (-1.0, (6, 30, 110)),
    (-0.55, (38, 110, 220)),
    (-0.2, (165, 205, 250)),
    (0.0, (255, 255, 255)),
    (0.2, (252, 195, 175)),
    (0.55, (225, 60, 45)),
    (1.0, (110, 5, 20)),
)
LESS_TO_MORE = (
    (-1.0, (120, 235, 255)),
    (-0.5, (20, 130, 190)),
    (0.0, (12, 12, 14)),
    (0.5, (215, 105, 20)),
    (1.0, (255, 225, 130)),
)


def jacobian_colours(determinant: np.ndarray) -> np.ndarray:
    """RGB uint8 (..., 3) of Jacobian determinants: blue below 1, white at 1, red above, FOLD_COLOUR at 0 and below.

    The scale is logarithmic, so that halving and doubling are equally far from white.
    """
    determinant = np.asarray(determinant, dtype=np.float64)
    position = np.log(np.maximum(determinant, 1e-9)) / math.log(JACOBIAN_LIMIT)
    colours = ramp(np.clip(position, -1, 1), _SHRINK_TO_GROW)
    colours[determinant <= 0] = FOLD_COLOUR
    return colours
