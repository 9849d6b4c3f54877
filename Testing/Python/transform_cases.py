"""One transform by each program and by this library: how far apart they carry the same points.

Each case writes a file by one program and reads it by another, on a grid of every kind, and gives the largest
distance in mm. The tests ask for .01 mm; Testing/Benchmarks/transform_conventions.py makes the table in docs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from grids import KINDS, make_grid, rotation, smooth_displacement
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.files import set_sitk_geometry
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.transforms.chain import Chain
from VoxelMorphRegistrationLib.transforms.parts import Bent, Matrix
from VoxelMorphRegistrationLib.transforms.reading import read_chain
from VoxelMorphRegistrationLib.transforms.writing import Sides, write_transform

LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Setting:
    """Grids of a fixed and a moving image, a matrix and a field on the fixed grid, and points within it (RAS mm)."""

    fixed: Grid
    moving: Grid
    matrix: np.ndarray
    field: DisplacementField
    nodes: np.ndarray
    between: np.ndarray


@lru_cache
def setting(kind: str) -> Setting:
    """The same one for all tests: nobody writes into it."""
    options = dict(KINDS[kind])
    options["size_ijk"] = tuple(max(n // 2, 8) for n in options["size_ijk"])
    fixed = make_grid(**options)
    moving = make_grid((22, 18, 20), (1.2, 1.0, 1.7), (15, -10, 25), left_handed=not options.get("left_handed", False))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((4, -6, 3)) @ np.diag([1.04, 0.97, 1.02])
    matrix[:3, 3] = (1, 2, -1.5)
    field = DisplacementField(smooth_displacement(fixed.positions()).astype(np.float32), fixed)
    rng = np.random.default_rng(3)
    nodes = rng.integers(1, fixed.size - 1, (40, 3))
    between = rng.uniform(1, fixed.size - 2, (40, 3))
    found = Setting(fixed, moving, matrix, field, fixed.to_ras(nodes), fixed.to_ras(between))
    for array in (found.matrix, found.field.displacement_ras, found.nodes, found.between):
        array.flags.writeable = False
    return found


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found) - expected, axis=1).max())


def moved(s: Setting, points: np.ndarray, with_field: bool = True) -> np.ndarray:
    """The answer: the field, then the matrix."""
    points = s.field.transform_points(points) if with_field else points
    return points @ s.matrix[:3, :3].T + s.matrix[:3, 3]


def chain_of(s: Setting) -> Chain:
    return Chain.of([Bent(s.field), Matrix(s.matrix)])


def lps_image(field: DisplacementField, kind=np.float64):
    image = sitk.GetImageFromArray((field.displacement_ras * LPS).astype(kind), isVector=True)
    set_sitk_geometry(image, field.grid)
    return image


def lps_affine(matrix: np.ndarray, transform=None):
    flip = np.diag([*LPS, 1.0])
    lps = flip @ matrix @ flip
    affine = transform or sitk.AffineTransform(3)
    affine.SetMatrix(lps[:3, :3].ravel().tolist())
    affine.SetTranslation(lps[:3, 3].tolist())
    return affine


def by_sitk(transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint((p * LPS).tolist()) for p in points]) * LPS


def reads(names: list, points: np.ndarray, expected: np.ndarray, **options) -> float:
    return apart(read_chain([str(n) for n in names], **options).transform_points(points).points, expected)


def blank(grid: Grid, path: Path) -> Path:
    image = sitk.GetImageFromArray(np.zeros(grid.shape, np.float32))
    set_sitk_geometry(image, grid)
    sitk.WriteImage(image, str(path))
    return path


# --- SimpleITK, and what ITK writes for elastix and Slicer alike --------------------------------------------------


def sitk_linear(s: Setting, folder: Path, suffix: str) -> float:
    sitk.WriteTransform(lps_affine(s.matrix), str(folder / f"a{suffix}"))
    return reads([folder / f"a{suffix}"], s.between, moved(s, s.between, False))


def sitk_field(s: Setting, folder: Path, suffix: str) -> float:
    path = folder / f"u{suffix}"
    if suffix in (".h5", ".tfm"):
        sitk.WriteTransform(sitk.DisplacementFieldTransform(lps_image(s.field)), str(path))
    else:
        sitk.WriteImage(lps_image(s.field, np.float32), str(path))
    return reads([path], s.between, s.field.transform_points(s.between))


def sitk_composite(s: Setting, folder: Path, suffix: str) -> float:
    spline = sitk.BSplineTransformInitializer(sitk.ReadImage(str(blank(s.fixed, folder / "f.nrrd"))), [3, 4, 3])
    spline.SetParameters(np.random.default_rng(0).normal(size=len(spline.GetParameters())).tolist())
    whole = sitk.CompositeTransform([lps_affine(s.matrix), spline, sitk.DisplacementFieldTransform(lps_image(s.field))])
    sitk.WriteTransform(whole, str(folder / f"c{suffix}"))
    inner = s.fixed.center_ras + 0.5 * (s.between - s.fixed.center_ras)
    return reads([folder / f"c{suffix}"], inner, by_sitk(whole, inner))


def to_sitk(s: Setting, folder: Path, suffix: str, composite: bool) -> float:
    path = folder / f"w{suffix}"
    write_transform(chain_of(s), path, grid=s.fixed, composite=composite)
    points = s.between if composite else s.nodes
    if suffix in (".h5", ".tfm"):
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return apart(by_sitk(transform, points), moved(s, points))


# --- ANTs ---------------------------------------------------------------------------------------------------------


def by_ants(names: list, points: np.ndarray, inverted: list[bool] | None = None) -> np.ndarray:
    import ants
    import pandas

    table = pandas.DataFrame(points * LPS, columns=["x", "y", "z"])
    found = ants.apply_transforms_to_points(3, table, [str(n) for n in names], whichtoinvert=inverted)
    return found[["x", "y", "z"]].to_numpy() * LPS


def from_ants(s: Setting, folder: Path) -> float:
    """1Warp.nii.gz and 0GenericAffine.mat as ANTs writes them, listed as for antsApplyTransforms."""
    import ants

    # Its ImageIO writes what it read; the transform file is of its own class.
    sitk.WriteImage(lps_image(s.field, np.float32), str(folder / "plain.nii.gz"))
    field = ants.image_read(str(folder / "plain.nii.gz"))
    ants.image_write(field, str(folder / "1Warp.nii.gz"))
    flip = np.diag([*LPS, 1.0])
    lps = flip @ s.matrix @ flip
    affine = ants.create_ants_transform(dimension=3, matrix=lps[:3, :3], translation=lps[:3, 3])
    ants.write_transform(affine, str(folder / "0GenericAffine.mat"))
    names = [folder / "1Warp.nii.gz", folder / "0GenericAffine.mat"]
    return reads(names, s.between, by_ants(names, s.between)) + apart(by_ants(names, s.between), moved(s, s.between))


def to_ants(s: Setting, folder: Path) -> float:
    write_transform(Chain((Bent(s.field),)), folder / "1Warp.nii.gz", "ants")
    write_transform(Chain((Matrix(s.matrix),)), folder / "0GenericAffine.mat", "ants")
    found = by_ants([folder / "1Warp.nii.gz", folder / "0GenericAffine.mat"], s.between)
    return apart(found, moved(s, s.between))


def to_ants_composite(s: Setting, folder: Path) -> float:
    write_transform(chain_of(s), folder / "Composite.h5", composite=True)
    return apart(by_ants([folder / "Composite.h5"], s.between), moved(s, s.between))


def ants_inverse(s: Setting, folder: Path) -> float:
    """The inverse of an affine by both; the moved points come back."""
    write_transform(Chain((Matrix(s.matrix),)), folder / "a.mat", "ants")
    expected = by_ants([folder / "a.mat"], s.between, [True])
    return reads([f"{folder / 'a.mat'}:inverse"], s.between, expected)


# --- greedy -------------------------------------------------------------------------------------------------------


def greedy_composed(s: Setting, folder: Path, names: list) -> DisplacementField:
    """Greedy's own composition of files on the fixed grid."""
    from picsl_greedy import Greedy3D

    fixed, moving = blank(s.fixed, folder / "f.nii.gz"), blank(s.moving, folder / "m.nii.gz")
    listed = " ".join(str(n) for n in names)
    Greedy3D().execute(
        f"-rf {fixed} -rm {moving} {folder / 'r.nii.gz'} -wp 0 -rc {folder / 'composed.nii.gz'} -r {listed}"
    )
    image = sitk.ReadImage(str(folder / "composed.nii.gz"))
    return DisplacementField(sitk.GetArrayFromImage(image).astype(np.float32) * LPS, s.fixed)


