"""Displacement fields in files that Slicer, ITK and ANTs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import apart
from ..errors import InputError, OutputError
from ..images.files import ITK_ALONE, grid_from_sitk, set_sitk_geometry
from ..images.grid import Grid
from ..images.nifti import DISPLACEMENT_INTENT, NiftiContent, is_nifti_name, read_nifti, write_nifti
from ..images.places import check_file
from .displacement import DisplacementField
from .hdf5 import remove_times
from .packed_hdf5 import has_hdf5, holds, write_packed

_FLIP = np.array([-1.0, -1.0, 1.0], dtype=np.float32)


def write_field(field: DisplacementField, path: str | Path) -> None:
    """Write as a transform (.h5, .tfm) or as a displacement image (.nii, .nii.gz, .nrrd, .mha).

    LPS on disk, but for NIfTI, whose displacement intent (1006) means RAS; ITK converts when reading it. ITK, ANTs
    and Slicer read the files as displacement field transforms. An .h5 file is packed where h5py is there. Raises
    OutputError.
    """
    import SimpleITK as sitk

    path = Path(path)
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            write_nifti(path, field.displacement_ras, field.grid, vectors=True)
            return
        if path.suffix == ".h5" and has_hdf5():
            reserve(path, 12 * field.grid.voxel_count)
            write_packed(field, path)
            return
        values = field.displacement_ras * _FLIP
        if path.suffix in (".h5", ".tfm"):
            reserve(path, 24 * field.grid.voxel_count)
            vectors = sitk.GetImageFromArray(values.astype(np.float64), isVector=True)
            set_sitk_geometry(vectors, field.grid)
            with ITK_ALONE:
                sitk.WriteTransform(sitk.DisplacementFieldTransform(vectors), str(path))
            if path.suffix == ".h5":
                remove_times(path)
            return
        vectors = sitk.GetImageFromArray(values, isVector=True)
        set_sitk_geometry(vectors, field.grid)
        sitk.WriteImage(vectors, str(path), useCompression=True, compressionLevel=1)
    except (RuntimeError, OSError) as error:
        raise OutputError(
            f"The displacement field could not be written to {path}: check the folder's permissions and the free space."
        ) from error


def reserve(path: Path, size: int) -> None:
    """Raise OSError unless a file of `size` bytes fits: the HDF5 library crashes later when the disk is full."""
    try:
        with path.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))
    finally:
        path.unlink(missing_ok=True)


def reads_back(path: Path, field: DisplacementField) -> bool:
    """Whether a file of `write_field` holds the field. Raises OSError and InputError where it is damaged."""
    if path.suffix == ".h5" and has_hdf5():
        return holds(path, field)
    return np.array_equal(read_field(path).displacement_ras, field.displacement_ras)


def read_field(path: str | Path) -> DisplacementField:
    """Read a displacement field from a transform file or a vector image, on disk as `write_field` has them.

    Raises InputError.
    """
    path = Path(path)
    check_file(path, "displacement field")
    if is_nifti_name(path):
        return field_of_nifti(read_nifti(path, f"displacement field {path.name}"), path.name)
    # libhdf5 may crash on a damaged file, or never come back.
    is_hdf5 = path.suffix == ".h5"
    (matrix,), (array,) = apart.call(read_here, path) if is_hdf5 else read_here(path)
    return DisplacementField(array, Grid(array.shape[:3], np.array(matrix)))


def read_here(path: Path) -> tuple[tuple[list], list[np.ndarray]]:
    """The grid's matrix and the displacements (K, J, I, 3) in RAS mm of a file of ITK. Raises InputError."""
    import SimpleITK as sitk

    try:
        if path.suffix in (".h5", ".tfm"):
            transform = sitk.ReadTransform(str(path))
            if transform.GetName() == "CompositeTransform" or transform.GetDimension() != 3:
                raise InputError(f"{path.name} is not a single 3D displacement field.")
            vectors = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        else:
            vectors = sitk.ReadImage(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} holds no displacement field, or it is damaged.") from error
    if vectors.GetNumberOfComponentsPerPixel() != 3 or vectors.GetDimension() != 3:
        raise InputError(f"{path.name} holds no 3D displacement field (three values a voxel are due).")
    array = sitk.GetArrayFromImage(vectors).astype(np.float32) * _FLIP
    return (grid_from_sitk(vectors).ijk_to_ras.tolist(),), [array]


def field_of_nifti(content: NiftiContent, name: str) -> DisplacementField:
    """Vectors of NIfTI: RAS where the intent is displacement, else LPS, as ITK and ANTs write them. Raises InputError.

    Two values a voxel of a single slice stay in its plane.
    """
    array = content.array
    if array.ndim != 5 or array.shape[:2] not in ((3, 1), (2, 1)) or (len(array) == 2 and array.shape[2] != 1):
        raise InputError(f"{name} holds no 3D displacement field (three values a voxel are due).")
    values = np.zeros((*array.shape[2:], 3), np.float32)
    # A plane at a time, which stays in the cache.
    for plane, target in zip(np.moveaxis(array[:, 0], 1, 0), values, strict=True):
        target[..., : len(array)] = np.moveaxis(plane, 0, -1)
    if content.intent != DISPLACEMENT_INTENT:
        values *= _FLIP
    return DisplacementField(values, Grid(values.shape[:3], content.ijk_to_ras))
