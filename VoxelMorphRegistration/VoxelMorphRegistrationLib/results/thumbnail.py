"""A small picture of a pair: the middle plane of the fixed image, of the warped one, and in what they differ."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from ..images.image import Image
from ..images.nodata import filled
from .panels import few_panels
from .slices import contents, matched, window

if TYPE_CHECKING:
    from ..registration.result import Registration

# Pixels along the longer side of a panel, and between panels.
SIDE, BETWEEN = 128, 2


def thumbnail(registration: Registration, fixed: Image, moving: Image) -> bytes:
    """A small JPEG. fixed, moving: the images that were registered."""
    from PIL import Image as Picture

    fixed, moving = filled(fixed).image, filled(moving).image
    rows = contents(registration, fixed, moving, None)[:1]
    windows = {"fixed": window(fixed.array), "moving": window(moving.array)}
    match = matched(rows, windows)
    size = rows[0].plane.size_mm
    shape = np.maximum(np.rint(size * SIDE / size.max()).astype(int), 1)
    panels = few_panels(rows[0], windows, match, (int(shape[0]), int(shape[1])))
    page = np.zeros((SIDE, len(panels) * (SIDE + BETWEEN) - BETWEEN, 3), np.uint8)
    for number, panel in enumerate(panels):
        top = (SIDE - panel.shape[0]) // 2
        left = number * (SIDE + BETWEEN) + (SIDE - panel.shape[1]) // 2
        page[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    file = io.BytesIO()
    Picture.fromarray(page).save(file, "JPEG", quality=80)
    return file.getvalue()
