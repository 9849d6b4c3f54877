"""One picture that shows a registration: what went in, what came out, and what the deformation does to volume.

Drawn with numpy and Pillow. Slices lie along the fixed image's own axes, turned so that every panel is in the
radiological convention: the patient's right and front are on the left of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import OutputError
from .field import warp_image
from .geometry import Grid, Image, reoriented

if TYPE_CHECKING:
    from PIL import Image as Picture

    from .registration import Registration

# As in the Slicer display of Jacobian maps (display.py): a fold has a colour that no other value has.
FOLD_COLOUR = (0, 255, 0)
# The colour scale of determinants is logarithmic and ends at 1 / JACOBIAN_LIMIT and JACOBIAN_LIMIT.
JACOBIAN_LIMIT = 3.0

# Below this correlation between fixed and warped image, inside the anatomy, the contrasts differ too much for a
# difference to show misalignment. T1 against proton density stays under 0.65, brains of one contrast reach 0.9.
_ALIKE = 0.7
# In this orientation the axes (k, j, i) of an array run down or right on the page as they are.
_PAGE_ORIENTATION = "LPI"
_PLANES = (("axial", 0), ("coronal", 1), ("sagittal", 2))

_CELL = 330
# Columns of tall images keep room for their titles and captions.
_NARROWEST = 260
_GAP = 6
_SIDE, _HEAD, _FOOT = 46, 148, 112
_TITLE_SIZE, _TEXT_SIZE, _SMALL_SIZE = 30, 25, 21
_DARKEST = 0.45
_PAPER, _INK, _DIM = (255, 255, 255), (20, 20, 20), (95, 95, 95)


def _ramp(positions: np.ndarray, stops: tuple[tuple[float, tuple[int, int, int]], ...]) -> np.ndarray:
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
_LESS_TO_MORE = (
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
    colours = _ramp(np.clip(position, -1, 1), _SHRINK_TO_GROW)
    colours[determinant <= 0] = FOLD_COLOUR
    return colours


# --- from volumes to slices ---------------------------------------------------------------------------------------


def page_view(array: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """`array` (K, J, I) of `grid` as a view whose axes run inferior, posterior, left; and the grid of that view."""
    page = reoriented(grid, _PAGE_ORIENTATION)
    steps = np.rint(grid.ras_to_ijk[:3, :3] @ page.ijk_to_ras[:3, :3]).astype(int)
    old = np.abs(steps).argmax(axis=0)
    turned = array.transpose([2 - old[new] for new in (2, 1, 0)])
    return turned[tuple(slice(None, None, steps[old[new], new]) for new in (2, 1, 0))], page


@dataclass(frozen=True, eq=False)
class _Slice:
    """One plane through the page view. box: its array slices; grid: its voxels; across: the axis it cuts."""

    name: str
    across: int
    box: tuple[slice, ...]
    grid: Grid

    @property
    def down_right(self) -> tuple[int, int]:
        """The array axes that run down and right."""
        return tuple(axis for axis in range(3) if axis != self.across)

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


def _window(array: np.ndarray) -> tuple[float, float]:
    """The intensities drawn black and white."""
    stride = max(1, round((array.size / 300_000) ** (1 / 3)))
    few = array[tuple(slice(None, None, stride if n > 1 else 1) for n in array.shape)]
    low, high = np.percentile(few, [0.5, 99.7])
    if high <= low:
        low, high = float(array.min()), float(array.max())
    return float(low), float(max(high, low + 1e-12))


def _foreground(array: np.ndarray) -> np.ndarray:
    low, high = _window(array)
    return array > low + 0.1 * (high - low)


def _slices(page: Grid, foreground: np.ndarray) -> list[_Slice]:
    """The planes through the middle of the foreground, cut to its surroundings."""
    ranges, middle = [], []
    for axis in range(3):
        counts = foreground.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.int64)
        # Specks of noise are no anatomy.
        kept = np.flatnonzero(counts > 0.02 * counts.max())
        margin = math.ceil(8.0 / page.spacing[2 - axis]) if counts.size > 1 else 0
        ranges.append(slice(max(int(kept[0]) - margin, 0), min(int(kept[-1]) + margin + 1, counts.size)))
        middle.append(int(np.rint((counts * np.arange(counts.size)).sum() / counts.sum())))
    planes = _PLANES if page.dimension == 3 else [plane for plane in _PLANES if plane[1] == page.flat_axis]
    result = []
    for name, across in planes:
        box = list(ranges)
        box[across] = slice(middle[across], middle[across] + 1)
        start, size = [s.start for s in box], [s.stop - s.start for s in box]
        result.append(_Slice(name, across, tuple(box), page.cropped(start[::-1], size[::-1])))
    return result


@dataclass(frozen=True, eq=False)
class _Content:
    """What the panels of one row show, each (rows, columns) of the slice, on the fixed image's voxels.

    shift_mm: in-plane displacement (2, rows, columns), down and right.
    """

    plane: _Slice
    fixed: np.ndarray
    moving: np.ndarray
    warped: np.ndarray
    foreground: np.ndarray
    jacobian: np.ndarray
    shift_mm: np.ndarray
    fixed_labels: np.ndarray | None = None
    warped_labels: np.ndarray | None = None


def _contents(registration: Registration, fixed: Image, moving: Image, fixed_labels: Image | None) -> list[_Content]:
    fixed, moving = _finite(fixed), _finite(moving)
    volume, page = page_view(fixed.array, fixed.grid)
    views = {
        name: page_view(image.array, image.grid)[0]
        for name, image in (
            ("warped", registration.warped),
            ("jacobian", registration.jacobian),
            ("fixed_labels", fixed_labels),
            ("warped_labels", registration.warped_labels if fixed_labels is not None else None),
        )
        if image is not None
    }
    foreground = _foreground(volume)
    background = registration.report.settings.get("background")
    background = float(moving.array.min()) if background is None else background
    # Converted here, warp_image need not do it for every plane.
    moving = moving.with_array(np.ascontiguousarray(moving.array, dtype=np.float32))
    rows = []
    for plane in _slices(page, foreground):
        linear = warp_image(moving, plane.grid, None, registration.linear, background).array.squeeze(plane.across)
        flow = registration.field.on_grid(plane.grid).to_voxels() * plane.grid.spacing[::-1, None, None, None]
        rows.append(
            _Content(
                plane,
                fixed=plane.cut(volume).astype(np.float64),
                moving=linear.astype(np.float64),
                foreground=plane.cut(foreground),
                shift_mm=flow.squeeze(1 + plane.across)[list(plane.down_right)],
                **{name: plane.cut(view) for name, view in views.items()},
            )
        )
    return rows


def _finite(image: Image) -> Image:
    if image.array.dtype.kind != "f" or np.isfinite(image.array).all():
        return image
    finite = np.isfinite(image.array)
    return image.with_array(np.where(finite, image.array, image.array[finite].min()))


@dataclass(frozen=True)
class _Match:
    """Moving intensities as fixed ones, slope * value + offset, if the images are alike enough to subtract.

    limit: the difference at the ends of the colour scale, in fixed intensities; percent: of the fixed window.
    """

    alike: bool
    slope: float = 1.0
    offset: float = 0.0
    limit: float = 1.0
    percent: float = 100.0


def _matched(rows: list[_Content], windows: dict[str, tuple[float, float]]) -> _Match:
    """One straight line for all panels, fitted to the warped image, so that before and after can be compared.

    It carries the moving background onto the fixed one, so that backgrounds cancel.
    """
    fixed, warped, inside = (
        np.concatenate([getattr(row, name).ravel() for row in rows]) for name in ("fixed", "warped", "foreground")
    )
    fixed, warped = fixed[inside], warped[inside]
    if min(np.std(fixed), np.std(warped)) == 0 or np.corrcoef(fixed, warped)[0, 1] < _ALIKE:
        return _Match(alike=False)
    (black, white), moving_black = windows["fixed"], windows["moving"][0]
    slope = float(((fixed - black) * (warped - moving_black)).sum() / ((warped - moving_black) ** 2).sum())
    offset = black - slope * moving_black
    before = np.concatenate([np.abs(row.fixed - slope * row.moving - offset)[row.foreground] for row in rows])
    # A floor, or the rounding errors of images that already agree would fill the scale.
    limit = max(float(np.percentile(before, 98)), 0.05 * (white - black))
    return _Match(True, slope, offset, limit, 100.0 * limit / (white - black))


# --- from slices to panels ----------------------------------------------------------------------------------------


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


def _difference(fixed: np.ndarray, other: np.ndarray, match: _Match, shape: tuple[int, int]) -> np.ndarray:
    # Clipped before it is enlarged: cubic interpolation rings at what is off the scale.
    difference = np.clip((fixed - match.slope * other - match.offset) / match.limit, -1, 1)
    return _ramp(np.clip(_resized(difference, shape), -1, 1), _LESS_TO_MORE)


def _checkerboard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fields of two panels in turn."""
    tile = _CELL // 8
    rows, columns = (np.arange(n) // tile for n in first.shape[:2])
    return np.where(((rows[:, None] + columns) % 2 == 0)[..., None], first, second)


def _jacobian_panel(row: _Content, window: tuple[float, float], step_mm: float, shape: tuple[int, int]) -> np.ndarray:
    """The determinant's colours over the fixed anatomy, with the deformed grid; folds are opaque and on top."""
    logarithm = np.log(np.clip(row.jacobian, 1 / JACOBIAN_LIMIT, JACOBIAN_LIMIT))
    colours = jacobian_colours(np.exp(_resized(logarithm, shape))).astype(np.float64)
    # Anatomy darkens the colours but never hides them.
    anatomy = _DARKEST + (1 - _DARKEST) * _grey(row.fixed, window, shape) / 255.0
    panel = colours * anatomy
    lines = 0.5 * _grid_lines(row, step_mm, shape)[..., None]
    panel = np.rint(panel * (1 - lines)).astype(np.uint8)
    panel[_covered(row.jacobian <= 0, shape)] = FOLD_COLOUR
    return panel


def _nice(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9))


