"""From panels and views to pictures: captions, rows and columns, and small files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from PySide6 import QtGui

_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_GAP, _CAPTION, _TEXT = 8, 34, 22
# Colours of a small file: the most frequent ones, those far from all others, and the fewest pixels of such a one.
_EXACT, _FAR, _FEW = 16, 80, 12
# Bytes: every version of a picture stays in the history for ever.
_LARGEST = 300_000


def from_pixmap(pixmap) -> Picture.Image:
    """A Qt pixmap as a picture."""
    image = pixmap.toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    size = (image.width(), image.height())
    return Picture.frombuffer("RGB", size, bytes(image.constBits()), "raw", "RGB", image.bytesPerLine(), 1)


def from_png(content: bytes) -> Picture.Image:
    return Picture.open(io.BytesIO(content)).convert("RGB")


def table(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> Picture.Image:
    """Views (height, width, 3) of one size in rows and columns, with a caption over each column."""
    strip = [_captioned(rows[0], captions), *(_side_by_side([Picture.fromarray(v) for v in row]) for row in rows[1:])]
    return _stacked(strip)


def tiles(views: dict[str, np.ndarray], columns: int) -> Picture.Image:
    """Views of one size with a caption over each, `columns` in a row."""
    names, count = list(views), math.ceil(len(views) / columns)
    parts = [names[n * columns : (n + 1) * columns] for n in range(count)]
    return _stacked([_captioned([views[name] for name in part], part) for part in parts])


def _captioned(views: Sequence[np.ndarray], captions: Sequence[str]) -> Picture.Image:
    below = _side_by_side([Picture.fromarray(view) for view in views])
    picture = Picture.new("RGB", (below.width, below.height + _CAPTION), _PAPER)
    picture.paste(below, (0, _CAPTION))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT)
    left = 0
    for view, caption in zip(views, captions, strict=True):
        draw.text((left + view.shape[1] // 2, _CAPTION - 8), caption, _INK, font, "md")
        left += view.shape[1] + _GAP
    return picture


def _side_by_side(pictures: Sequence[Picture.Image]) -> Picture.Image:
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    row = Picture.new("RGB", (width, max(picture.height for picture in pictures)), _PAPER)
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row


def _stacked(pictures: Sequence[Picture.Image]) -> Picture.Image:
    height = sum(picture.height for picture in pictures) + _GAP * (len(pictures) - 1)
    page = Picture.new("RGB", (max(picture.width for picture in pictures), height), _PAPER)
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height + _GAP
    return page


def shrunk(picture: Picture.Image, width: int) -> Picture.Image:
    return picture.resize((width, round(picture.height * width / picture.width)), Picture.Resampling.LANCZOS)


def save(picture: Picture.Image, path: Path) -> None:
    """Write a PNG of at most _LARGEST bytes, made smaller until it is one."""
    content = _as_png(picture)
    while len(content) > _LARGEST:
        # Noise fills a file about as its pixels do.
        part = min(0.95, math.sqrt(_LARGEST / len(content)))
        picture = shrunk(picture, int(part * picture.width))
        content = _as_png(picture)
    path.write_bytes(content)


def _as_png(picture: Picture.Image) -> bytes:
    """A PNG of 256 colours, which is a third as large."""
    pixels = np.asarray(picture).reshape(-1, 3)
    colours, index, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    palette = _palette(picture, colours.astype(np.int32), counts)
    # Pillow's own search for the nearest colour is coarse.
    nearest = ((palette**2).sum(1) - 2 * colours.astype(np.int32) @ palette.T).argmin(1)
    small = Picture.frombytes("P", picture.size, nearest[index.ravel()].astype(np.uint8).tobytes())
    small.putpalette(palette.ravel().tolist())
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return file.getvalue()


def _palette(picture: Picture.Image, colours: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(256, 3): the most frequent colours as they are, those by median cut, and those farthest from all these, so that
    a rare colour (that of a fold, say) is kept."""
    cut = picture.quantize(256 - _EXACT - _FAR, Picture.Quantize.MEDIANCUT).getpalette()
    palette = [*colours[np.argsort(-counts)[:_EXACT]], *np.array(cut).reshape(-1, 3)]
    candidates = colours[counts >= _FEW]
    distance = np.min([((candidates - one) ** 2).sum(1) for one in palette], axis=0)
    while len(palette) < 256 and distance.max(initial=0) > 0:
        palette.append(candidates[distance.argmax()])
        distance = np.minimum(distance, ((candidates - palette[-1]) ** 2).sum(1))
    return np.array(palette, np.int32)