def to_greedy(s: Setting, folder: Path) -> float:
    write_transform(Chain((Bent(s.field),)), folder / "warp.nii.gz", "greedy")
    write_transform(Chain((Matrix(s.matrix),)), folder / "affine.mat", "greedy")
    composed = greedy_composed(s, folder, [folder / "warp.nii.gz", folder / "affine.mat"])
    return apart(composed.transform_points(s.nodes), moved(s, s.nodes))


def from_greedy(s: Setting, folder: Path) -> float:
    to_greedy(s, folder)
    return reads([folder / "composed.nii.gz"], s.nodes, moved(s, s.nodes))


# --- nitransforms, which reads and writes for FSL and FreeSurfer ----------------------------------------------------


def by_nibabel(grid: Grid):
    return nibabel.Nifti1Image(np.zeros(grid.shape[::-1], np.uint8), grid.ijk_to_ras)


def from_nitransforms(s: Setting, folder: Path, target: str) -> float:
    from nitransforms.linear import Affine

    affine = Affine(s.matrix, reference=by_nibabel(s.fixed))
    name = folder / {"itk": "a.tfm", "fsl": "a.mat", "fs": "a.lta"}[target]
    affine.to_filename(str(name), fmt=target, moving=by_nibabel(s.moving))
    options = {"convention": "fsl", "fixed": s.fixed, "moving": s.moving} if target == "fsl" else {}
    return reads([name], s.between, moved(s, s.between, False), **options)


