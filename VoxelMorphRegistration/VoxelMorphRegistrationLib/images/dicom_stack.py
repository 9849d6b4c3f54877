"""Whether slices are one even, straight stack, and how slices that are not are put right.

Positions come from the slices themselves (ImagePositionPatient), never from slice numbers or thicknesses. Tilted,
shifted or unevenly spaced slices are resampled linearly to right positions; what lacks a slice, or has two at one
place, or lies otherwise, is refused by name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .dicom_frames import DISTINCTIONS, Frame
from .grid import LPS_FROM_RAS, Grid

# Files round positions to .01 mm or better; a deviation below this, or below this part of a gap or of a pixel, is no
# other place.
_ROUNDING_MM = 0.01
_ROUNDING_GAPS = 0.01
_ROUNDING_PIXELS = 0.02
# A gap longer than this many usual ones lacks a slice; one shorter than this part of it holds a slice too many.
_MISSING = 1.5
_DOUBLED = 0.2
# Of the mean gap: where no gap is shorter, as many slices as there are hold all detail.
_NEARLY_EVEN = 0.9
# Directions (unit vectors) and spacings that differ by more are others.
_ORIENTATION = 1e-3
_SPACING = 1e-3
# Of the range of values: air in a CT is within 30 of 3000, with its noise.
_BACKGROUND = 0.02
_NAMED = 4
# What all slices of one volume share; other distinctions (times, numbers of acquisitions) may differ between them.
_SHARED = (
    *("EchoTime", "EffectiveEchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TemporalPositionIndex"),
    *("DiffusionBValue", "InversionTime"),
)


class NoStack(Exception):
    """Why slices are no stack, as a sentence's end."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their positions along the normal.

    distances: (N,), mm along the normal from the first; shifts: (N, 2), mm of each slice within its plane along the
    column and the row numbers, from the first. is_even, is_straight: whether they are taken as they lie.
    """

    frames: list[Frame]
    distances: np.ndarray
    shifts: np.ndarray
    is_even: bool
    is_straight: bool

    @property
    def gap(self) -> float:
        """Between slices of the even stack, in mm along the normal."""
        if len(self.frames) == 1:
            return self.frames[0].thickness or float(np.mean(self.frames[0].spacing))
        gaps = np.diff(self.distances)
        if self.is_even or gaps.min() > _NEARLY_EVEN * self.distances[-1] / len(gaps):
            return float(self.distances[-1] / len(gaps))
        # No detail is lost at the smallest gap; the last slice stays where it is.
        return float(self.distances[-1] / np.ceil(self.distances[-1] / gaps.min() - _ROUNDING_GAPS))


def stack_of(frames: list[Frame]) -> Stack:
    """The slices of one volume in order. Raises NoStack, which names what is wrong and the slices."""
    lost = [frame.name for frame in frames if frame.position is None or frame.rows is None]
    if lost:
        raise NoStack(f"{_which(lost)} not state where {'it lies' if len(lost) == 1 else 'they lie'} in the patient")
    _refuse_others(frames)
    normal, columns, rows = frames[0].normal, frames[0].columns, frames[0].rows
    order = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in order]) - order[0].position
    distances = positions @ normal
    shifts = np.stack([positions @ columns, positions @ rows], -1)
    _refuse_doubled(order, distances)
    _refuse_mixed(order)
    _refuse_missing(order, distances)
    count = len(order)
    even = np.linspace(0, distances[-1], count) if count > 1 else distances
    gap = distances[-1] / max(1, count - 1)
    rounding = max(_ROUNDING_MM, _ROUNDING_GAPS * gap)
    is_even = bool(np.abs(distances - even).max() <= rounding)
    # A lean below the rounding of grids stays in the matrix, where it moves nothing.
    line = np.outer(np.linspace(0, 1, count), shifts[-1])
    within = max(_ROUNDING_MM, _ROUNDING_PIXELS * min(frames[0].spacing))
    leans = np.abs(shifts[-1]).max() > max(1e-3 * distances[-1], within)
    is_straight = bool(np.abs(shifts - line).max() <= within) and not leans
    return Stack(order, distances, shifts, is_even, is_straight)


def _which(names: list[str]) -> str:
    """ "a.dcm does", "a.dcm and b.dcm do", ..."""
    return f"{_listed(names)} {'does' if len(names) == 1 else 'do'}"


def _listed(names: list[str]) -> str:
    shown = names[:_NAMED]
    more = len(names) - len(shown)
    if more:
        return f"{', '.join(shown)} and {more} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _refuse_others(frames: list[Frame]) -> None:
    """Slices of another orientation, size or pixel spacing than most: localizers and the like."""

    def kind(frame: Frame) -> tuple:
        directions = np.concatenate([frame.columns, frame.rows])
        for known in kinds:
            same = known[0] == frame.shape and np.abs(directions - known[1]).max() <= _ORIENTATION
            if same and np.allclose(frame.spacing, known[2], rtol=_SPACING, atol=0):
                return known
        kinds.append((frame.shape, directions, frame.spacing))
        return kinds[-1]

    kinds: list[tuple] = []
    found = [id(kind(frame)) for frame in frames]
    if len(kinds) == 1:
        return
    usual = Counter(found).most_common(1)[0][0]
    most = next(known for known in kinds if id(known) == usual)
    others = [frame for frame, which in zip(frames, found, strict=True) if which != usual]
    turned = [f for f in others if np.abs(np.concatenate([f.columns, f.rows]) - most[1]).max() > _ORIENTATION]
    if turned:
        what = "another orientation than the rest (a localizer, or a second stack)"
        raise NoStack(f"{_have([f.name for f in turned])} {what}")
    sized = [f for f in others if f.shape != most[0]]
    what = "another number of pixels" if sized else "another pixel spacing"
    raise NoStack(f"{_have([f.name for f in sized or others])} {what} than the rest")


def _have(names: list[str]) -> str:
    return f"{_listed(names)} {'has' if len(names) == 1 else 'have'}"


def _refuse_doubled(order: list[Frame], distances: np.ndarray) -> None:
    if len(order) < 2:
        return
    gaps = np.diff(distances)
    wide = gaps[gaps > _ROUNDING_MM]
    if not wide.size:
        raise NoStack(f"its {len(order)} images lie at one place{_difference(order)}; give one of them")
    near = np.flatnonzero(gaps < max(_DOUBLED * np.median(wide), _ROUNDING_MM))
    if not near.size:
        return
    # Images at one place, whatever their number.
    places = np.split(np.arange(len(order)), np.flatnonzero(np.isin(np.arange(len(gaps)), near, invert=True)) + 1)
    counts = {len(place) for place in places}
    if len(counts) == 1:
        count = counts.pop()
        how = _difference([order[n] for n in places[0]])
        raise NoStack(
            f"it holds {count} images at each of {len(places)} places{how}: several times, echoes or kinds of image in "
            "one series; give the files of one"
        )
    pairs = [place for place in places if len(place) > 1]
    named = "; ".join(_listed([order[n].name for n in place]) for place in pairs[:_NAMED])
    more = f"; and {len(pairs) - _NAMED} more places" if len(pairs) > _NAMED else ""
    how = _difference([order[n] for n in pairs[0]])
    raise NoStack(f"several slices lie at one place{how}: {named}{more}; keep one of each")


def _refuse_mixed(order: list[Frame]) -> None:
    """Slices of several images that lie between each other, such as two echoes half a gap apart."""
    for name in _SHARED:
        known = [frame for frame in order if name in frame.distinct]
        kinds = [_rounded(frame.distinct[name]) for frame in known]
        changes = [n for n in range(1, len(kinds)) if kinds[n] != kinds[n - 1]]
        if len(changes) >= len(set(kinds)) > 1:
            named = _listed([known[n].name for n in [changes[0] - 1, *changes]])
            raise NoStack(
                f"slices of several images lie between each other ({DISTINCTIONS[name]} "
                f"{_listed(list(dict.fromkeys(kinds)))}): {named}; give the files of one"
            )


def _rounded(value: str) -> str:
    """A number to the digits in which slices of one image agree; any other value as it is."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value


