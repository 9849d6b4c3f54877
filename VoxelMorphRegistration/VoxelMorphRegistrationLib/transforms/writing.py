"""Transforms to files of any program known here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError, VoxelMorphError
from ..fields.displacement import DisplacementField
from ..fields.files import reserve, write_field
from ..images.files import set_sitk_geometry
from ..images.grid import Grid
from . import itk, lta, matrices
from .chain import Chain
from .parts import Bent, Matrix
from .reading import read_transform
from .written import whole

TARGETS = ("itk", "ants", "slicer", "greedy", "fsl", "freesurfer")
_MATRIX_SUFFIXES = (".h5", ".tfm", ".txt", ".mat")
_IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True)
class Sides:
    """The images that a file may have to name: grids, and the files that they came from."""

    fixed: Grid | None = None
    moving: Grid | None = None
    fixed_name: str = "unknown"
    moving_name: str = "unknown"


def write_transform(
    chain: Chain,
    path: str | Path,
    target: str = "itk",
    *,
    grid: Grid | None = None,
    composite: bool = False,
    sides: Sides | None = None,
    overwrite: bool = False,
) -> None:
    """Write a chain as the file of one program; read back and compared before it takes its place.

    target: whose conventions; by the suffix it is a matrix, a field or a composite. grid: of the field that a chain of
    several parts becomes (that of its first displacement when None). composite: keep the parts (.h5, .tfm). sides: for
    FSL and FreeSurfer. Raises InputError where the format cannot hold the transform, OutputError where it cannot be
    written.
    """
    path = Path(path)
    if target not in TARGETS:
        raise InputError(f"There is no target '{target}': use one of {', '.join(TARGETS)}.")
    sides = sides or Sides()
    if target == "itk" and path.name.endswith(".lta"):
        target = "freesurfer"
    with whole([path], overwrite) as (stage,):
        if chain.matrix is not None and not path.name.endswith(_IMAGE_SUFFIXES):
            _write_matrix(chain.matrix, stage, target, sides)
            expected: Chain | None = None if target in ("fsl", "freesurfer") else chain
        elif target in ("fsl", "freesurfer") and chain.matrix is not None:
            raise _unknown(path, f"a matrix for {target}", (".mat" if target == "fsl" else ".lta",))
        elif target in ("fsl", "freesurfer"):
            raise InputError(
                f"{path.name} cannot hold this transform: it bends space, and only linear ones are written for "
                f"{target}. Write the field as NIfTI or .h5."
            )
        elif composite and chain.matrix is None:
            expected = _write_composite(chain, stage)
        else:
            expected = _write_field(chain.field_on(grid or grid_of(chain)), stage, target)
        if expected is not None:
            _compare(expected, stage, path)


def grid_of(chain: Chain) -> Grid:
    """The grid for a chain as one field where none is given. Raises InputError where there is none to take."""
    for part in chain.bent:
        if isinstance(part.u, DisplacementField):
            return part.grid
    raise InputError("It is unknown on which grid the field is to lie. Give an image as --reference.")


def _write_matrix(matrix: np.ndarray, stage: Path, target: str, sides: Sides) -> None:
    if target in ("fsl", "freesurfer"):
        if sides.fixed is None or sides.moving is None:
            raise InputError(
                f"A transform for {target} names both images: give --reference (the fixed one) and --moving."
            )
        if target == "fsl":
            content = matrices.text(matrices.to_fsl(matrix, sides.fixed, sides.moving))
        else:
            content = lta.text(matrix, sides.fixed, sides.moving, sides.fixed_name, sides.moving_name)
        stage.write_text(content, encoding="utf-8")
    elif target == "greedy":
        stage.write_text(matrices.text(matrix), encoding="utf-8")
    elif stage.name.endswith(_MATRIX_SUFFIXES):
        _write_itk(Chain.of([Matrix(matrix)]), stage)
    else:
        raise _unknown(stage, "a linear transform", (*_MATRIX_SUFFIXES, ".lta"))


def _write_composite(chain: Chain, stage: Path) -> Chain:
    """Returns what the file holds: fields of slices have layers on both sides in it."""
    if not stage.name.endswith((".h5", ".tfm")):
        raise _unknown(stage, "a composite", (".h5", ".tfm"))
    if any(part.backward for part in chain.bent):
        raise InputError(
            "A composite file cannot hold an inverse that was not computed. Compute it first (transform invert), or "
            "leave --composite out, which writes one field."
        )
    parts = (
        Bent(_with_layers(part.u)) if isinstance(part, Bent) and isinstance(part.u, DisplacementField) else part
        for part in chain.parts
    )
    chain = Chain(tuple(parts))
    _write_itk(chain, stage)
    return chain


def _with_layers(field: DisplacementField) -> DisplacementField:
    """Readers of transform files take a single layer for a 2D transform."""
    return field.padded(across=True) if field.grid.dimension == 2 else field


def _write_itk(chain: Chain, stage: Path) -> None:
    import SimpleITK as sitk

    if stage.suffix == ".h5":
        reserve(stage, 24 * sum(part.grid.voxel_count for part in chain.bent))
    try:
        sitk.WriteTransform(itk.transform_of(chain), str(stage))
    except RuntimeError as error:
        raise OSError(str(error).splitlines()[-1]) from error


def _write_field(field: DisplacementField, stage: Path, target: str) -> Chain:
    if not stage.name.endswith((".h5", ".tfm", *_IMAGE_SUFFIXES)):
        raise _unknown(stage, "a displacement field", (".h5", ".tfm", *_IMAGE_SUFFIXES))
    field = _with_layers(field)
    if target in ("ants", "greedy") and stage.name.endswith((".nii", ".nii.gz")):
        import SimpleITK as sitk

        vectors = sitk.GetImageFromArray(field.displacement_ras * itk.FLIP, isVector=True)
        set_sitk_geometry(vectors, field.grid)
        try:
            sitk.WriteImage(vectors, str(stage), useCompression=True, compressionLevel=1)
        except RuntimeError as error:
            raise OSError(str(error).splitlines()[-1]) from error
    else:
        write_field(field, stage)
    return Chain((Bent(field),))


def _unknown(path: Path, what: str, suffixes: tuple[str, ...]) -> InputError:
    return InputError(f"{path.name} is no name for {what}: use {', '.join(suffixes)}.")


def _compare(expected: Chain, stage: Path, path: Path) -> None:
    """A full disk may go unnoticed while writing."""
    try:
        found = read_transform(stage)
    except VoxelMorphError as error:
        raise OutputError(f"{path} could not be read back after writing: is the disk full?") from error
    same = len(found.parts) == len(expected.parts)
    for one, other in zip(expected.parts, found.parts, strict=False):
        if isinstance(one, Bent) and isinstance(other, Bent):
            arrays = [
                part.u.displacement_ras if isinstance(part.u, DisplacementField) else part.u.coefficients_ras
                for part in (one, other)
            ]
            same = same and arrays[0].shape == arrays[1].shape
            same = same and np.allclose(arrays[0], arrays[1], rtol=1e-6, atol=1e-6)
        elif isinstance(one, Matrix) and isinstance(other, Matrix):
            same = same and np.allclose(one.matrix, other.matrix, rtol=1e-6, atol=1e-5)
        else:
            same = False
    if not same:
        raise OutputError(f"{path} reads back changed after writing: is the disk full or damaged?")