def to_nitransforms(s: Setting, folder: Path, target: str) -> float:
    from nitransforms import linear

    name = folder / {"itk": "a.tfm", "fsl": "a.mat", "freesurfer": "a.lta"}[target]
    write_transform(Chain((Matrix(s.matrix),)), name, target, sides=Sides(s.fixed, s.moving))
    images = {"reference": by_nibabel(s.fixed), "moving": by_nibabel(s.moving)}
    kind = {"itk": "itk", "fsl": "fsl", "freesurfer": "fs"}[target]
    found = linear.load(str(name), fmt=kind, **images).map(s.between)
    return apart(found, moved(s, s.between, False))


def field_to_nitransforms(s: Setting, folder: Path, target: str) -> float:
    from nitransforms.nonlinear import load

    write_transform(Chain((Bent(s.field),)), folder / "u.nii.gz", target)
    # It takes every field of ITK for LPS, whatever its intent.
    found = load(str(folder / "u.nii.gz"), fmt="itk").map(s.nodes)
    return apart(found, s.field.transform_points(s.nodes))


# --- Slicer -------------------------------------------------------------------------------------------------------


def slicer_node(s: Setting, what: str):
    import vtk

    import slicer
    from VoxelMorphRegistrationLib.mrml.transforms import grid_transform, linear_transform

    node = slicer.vtkMRMLTransformNode()
    if what == "linear":
        node.SetAndObserveTransformFromParent(linear_transform(s.matrix))
    elif what == "grid":
        node.SetAndObserveTransformFromParent(grid_transform(s.field))
    else:
        both = vtk.vtkGeneralTransform()
        both.PostMultiply()
        both.Concatenate(grid_transform(s.field))
        both.Concatenate(linear_transform(s.matrix))
        node.SetAndObserveTransformFromParent(both)
    return node


def by_slicer(node, points: np.ndarray) -> np.ndarray:
    transform = node.GetTransformFromParent()
    return np.array([transform.TransformPoint(p) for p in points])


def storage(path: Path):
    import slicer

    node = slicer.vtkMRMLTransformStorageNode()
    node.SetFileName(str(path))
    return node


def from_slicer(s: Setting, folder: Path, what: str, suffix: str) -> float:
    node = slicer_node(s, what)
    assert storage(folder / f"t{suffix}").WriteData(node)
    return reads([folder / f"t{suffix}"], s.nodes, by_slicer(node, s.nodes))


def slicer_spline(s: Setting, folder: Path) -> float:
    """Control points of three times the spacing, one and more beyond each side."""
    import slicer
    from VoxelMorphRegistrationLib.mrml.transforms import image_data, matrix_to_vtk

    grid = s.fixed.cropped([-4, -4, -4], np.ceil((s.fixed.size + 8) / 3).astype(int) + 1)
    matrix = grid.ijk_to_ras.copy()
    matrix[:3, :3] *= 3
    grid = Grid(grid.shape, matrix)
    data = image_data(np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32), components=3)
    data.SetSpacing(*grid.spacing)
    data.SetOrigin(*matrix[:3, 3])
    directions = np.eye(4)
    directions[:3, :3] = grid.directions
    spline = slicer.vtkOrientedBSplineTransform()
    spline.SetCoefficientData(data)
    spline.SetGridDirectionMatrix(matrix_to_vtk(directions))
    node = slicer.vtkMRMLTransformNode()
    node.SetAndObserveTransformFromParent(spline)
    assert storage(folder / "b.h5").WriteData(node)
    return reads([folder / "b.h5"], s.between, by_slicer(node, s.between))


