"""Finding the image files that a network learns from: in a folder, in a table of images, or in a table of pairs.

Everything here looks at names only, so that a wrong one is told before the first image is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, SettingsError
from .tables import read_rows

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
PAIR_COLUMNS = ("fixed_labels", "moving_labels", "fixed_points", "moving_points")


def stem_of(name: str) -> str:
    """A file's name without the ending of its format."""
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)


@dataclass(frozen=True)
class Case:
    """One image. name: what messages and the list of held-out images call it."""

    name: str
    image: Path
    labels: Path | None = None


@dataclass(frozen=True)
class ListedPair:
    """One line of a table of pairs. where: the file and the line, for messages."""

    fixed: Case
    moving: Case
    fixed_points: Path | None
    moving_points: Path | None
    where: str


def cases_in_folder(folder: Path, image_names: str, label_names: str) -> list[Case]:
    """The images in `folder` whose names fit the pattern `image_names`, sorted by name.

    A pattern has one `*`. With `label_names`, each image has the label map whose name has the same text there.
    Raises InputError for a missing folder, no images, or an image without its label map.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} with images (setting images.folder).")
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES))
    fits, labels_fit = pattern(image_names), pattern(label_names) if label_names else None
    cases = []
    for name in names:
        match = fits.fullmatch(name)
        # A pattern such as * fits label maps, too.
        if name.startswith(".") or not match or (labels_fit and labels_fit.fullmatch(name)):
            continue
        labels = folder / label_names.replace("*", match[1]) if label_names else None
        if labels is not None and not labels.is_file():
            raise InputError(f"The image {folder / name} has no label map {labels.name} (setting images.label_names).")
        cases.append(Case(name, folder / name, labels))
    if not cases:
        raise InputError(
            f"No file in {folder} is an image with a name like {image_names} (setting images.image_names)."
        )
    return cases


def pattern(text: str) -> re.Pattern:
    """A file name with one `*`, which stands for any text, as a regular expression with one group."""
    parts = text.split("*")
    if len(parts) != 2:
        raise SettingsError(f"A pattern of file names needs exactly one *, not '{text}'.")
    return re.compile(re.escape(parts[0]) + "(.*)" + re.escape(parts[1]))


def cases_in_table(path: Path) -> list[Case]:
    """The lines of a CSV file with the columns image[,labels]; paths start at the folder of the file."""
    rows = read_rows(path, ("image",), ("labels",))
    _all_or_none(path, rows, ("labels",))
    cases = [
        Case(row["image"], _needed(path, line, row, "image"), _file(path, line, row, "labels")) for line, row in rows
    ]
    twice = {case.name for case in cases if sum(case.image == other.image for other in cases) > 1}
    if twice:
        raise InputError(f"{path} lists the image {sorted(twice)[0]} twice.")
    return cases


def pairs_in_table(path: Path) -> list[ListedPair]:
    """The lines of a CSV file with the columns fixed,moving and any of PAIR_COLUMNS.

    Paths start at the folder of the file. A column is filled in every line or in none; labels and points are given for
    both images or for none. Raises InputError.
    """
    rows = read_rows(path, ("fixed", "moving"), PAIR_COLUMNS)
    for both in (PAIR_COLUMNS[:2], PAIR_COLUMNS[2:]):
        _all_or_none(path, rows, both)
    pairs = []
    for line, row in rows:
        images = {side: _needed(path, line, row, side) for side in ("fixed", "moving")}
        files = {column: _file(path, line, row, column) for column in PAIR_COLUMNS}
        if images["fixed"] == images["moving"]:
            raise InputError(f"{path}, line {line}: the fixed and the moving image are the same file.")
        fixed, moving = (Case(row[side], images[side], files[f"{side}_labels"]) for side in ("fixed", "moving"))
        pairs.append(
            ListedPair(fixed, moving, files["fixed_points"], files["moving_points"], f"{path.name}, line {line}")
        )
    return pairs


def is_table_of_pairs(path: Path) -> bool:
    """Whether the first line of a CSV file names fixed images."""
    if not path.is_file():
        raise InputError(f"There is no table {path} (setting images.table).")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "fixed" in [name.strip() for name in file.readline().split(",")]


def _needed(table: Path, line: int, row: dict[str, str], column: str) -> Path:
    """The file that a cell names; InputError when the cell is empty or the file missing."""
    if not row[column]:
        raise InputError(f"{table}, line {line}: the column {column} is empty.")
    path = table.parent / row[column]
    if not path.exists():
        raise InputError(f"{table}, line {line}: there is no file {path}.")
    return path


def _file(table: Path, line: int, row: dict[str, str], column: str) -> Path | None:
    """The same, None for an empty cell."""
    return _needed(table, line, row, column) if row[column] else None


def _all_or_none(table: Path, rows: list[tuple[int, dict[str, str]]], columns: tuple[str, ...]) -> None:
    """Refuse a table where a part of the cells of `columns` is filled."""
    wanted = any(row[column] for _, row in rows for column in columns)
    for line, row in rows:
        if wanted and not all(row[column] for column in columns):
            raise InputError(
                f"{table}, line {line}: {' or '.join(columns)} is empty, but not in every line. Fill in "
                f"{' and '.join(columns)} for every line, or for none."
            )
