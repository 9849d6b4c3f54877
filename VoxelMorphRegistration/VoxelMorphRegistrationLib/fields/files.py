"""Displacement fields in files that Slicer, ITK and ANTs read."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..images.files import grid_from_sitk, set_sitk_geometry
from .displacement import DisplacementField

_FLIP = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
# Of the field intent_code in a NIfTI-1 header.
_NIFTI_INTENT_OFFSET = 68


def write_field(field: DisplacementField, path: str | Path) -> None:
    """Write as a transform (.h5, .tfm) or as a displacement image (.nii, .nii.gz, .nrrd, .mha).

    LPS on disk, but for NIfTI, whose displacement intent (1006) means RAS; ITK converts when reading it. ITK, ANTs
    and Slicer read the files as displacement field transforms. Raises OutputError.
    """
    import SimpleITK as sitk

    path = Path(path)
    nifti = path.name.endswith((".nii", ".nii.gz"))
    values = field.displacement_ras if nifti else field.displacement_ras * _FLIP
    try:
        if path.suffix in (".h5", ".tfm"):
            _reserve(path, 24 * field.grid.voxel_count)
            vectors = sitk.GetImageFromArray(values.astype(np.float64), isVector=True)
            set_sitk_geometry(vectors, field.grid)
            sitk.WriteTransform(sitk.DisplacementFieldTransform(vectors), str(path))
            return
        vectors = sitk.GetImageFromArray(values, isVector=True)
        set_sitk_geometry(vectors, field.grid)
        if nifti:
            _write_displacement_nifti(vectors, path)
        else:
            sitk.WriteImage(vectors, str(path), useCompression=True, compressionLevel=1)
    except (RuntimeError, OSError) as error:
        raise OutputError(
            f"The displacement field could not be written to {path}: check the folder's permissions and the free space."
        ) from error


def _reserve(path: Path, size: int) -> None:
    """Raise OSError unless a file of `size` bytes fits: the HDF5 library crashes later when the disk is full."""
    try:
        with path.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))
    finally:
        path.unlink(missing_ok=True)


def _write_displacement_nifti(vectors, path: Path) -> None:
    """SimpleITK writes vectors with the general vector intent only: set the displacement intent in the header."""
    import gzip

    import SimpleITK as sitk

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "field.nii"
        sitk.WriteImage(vectors, str(plain))
        with plain.open("r+b") as file:
            file.seek(_NIFTI_INTENT_OFFSET)
            file.write(struct.pack("<h", 1006))
        if path.suffix == ".nii":
            shutil.move(plain, path)
            return
        with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def read_field(path: str | Path) -> DisplacementField:
    """Read a displacement field from a transform file or a vector image (LPS on disk). Raises InputError."""
    import SimpleITK as sitk

    path = Path(path)
    if not path.is_file():
        raise InputError(f"The displacement field cannot be read: there is no file {path}.")
    try:
        if path.suffix in (".h5", ".tfm"):
            transform = sitk.ReadTransform(str(path))
            if transform.GetName() == "CompositeTransform" or transform.GetDimension() != 3:
                raise InputError(f"{path.name} is not a single 3D displacement field.")
            vectors = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        else:
            vectors = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path.name} holds no displacement field, or it is damaged.") from error
    if vectors.GetNumberOfComponentsPerPixel() != 3 or vectors.GetDimension() != 3:
        raise InputError(f"{path.name} holds no 3D displacement field (three values a voxel are due).")
    array = sitk.GetArrayFromImage(vectors).astype(np.float32) * _FLIP
    return DisplacementField(array, grid_from_sitk(vectors))
