"""The slices of the overview picture: which, from where, and how bright."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..fields.warp import warp_image
from ..images.grid import Grid, reoriented
from ..images.image import Image, resample

if TYPE_CHECKING:
    from ..registration.result import Registration


# Below this correlation between fixed and warped image, inside the anatomy, the contrasts differ too much for a
# difference to show misalignment. T1 against proton density stays under 0.65, brains of one contrast reach 0.9.
_ALIKE = 0.7
# Seen around the foreground, as a part of its length.
MARGIN = 0.05
# In this orientation the axes (k, j, i) of an array run down or right on the page as they are.
_PAGE_ORIENTATION = "LPI"
_PLANES = (("axial", 0), ("coronal", 1), ("sagittal", 2))


def page_view(array: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """`array` (K, J, I) of `grid` as a view whose axes run inferior, posterior, left; and the grid of that view."""
    page = reoriented(grid, _PAGE_ORIENTATION)
    steps = np.rint(grid.ras_to_ijk[:3, :3] @ page.ijk_to_ras[:3, :3]).astype(int)
    old = np.abs(steps).argmax(axis=0)
    turned = array.transpose([2 - old[new] for new in (2, 1, 0)])
    return turned[tuple(slice(None, None, steps[old[new], new]) for new in (2, 1, 0))], page


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane through the page view. box: its array slices; grid: its voxels; across: the axis it cuts."""

    name: str
    across: int
    box: tuple[slice, ...]
    grid: Grid

    @property
    def down_right(self) -> tuple[int, int]:
        """The array axes that run down and right."""
        down, right = (axis for axis in range(3) if axis != self.across)
        return down, right

    @property
    def size_mm(self) -> np.ndarray:
        """Height and width."""
        spacing, shape = self.grid.spacing[::-1], self.grid.shape
        return np.array([spacing[axis] * shape[axis] for axis in self.down_right])

    def cut(self, volume: np.ndarray) -> np.ndarray:
        """(rows, columns) of a page view."""
        return np.asarray(volume[self.box]).squeeze(self.across)

    def letters(self) -> dict[str, str]:
        """Where the edges of the picture look, such as {"left": "R"}; two letters where the grid is oblique."""
        down, right = (self.grid.directions[:, 2 - axis] for axis in self.down_right)
        return {"left": _letters(-right), "right": _letters(right), "top": _letters(-down), "bottom": _letters(down)}

    @property
    def title(self) -> str:
        """The plane's name, with its tilt when it is visible."""
        tilt = math.degrees(math.acos(min(1.0, np.abs(self.grid.directions[:, 2 - self.across]).max())))
        return f"{self.name}, tilted {tilt:.0f}°" if tilt >= 1.5 else self.name


def _letters(direction_ras: np.ndarray) -> str:
    order = np.argsort(-np.abs(direction_ras))
    shown = [order[0], *(axis for axis in order[1:] if abs(direction_ras[axis]) > 0.35)]
    return "".join(("LR", "PA", "IS")[axis][int(direction_ras[axis] > 0)] for axis in shown)


def window(array: np.ndarray) -> tuple[float, float]:
    """The intensities drawn black and white."""
    stride = max(1, round((array.size / 300_000) ** (1 / 3)))
    few = array[tuple(slice(None, None, stride if n > 1 else 1) for n in array.shape)]
    low, high = np.percentile(few, [0.5, 99.7])
    if high <= low:
        low, high = float(array.min()), float(array.max())
    return float(low), float(high if high > low else low + 1.0)


def _foreground(array: np.ndarray) -> np.ndarray:
    low, high = window(array)
    return array > low + 0.1 * (high - low)


def _slices(page: Grid, foreground: np.ndarray) -> list[Slice]:
    """The planes through the middle of the foreground, cut to its surroundings."""
    ranges, middle = [], []
    for axis in range(3):
        counts = foreground.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.int64)
        # Specks of noise are no anatomy.
        kept = np.flatnonzero(counts > 0.02 * counts.max())
        margin = math.ceil(MARGIN * (kept[-1] + 1 - kept[0])) if counts.size > 1 else 0
        ranges.append(slice(max(int(kept[0]) - margin, 0), min(int(kept[-1]) + margin + 1, counts.size)))
        middle.append(int(np.rint((counts * np.arange(counts.size)).sum() / counts.sum())))
    planes = _PLANES if page.dimension == 3 else [plane for plane in _PLANES if plane[1] == page.flat_axis]
    result = []
    for name, across in planes:
        box = list(ranges)
        box[across] = slice(middle[across], middle[across] + 1)
        start, size = [s.start for s in box], [s.stop - s.start for s in box]
        result.append(Slice(name, across, tuple(box), page.cropped(start[::-1], size[::-1])))
    return result


