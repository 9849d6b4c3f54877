"""Text, bars and scales around the pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .colours import (
    DOUBT_CONTOUR_MM,
    DOUBT_ENDS_MM,
    FOLD_COLOUR,
    JACOBIAN_LIMIT,
    LESS_TO_MORE,
    doubt_colours,
    jacobian_colours,
    ramp,
)
from .panels import DARKEST, GAP, nice

if TYPE_CHECKING:
    from .slices import Match, Slice


SIDE, HEAD, FOOT = 46, 148, 112
TITLE_SIZE, TEXT_SIZE, _SMALL_SIZE = 30, 25, 21
PAPER, INK, _DIM = (255, 255, 255), (20, 20, 20), (95, 95, 95)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def fitting(text: str, size: int, room: int):
    """The font at `size`, or smaller where the text would be wider than `room` pixels."""
    while size > 12 and _font(size).getlength(text) > room:
        size -= 1
    return _font(size)


def empty(column: str, match: Match) -> tuple[int, int, int]:
    """The colour beside a panel that is narrower than its column."""
    if column == "jacobian":
        return (round(255 * DARKEST),) * 3
    return LESS_TO_MORE[2][1] if match.alike and column in ("before", "after") else (0, 0, 0)


def draw_letters(draw, plane: Slice, box: tuple[int, int, int, int]) -> None:
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


def draw_sideways(picture, text: str, box: tuple[int, int, int, int]) -> None:
    from PIL import Image as Picture
    from PIL import ImageDraw

    font = _font(TEXT_SIZE)
    length = math.ceil(font.getlength(text))
    strip = Picture.new("RGB", (length, TEXT_SIZE + 8), PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, INK, font)
    strip = strip.transpose(Picture.Transpose.ROTATE_90)
    picture.paste(strip, (box[0], (box[1] + box[3] - length) // 2))


def draw_foot(
    picture,
    left: dict[str, int],
    top: int,
    width: int,
    match: Match,
    pixels_per_mm: float,
    step_mm: float,
    doubt_scale: float,
) -> None:
    """Scale, notes and colour bars below the panels. doubt_scale: as colours.doubt_scale gives it."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    _draw_scale(draw, left["fixed"], top, pixels_per_mm, width)
    if match.alike:
        _draw_difference_bar(picture, left["before"], top, 2 * width + GAP, match)
    else:
        middle = (left["after"] - GAP // 2, top + 10)
        draw.text(middle, "squares of fixed and moving in turn", _DIM, _font(_SMALL_SIZE), "ma")
    _draw_jacobian_bar(picture, left["jacobian"], top, width)
    if "doubt" in left:
        _draw_doubt_bar(picture, left["doubt"], top, width, doubt_scale)
    notes = (
        "Radiological convention: the patient's right and front are on the left.",
        f"Lines on the Jacobian: a grid of {step_mm:g} mm in the moving image, as the deformation",
        "carries it onto the fixed image.",
    )
    for line, text in enumerate(notes):
        draw.text((left["fixed"] + width // 2, top + 10 + line * 28), text, _DIM, _font(_SMALL_SIZE))


def _draw_scale(draw, left: int, top: int, pixels_per_mm: float, width: int) -> None:
    length = nice(0.4 * width / pixels_per_mm)
    end = left + round(length * pixels_per_mm)
    draw.rectangle((left, top + 12, end, top + 17), fill=INK)
    draw.text((left, top + 24), f"{length:g} mm", INK, _font(_SMALL_SIZE))


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
        draw.text((x, top + 27), text, INK, _font(_SMALL_SIZE), "ma")
    draw.text((left + length // 2, top + 56), caption, _DIM, fitting(caption, _SMALL_SIZE, length + 40), "ma")


def _draw_difference_bar(picture, left: int, top: int, room: int, match: Match) -> None:
    length = room // 2
    colours = ramp(np.linspace(-1, 1, length), LESS_TO_MORE)
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
    draw.text((left + 13, top + 39), "fold", INK, _font(_SMALL_SIZE), "ma")


def _draw_doubt_bar(picture, left: int, top: int, room: int, scale: float) -> None:
    low, high = (math.log(end * scale) for end in DOUBT_ENDS_MM)
    margin = 24
    values = np.exp(np.linspace(low, high, room - 2 * margin))
    ticks = [((math.log(v * scale) - low) / (high - low), f"{v * scale:g}") for v in (0.5, 1, 2, 5, 10)]
    caption = f"mm; white line: {DOUBT_CONTOUR_MM * scale:g} mm"
    _draw_bar(picture, left + margin, top + 12, doubt_colours(values, scale), ticks, caption)
