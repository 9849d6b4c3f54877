"""The files of one registration: all are written, or none."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from ..errors import OutputError, VoxelMorphError
from ..fields.files import read_field, write_field
from ..images.files import read_image, write_image
from ..images.image import Image
from ..registration.result import Registration
from .overview import overview

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
    folder: str | Path, with_labels: bool = False, overwrite: bool = False, with_inverse: bool = False
) -> None:
    """Raise OutputError early when results could not be written to `folder`; leaves it as it was."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The output {folder} is a file. Give a folder.")
    existing = [name for name in output_names(with_labels, with_inverse) if (folder / name).exists()]
    if existing and not overwrite:
        raise OutputError(
            f"The folder {folder} already holds {', '.join(existing)}. Give another folder, or --overwrite to "
            "replace these files."
        )
    with _Staging(folder):
        pass


class _Staging:
    """A temporary folder beside the results; it goes, and the output folder too if it was made here and is empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=".voxelmorph-", dir=self.folder))
        except OSError as error:
            self._remove_empty()
            raise OutputError(
                f"Nothing can be written to {self.folder}: {error.strerror}. Choose a folder that you may write to."
            ) from error
        return self.path

    def __exit__(self, *_) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        for folder in self._made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def write_registration(
    registration: Registration,
    fixed: Image,
    moving: Image,
    folder: str | Path,
    *,
    fixed_labels: Image | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write transform (.h5), field (NIfTI), inverse transform (.h5, where it was made), warped image and labels,
    Jacobian map, report and overview picture.

    The files are written under a temporary name, those that hold numbers are read back and compared, and then they
    take their places together. Raises OutputError; the folder is then as it was.
    """
    folder = Path(folder)
    check_folder(folder, registration.warped_labels is not None, overwrite, registration.inverse is not None)
    total = registration.total_field()
    with _Staging(folder) as stage:
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
            return _move(stage, folder, names_of(registration))
        except OSError as error:
            raise OutputError(
                f"The results could not be written to {folder}: {error.strerror}. Check the free space and permissions."
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
                f"A result in {stage.parent} could not be read back after writing: is the disk full?"
            ) from error
        if not intact:
            raise OutputError(f"A result in {stage.parent} reads back changed: is the disk full or damaged?")


def _move(stage: Path, folder: Path, names: list[str]) -> list[Path]:
    """Put the finished files in their places; files of the same names, older labels and inverses make room for them."""
    for name in (LABELS, INVERSE):
        (folder / name).unlink(missing_ok=True)
    return [(stage / name).replace(folder / name) for name in names]
