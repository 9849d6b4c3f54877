"""Image files of any layout: slices, volumes, time series, several components; every frame on one grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..images.dicom import is_dicom_file
from ..images.files import grid_from_sitk, open_image, read_image, set_sitk_geometry
from ..images.grid import SAME_VOXELS, Grid, check_right_angles
from ..images.image import Image
from ..images.nifti import DISPLACEMENT_INTENT, NiftiContent, is_nifti_name, read_nifti, write_nifti
from ..images.places import check_place


@dataclass(frozen=True, eq=False)
class Frames:
    """values (F, K, J, I) on `grid`, F = times x components, the components of a time side by side.

    dimension: of the file, 2 to 4. times, components: how many. vector: whether the file's voxels are vectors (also of
    one component). clock: origin and spacing of a time series. tags: what else the file says, by key. told: what was
    doubtful when it was read. Displacements are in LPS, as ITK has them, also where a NIfTI file holds RAS.
    """

    values: np.ndarray = field(repr=False)
    grid: Grid
    name: str
    dimension: int = 3
    times: int = 1
    components: int = 1
    vector: bool = False
    clock: tuple[float, float] = (0.0, 1.0)
    tags: dict[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()

    @staticmethod
    def of(image: Image) -> Frames:
        return Frames(image.array[None], image.grid, image.name)

    def on(self, values: np.ndarray, grid: Grid) -> Frames:
        """Other values of the same layout."""
        return replace(self, values=values, grid=grid)


def read_frames(path: str | Path, name: str | None = None, series: int | str | None = None) -> Frames:
    """series: as in read_image. Raises InputError for what is no image, sheared, or complex."""
    path = Path(path)
    label = name or path.name
    check_place(path, label)
    if path.is_dir() or is_dicom_file(path):
        image = read_image(path, label, series)
        return replace(Frames.of(image), told=image.told)
    frames = _from_nifti(read_nifti(path, label), label) if is_nifti_name(path) else _from_sitk(path, label)
    check_right_angles(frames.grid, label)
    return frames


def _from_nifti(content: NiftiContent, label: str) -> Frames:
    """(K, J, I), (T, K, J, I) or (C, T, K, J, I)."""
    array = content.array
    if array.ndim > 5:
        raise InputError(f"The {label} has {array.ndim} dimensions. Give volumes, series, or several values a voxel.")
    components, times = ((1, 1, *array.shape)[-5:])[:2]
    values = array.reshape(components, times, *array.shape[-3:]).swapaxes(0, 1).reshape(-1, *array.shape[-3:])
    if content.intent == DISPLACEMENT_INTENT and components > 1:
        # Those of other formats are in LPS, and so is what is written.
        flipped = np.arange(len(values)) % components < 2
        values = np.where(flipped[:, None, None, None], -values, values)
    return Frames(
        values,
        Grid(array.shape[-3:], content.ijk_to_ras),
        label,
        4 if times > 1 else 3,
        times,
        components,
        components > 1,
        (0.0, content.time_step),
        told=content.told,
    )


def _from_sitk(path: Path, label: str) -> Frames:
    import SimpleITK as sitk

    image = open_image(path, label)
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"The {label} has complex values. Give its magnitude.")
    dimension = image.GetDimension()
    array = sitk.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    vector = "vector" in image.GetPixelIDTypeAsString()
    if not vector:
        array = array[..., None]
    if dimension < 4:
        array = array[None]
    if dimension == 2:
        array = array[None]
    times = array.shape[0]
    # (T, K, J, I, C) to (T C, K, J, I).
    values = np.moveaxis(array, -1, 1).reshape(-1, *array.shape[1:4])
    clock = (image.GetOrigin()[3], image.GetSpacing()[3]) if dimension == 4 else (0.0, 1.0)
    tags = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    return Frames(values, grid_of(image), label, dimension, times, components, vector, clock, tags)


def grid_of(image) -> Grid:
    """The grid of the first frame of a SimpleITK image of 2 to 4 dimensions."""
    import SimpleITK as sitk

    if image.GetDimension() < 4:
        return grid_from_sitk(image)
    geometry = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    geometry.SetOrigin(image.GetOrigin()[:3])
    geometry.SetSpacing(image.GetSpacing()[:3])
    try:
        geometry.SetDirection(np.array(image.GetDirection()).reshape(4, 4)[:3, :3].ravel().tolist())
    except RuntimeError as error:
        raise InputError("The time series has axes that turn space into time. Give its frames as volumes.") from error
    return Grid(image.GetSize()[2::-1], grid_from_sitk(geometry).ijk_to_ras)


def read_grid(path: str | Path, name: str, series: int | str | None = None) -> Grid:
    """The grid of an image file. series: as in read_image. Raises InputError."""
    return read_frames(path, name, series).grid


def to_sitk(frames: Frames):
    """The SimpleITK image of the layout; 2D where the file was and the grid lies in the plane of the first two axes."""
    import SimpleITK as sitk

    values = frames.values.reshape(frames.times, frames.components, *frames.grid.shape)
    array = np.ascontiguousarray(np.moveaxis(values, 1, -1))
    if not frames.vector:
        array = array[..., 0]
    if frames.dimension == 4:
        image = sitk.GetImageFromArray(array, isVector=frames.vector)
        geometry = sitk.Image([1, 1, 1], sitk.sitkUInt8)
        set_sitk_geometry(geometry, frames.grid)
        direction = np.eye(4)
        direction[:3, :3] = np.array(geometry.GetDirection()).reshape(3, 3)
        image.SetOrigin((*geometry.GetOrigin(), frames.clock[0]))
        image.SetSpacing((*geometry.GetSpacing(), frames.clock[1]))
        image.SetDirection(direction.ravel().tolist())
        return image
    if frames.dimension == 2 and _in_first_plane(frames.grid):
        image = sitk.GetImageFromArray(array[0, 0], isVector=frames.vector)
        geometry = sitk.Image([1, 1, 1], sitk.sitkUInt8)
        set_sitk_geometry(geometry, frames.grid)
        image.SetOrigin(geometry.GetOrigin()[:2])
        image.SetSpacing(geometry.GetSpacing()[:2])
        image.SetDirection(np.array(geometry.GetDirection()).reshape(3, 3)[:2, :2].ravel().tolist())
        return image
    image = sitk.GetImageFromArray(array[0], isVector=frames.vector)
    set_sitk_geometry(image, frames.grid)
    return image


def _in_first_plane(grid: Grid) -> bool:
    normal = grid.directions[:, 2]
    return grid.shape[0] == 1 and bool(np.abs(np.abs(normal[2]) - 1) < 1e-6 and abs(grid.ijk_to_ras[2, 3]) < 1e-6)


def write_frames(frames: Frames, path: Path, target: Path) -> str:
    """Write to `path` and read it back. target: what messages call it. Raises OutputError.

    Returns a sentence where the format does not keep where the voxels lie, else "".
    """
    import SimpleITK as sitk

    try:
        if is_nifti_name(path) and len(frames.values) == 1 and not frames.vector:
            write_nifti(path, frames.values[0], frames.grid)
        else:
            sitk.WriteImage(to_sitk(frames), str(path), useCompression=True, compressionLevel=1)
        back = read_frames(path)
    except (RuntimeError, InputError) as error:
        raise OutputError(
            f"{target} could not be written: its format may not hold such an image (use .nii.gz or .nrrd), or the disk "
            "is full."
        ) from error
    found, expected = back.values, frames.values
    same = found.shape == expected.shape and np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")
    if not same and not _lossy(path):
        raise OutputError(
            f"{target} reads back changed after writing: the format does not hold these values, or the disk is full."
        )
    if back.grid.same_as(frames.grid, SAME_VOXELS):
        return ""
    return (
        f"{target.name} does not say where its voxels lie, which its format cannot hold. Write .nii.gz, .nrrd or .mha "
        "where that matters."
    )


def _lossy(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")
