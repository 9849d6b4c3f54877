"""What the tests of `voxelmorph apply` share: a transform in files, images that it looks up, what was told."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from grids import smooth_function
from transform_cases import blank, lps_affine, lps_image, setting
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.images.files import set_sitk_geometry
from VoxelMorphRegistrationLib.transforms.chain import Chain
from VoxelMorphRegistrationLib.transforms.parts import Bent, Matrix
from VoxelMorphRegistrationLib.transforms.writing import write_transform

ODD = "oblique, anisotropic, left-handed"


@cache
def contents() -> dict[str, bytes]:
    """The files of a transform and its reference, as they are written: the same for all tests."""
    s = setting(ODD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_transform(Chain((Bent(s.field),)), folder / "1Warp.nii.gz", "ants")
        write_transform(Chain((Matrix(s.matrix),)), folder / "0GenericAffine.mat", "ants")
        blank(s.fixed, folder / "fixed.nii.gz")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


class Files:
    """A field and a matrix in files, and images that the transform looks up."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.s = folder, setting(ODD)
        for name, content in contents().items():
            (folder / name).write_bytes(content)
        self.names = [str(folder / "1Warp.nii.gz"), str(folder / "0GenericAffine.mat")]
        self.reference = str(folder / "fixed.nii.gz")
        self.transform = sitk.CompositeTransform(
            [lps_affine(self.s.matrix), sitk.DisplacementFieldTransform(lps_image(self.s.field))]
        )

    def image(self, name: str, values: np.ndarray, vector: bool = False) -> Path:
        image = sitk.GetImageFromArray(values, isVector=vector)
        set_sitk_geometry(image, self.s.moving)
        sitk.WriteImage(image, str(self.folder / name))
        return self.folder / name

    def apply(self, source, output: str, *options, reference: bool = True) -> int:
        options = [*options, "--reference", self.reference] if reference else list(options)
        arguments = ["apply", *self.names, source, "-o", self.folder / output, *options]
        return main([str(part) for part in arguments])

    def by_sitk(self, path: Path, interpolator, background: float = 0.0):
        # As it is, ITK cuts what whole numbers cannot hold.
        image = sitk.ReadImage(str(path), sitk.sitkFloat64)
        return sitk.Resample(image, sitk.ReadImage(self.reference), self.transform, interpolator, background)


def array(path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def refused(capsys, *messages) -> None:
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and "Traceback" not in error
    for message in messages:
        assert message in error


def pattern(grid, scale: float = 1.0) -> np.ndarray:
    return scale * smooth_function(grid.positions())
