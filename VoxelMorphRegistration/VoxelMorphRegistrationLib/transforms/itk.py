"""Transform files of ITK, ANTs, SimpleITK and Slicer (.h5, .tfm, .txt, .mat): LPS, fixed to moving."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..alignment.fit import matrix_of
from ..errors import InputError
from ..fields.displacement import DisplacementField
from ..images.files import grid_from_sitk, set_sitk_geometry
from ..images.grid import LPS_FROM_RAS, Grid, check_matrix
from .chain import Chain
from .parts import Bent, Matrix
from .spline import SplineField

SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt", ".mat", ".xfm")
FLIP = np.array([-1.0, -1.0, 1.0], np.float32)
# By words in the names of their classes: what SimpleITK cannot read.
_FOREIGN = {
    "Inverse": "the inverse of a field that was not computed. Give the transform itself with :inverse behind its name, "
    "or compute its inverse in Slicer (Transforms module, Convert) first",
    "Kernel": "a thin plate spline. Convert it to a grid transform in Slicer (Transforms module, Convert) first",
    "ThinPlate": "a thin plate spline. Convert it to a grid transform in Slicer (Transforms module, Convert) first",
    "VelocityField": "a velocity field. Write its displacement field with the program that made it",
}


def read(path: Path) -> Chain:
    """Raises InputError."""
    import SimpleITK as sitk

    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(_why_not(path, str(error))) from error
    return Chain.of(_parts(transform, path))


def _why_not(path: Path, text: str) -> str:
    found = _kinds_in(path)
    for word, what in _FOREIGN.items():
        if word in found or f"{word}DisplacementField" in text or (word == "Kernel" and word in text):
            return f"The transform in {path.name} is {what}."
    return (
        f"The transform cannot be read from {path}: it is neither a transform file known here (.tfm, .txt, .h5, .mat "
        "of ITK, ANTs or Slicer, .lta, a displacement image) nor a text file with a 4x4 matrix, or it is damaged."
    )


def _kinds_in(path: Path) -> str:
    """What a transform file says about its kinds, as far as it is text; names stand as text in HDF5 files, too."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
        file.seek(0, 2)
        file.seek(max(file.tell() - (1 << 16), 0))
        return (head + file.read()).decode("latin-1")


def _parts(transform, path: Path) -> list[Matrix | Bent]:
    import SimpleITK as sitk

    if transform.GetName() == "CompositeTransform":
        whole = sitk.CompositeTransform(transform)
        # ITK applies the last one that was added first.
        return [
            part
            for number in reversed(range(whole.GetNumberOfTransforms()))
            for part in _parts(whole.GetNthTransform(number), path)
        ]
    if transform.IsLinear():
        return [Matrix(check_matrix(LPS_FROM_RAS @ matrix_of(transform) @ LPS_FROM_RAS, f"transform in {path}"))]
    if transform.GetName() == "DisplacementFieldTransform":
        return [Bent(from_vectors(sitk.DisplacementFieldTransform(transform).GetDisplacementField(), path.name))]
    if transform.GetName() == "BSplineTransform":
        return [Bent(_spline(sitk.BSplineTransform(transform), path))]
    raise InputError(
        f"The transform in {path.name} is a {transform.GetName()}, which is not known here. Convert it to a "
        "displacement field with the program that made it."
    )


def from_vectors(vectors, name: str) -> DisplacementField:
    """The field of a SimpleITK image of vectors in LPS mm; one of a slice stays in its plane."""
    import SimpleITK as sitk

    dimension = vectors.GetDimension()
    if dimension not in (2, 3) or vectors.GetNumberOfComponentsPerPixel() != dimension:
        raise InputError(f"{name} holds no displacement field (three values a voxel are due, two in a slice).")
    array = sitk.GetArrayFromImage(vectors).astype(np.float32)
    if dimension == 2:
        array = np.pad(array, [(0, 0), (0, 0), (0, 1)])[None]
    return DisplacementField(array * FLIP, grid_from_sitk(vectors))


def _spline(transform, path: Path) -> SplineField:
    import SimpleITK as sitk

    if transform.GetOrder() != 3 or transform.GetDimension() != 3:
        raise InputError(
            f"The transform in {path.name} is a {transform.GetDimension()}D B-spline of order {transform.GetOrder()}; "
            "only 3D ones of order 3 are known here. Convert it to a displacement field with the program that made it."
        )
    images = transform.GetCoefficientImages()
    array = np.stack([sitk.GetArrayFromImage(image) for image in images], -1)
    return SplineField(array * FLIP.astype(np.float64), grid_from_sitk(images[0]))


def transform_of(chain: Chain):
    """A SimpleITK transform in LPS of a chain without inverses; a composite where it has several parts."""
    import SimpleITK as sitk

    parts = [_itk_part(part) for part in chain.parts] or [_affine(np.eye(4))]
    return parts[0] if len(parts) == 1 else sitk.CompositeTransform(parts[::-1])


def _itk_part(part: Matrix | Bent):
    import SimpleITK as sitk

    if isinstance(part, Matrix):
        return _affine(part.matrix)
    if part.backward:
        raise ValueError("an inverse has to be computed before it is written")
    if isinstance(part.u, SplineField):
        return _itk_spline(part.u)
    field = part.u.padded(across=True) if part.grid.dimension == 2 else part.u
    vectors = sitk.GetImageFromArray((field.displacement_ras * FLIP).astype(np.float64), isVector=True)
    set_sitk_geometry(vectors, field.grid)
    return sitk.DisplacementFieldTransform(vectors)


def _affine(matrix: np.ndarray):
    import SimpleITK as sitk

    lps = LPS_FROM_RAS @ check_matrix(matrix, "linear transform") @ LPS_FROM_RAS
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(lps[:3, :3].ravel().tolist())
    affine.SetTranslation(lps[:3, 3].tolist())
    return affine


def _itk_spline(spline: SplineField):
    import SimpleITK as sitk

    coefficients = spline.coefficients_ras * FLIP
    images = []
    for axis in range(3):
        image = sitk.GetImageFromArray(np.ascontiguousarray(coefficients[..., axis], np.float64))
        set_sitk_geometry(image, Grid(spline.grid.shape, spline.grid.ijk_to_ras))
        images.append(image)
    return sitk.BSplineTransform(images, 3)
