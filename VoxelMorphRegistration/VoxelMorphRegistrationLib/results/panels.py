"""The pictures of one slice: grey images, differences, checkerboard, Jacobian and grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .colours import (
    DOUBT_CONTOUR_MM,
    FOLD_COLOUR,
    JACOBIAN_LIMIT,
    LESS_TO_MORE,
    doubt_colours,
    jacobian_colours,
    ramp,
)

if TYPE_CHECKING:
    from .slices import Content, Match


CELL = 330
# Columns of tall images keep room for their titles and captions.
NARROWEST = 260
GAP = 6
DARKEST = 0.45


def _resized(values: np.ndarray, shape: tuple[int, int], smooth: bool = True) -> np.ndarray:
    """Values (rows, columns) at the size of a panel."""
    from PIL import Image as Picture

    kind = Picture.Resampling.BICUBIC if smooth else Picture.Resampling.NEAREST
    picture = Picture.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(shape[::-1], kind))


def _covered(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels of a panel that any voxel of the mask touches: none is lost where the panel is coarser."""
    from PIL import Image as Picture

    picture = Picture.fromarray(mask.astype(np.float32))
    return np.asarray(picture.resize(shape[::-1], Picture.Resampling.BOX)) > 0


def _grey(values: np.ndarray, window: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    """RGB uint8 panel of intensities."""
    level = np.clip((values - window[0]) / (window[1] - window[0]), 0, 1)
    return np.repeat(np.rint(np.clip(_resized(level, shape), 0, 1) * 255).astype(np.uint8)[..., None], 3, -1)


def _difference(fixed: np.ndarray, other: np.ndarray, match: Match, shape: tuple[int, int]) -> np.ndarray:
    # Clipped before it is enlarged: cubic interpolation rings at what is off the scale.
    difference = np.clip((fixed - match.slope * other - match.offset) / match.limit, -1, 1)
    return ramp(np.clip(_resized(difference, shape), -1, 1), LESS_TO_MORE)


def _checkerboard(first: np.ndarray, second: np.ndarray, side: int = CELL) -> np.ndarray:
    """Fields of two panels in turn. side: pixels of the longest panel."""
    tile = max(1, side // 8)
    rows, columns = (np.arange(n) // tile for n in first.shape[:2])
    return np.where(((rows[:, None] + columns) % 2 == 0)[..., None], first, second)


def _jacobian_panel(row: Content, window: tuple[float, float], step_mm: float, shape: tuple[int, int]) -> np.ndarray:
    """The determinant's colours over the fixed anatomy, with the deformed grid; folds are opaque and on top."""
    logarithm = np.log(np.clip(row.jacobian, 1 / JACOBIAN_LIMIT, JACOBIAN_LIMIT))
    colours = jacobian_colours(np.exp(_resized(logarithm, shape))).astype(np.float64)
    # Anatomy darkens the colours but never hides them.
    anatomy = DARKEST + (1 - DARKEST) * _grey(row.fixed, window, shape) / 255.0
    panel = colours * anatomy
    lines = 0.5 * _grid_lines(row, step_mm, shape)[..., None]
    panel = np.rint(panel * (1 - lines)).astype(np.uint8)
    panel[_covered(row.jacobian <= 0, shape)] = FOLD_COLOUR
    return panel


def _doubt_panel(row: Content, window: tuple[float, float], scale: float, shape: tuple[int, int]) -> np.ndarray:
    """The expected error's colours over the fixed anatomy, and a line at DOUBT_CONTOUR_MM."""
    assert row.doubt is not None
    anatomy = _grey(row.fixed, window, shape).astype(np.float64)
    known = _resized((row.doubt > 0).astype(np.float32), shape) > 0.5
    bound = np.exp(_resized(np.log(np.maximum(row.doubt, 1e-3 * scale)), shape))
    colours = doubt_colours(bound, scale) * (DARKEST + (1 - DARKEST) * anatomy / 255.0)
    panel = np.where(known[..., None], colours, 0.35 * anatomy)
    over = known & (bound > DOUBT_CONTOUR_MM * scale)
    edge = np.zeros(shape, bool)
    edge[:-1] |= over[:-1] != over[1:]
    edge[:, :-1] |= over[:, :-1] != over[:, 1:]
    panel[edge] = 255.0
    return np.rint(panel).astype(np.uint8)


def nice(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9))


def _grid_lines(row: Content, step_mm: float, shape: tuple[int, int]) -> np.ndarray:
    """Coverage in [0, 1] by the moving image's straight grid as the deformation carries it onto the fixed image.

    These are the contours of x + u(x) in the plane at equal steps; u without the linear part.
    """
    size = row.plane.size_mm
    covered = np.zeros(shape)
    for axis in range(2):
        line = (np.arange(shape[axis]) + 0.5) * size[axis] / shape[axis]
        position = _resized(row.shift_mm[axis], shape) + (line[:, None] if axis == 0 else line)
        slope = np.hypot(*np.gradient(position))
        distance = np.abs(position / step_mm - np.rint(position / step_mm)) * step_mm / np.maximum(slope, 1e-6)
        covered = np.maximum(covered, np.clip(1.1 - distance, 0, 1))
    return covered


def _outlined(panel: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The panel with the outlines of a label slice, each label in a colour of its own."""
    if labels is None:
        return panel
    shape = panel.shape[:2]
    values, index = np.unique(labels, return_inverse=True)
    large = _resized(index.reshape(labels.shape), shape, smooth=False).astype(np.intp)
    edge = np.zeros(shape, bool)
    edge[:-1] |= large[:-1] != large[1:]
    edge[:, :-1] |= large[:, :-1] != large[:, 1:]
    # Golden-ratio steps keep the hues of consecutive labels apart.
    hue = (np.asarray(values, np.float64) * 0.6180339887) % 1.0
    palette = np.clip(np.abs((hue[:, None] + [0, 2 / 3, 1 / 3]) % 1.0 * 6 - 3) - 1, 0, 1) * 200 + 55
    # Where a label meets the background, the pixel of the background takes the label's colour.
    owner = large.copy()
    owner[:-1] = np.where(values[owner[:-1]] == 0, large[1:], owner[:-1])
    owner[:, :-1] = np.where(values[owner[:, :-1]] == 0, large[:, 1:], owner[:, :-1])
    panel = panel.copy()
    panel[edge] = palette[owner[edge]].astype(np.uint8)
    return panel


def was_aligned(report) -> bool:
    return report.similarity["before"] != report.similarity["aligned"]


def panels_of(
    row: Content, windows, match: Match, step_mm: float, doubt_scale: float, shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    fixed = _grey(row.fixed, windows["fixed"], shape)
    moving, warped = (_grey(values, windows["moving"], shape) for values in (row.moving, row.warped))
    if match.alike:
        before, after = (_difference(row.fixed, other, match, shape) for other in (row.moving, row.warped))
    else:
        before, after = (_checkerboard(fixed, other) for other in (moving, warped))
    doubt = {}
    if row.doubt is not None:
        doubt["doubt"] = _doubt_panel(row, windows["fixed"], doubt_scale, shape)
    return {
        "fixed": _outlined(fixed, row.fixed_labels),
        "moving": moving,
        "warped": _outlined(warped, row.warped_labels),
        "before": before,
        "after": after,
        "jacobian": _jacobian_panel(row, windows["fixed"], step_mm, shape),
        **doubt,
    }


def few_panels(row: Content, windows, match: Match, shape: tuple[int, int]) -> list[np.ndarray]:
    """Fixed, warped, and their difference or checkerboard, small."""
    fixed, warped = _grey(row.fixed, windows["fixed"], shape), _grey(row.warped, windows["moving"], shape)
    last = _difference(row.fixed, row.warped, match, shape) if match.alike else _checkerboard(fixed, warped, max(shape))
    return [fixed, warped, last]
