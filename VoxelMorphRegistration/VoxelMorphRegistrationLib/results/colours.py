"""Colours of the overview picture."""

from __future__ import annotations

import math

import numpy as np

# As in the Slicer display of Jacobian maps (display.py): a fold has a colour that no other value has.
FOLD_COLOUR = (0, 255, 0)
# The colour scale of expected errors is logarithmic and runs between these, in mm of a human body; the contour.
DOUBT_ENDS_MM, DOUBT_CONTOUR_MM = (0.5, 10.0), 2.0
# Anatomy of this extent and more has millimetres; smaller ones tenths of them, and so on.
DOUBT_EXTENT_MM = 30.0
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


SURE_TO_UNSURE = (
    (0.0, (35, 75, 115)),
    (0.35, (70, 150, 140)),
    (0.55, (240, 225, 110)),
    (0.75, (240, 130, 40)),
    (1.0, (200, 20, 45)),
)


def doubt_scale(extent_mm: float) -> float:
    """What DOUBT_ENDS_MM and DOUBT_CONTOUR_MM are multiplied by for anatomy of this extent."""
    return 10.0 ** min(0, math.floor(math.log10(max(extent_mm, 1e-9) / DOUBT_EXTENT_MM) + 1e-9))


def doubt_colours(bound_mm: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """RGB uint8 (..., 3) of expected errors in mm, from sure (blue) over yellow to unsure (red), logarithmic."""
    low, high = (math.log(end * scale) for end in DOUBT_ENDS_MM)
    position = (np.log(np.maximum(np.asarray(bound_mm, np.float64), 1e-9)) - low) / (high - low)
    return ramp(np.clip(position, 0, 1), SURE_TO_UNSURE)
