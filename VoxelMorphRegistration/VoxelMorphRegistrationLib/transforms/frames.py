"""Image files of any layout: slices, volumes, time series, several components; every frame on one grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..images.files import grid_from_sitk, open_image, set_sitk_geometry
from ..images.grid import Grid
from ..images.image import Image


@dataclass(frozen=True, eq=False)
class Frames:
    """values (F, K, J, I) on `grid`, F = times x components, the components of a time side by side.

    dimension: of the file, 2 to 4. times, components: how many. vector: whether the file's voxels are vectors (also of
    one component). clock: origin and spacing of a time series. tags: what else the file says, by key.
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

    @staticmethod
    def of(image: Image) -> Frames:
        return Frames(image.array[None], image.grid, image.name)

    def on(self, values: np.ndarray, grid: Grid) -> Frames:
        """Other values of the same layout."""
        return replace(self, values=values, grid=grid)


def read_frames(path: str | Path, name: str | None = None) -> Frames:
    """Raises InputError for what is no image, sheared, or complex."""
    import SimpleITK as sitk

    label = name or Path(path).name
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


def read_grid(path: str | Path, name: str) -> Grid:
    """The grid of an image file, its voxels unread where the format allows that. Raises InputError."""
    import SimpleITK as sitk

    path = Path(path)
    if path.is_dir() or not path.exists():
        return grid_of(open_image(path, name))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        # It says what is wrong.
        return grid_of(open_image(path, name))
    size = reader.GetSize()
    empty = sitk.Image([1] * len(size), sitk.sitkUInt8)
    empty.SetOrigin(reader.GetOrigin())
    empty.SetSpacing(reader.GetSpacing())
    empty.SetDirection(reader.GetDirection())
    return Grid((*size, 1)[2::-1], grid_of(empty).ijk_to_ras)


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


def write_frames(frames: Frames, path: Path, target: Path) -> None:
    """Write to `path` and read it back. target: what messages call it. Raises OutputError."""
    import SimpleITK as sitk

    image = to_sitk(frames)
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
        back = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise OutputError(
            f"{target} could not be written: its format may not hold such an image (use .nii.gz or .nrrd), or the disk "
            "is full."
        ) from error
    same = np.array_equal(sitk.GetArrayViewFromImage(back), sitk.GetArrayViewFromImage(image), equal_nan=True)
    if not same and not _lossy(path):
        raise OutputError(
            f"{target} reads back changed after writing: the format does not hold these values, or the disk is full."
        )


def _lossy(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")
