"""Draws the thumbnails of the module's samples in Sample Data: 260 x 280 pixels each.

    python Testing/Pictures/make_thumbnails.py --output VoxelMorphRegistration/Resources/Icons

They are signs of what a sample is for, made of the MNI152 template (package nilearn), not of the samples themselves,
which are downloaded when a user asks for them: two images of a head in the squares of a checkerboard.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
sys.path[:0] = [str(ROOT / "VoxelMorphRegistration"), str(ROOT / "Testing/Harness")]

import numpy as np  # noqa: E402
import sheets  # noqa: E402
from PIL import Image as Picture  # noqa: E402
from PIL import ImageDraw, ImageFont  # noqa: E402

from VoxelMorphRegistrationLib.commands.demo_case import load_template  # noqa: E402

SIZE, SQUARE = (260, 280), 65
_FONT, _MARGIN, _EDGE = 26, 6, 12


def slices() -> tuple[np.ndarray, np.ndarray]:
    """An axial slice of the template as grey levels 0 to 1, the front above, and its inner part, bool."""
    template = load_template()
    plane = template.array[template.array.shape[0] // 2 + 8][::-1]
    rows, columns = (np.flatnonzero((plane > 0).any(axis)) for axis in (1, 0))
    plane = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    low, high = np.percentile(plane[plane > 0], [2, 99.9])
    return np.clip((plane - low) / (high - low), 0, 1) ** 2.2 * (plane > 0), plane > 0


def as_t2(t1: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """What is dark becomes bright, inside the head."""
    return np.where(inner, (1.0 - t1) ** 1.5, 0.0)


def smaller(plane: np.ndarray) -> np.ndarray:
    """Another head: narrower and turned."""
    picture = Picture.fromarray((255 * plane).astype(np.uint8))
    turned = picture.rotate(9, Picture.Resampling.BICUBIC).resize(
        (int(0.86 * picture.width), int(0.94 * picture.height)), Picture.Resampling.LANCZOS
    )
    canvas = Picture.new("L", picture.size)
    canvas.paste(turned, ((picture.width - turned.width) // 2, (picture.height - turned.height) // 2))
    return np.asarray(canvas) / 255.0


def drawn(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> Picture.Image:
    """The two in squares, the second bluish, with their names."""
    tinted = []
    for plane, colour in ((first, (1.0, 1.0, 1.0)), (second, (0.72, 0.86, 1.0))):
        picture = Picture.fromarray((255 * plane[..., None] * colour).astype(np.uint8))
        part = min((SIZE[0] - 2 * _EDGE) / picture.width, (SIZE[1] - 2 * _EDGE) / picture.height)
        picture = picture.resize(
            (round(part * picture.width), round(part * picture.height)), Picture.Resampling.LANCZOS
        )
        canvas = Picture.new("RGB", SIZE)
        canvas.paste(picture, ((SIZE[0] - picture.width) // 2, (SIZE[1] - picture.height) // 2))
        tinted.append(np.asarray(canvas))
    row, column = np.indices(SIZE[::-1]) // SQUARE
    picture = Picture.fromarray(np.where((row + column)[..., None] % 2 == 0, *tinted))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT)
    draw.text((_MARGIN, _MARGIN), names[0], (255, 255, 255), font, "lt")
    draw.text((SIZE[0] - _MARGIN, SIZE[1] - _MARGIN), names[1], (184, 219, 255), font, "rb")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the icons")
    options = parser.parse_args()
    t1, inner = slices()
    for name, picture in {
        "SampleTwoHeadsT1": drawn(t1, smaller(t1), ("T1", "T1")),
        "SampleOneHeadT2AndT1": drawn(as_t2(t1, inner), t1, ("T2", "T1")),
    }.items():
        sheets.save(picture, options.output / f"{name}.png")


if __name__ == "__main__":
    main()
