"""Transform files of ITK, ANTs, SimpleITK and Slicer (.h5, .tfm, .txt, .mat): LPS, fixed to moving."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np

from .. import apart
from ..alignment.fit import matrix_of
from ..errors import InputError
from ..fields.displacement import DisplacementField
from ..images.files import grid_from_sitk, set_sitk_geometry
from ..images.grid import LPS_FROM_RAS, Grid, check_matrix
from .chain import Chain
from .parts import Bent, Matrix
from .spline import SplineField

FLIP = np.array([-1.0, -1.0, 1.0], np.float32)
# A part as it is handed from process to process: "matrix", "field" or "spline", and a matrix (4, 4).
Described = tuple[str, list]
# Slicer's names for the inverse of a transform that is not computed; the file holds the transform itself.
_INVERSES = (b"InverseDisplacementFieldTransform_", b"InverseBSplineTransform_")
# Heads of variables in MAT files; kinds of the usual order of bytes are smaller.
_MAT_HEAD, _MAT_HEAD_BIG, _MAT_KINDS = struct.Struct("<5i"), struct.Struct(">5i"), 5000
# By words in the names of their classes: what SimpleITK cannot read.
_FOREIGN = {
    "Inverse": "a chain with an inverse that was not computed. Make it one field in Slicer (Transforms module, "
    "Convert), or give its parts one by one",
    "Kernel": "a thin plate spline. Convert it to a grid transform in Slicer (Transforms module, Convert) first",
    "ThinPlate": "a thin plate spline. Convert it to a grid transform in Slicer (Transforms module, Convert) first",
    "VelocityField": "a velocity field. Write its displacement field with the program that made it",
    '(Transform "': "a parameter file of elastix. Export its field with 'transformix -def all', and give that",
}


def read(path: Path) -> Chain:
    """Raises InputError."""
    parts = _read_parts(path)
    if parts is not None:
        return Chain.of(parts)
    inverse = _uncomputed_inverse(path)
    if inverse is not None:
        return inverse
    raise InputError(_why_not(path))


def _read_parts(path: Path) -> list[Matrix | Bent] | None:
    """The parts of a file that SimpleITK reads, else None. What is no text is read in a process of its own."""
    with path.open("rb") as file:
        is_text = b"\0" not in file.read(1 << 16)
    described, arrays = read_here(path) if is_text else apart.call(read_here, path)
    if described is None:
        return None
    return [_part(kind, values, arrays) for kind, values in described]


def read_here(path: Path) -> tuple[list[Described] | None, list[np.ndarray]]:
    """The parts of a file, described, and their arrays; None for what is no transform file. Raises InputError."""
    import SimpleITK as sitk

    try:
        transform = sitk.ReadTransform(str(path))
    except (RuntimeError, UnicodeDecodeError):
        # The latter where the message quotes the file.
        return None, []
    _check_counts(transform, path)
    arrays: list[np.ndarray] = []
    return _described(transform, path, arrays), arrays


def _uncomputed_inverse(path: Path) -> Chain | None:
    """What Slicer writes of an inverted node: the transform under another name. None for any other file."""
    content = path.read_bytes()
    found = [name for name in _INVERSES if name in content]
    if len(found) != 1 or content.count(found[0]) != 1 or b"CompositeTransform" in content:
        return None
    start = content.index(found[0])
    end = start + len(found[0])
    while content[end : end + 1].isalnum() or content[end : end + 1] == b"_":
        end += 1
    plain = content[start + len(b"Inverse") : end]
    # A text in HDF5 ends at its zero; the places of everything else stay.
    filler = b"\0" if path.suffix in (".h5", ".hdf5") else b" "
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(content[:start] + plain.ljust(end - start, filler) + content[end:])
        parts = _read_parts(copy)
    return None if parts is None else Chain.of(parts).inverse()


def _why_not(path: Path) -> str:
    content = path.read_bytes().decode("latin-1")
    for word, what in _FOREIGN.items():
        if word in content:
            return f"The transform in {path.name} is {what}."
    return (
        f"The transform cannot be read from {path}: it is neither a transform file known here (.tfm, .txt, .h5, .mat "
        "of ITK, ANTs or Slicer, .lta, a displacement image) nor a text file with a 4x4 matrix, or it is damaged."
    )


def _check_counts(transform, path: Path) -> None:
    """Raise InputError for a text or .mat file with fewer numbers than its transforms have.

    ITK leaves those that are not there as they were.
    """
    content = path.read_bytes()
    if path.suffix.lower() == ".mat" and not _is_whole_mat(content):
        raise InputError(f"The transform in {path.name} ends early: it has fewer numbers than it says.")
    if not content.startswith(b"#Insight Transform File"):
        return
    stated: list[list[int]] = []
    for line in content.splitlines():
        name, _, rest = line.partition(b":")
        if name == b"Transform" and b"CompositeTransform" not in rest:
            stated.append([0, 0])
        elif name in (b"Parameters", b"FixedParameters") and stated:
            stated[-1][name == b"FixedParameters"] = len(rest.split())
    due = sorted((part.GetNumberOfParameters(), len(part.GetFixedParameters())) for part in _leaves(transform))
    # ITK 4 wrote three fixed parameters of Euler transforms, and 5 has four.
    if any(a < n or b < (3 if m == 4 else m) for (a, b), (n, m) in zip(sorted(stated), due, strict=False)):
        raise InputError(f"The transform in {path.name} ends early: it has fewer numbers than its kind needs.")


def _is_whole_mat(content: bytes) -> bool:
    """Whether a MAT file, level 4 (MATLAB's MAT-File Format, chapter 2), holds pairs of variables, and all of them.

    A variable: five numbers (kind, rows, columns, whether it is complex, length of its name), the name, the values.
    """
    at = count = 0
    while at + _MAT_HEAD.size <= len(content):
        head = _MAT_HEAD.unpack_from(content, at)
        if not 0 <= head[0] < _MAT_KINDS:
            head = _MAT_HEAD_BIG.unpack_from(content, at)
        kind, rows, columns, is_complex, name = head
        if min(kind, rows, columns, name) < 0:
            return False
        width = 4 if kind // 10 % 10 == 1 else 8
        at += _MAT_HEAD.size + name + rows * columns * width * (2 if is_complex else 1)
        count += 1
    return at <= len(content) and count > 0 and count % 2 == 0


def _leaves(transform) -> list:
    import SimpleITK as sitk

    if transform.GetName() != "CompositeTransform":
        return [transform]
    whole = sitk.CompositeTransform(transform)
    parts = [whole.GetNthTransform(number) for number in range(whole.GetNumberOfTransforms())]
    return [leaf for part in parts for leaf in _leaves(part)]


def _described(transform, path: Path, arrays: list[np.ndarray]) -> list[Described]:
    """The parts of a SimpleITK transform in RAS, the first one applied first; their arrays are put behind `arrays`."""
    import SimpleITK as sitk

    if transform.GetName() == "CompositeTransform":
        whole = sitk.CompositeTransform(transform)
        # ITK applies the last one that was added first.
        return [
            part
            for number in reversed(range(whole.GetNumberOfTransforms()))
            for part in _described(whole.GetNthTransform(number), path, arrays)
        ]
    if transform.IsLinear():
        matrix = check_matrix(LPS_FROM_RAS @ matrix_of(transform) @ LPS_FROM_RAS, f"transform in {path}")
        return [("matrix", matrix.tolist())]
    if transform.GetName() == "DisplacementFieldTransform":
        field = from_vectors(sitk.DisplacementFieldTransform(transform).GetDisplacementField(), path.name)
        arrays.append(field.displacement_ras)
        return [("field", field.grid.ijk_to_ras.tolist())]
    if transform.GetName() == "BSplineTransform":
        spline = _spline(sitk.BSplineTransform(transform), path)
        arrays.append(spline.coefficients_ras)
        return [("spline", spline.grid.ijk_to_ras.tolist())]
    raise InputError(
        f"The transform in {path.name} is a {transform.GetName()}, which is not known here. Convert it to a "
        "displacement field with the program that made it."
    )


def _part(kind: str, matrix: list, arrays: list[np.ndarray]) -> Matrix | Bent:
    """A part that _described has described; takes its array from the front of `arrays`."""
    if kind == "matrix":
        return Matrix(np.array(matrix))
    array = arrays.pop(0)
    grid = Grid(array.shape[:3], np.array(matrix))
    return Bent(DisplacementField(array, grid) if kind == "field" else SplineField(array, grid))


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
    """A SimpleITK transform in LPS of a chain without inverses, whose fields have several layers.

    A composite where it has several parts.
    """
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
    vectors = sitk.GetImageFromArray((part.u.displacement_ras * FLIP).astype(np.float64), isVector=True)
    set_sitk_geometry(vectors, part.grid)
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
