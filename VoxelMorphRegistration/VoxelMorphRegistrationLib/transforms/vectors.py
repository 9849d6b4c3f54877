"""Displacement images (.nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd): mm in LPS, or NIfTI's RAS by its intent.

ANTs, greedy, elastix and Slicer all write them by ITK: NIfTI of the general vector intent (1007) holds LPS, of the
displacement intent (1006) RAS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..fields.displacement import DisplacementField
from ..images.files import open_image
from ..images.grid import Grid
from ..images.nifti import DISPLACEMENT_INTENT, is_nifti_name, read_nifti
from .chain import Chain
from .itk import FLIP, from_vectors
from .parts import Bent

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".vtk")


def read(path: Path) -> Chain:
    """Raises InputError."""
    if is_nifti_name(path):
        return Chain((Bent(_of_nifti(path)),))
    image = open_image(path, f"transform {path.name}")
    if image.GetNumberOfComponentsPerPixel() == 1 and image.GetDimension() >= 3:
        raise _no_field(path)
    return Chain((Bent(from_vectors(image, path.name)),))


def _of_nifti(path: Path) -> DisplacementField:
    content = read_nifti(path, f"transform {path.name}")
    array = content.array
    if array.ndim != 5 or array.shape[:2] not in ((3, 1), (2, 1)) or (len(array) == 2 and array.shape[2] != 1):
        raise _no_field(path)
    values = np.zeros((*array.shape[2:], 3), np.float32)
    values[..., : len(array)] = np.moveaxis(array[:, 0], 0, -1)
    values = values if content.intent == DISPLACEMENT_INTENT else values * FLIP
    return DisplacementField(values, Grid(values.shape[:3], content.ijk_to_ras))


def _no_field(path: Path) -> InputError:
    return InputError(
        f"{path.name} holds no displacement field: it has one value a voxel. If it is a field in voxels that "
        f"VoxelMorph or SynthMorph wrote, say so: {path.name}:voxelmorph, or --convention voxelmorph."
    )
