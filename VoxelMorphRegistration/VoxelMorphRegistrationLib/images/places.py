"""What a name leads to: a file that can be read, and not a pipe or a device, which may never end.

NRRD and MetaImage heads may name other files with the voxels; ITK opens those, whatever they are.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from ..errors import InputError

# Where a head names its data files. Teem, "NRRD file format", "data file:"; ITK, "MetaIO", ElementDataFile. What
# follows LIST are names, one a line.
_HEAD = 1 << 20
_NAMED = re.compile(rb"^\s*(?:data ?file:|ElementDataFile\s*=)[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_HEADS = (b"NRRD", b"ObjectType", b"Comment", b"NDims")
# Teem, "NRRD file format", "space units:"; a blank line ends the head.
_UNITS = re.compile(rb"^(?:space )?units:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_MILLIMETRES = {"mm", "millimeter", "millimeters", "millimetre", "millimetres"}


def check_place(path: Path, label: str) -> None:
    """Raise InputError unless there is a folder, or a file that can be read."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError | ValueError)
        why = "" if absent else f" ({getattr(error, 'strerror', error)})"
        raise InputError(f"The {label} cannot be read: there is no file {path}{why}.") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise InputError(f"The {label} cannot be read: {path} is a pipe or a device, and no file.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The {label} cannot be read: {path} may not be read. Ask for the right to.")


def check_file(path: Path, label: str) -> None:
    """Raise InputError unless there is a file that can be read."""
    check_place(path, label)
    if path.is_dir():
        raise InputError(f"The {label} cannot be read: {path} is a folder.")


def check_data_files(path: Path, label: str) -> None:
    """Raise InputError where a head names a pipe or a device as the file of its voxels. Other files pass."""
    for other in _data_files(path):
        if os.path.exists(other) and not other.is_file():  # noqa: PTH110 - never raises
            raise InputError(
                f"The {label} cannot be read from {path}: it says that its voxels are in {other}, which is no file."
            )


def missing_data_file(path: Path) -> Path | None:
    """A file that a head names for its voxels and that is not there, or None."""
    # Patterns with numbers are no names.
    names = (other for other in _data_files(path) if "%" not in other.name)
    return next((other for other in names if not os.path.exists(other)), None)  # noqa: PTH110 - never raises


def units_told(path: Path, label: str) -> list[str]:
    """A sentence where the head of a NRRD file states lengths in another unit than millimetres. ITK and 3D Slicer read
    them as millimetres; a NIfTI file of the same image is read by its unit, and would lie elsewhere.
    """
    head = _head_of(path)
    found = _UNITS.search(re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]) if head.startswith(b"NRRD") else None
    units = re.findall(r'"([^"]*)"', found.group(1).decode("utf-8", "replace")) if found else []
    other = [unit for unit in units if unit.strip() and unit.strip().lower() not in _MILLIMETRES]
    if not other:
        return []
    return [
        f"The header of the {label} gives its lengths in '{other[0]}'; they were read as millimetres, as ITK and 3D "
        "Slicer read them. Correct the spacing and the unit in the file if that is wrong."
    ]


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _data_files(path: Path) -> list[Path]:
    head = _head_of(path)
    found = _NAMED.search(head) if head.lstrip().startswith(_HEADS) else None
    if found is None:
        return []
    names = [found.group(1)]
    if names[0].split()[:1] == [b"LIST"]:
        names = head[found.end() :].split(b"\n")
    left = {name.strip() for name in names} - {b"", b"LOCAL", b"Local", b"local"}
    return [path.parent / os.fsdecode(name) for name in sorted(left)]
