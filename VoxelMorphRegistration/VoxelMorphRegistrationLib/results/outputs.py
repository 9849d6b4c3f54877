"""The files of one registration: all are written, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, VoxelMorphError
from ..fields.displacement import DisplacementField
from ..fields.files import reads_back, write_field
from ..images.files import read_image, write_image
from ..images.image import Image
from ..images.nifti_space import lost_places
from ..images.packed import together
from ..registration.result import Registration
from .overview import overview
from .staging import Staging

TRANSFORM = "transform.h5"
FIELD = "displacement.nii.gz"
WARPED = "warped.nii.gz"
LABELS = "warped_labels.nii.gz"
JACOBIAN = "jacobian.nii.gz"
REPORT = "report.json"
OVERVIEW = "overview.png"
INVERSE = "inverse.h5"
EXPECTED_ERROR = "expected_error.nii.gz"
# Of a voxel: what fields are rounded to. The last bits of determinants that are not written.
FIELD_PARTS, MAP_BITS = 1000, 11


def output_names(with_labels: bool, with_inverse: bool = False, with_error: bool = False) -> list[str]:
    """The files that a registration writes."""
    given = {LABELS: with_labels, INVERSE: with_inverse, EXPECTED_ERROR: with_error}
    every = [TRANSFORM, FIELD, INVERSE, WARPED, LABELS, JACOBIAN, EXPECTED_ERROR, REPORT, OVERVIEW]
    return [name for name in every if given.get(name, True)]


def names_of(registration: Registration) -> list[str]:
    """The files that this registration is written to."""
    made = (registration.warped_labels, registration.inverse, registration.expected_error)
    return output_names(*(part is not None for part in made))


def check_folder(
    folder: str | Path,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
) -> None:
    """Raise OutputError early when results could not be written to `folder`; leaves it as it was."""
    with reserved(folder, overwrite, inputs):
        pass


@contextlib.contextmanager
def reserved(
    folder: str | Path,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
) -> Iterator[Staging]:
    """Hold the folder for results until they are written: a second run is refused at once, not after its work.

    inputs: files and folders that are read; none of them is ever an output. Raises OutputError when results could not
    be written. Without any written, the folder is as it was.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The output {folder} is a file. Give a folder.")
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"The output {folder} is a link that leads nowhere. Give a folder.")
    names = output_names(True, True, True)
    for path in map(Path, inputs):
        if path.is_dir() and _same(path, folder):
            raise OutputError(f"The folder {folder} is read as an input. Give another folder for the results.")
        written = next((name for name in names if _same(path, folder / name)), None)
        if written is not None:
            raise OutputError(f"The input {path} would be replaced by a result. Give another folder for the results.")
    with contextlib.ExitStack() as stack:
        staging = Staging(folder)
        stack.enter_context(staging)
        # Also what this run does not write: it would go with the results that it replaces.
        existing = [name for name in names if (folder / name).exists()]
        if existing and not overwrite:
            raise OutputError(
                f"The folder {folder} already holds {', '.join(existing)}. Give another folder, or --overwrite to "
                "replace these files."
            )
        in_the_way = next((name for name in existing if (folder / name).is_dir()), None)
        if in_the_way is not None:
            raise OutputError(f"There is a folder {folder / in_the_way}, which no result can replace. Remove it first.")
        yield staging


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def write_registration(
    registration: Registration,
    fixed: Image,
    moving: Image,
    folder: str | Path,
    *,
    fixed_labels: Image | None = None,
    overwrite: bool = False,
    place: Staging | None = None,
    kept: Iterable[str] | None = None,
    more: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write transform (.h5), field (NIfTI), inverse transform (.h5, where it was made), warped image and labels,
    Jacobian map, expected error (its 90 % bound in mm, where it was estimated), report and overview picture.

    Fields are rounded to a thousandth of a voxel and determinants to four digits; a warped image of whole numbers of 16
    bits or more is written as such. The files are written under a temporary name, those that hold numbers are read
    back and compared, and then they take their places together. place: the folder, where it is held already. kept: the
    names of files that are wanted, beside the report (all when None). more: further files that go with them. Raises
    OutputError; the folder is then as it was.
    """
    folder, registration = Path(folder), with_doubts_of_files(registration)
    with contextlib.ExitStack() as stack:
        if place is None:
            place = stack.enter_context(reserved(folder, overwrite))
        stage = place.path
        total = rounded_field(registration.total_field())
        images = {
            WARPED: _as_read(registration.warped, moving).renamed("warped image"),
            JACOBIAN: rounded_map(registration.jacobian).renamed("Jacobian map"),
        }
        if registration.warped_labels is not None:
            images[LABELS] = registration.warped_labels.renamed("warped labels")
        if registration.expected_error is not None:
            images[EXPECTED_ERROR] = rounded_map(registration.expected_error.bound)
        fields = {TRANSFORM: total, FIELD: total}
        if registration.inverse is not None:
            fields[INVERSE] = rounded_field(registration.inverse)
        names = names_of(registration)
        if kept is not None:
            kept = {REPORT, *kept}
            names = [name for name in names if name in kept]
        fields = {name: field for name, field in fields.items() if name in names}
        images = {name: image for name, image in images.items() if name in names}
        try:
            # Each file is read back as soon as it is written, those that take longest first.
            tasks: list[Callable[[], object]] = [
                partial(_written, write_field, field, stage / name, reads_back) for name, field in fields.items()
            ]
            if OVERVIEW in names:
                picture = stage / OVERVIEW
                tasks.append(lambda: overview(registration, fixed, moving, picture, fixed_labels=fixed_labels))
            tasks += [partial(_written, write_image, image, stage / name, _holds) for name, image in images.items()]
            together(tasks)
            (stage / REPORT).write_text(registration.report.to_json() + "\n", encoding="utf-8")
            for name, content in (more or {}).items():
                (stage / name).write_bytes(content)
            # What an earlier run wrote and this one does not is no longer true.
            return place.swap([*names, *(more or ())], output_names(True, True, True))
        except OSError as error:
            raise OutputError(
                f"The results could not be written to {folder}: {error.strerror}. Check the free space and "
                "permissions, and whether another program has one of the files open."
            ) from error


def with_doubts_of_files(registration: Registration) -> Registration:
    """The registration with a warning in its report where its NIfTI files cannot hold the places of their voxels."""
    lost = lost_places(registration.field.grid) or lost_places(registration.warped.grid)
    report = registration.report
    warning = f"{lost} {TRANSFORM} is exact; for an exact image let 'voxelmorph apply' write a .nrrd file with it."
    if not lost or warning in report.warnings:
        return registration
    return replace(registration, report=replace(report, warnings=[*report.warnings, warning]))


def rounded_field(field: DisplacementField) -> DisplacementField:
    """The field to a thousandth of a voxel or finer, by a power of two: the rest is noise that does not compress."""
    from ..images.sampling import slabs
    from ..images.slabs import each

    step = _power(float(np.min(field.grid.spacing[field.grid.size > 1])) / FIELD_PARTS)
    out = np.empty_like(field.displacement_ras)

    def rounded(rows: slice) -> None:
        # By its inverse, which is a power of two as well: a product is faster than a quotient.
        part = field.displacement_ras[rows] * (1 / step)
        np.multiply(np.rint(part, out=part), step, out=out[rows])

    each(rounded, slabs(field.grid.shape))
    return DisplacementField(out, field.grid)


def rounded_map(image: Image) -> Image:
    """Determinants to four digits. Their signs stay."""
    bits = np.ascontiguousarray(image.array, np.float32).view(np.uint32)
    kept = np.uint32(0xFFFFFFFF << MAP_BITS & 0xFFFFFFFF)
    return image.with_array(((bits + np.uint32(1 << MAP_BITS - 1)) & kept).view(np.float32))


def _as_read(warped: Image, moving: Image) -> Image:
    """The warped image in the type of the moving one, where that has whole numbers of 16 bits or more."""
    kind = moving.array.dtype
    if kind.kind not in "iu" or kind.itemsize < 2 or warped.array.dtype.kind != "f":
        return warped
    bounds = np.iinfo(kind)
    out = np.empty(warped.array.shape, kind)
    for part, target in zip(warped.array, out, strict=True):
        target[:] = np.clip(np.rint(part.astype(np.float64)), bounds.min, bounds.max)
    return warped.with_array(out)


def _power(value: float) -> np.float32:
    """The power of two at or below a value."""
    return np.float32(2.0 ** np.floor(np.log2(value)))


def _written(
    write: Callable[[Any, Path], object], content: Any, path: Path, intact: Callable[[Path, Any], bool]
) -> None:
    """Write what holds numbers, and read it back: a full disk may go unnoticed while writing."""
    write(content, path)
    _verify(path, content, intact)


def _verify(path: Path, content: Any, intact: Callable[[Path, Any], bool]) -> None:
    try:
        found = intact(path, content)
    except (VoxelMorphError, RuntimeError) as error:
        raise OutputError(
            f"A result in {path.parent.parent.parent} could not be read back after writing: is the disk full?"
        ) from error
    if not found:
        raise OutputError(f"A result in {path.parent.parent.parent} reads back changed: is the disk full or damaged?")


def _holds(path: Path, image: Image) -> bool:
    return _equal(image.array, read_image(path).array)


def _equal(expected: np.ndarray, found: np.ndarray) -> bool:
    if expected.shape != found.shape:
        return False
    floats = expected.dtype.kind == "f"
    return all(
        np.array_equal(a, b) or (floats and np.array_equal(a, b, equal_nan=True))
        for a, b in zip(expected, found, strict=True)
    )
