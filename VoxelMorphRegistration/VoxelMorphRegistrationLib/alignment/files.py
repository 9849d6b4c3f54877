"""Linear transforms in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..images.grid import LPS_FROM_RAS, check_matrix
from .fit import matrix_of


def read_linear_transform(path: str | Path) -> np.ndarray:
    """A linear transform from a file as (4, 4), fixed RAS mm to moving RAS mm.

    Reads what SimpleITK reads (.tfm, .txt, .h5, .mat of ITK, ANTs or Slicer; LPS, fixed to moving on disk, also
    composites of linear ones) and plain text with four rows of four numbers (taken as RAS mm, fixed to moving).
    Raises InputError for a missing, unreadable, singular or non-linear file.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.is_file():
        raise InputError(f"The transform cannot be read: there is no file {path}.")
    rows = _rows_of_numbers(path)
    if rows is not None:
        return check_matrix(rows, f"transform in {path}")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"The transform cannot be read from {path}: it is neither a transform file known here (.tfm, .txt, .h5, "
            ".mat of ITK, ANTs or Slicer) nor a text file with a 4x4 matrix, or it is damaged."
        ) from error
    if not transform.IsLinear():
        raise InputError(
            f"The transform in {path} is not linear (it bends space). Give a linear one: rigid, affine or a 4x4 matrix."
        )
    return check_matrix(LPS_FROM_RAS @ matrix_of(transform) @ LPS_FROM_RAS, f"transform in {path}")


def _rows_of_numbers(path: Path) -> np.ndarray | None:
    """The numbers of a small text file with four rows of four; None if it is anything else."""
    if path.stat().st_size > 10_000:
        return None
    try:
        lines = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [[float(word) for word in line] for line in lines if line and not line[0].startswith("#")]
    except ValueError:
        return None
    return np.array(rows) if len(rows) == 4 and all(len(row) == 4 for row in rows) else None


def write_linear_transform(matrix: np.ndarray, path: str | Path) -> None:
    """Write a (4, 4) matrix, fixed RAS mm to moving RAS mm, as an ITK affine transform (.tfm, .txt, .h5 or .mat; LPS).

    Raises OutputError when the file cannot be written.
    """
    import SimpleITK as sitk

    lps = LPS_FROM_RAS @ check_matrix(matrix, "linear transform") @ LPS_FROM_RAS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    try:
        sitk.WriteTransform(transform, str(path))
    except RuntimeError as error:
        raise OutputError(
            f"The linear transform could not be written to {path}: use .tfm, .txt, .h5 or .mat, and check the folder's "
            "permissions and the free space."
        ) from error
