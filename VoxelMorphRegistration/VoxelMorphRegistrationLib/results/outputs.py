"""The files of one registration: all are written, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import OutputError, VoxelMorphError
from ..fields.files import read_field, write_field
from ..images.files import read_image, write_image
from ..images.image import Image
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


def output_names(with_labels: bool, with_inverse: bool = False) -> list[str]:
    """The files that a registration writes."""
    labels, inverse = ([name] if given else [] for name, given in ((LABELS, with_labels), (INVERSE, with_inverse)))
    return [TRANSFORM, FIELD, *inverse, WARPED, *labels, JACOBIAN, REPORT, OVERVIEW]


def names_of(registration: Registration) -> list[str]:
    """The files that this registration is written to."""
    return output_names(registration.warped_labels is not None, registration.inverse is not None)


def check_folder(
    folder: str | Path,
    with_labels: bool = False,
    overwrite: bool = False,
    with_inverse: bool = False,
    inputs: Iterable[str | Path] = (),
) -> None:
    """Raise OutputError early when results could not be written to `folder`; leaves it as it was."""
    with reserved(folder, with_labels, overwrite, with_inverse, inputs):
        pass


@contextlib.contextmanager
def reserved(
    folder: str | Path,
    with_labels: bool = False,
    overwrite: bool = False,
    with_inverse: bool = False,
    inputs: Iterable[str | Path] = (),
) -> Iterator[Staging]:
    """Hold the folder for results until they are written: a second run is refused at once, not after its work.

    inputs: files and folders that are read; none of them is ever an output. Raises OutputError when results could not
    be written. Without any written, the folder is as it was.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The output {folder} is a file. Give a folder.")
    names = output_names(True, True)
    for path in map(Path, inputs):
        if path.is_dir() and _same(path, folder):
            raise OutputError(f"The folder {folder} is read as an input. Give another folder for the results.")
        written = next((name for name in names if _same(path, folder / name)), None)
        if written is not None:
            raise OutputError(f"The input {path} would be replaced by a result. Give another folder for the results.")
    with contextlib.ExitStack() as stack:
        staging = Staging(folder)
        stack.enter_context(staging)
        names = output_names(with_labels, with_inverse)
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
) -> list[Path]:
    """Write transform (.h5), field (NIfTI), inverse transform (.h5, where it was made), warped image and labels,
    Jacobian map, report and overview picture.

    The files are written under a temporary name, those that hold numbers are read back and compared, and then they
    take their places together. place: the folder, where it is held already. Raises OutputError; the folder is then as
    it was.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        if place is None:
            inverse = registration.inverse is not None
            held = reserved(folder, registration.warped_labels is not None, overwrite, inverse)
            place = stack.enter_context(held)
        stage = place.path
        total = registration.total_field()
        try:
            write_field(total, stage / TRANSFORM)
            write_field(total, stage / FIELD)
            if registration.inverse is not None:
                write_field(registration.inverse, stage / INVERSE)
            write_image(registration.warped.renamed("warped image"), stage / WARPED)
            write_image(registration.jacobian.renamed("Jacobian map"), stage / JACOBIAN)
            if registration.warped_labels is not None:
                write_image(registration.warped_labels.renamed("warped labels"), stage / LABELS)
            (stage / REPORT).write_text(registration.report.to_json() + "\n", encoding="utf-8")
            overview(registration, fixed, moving, stage / OVERVIEW, fixed_labels=fixed_labels)
            _verify(registration, total, stage)
            # An older map of labels or inverse does not outlive the transform that it belongs to.
            return place.swap(names_of(registration), (LABELS, INVERSE))
        except OSError as error:
            raise OutputError(
                f"The results could not be written to {folder}: {error.strerror}. Check the free space and "
                "permissions, and whether another program has one of the files open."
            ) from error


def _verify(registration: Registration, total, stage: Path) -> None:
    """Read back what holds numbers: a full disk may go unnoticed while writing."""
    images = {WARPED: registration.warped, JACOBIAN: registration.jacobian, LABELS: registration.warped_labels}
    fields = {TRANSFORM: total, FIELD: total, INVERSE: registration.inverse}
    pairs = [
        (f.displacement_ras, lambda n=n: read_field(stage / n).displacement_ras)
        for n, f in fields.items()
        if f is not None
    ]
    pairs += [(i.array, lambda n=n: read_image(stage / n).array) for n, i in images.items() if i is not None]
    for expected, read in pairs:
        try:
            found = read()
            intact = np.array_equal(expected, found)
            if not intact and expected.dtype.kind == "f":
                intact = np.array_equal(expected, found, equal_nan=True)
        except (VoxelMorphError, RuntimeError) as error:
            raise OutputError(
                f"A result in {stage.parent.parent} could not be read back after writing: is the disk full?"
            ) from error
        if not intact:
            raise OutputError(f"A result in {stage.parent.parent} reads back changed: is the disk full or damaged?")
