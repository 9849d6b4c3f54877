"""One picture that shows a registration: what went in, what came out, and what the deformation does to volume.

Drawn with numpy and Pillow. Slices lie along the fixed image's own axes, turned so that every panel is in the
radiological convention: the patient's right and front are on the left of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import OutputError
from ..images.image import Image
from ..images.nodata import filled
from .colours import doubt_scale
from .drawing import (
    FOOT,
    HEAD,
    INK,
    PAPER,
    SIDE,
    TEXT_SIZE,
    TITLE_SIZE,
    draw_foot,
    draw_letters,
    draw_sideways,
    empty,
    fitting,
)
from .panels import CELL, GAP, NARROWEST, nice, panels_of, was_aligned
from .slices import contents, matched, window

if TYPE_CHECKING:
    from PIL import Image as Picture

    from ..registration.result import Registration
    from .slices import Match


@dataclass(frozen=True, eq=False)
class Overview:
    """The finished picture. panels: (plane, column) -> (left, top, right, bottom) in pixels."""

    picture: Picture.Image
    panels: dict[tuple[str, str], tuple[int, int, int, int]] = field(default_factory=dict)

    def panel(self, plane: str, column: str) -> np.ndarray:
        """The pixels (rows, columns, 3) of one panel."""
        return np.asarray(self.picture.crop(self.panels[plane, column]))


COLUMNS = ("fixed", "moving", "warped", "before", "after", "jacobian")
# The last one, where there is a map of it.
DOUBT = "doubt"


def _titles(match: Match, report) -> dict[str, str]:
    kind = "Difference" if match.alike else "Checkerboard"
    total = report.settings.get("jacobian") == "total" and not np.allclose(report.linear, np.eye(4))
    return {
        "fixed": "Fixed",
        "moving": "Moving, aligned" if was_aligned(report) else "Moving",
        "warped": "Moving, warped",
        "before": f"{kind} before",
        "after": f"{kind} after",
        "jacobian": "Jacobian (total)" if total else "Jacobian",
        DOUBT: "Expected error (90 %)",
    }


def draw_overview(
    registration: Registration, fixed: Image, moving: Image, fixed_labels: Image | None = None
) -> Overview:
    """The overview as a picture in memory; see `overview`."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    fixed, moving = filled(fixed).image, filled(moving).image
    rows = contents(registration, fixed, moving, fixed_labels)
    windows = {"fixed": window(fixed.array), "moving": window(moving.array)}
    match = matched(rows, windows)
    longest_mm = max(row.plane.size_mm.max() for row in rows)
    pixels_per_mm, step_mm = CELL / longest_mm, nice(longest_mm / 14)
    shapes = [tuple(np.maximum(np.rint(row.plane.size_mm * pixels_per_mm).astype(int), 1)) for row in rows]
    width = max(NARROWEST, max(shape[1] for shape in shapes))
    columns = COLUMNS if registration.expected_error is None else (*COLUMNS, DOUBT)
    scale = doubt_scale(longest_mm)
    page_width = SIDE + len(columns) * (width + GAP) + GAP
    page_height = HEAD + sum(shape[0] + GAP for shape in shapes) + FOOT
    picture = Picture.new("RGB", (page_width, page_height), PAPER)
    draw = ImageDraw.Draw(picture)
    left = {name: SIDE + n * (width + GAP) for n, name in enumerate(columns)}
    boxes, top = {}, HEAD
    for row, shape in zip(rows, shapes, strict=True):
        for name, pixels in panels_of(row, windows, match, step_mm, scale, shape).items():
            x = left[name] + (width - shape[1]) // 2
            draw.rectangle((left[name], top, left[name] + width - 1, top + shape[0] - 1), fill=empty(name, match))
            picture.paste(Picture.fromarray(pixels), (x, top))
            boxes[row.plane.name, name] = (x, top, x + shape[1], top + shape[0])
        draw_letters(draw, row.plane, (left["fixed"], top, left["fixed"] + width, top + shape[0]))
        draw_sideways(picture, row.plane.title, (8, top, 8, top + shape[0]))
        top += shape[0] + GAP
    _draw_head(draw, registration.report, _titles(match, registration.report), left, width)
    draw_foot(picture, left, top, width, match, pixels_per_mm, step_mm, scale)
    return Overview(picture, boxes)


def _draw_head(draw, report, titles: dict[str, str], left: dict[str, int], width: int) -> None:
    alignment = report.settings.get("alignment", "affine")
    passes = "1 pass" if report.passes == 1 else f"{report.passes} passes"
    refined = report.refinement["preset"] if report.refinement else "off"
    first = (
        f"Model {report.model['name']}, alignment {alignment}, {passes}, "
        + (f"refinement {refined}, " if refined != "off" else "")
        # Without the time it took: the same registration gives the same picture.
        + f"on {report.device}"
    )
    inside = report.folding["inside"]
    stages = ("before", "aligned", "after") if was_aligned(report) else ("before", "after")
    parts = []
    for name, values in (("NCC", "ncc"), ("MI", "mi")):
        parts.append(f"{name} " + ", ".join(f"{report.similarity[s][values]:.3f} {s}" for s in stages))
    if report.dice:
        parts.append("Dice " + ", ".join(f"{report.dice[s]['mean']:.3f} {s}" for s in stages))
    parts.append(f"folds {inside['count']:,} (strict {inside['any_corner_count']:,}) of {inside['voxels']:,} voxels")
    room = len(left) * (width + GAP)
    for line, (text, size) in enumerate(((first, TITLE_SIZE), ("   |   ".join(parts), TEXT_SIZE))):
        draw.text((SIDE, 12 + 44 * line), text, INK, fitting(text, size, room))
    for name in left:
        text = titles[name]
        draw.text((left[name] + width // 2, HEAD - 8), text, INK, fitting(text, TEXT_SIZE, width), "md")


def overview(
    registration: Registration, fixed: Image, moving: Image, path: str | Path, fixed_labels: Image | None = None
) -> None:
    """Write one PNG: planes through the fixed anatomy (rows) by fixed, moving, warped, before, after, Jacobian,
    and the expected error where there is a map of it.

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
