"""Fields in voxels, as the original VoxelMorph and SynthMorph write them (.nii, .nii.gz, .npz).

An array (I, J, K, 3) or (3, I, J, K), channel c along array axis c, on the grid of the fixed image: the voxel p of the
fixed image belongs to p + u(p). An .npz file holds it under 'vol' and no grid: that of the reference is taken.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..fields.displacement import DisplacementField
from ..images.grid import Grid
from ..images.nifti import is_nifti_name, read_nifti
from .chain import Chain
from .parts import Bent
from .vectors import check_not_fsl

# What numpy raises for archives that are damaged, locked, packed in other ways, or none.
_PACKING = (zipfile.BadZipFile, zlib.error, EOFError)
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, *_PACKING)


def read(path: Path, fixed: Grid | None) -> Chain:
    """fixed: the grid for an .npz file. Raises InputError."""
    array, grid = _npz(path, fixed) if path.suffix == ".npz" else _image(path)
    displacement = array @ grid.ijk_to_ras[:3, :3].T.astype(np.float32)
    return Chain((Bent(DisplacementField(displacement, grid)),))


def _npz(path: Path, fixed: Grid | None) -> tuple[np.ndarray, Grid]:
    try:
        with np.load(path) as file:
            array = np.asarray(file["vol"] if "vol" in file else file[file.files[0]], np.float32).squeeze()
    except _UNREADABLE as error:
        raise InputError(f"The transform cannot be read from {path}: it is no .npz file with an array.") from error
    if array.ndim != 4 or 3 not in (array.shape[0], array.shape[-1]):
        raise InputError(_no_field(path, array.shape))
    vectors = np.moveaxis(array, 0, -1) if array.shape[-1] != 3 else array
    vectors = vectors.transpose(2, 1, 0, 3)
    if fixed is None:
        raise InputError(f"{path.name} holds a field without its grid. Give the fixed image as the reference.")
    if fixed.shape != vectors.shape[:3]:
        raise InputError(
            f"{path.name} holds a field of {vectors.shape[2::-1]} voxels, and the reference has "
            f"{tuple(fixed.size.tolist())}. Give the fixed image that it was made for."
        )
    return vectors, fixed


def _image(path: Path) -> tuple[np.ndarray, Grid]:
    if not is_nifti_name(path):
        raise InputError(f"{path.name} holds no field in voxels: those of VoxelMorph and SynthMorph are NIfTI or .npz.")
    content = read_nifti(path, f"transform {path.name}")
    check_not_fsl(content, path)
    # Its axes in turned order: (3, K, J, I), (3, 1, K, J, I), or (K, J, I, 3).
    array = np.asarray(content.array, np.float32)
    if array.ndim == 5 and array.shape[:2] == (3, 1):
        array = array[:, 0]
    if array.ndim != 4 or 3 not in (array.shape[0], array.shape[-1]):
        raise InputError(_no_field(path, array.shape[::-1]))
    vectors = np.moveaxis(array, 0, -1) if array.shape[0] == 3 else array
    # Where the file's first axis is the channel, its matrix means the three axes behind it all the same.
    return vectors, Grid(vectors.shape[:3], content.ijk_to_ras)


def _no_field(path: Path, shape: tuple[int, ...]) -> str:
    return (
        f"{path.name} holds no field in voxels: its array is {' x '.join(map(str, shape))}, and "
        "(I, J, K, 3) or (3, I, J, K) is due."
    )