def _grid_lines(row: _Content, step_mm: float, shape: tuple[int, int]) -> np.ndarray:
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


# --- from panels to the page --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Overview:
    """The finished picture. panels: (plane, column) -> (left, top, right, bottom) in pixels."""

    picture: Picture.Image
    panels: dict[tuple[str, str], tuple[int, int, int, int]] = field(default_factory=dict)

    def panel(self, plane: str, column: str) -> np.ndarray:
        """The pixels (rows, columns, 3) of one panel."""
        return np.asarray(self.picture.crop(self.panels[plane, column]))


COLUMNS = ("fixed", "moving", "warped", "before", "after", "jacobian")


def _was_aligned(report) -> bool:
    return report.similarity["before"] != report.similarity["aligned"]


def _titles(match: _Match, report) -> dict[str, str]:
    kind = "Difference" if match.alike else "Checkerboard"
    total = report.settings.get("jacobian") == "total" and not np.allclose(report.linear, np.eye(4))
    return {
        "fixed": "Fixed",
        "moving": "Moving, aligned" if _was_aligned(report) else "Moving",
        "warped": "Moving, warped",
        "before": f"{kind} before",
        "after": f"{kind} after",
        "jacobian": "Jacobian (total)" if total else "Jacobian",
    }


def _panels(row: _Content, windows, match: _Match, step_mm: float, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    fixed = _grey(row.fixed, windows["fixed"], shape)
    moving, warped = (_grey(values, windows["moving"], shape) for values in (row.moving, row.warped))
    if match.alike:
        before, after = (_difference(row.fixed, other, match, shape) for other in (row.moving, row.warped))
    else:
        before, after = (_checkerboard(fixed, other) for other in (moving, warped))
    return {
        "fixed": _outlined(fixed, row.fixed_labels),
        "moving": moving,
        "warped": _outlined(warped, row.warped_labels),
        "before": before,
        "after": after,
        "jacobian": _jacobian_panel(row, windows["fixed"], step_mm, shape),
    }


def draw_overview(
    registration: Registration, fixed: Image, moving: Image, fixed_labels: Image | None = None
) -> Overview:
    """The overview as a picture in memory; see `overview`."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    rows = _contents(registration, fixed, moving, fixed_labels)
    windows = {"fixed": _window(_finite(fixed).array), "moving": _window(_finite(moving).array)}
    match = _matched(rows, windows)
    longest_mm = max(row.plane.size_mm.max() for row in rows)
    pixels_per_mm, step_mm = _CELL / longest_mm, _nice(longest_mm / 14)
    shapes = [tuple(np.maximum(np.rint(row.plane.size_mm * pixels_per_mm).astype(int), 1)) for row in rows]
    width = max(_NARROWEST, max(shape[1] for shape in shapes))
    page_width = _SIDE + len(COLUMNS) * (width + _GAP) + _GAP
    page_height = _HEAD + sum(shape[0] + _GAP for shape in shapes) + _FOOT
    picture = Picture.new("RGB", (page_width, page_height), _PAPER)
    draw = ImageDraw.Draw(picture)
    left = {name: _SIDE + n * (width + _GAP) for n, name in enumerate(COLUMNS)}
    boxes, top = {}, _HEAD
    for row, shape in zip(rows, shapes, strict=True):
        for name, pixels in _panels(row, windows, match, step_mm, shape).items():
            x = left[name] + (width - shape[1]) // 2
            draw.rectangle((left[name], top, left[name] + width - 1, top + shape[0] - 1), fill=_empty(name, match))
            picture.paste(Picture.fromarray(pixels), (x, top))
            boxes[row.plane.name, name] = (x, top, x + shape[1], top + shape[0])
        _draw_letters(draw, row.plane, (left["fixed"], top, left["fixed"] + width, top + shape[0]))
        _draw_sideways(picture, row.plane.title, (8, top, 8, top + shape[0]))
        top += shape[0] + _GAP
    _draw_head(draw, registration.report, _titles(match, registration.report), left, width)
    _draw_foot(picture, left, top, width, match, pixels_per_mm, step_mm)
    return Overview(picture, boxes)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fitting(text: str, size: int, room: int):
    """The font at `size`, or smaller where the text would be wider than `room` pixels."""
    while size > 12 and _font(size).getlength(text) > room:
        size -= 1
    return _font(size)


def _empty(column: str, match: _Match) -> tuple[int, int, int]:
    """The colour beside a panel that is narrower than its column."""
    if column == "jacobian":
        return (round(255 * _DARKEST),) * 3
    return _LESS_TO_MORE[2][1] if match.alike and column in ("before", "after") else (0, 0, 0)


def _draw_letters(draw, plane: _Slice, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    places = {
        "left": ((left + 8, (top + bottom) // 2), "lm"),
        "right": ((right - 8, (top + bottom) // 2), "rm"),
        "top": (((left + right) // 2, top + 5), "ma"),
        "bottom": (((left + right) // 2, bottom - 6), "md"),
    }
    for edge, letters in plane.letters().items():
        place, anchor = places[edge]
        draw.text(place, letters, (255, 215, 90), _font(_SMALL_SIZE), anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_sideways(picture, text: str, box: tuple[int, int, int, int]) -> None:
    from PIL import Image as Picture
    from PIL import ImageDraw

    font = _font(_TEXT_SIZE)
    length = math.ceil(font.getlength(text))
    strip = Picture.new("RGB", (length, _TEXT_SIZE + 8), _PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, _INK, font)
    strip = strip.transpose(Picture.Transpose.ROTATE_90)
    picture.paste(strip, (box[0], (box[1] + box[3] - length) // 2))


def _draw_head(draw, report, titles: dict[str, str], left: dict[str, int], width: int) -> None:
    alignment = report.settings.get("alignment", "affine")
    passes = "1 pass" if report.passes == 1 else f"{report.passes} passes"
    refined = report.settings.get("refinement", "off")
    first = (
        f"Model {report.model['name']}, alignment {alignment}, {passes}, "
        + (f"refinement {refined}, " if refined != "off" else "")
        + f"{report.seconds.get('total', float('nan')):.1f} s on {report.device}"
    )
    inside = report.folding["inside"]
    stages = ("before", "aligned", "after") if _was_aligned(report) else ("before", "after")
    parts = []
    for name, values in (("NCC", "ncc"), ("MI", "mi")):
        parts.append(f"{name} " + ", ".join(f"{report.similarity[s][values]:.3f} {s}" for s in stages))
    if report.dice:
        parts.append("Dice " + ", ".join(f"{report.dice[s]['mean']:.3f} {s}" for s in stages))
    parts.append(f"folds {inside['count']:,} (strict {inside['any_corner_count']:,}) of {inside['voxels']:,} voxels")
    room = len(COLUMNS) * (width + _GAP)
    for line, (text, size) in enumerate(((first, _TITLE_SIZE), ("   |   ".join(parts), _TEXT_SIZE))):
        draw.text((_SIDE, 12 + 44 * line), text, _INK, _fitting(text, size, room))
    for name, text in titles.items():
        draw.text((left[name] + width // 2, _HEAD - 8), text, _INK, _fitting(text, _TEXT_SIZE, width), "md")


def _draw_foot(
    picture, left: dict[str, int], top: int, width: int, match: _Match, pixels_per_mm: float, step_mm: float
) -> None:
    """Scale, notes and colour bars below the panels."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    _draw_scale(draw, left["fixed"], top, pixels_per_mm, width)
    if match.alike:
        _draw_difference_bar(picture, left["before"], top, 2 * width + _GAP, match)
    else:
        middle = (left["after"] - _GAP // 2, top + 10)
        draw.text(middle, "squares of fixed and moving in turn", _DIM, _font(_SMALL_SIZE), "ma")
    _draw_jacobian_bar(picture, left["jacobian"], top, width)
    notes = (
        "Radiological convention: the patient's right and front are on the left.",
        f"Lines on the Jacobian: a grid of {step_mm:g} mm in the moving image, as the deformation",
        "carries it onto the fixed image.",
    )
    for line, text in enumerate(notes):
        draw.text((left["fixed"] + width // 2, top + 10 + line * 28), text, _DIM, _font(_SMALL_SIZE))


def _draw_scale(draw, left: int, top: int, pixels_per_mm: float, width: int) -> None:
    length = _nice(0.4 * width / pixels_per_mm)
    end = left + round(length * pixels_per_mm)
    draw.rectangle((left, top + 12, end, top + 17), fill=_INK)
    draw.text((left, top + 24), f"{length:g} mm", _INK, _font(_SMALL_SIZE))


def _draw_bar(picture, left: int, top: int, colours: np.ndarray, ticks: list[tuple[float, str]], caption: str) -> None:
    """A horizontal colour bar (columns, 3); ticks at fractions of its length."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    length = len(colours)
    bar = Picture.fromarray(np.repeat(colours[None], 20, 0))
    picture.paste(bar, (left, top))
    draw.rectangle((left, top, left + length - 1, top + 19), outline=_DIM)
    for place, text in ticks:
        x = left + round(place * (length - 1))
        draw.line((x, top + 20, x, top + 25), fill=_DIM)
        draw.text((x, top + 27), text, _INK, _font(_SMALL_SIZE), "ma")
    draw.text((left + length // 2, top + 56), caption, _DIM, _fitting(caption, _SMALL_SIZE, length + 40), "ma")


def _draw_difference_bar(picture, left: int, top: int, room: int, match: _Match) -> None:
    length = room // 2
    colours = _ramp(np.linspace(-1, 1, length), _LESS_TO_MORE)
    percent = f"{match.percent:.0f}"
    ticks = [(0.0, f"-{percent} %"), (0.5, "0"), (1.0, f"+{percent} %")]
    caption = "fixed - moving, intensities matched"
    _draw_bar(picture, left + (room - length) // 2, top + 12, colours, ticks, caption)


def _draw_jacobian_bar(picture, left: int, top: int, room: int) -> None:
    from PIL import ImageDraw

    fold, margin = 44, 18
    length = room - fold - 2 * margin
    log_limit = math.log(JACOBIAN_LIMIT)
    colours = jacobian_colours(np.exp(np.linspace(-log_limit, log_limit, length)))
    ticks = [(0.5, "1")]
    for value in (2, JACOBIAN_LIMIT):
        place = math.log(value) / log_limit / 2
        ticks += [(0.5 - place, f"1/{value:g}"), (0.5 + place, f"{value:g}")]
    _draw_bar(picture, left + fold + margin, top + 12, colours, ticks, "volume in moving / in fixed")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top + 12, left + 26, top + 31), fill=FOLD_COLOUR, outline=_DIM)
    draw.text((left + 13, top + 39), "fold", _INK, _font(_SMALL_SIZE), "ma")


def overview(
    registration: Registration, fixed: Image, moving: Image, path: str | Path, fixed_labels: Image | None = None
) -> None:
    """Write one PNG: planes through the fixed anatomy (rows) by fixed, moving, warped, before, after, Jacobian.

    fixed, moving: the images that were registered. fixed_labels: label map on the fixed grid; with it, its outlines
    are drawn on the fixed panel and those of the warped labels on the warped one. Where fixed and warped image are
    not alike, checkerboards take the place of differences. The file appears when it is complete; raises
    OutputError.
    """
    path = Path(path)
    picture = draw_overview(registration, fixed, moving, fixed_labels).picture
    part = path.with_name(path.name + ".part")
    try:
        picture.save(part, format="PNG", compress_level=1)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"The overview could not be written to {path}: {error.strerror or error}. "
            "Check the folder's permissions and the free space."
        ) from error