@dataclass(frozen=True, eq=False)
class Content:
    """What the panels of one row show, each (rows, columns) of the slice, on the fixed image's voxels.

    shift_mm: in-plane displacement (2, rows, columns), down and right. doubt: expected error in mm, 0 where none is
    told.
    """

    plane: Slice
    fixed: np.ndarray
    moving: np.ndarray
    warped: np.ndarray
    foreground: np.ndarray
    jacobian: np.ndarray
    shift_mm: np.ndarray
    fixed_labels: np.ndarray | None = None
    warped_labels: np.ndarray | None = None
    doubt: np.ndarray | None = None


def contents(registration: Registration, fixed: Image, moving: Image, fixed_labels: Image | None) -> list[Content]:
    """fixed, moving: with data everywhere (images.nodata)."""
    volume, page = page_view(fixed.array, fixed.grid)
    doubt = registration.expected_error
    views = {
        name: page_view(image.array, image.grid)[0]
        for name, image in (
            ("warped", registration.warped),
            ("fixed_labels", fixed_labels),
            ("warped_labels", registration.warped_labels if fixed_labels is not None else None),
            ("doubt", None if doubt is None else doubt.bound),
        )
        if image is not None
    }
    foreground = _foreground(volume)
    background = registration.report.settings.get("background")
    background = float(moving.array.min()) if background is None else background
    rows = []
    for plane in _slices(page, foreground):
        linear = resample(moving, plane.grid, registration.linear, background).array.squeeze(plane.across)
        flow = registration.field.on_grid(plane.grid).to_voxels() * plane.grid.spacing[::-1, None, None, None]
        rows.append(
            Content(
                plane,
                fixed=plane.cut(volume).astype(np.float64),
                moving=linear.astype(np.float64),
                foreground=plane.cut(foreground),
                # Each voxel keeps its value: a fold is none beside its neighbours.
                jacobian=_nearest(registration.jacobian, plane),
                shift_mm=flow.squeeze(1 + plane.across)[list(plane.down_right)],
                **{name: plane.cut(view) for name, view in views.items()},
            )
        )
    return rows


def _nearest(image: Image, plane: Slice) -> np.ndarray:
    return warp_image(image, plane.grid, interpolation="nearest").array.squeeze(plane.across)


@dataclass(frozen=True)
class Match:
    """Moving intensities as fixed ones, slope * value + offset, if the images are alike enough to subtract.

    limit: the difference at the ends of the colour scale, in fixed intensities; percent: of the fixed window.
    """

    alike: bool
    slope: float = 1.0
    offset: float = 0.0
    limit: float = 1.0
    percent: float = 100.0


def matched(rows: list[Content], windows: dict[str, tuple[float, float]]) -> Match:
    """One straight line for all panels, fitted to the warped image, so that before and after can be compared.

    It carries the moving background onto the fixed one, so that backgrounds cancel.
    """
    fixed, warped, inside = (
        np.concatenate([getattr(row, name).ravel() for row in rows]) for name in ("fixed", "warped", "foreground")
    )
    fixed, warped = fixed[inside], warped[inside]
    if min(np.std(fixed), np.std(warped)) == 0 or np.corrcoef(fixed, warped)[0, 1] < _ALIKE:
        return Match(alike=False)
    (black, white), moving_black = windows["fixed"], windows["moving"][0]
    slope = float(((fixed - black) * (warped - moving_black)).sum() / ((warped - moving_black) ** 2).sum())
    offset = black - slope * moving_black
    before = np.concatenate([np.abs(row.fixed - slope * row.moving - offset)[row.foreground] for row in rows])
    # A floor, or the rounding errors of images that already agree would fill the scale.
    limit = max(float(np.percentile(before, 98)), 0.05 * (white - black))
    return Match(True, slope, offset, limit, 100.0 * limit / (white - black))
