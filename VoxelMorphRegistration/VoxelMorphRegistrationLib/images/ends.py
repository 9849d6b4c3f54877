"""Files that end early, of the formats whose readers in ITK take what is there for the whole.

NRRD, MetaImage, PNG, HDF5 and MINC are refused by their readers themselves (each was cut at three places and tried).
"""

from __future__ import annotations

import math
from pathlib import Path

from . import legacy_vtk
from .packed import DamagedFile, unpacked

# Formats that hold all voxels as they are in one file, behind a head of so many bytes; by the names of ITK's readers.
_PLAIN = {"GiplImageIO": 256, "MRCImageIO": 1024, "BioRadImageIO": 76}
# JPEG and JPEG 2000 end with the same mark; cameras and scanners may put a little behind it.
_END_MARK, _BEHIND = b"\xff\xd9", 1 << 16


def ends_early(path: Path) -> bool:
    """Whether a file has less in it than its head says. False for other formats."""
    import SimpleITK as sitk

    try:
        kind = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
        if kind == "VTKImageIO":
            return legacy_vtk.ends_early(path)
        if kind in ("JPEGImageIO", "JPEG2000ImageIO"):
            return _lacks_end_mark(path)
        if kind == "BMPImageIO":
            return _shorter_than_stated(path)
        if kind not in _PLAIN:
            return False
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError:
        # The reader says what is wrong.
        return False
    size = math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * _bytes_of(reader.GetPixelID())
    return _fewer_bytes(path, _PLAIN[kind] + size)


def _bytes_of(pixel: int) -> int:
    import SimpleITK as sitk

    return sitk.Image(
        [1, 1], pixel, 1 if "vector" in sitk.GetPixelIDValueAsString(pixel) else 0
    ).GetSizeOfPixelComponent()


def _lacks_end_mark(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _BEHIND))
        return _END_MARK not in file.read()


def _shorter_than_stated(path: Path) -> bool:
    """By the size that a bitmap's head states, where it does."""
    with path.open("rb") as file:
        head = file.read(6)
    return head[:2] == b"BM" and path.stat().st_size < int.from_bytes(head[2:6], "little")


def _fewer_bytes(path: Path, count: int) -> bool:
    try:
        with unpacked(path) as content:
            return content.skip(count) < count
    except DamagedFile:
        return True
