"""Displacement images (.nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd): mm in LPS, or NIfTI's RAS by its intent.

ANTs, greedy, elastix and Slicer all write them by ITK: NIfTI of the general vector intent (1007) holds LPS, of the
displacement intent (1006) RAS.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..fields.files import field_of_nifti
from ..images.files import open_image
from ..images.nifti import NiftiContent, is_nifti_name, read_nifti
from .chain import Chain
from .itk import from_vectors
from .parts import Bent

# Intents of NIfTI under which FSL writes the fields and coefficients of FNIRT and topup.
_OF_FSL = (2006, 2007, 2008, 2009, 2016, 2017, 2018)
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".vtk")


def read(path: Path) -> Chain:
    """Raises InputError."""
    if is_nifti_name(path):
        content = read_nifti(path, f"transform {path.name}")
        check_not_fsl(content, path)
        if content.array.ndim < 5:
            raise _no_field(path)
        return Chain((Bent(field_of_nifti(content, path.name)),))
    image = open_image(path, f"transform {path.name}")
    if image.GetNumberOfComponentsPerPixel() == 1 and image.GetDimension() >= 3:
        raise _no_field(path)
    return Chain((Bent(from_vectors(image, path.name)),))


def check_not_fsl(content: NiftiContent, path: Path) -> None:
    """Raise InputError for a field of FSL: its millimetres are neither RAS nor LPS."""
    if content.intent in _OF_FSL:
        raise InputError(
            f"{path.name} is a field of FSL (FNIRT), which is not read here. Convert it: wb_command "
            f"-convert-warpfield -from-fnirt {path.name} MOVING -to-itk OUT.nii.gz."
        )


def _no_field(path: Path) -> InputError:
    return InputError(
        f"{path.name} holds no displacement field: it has one value a voxel. If it is a field in voxels that "
        f"VoxelMorph or SynthMorph wrote, say so: {path.name}:voxelmorph, or --convention voxelmorph."
    )
