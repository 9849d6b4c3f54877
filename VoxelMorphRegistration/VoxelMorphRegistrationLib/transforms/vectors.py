"""Displacement images (.nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd): mm in LPS, or NIfTI's RAS by its intent.

ANTs, greedy, elastix and Slicer all write them by ITK: NIfTI of the general vector intent (1007) holds LPS, of the
displacement intent (1006) RAS, which ITK turns when it reads.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..images.files import open_image
from .chain import Chain
from .itk import from_vectors
from .parts import Bent

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".vtk")


def read(path: Path) -> Chain:
    """Raises InputError."""
    image = open_image(path, f"transform {path.name}")
    if image.GetNumberOfComponentsPerPixel() == 1 and image.GetDimension() >= 3:
        raise InputError(
            f"{path.name} holds no displacement field: it has one value a voxel. If it is a field in voxels that "
            f"VoxelMorph or SynthMorph wrote, say so: {path.name}:voxelmorph, or --convention voxelmorph."
        )
    return Chain((Bent(from_vectors(image, path.name)),))