def _difference(frames: list[Frame]) -> str:
    """How images at one place differ, such as " (echo time 10 and 90)"."""
    for name, word in DISTINCTIONS.items():
        values = list(dict.fromkeys(frame.distinct[name] for frame in frames if name in frame.distinct))
        if len(values) > 1 and name != "ContentTime":
            return f" ({word} {_listed(values)})"
    return ""


def _refuse_missing(order: list[Frame], distances: np.ndarray) -> None:
    gaps = np.diff(distances)
    if gaps.size < 2:
        return
    usual = float(np.median(gaps))
    holes = np.flatnonzero(gaps > _MISSING * usual)
    if not holes.size:
        return
    where = [
        f"between {order[n].name} and {order[n + 1].name} ({gaps[n]:.4g} mm instead of {usual:.4g})" for n in holes
    ]
    lacking = sum(max(1, round(gaps[n] / usual) - 1) for n in holes)
    raise NoStack(f"{lacking} slice{'s are' if lacking > 1 else ' is'} missing, or their gaps change: {_listed(where)}")


def grid_of(stack: Stack) -> Grid:
    """The grid of a stack that is even and straight, its first slice and row first, columns as i, rows as j."""
    first = stack.frames[0]
    position, rows, columns = first.placed
    matrix = np.eye(4)
    matrix[:3, 0] = columns * first.spacing[1]
    matrix[:3, 1] = rows * first.spacing[0]
    matrix[:3, 2] = first.normal * stack.gap
    count = len(stack.frames)
    if count > 1:
        matrix[:3, 2] += (stack.shifts[-1] @ np.stack([columns, rows])) / (count - 1)
    matrix[:3, 3] = position
    return Grid((count, *first.shape), LPS_FROM_RAS @ matrix)