def slicer_inverse(s: Setting, folder: Path, suffix: str) -> float:
    """An inverted node: Slicer writes the transform with a word that says so."""
    node = slicer_node(s, "grid")
    node.Inverse()
    assert storage(folder / f"i{suffix}").WriteData(node)
    carried = s.field.transform_points(s.fixed.center_ras + 0.5 * (s.between - s.fixed.center_ras))
    return reads([folder / f"i{suffix}"], carried, by_slicer(node, carried))


def to_slicer(s: Setting, folder: Path, suffix: str, composite: bool) -> float:
    import slicer

    write_transform(chain_of(s), folder / f"w{suffix}", "slicer", grid=s.fixed, composite=composite)
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    assert storage(folder / f"w{suffix}").ReadData(node)
    return apart(by_slicer(node, s.nodes), moved(s, s.nodes))


# --- VoxelMorph and SynthMorph --------------------------------------------------------------------------------------


def voxelmorph(s: Setting, folder: Path, layout: str) -> float:
    """A flow in voxels, saved as their scripts save it; the answer by its definition, p + u(p)."""
    voxels = s.field.displacement_ras @ s.fixed.ras_to_ijk[:3, :3].T.astype(np.float32)
    array = voxels.transpose(2, 1, 0, 3)
    if layout.startswith("3"):
        array = np.moveaxis(array, -1, 0)
    options: dict = {"convention": "voxelmorph"}
    name = folder / "warp.nii.gz"
    if layout.endswith("npz"):
        name = folder / "warp.npz"
        np.savez_compressed(name, vol=array)
        options["fixed"] = s.fixed
    else:
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), s.fixed.ijk_to_ras), name)
    node = np.rint(s.fixed.to_ijk(s.nodes)).astype(int)
    expected = s.fixed.to_ras(node + voxels[node[:, 2], node[:, 1], node[:, 0]])
    return reads([name], s.nodes, expected, **options)


@dataclass(frozen=True)
class Case:
    tool: str
    what: str
    measure: Callable[[Setting, Path], float]


def _case(tool: str, what: str, function, *arguments) -> Case:
    return Case(tool, what, lambda s, folder: function(s, folder, *arguments))


CASES = [
    *(_case("SimpleITK", f"reads its {x} (affine)", sitk_linear, x) for x in (".tfm", ".txt", ".h5", ".mat")),
    *(_case("SimpleITK", f"reads its {x} (field)", sitk_field, x) for x in (".h5", ".nrrd", ".mha", ".nii.gz")),
    *(_case("SimpleITK", f"reads its {x} (field, B-spline, affine)", sitk_composite, x) for x in (".h5", ".tfm")),
    *(_case("SimpleITK", f"writes it {x} (field)", to_sitk, x, False) for x in (".h5", ".nii.gz", ".nrrd", ".mha")),
    _case("SimpleITK", "writes it .h5 (composite)", to_sitk, ".h5", True),
    _case("ANTs", "reads its 1Warp.nii.gz and 0GenericAffine.mat", from_ants),
    _case("ANTs", "reads its 0GenericAffine.mat, inverse", ants_inverse),
    _case("ANTs", "writes it 1Warp.nii.gz and 0GenericAffine.mat", to_ants),
    _case("ANTs", "writes it Composite.h5", to_ants_composite),
    _case("greedy", "reads its warp.nii.gz", from_greedy),
    _case("greedy", "writes it warp.nii.gz and affine.mat", to_greedy),
    *(_case("nitransforms", f"reads its {x}", from_nitransforms, x) for x in ("itk", "fsl", "fs")),
    *(_case("nitransforms", f"writes it for {x}", to_nitransforms, x) for x in ("itk", "fsl", "freesurfer")),
    _case("nitransforms", "writes it a field for ants", field_to_nitransforms, "ants"),
    *(_case("Slicer", f"reads its {x} (linear)", from_slicer, "linear", x) for x in (".h5", ".tfm")),
    *(_case("Slicer", f"reads its {x} (grid)", from_slicer, "grid", x) for x in (".h5", ".nii.gz", ".nrrd")),
    _case("Slicer", "reads its .h5 (composite)", from_slicer, "composite", ".h5"),
    _case("Slicer", "reads its .h5 (B-spline)", slicer_spline),
    *(_case("Slicer", f"reads its {x} (grid, inverted)", slicer_inverse, x) for x in (".h5", ".tfm")),
    *(_case("Slicer", f"writes it {x} (field)", to_slicer, x, False) for x in (".h5", ".nii.gz", ".nrrd")),
    _case("Slicer", "writes it .h5 (composite)", to_slicer, ".h5", True),
    *(_case("VoxelMorph", f"reads its field, {x}", voxelmorph, x) for x in ("I J K 3", "3 I J K", "I J K 3 npz")),
]
