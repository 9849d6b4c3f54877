"""Slicer's segmentations (.seg.nrrd): layers of label values, with names, colours and terminology in the header."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..images.grid import Grid
from .frames import Frames, read_frames, to_sitk

SUFFIX = ".seg.nrrd"
_EXTENT = re.compile(r"Segment\d+_Extent$")
_GEOMETRY = "Reference image geometry"


def read(path: str | Path) -> Frames:
    """Every layer as a frame, with the header in its tags. Raises InputError for other files."""
    frames = read_frames(path)
    if not any(key.startswith("Segment") for key in frames.tags) or frames.values.dtype.kind not in "iu":
        raise InputError(f"{frames.name} is no segmentation of Slicer: its header names no segments.")
    return frames


def write(frames: Frames, path: Path, target: Path) -> None:
    """Write to `path` and read it back; what the header says of the geometry is that of the frames."""
    import SimpleITK as sitk

    image = to_sitk(frames)
    for key, value in _tags(frames).items():
        image.SetMetaData(key, value)
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
        _layers_as_list(path)
        back = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise OutputError(f"{target} could not be written: check the free space.") from error
    if not np.array_equal(sitk.GetArrayViewFromImage(back), sitk.GetArrayViewFromImage(image)):
        raise OutputError(f"{target} reads back changed after writing: is the disk full?")


def _tags(frames: Frames) -> dict[str, str]:
    # What the reader says of the file itself is for the writer to say.
    kept = {key: value for key, value in frames.tags.items() if key.startswith("Segment")}
    extent = " ".join(f"0 {n - 1}" for n in frames.grid.size)
    for key in kept:
        if _EXTENT.match(key):
            kept[key] = extent
    kept["Segmentation_ReferenceImageExtentOffset"] = "0 0 0"
    if "Segmentation_ConversionParameters" in kept:
        kept["Segmentation_ConversionParameters"] = _with_geometry(
            kept["Segmentation_ConversionParameters"], frames.grid
        )
    return kept


def _with_geometry(parameters: str, grid: Grid) -> str:
    """Slicer's conversion parameters, name|value|description& ..., with the grid: its matrix row by row, and extent."""
    matrix = "".join(f"{value:.17g};" for value in grid.ijk_to_ras.ravel())
    extent = "".join(f"0;{n - 1};" for n in grid.size)
    parts = []
    for part in parameters.split("&"):
        words = part.split("|")
        if words[0] == _GEOMETRY and len(words) > 1:
            words[1] = matrix + extent
        parts.append("|".join(words))
    return "&".join(parts)


def _layers_as_list(path: Path) -> None:
    """ITK calls the axis of several values a vector; Slicer wants a list of layers."""
    content = path.read_bytes()
    end = content.find(b"\n\n")
    head = content[:end].replace(b"kinds: vector domain", b"kinds: list domain")
    path.write_bytes(head + content[end:])