def straightened(stack: Stack, array: np.ndarray) -> tuple[np.ndarray, Grid]:
    """The slices (K, J, I) of a stack that leans or is uneven on an even, right-angled grid.

    Linear between neighbours along the normal and within each plane; the smallest value where there was no slice. The
    grid covers all slices; where that leaves out background alone, it lies on one of them and is as wide.
    """
    first, gap = stack.frames[0], stack.gap
    spacing = np.array([first.spacing[1], first.spacing[0]])
    background = np.float32(array.min())
    ground = background + _BACKGROUND * (float(array.max()) - background)
    kept = stack.shifts[_enclosing(array > ground, stack.shifts / spacing)]
    pixels = (stack.shifts - kept) / spacing
    low = np.floor(pixels.min(0) + 1e-6).astype(int)
    high = np.ceil(pixels.max(0) - 1e-6).astype(int)
    count = round(stack.distances[-1] / gap) + 1
    shape = (count, first.shape[0] + high[1] - low[1], first.shape[1] + high[0] - low[0])
    result = np.empty(shape, np.float32)
    placed: dict[int, np.ndarray] = {}

    def in_plane(n: int) -> np.ndarray:
        if n not in placed:
            for old in [key for key in placed if key < n - 1]:
                del placed[old]
            placed[n] = _shifted(array[n], pixels[n] - low, shape[1:], background)
        return placed[n]

    for k in range(count):
        at = min(k * gap, stack.distances[-1])
        below = int(np.clip(np.searchsorted(stack.distances, at + 1e-9, side="right") - 1, 0, len(array) - 1))
        above = min(below + 1, len(array) - 1)
        step = stack.distances[above] - stack.distances[below]
        weight = np.float32((at - stack.distances[below]) / step) if step > 0 else np.float32(0)
        result[k] = in_plane(below)
        if weight > 1e-6:
            result[k] += weight * (in_plane(above) - result[k])
    window = (slice(None), slice(-low[1], first.shape[0] - low[1]), slice(-low[0], first.shape[1] - low[0]))
    if _highest_beyond(result, window) <= ground:
        result, low = np.ascontiguousarray(result[window]), np.zeros(2, int)
    position, rows, columns = first.placed
    corner = kept + low * spacing
    matrix = np.eye(4)
    matrix[:3, 0] = columns * spacing[0]
    matrix[:3, 1] = rows * spacing[1]
    matrix[:3, 2] = first.normal * gap
    matrix[:3, 3] = position + columns * corner[0] + rows * corner[1]
    return result, Grid(result.shape, LPS_FROM_RAS @ matrix)


def _enclosing(content: np.ndarray, pixels: np.ndarray) -> int:
    """The slice nearest to the middle within whose edges the content of all slices lies; the middle one if none.

    content: (K, J, I) bool; pixels: (K, 2), where each slice begins, along (i, j).
    """
    middle = len(content) // 2
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for plane, start in zip(content, pixels, strict=True):
        if plane.any():
            ends = [np.flatnonzero(plane.any(axis=axis))[[0, -1]] for axis in (0, 1)]
            low = np.minimum(low, start + [end[0] for end in ends])
            high = np.maximum(high, start + [end[1] for end in ends])
    last = np.array(content.shape[:0:-1]) - 1
    fitting = np.flatnonzero((pixels <= low).all(1) & (pixels + last >= high).all(1))
    return int(fitting[np.abs(fitting - middle).argmin()]) if fitting.size else middle


def _highest_beyond(array: np.ndarray, window: tuple[slice, ...]) -> float:
    """The largest value outside a window of rows and columns."""
    rows, columns = window[1], window[2]
    beyond = (array[:, : rows.start], array[:, rows.stop :], array[:, :, : columns.start], array[:, :, columns.stop :])
    return max((float(part.max()) for part in beyond if part.size), default=-np.inf)


def _shifted(plane: np.ndarray, pixels: np.ndarray, shape: tuple[int, ...], background: np.float32) -> np.ndarray:
    """A slice (J, I) moved by `pixels` >= 0 along (i, j) on a plane of `shape`, linear between its pixels."""
    whole = np.floor(pixels + 1e-6).astype(int)
    part = np.clip(pixels - whole, 0, 1)
    part[part < 1e-5] = 0
    out = np.full(shape, background, np.float32)
    moved = plane.astype(np.float32)
    for axis, fraction in ((1, part[0]), (0, part[1])):
        if fraction:
            border = [(0, 0), (0, 0)]
            border[axis] = (1, 1)
            wide = np.pad(moved, border, constant_values=background)
            ends = slice(None, -1), slice(1, None)
            before, after = (wide[end] if axis == 0 else wide[:, end] for end in ends)
            moved = np.float32(fraction) * before + np.float32(1 - fraction) * after
    j, i = int(whole[1]), int(whole[0])
    rows, columns = min(moved.shape[0], shape[0] - j), min(moved.shape[1], shape[1] - i)
    out[j : j + rows, i : i + columns] = moved[:rows, :columns]
    return out
