"""Image files, through SimpleITK. Files hold LPS; positions are converted to RAS here only."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from .dicom import read_dicom_folder
from .grid import LPS_FROM_RAS, Grid, check_right_angles
from .image import Image


def grid_from_sitk(image) -> Grid:
    """The grid of a 2D or 3D SimpleITK image (LPS there, RAS here)."""
    dimension = image.GetDimension()
    direction = np.eye(3)
    direction[:dimension, :dimension] = np.array(image.GetDirection()).reshape(dimension, dimension)
    spacing = np.ones(3)
    spacing[:dimension] = image.GetSpacing()
    if dimension == 2:
        spacing[2] = spacing[:2].mean()
    origin = np.zeros(3)
    origin[:dimension] = image.GetOrigin()
    matrix = np.eye(4)
    matrix[:3, :3] = direction * spacing
    matrix[:3, 3] = origin
    size = (*image.GetSize(), 1)[:3]
    return Grid(tuple(size[::-1]), LPS_FROM_RAS @ matrix)


def set_sitk_geometry(image, grid: Grid) -> None:
    """Give a 3D SimpleITK image the geometry of `grid`. Raises InputError for a sheared grid."""
    if not grid.is_orthogonal:
        raise InputError("Image files cannot hold sheared axes. Resample onto a grid with right angles first.")
    lps = LPS_FROM_RAS @ grid.ijk_to_ras
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(grid.spacing.tolist())
    # ITK refuses directions whose columns are not exactly orthonormal after rounding.
    u, _, vt = np.linalg.svd(lps[:3, :3] / grid.spacing)
    image.SetDirection((u @ vt).ravel().tolist())


def to_sitk(image: Image):
    """A 3D SimpleITK image of an Image."""
    import SimpleITK as sitk

    array = image.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    result = sitk.GetImageFromArray(array)
    set_sitk_geometry(result, image.grid)
    return result


def from_sitk(image, name: str = "image") -> Image:
    """An Image of a scalar 2D or 3D SimpleITK image. Raises InputError for vectors, RGB and time series."""
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"The {name} has {image.GetNumberOfComponentsPerPixel()} values a voxel (colour or vectors). "
            "Give a scalar image: convert it to grey values, or extract one component."
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        size = list(image.GetSize())
        size[3] = 0
        image = sitk.Extract(image, size, [0, 0, 0, 0])
    if image.GetDimension() > 3:
        raise InputError(
            f"The {name} has {image.GetSize()[3]} frames (a time series). Extract one frame and register that."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"The {name} has complex values. Give its magnitude.")
    array = sitk.GetArrayFromImage(image)
    if image.GetDimension() == 2:
        array = array[None]
    grid = grid_from_sitk(image)
    check_right_angles(grid, name)
    return Image(array, grid, name)


def open_image(path: str | Path, name: str | None = None):
    """The SimpleITK image of a file or of a folder with one DICOM series, of any dimension and values.

    Raises InputError when it is missing, unreadable or sheared.
    """
    import SimpleITK as sitk

    path = Path(path)
    label = name or path.name
    if not path.exists():
        raise InputError(f"The {label} cannot be read: there is no file {path}.")
    try:
        return read_dicom_folder(path, label) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        text = str(error)
        if "orthonormal" in text:
            raise InputError(
                f"The {label} ({path}) has sheared axes, which image files here cannot express. "
                "Resample it onto a grid with right angles first."
            ) from error
        raise InputError(
            f"The {label} cannot be read from {path}: it is no image in a format known here "
            "(NIfTI, NRRD, MetaImage, TIFF, a DICOM folder, ...), or the file is damaged."
        ) from error


def read_image(path: str | Path, name: str | None = None) -> Image:
    """Read an image that SimpleITK knows: NIfTI, NRRD, MetaImage, TIFF, ... or a folder with one DICOM series.

    Raises InputError when the file is missing, unreadable, not scalar, a time series, or sheared.
    """
    return from_sitk(open_image(path, name), name or Path(path).name)


def write_image(image: Image, path: str | Path) -> None:
    """Write an Image with its geometry. Raises OutputError when that fails."""
    import SimpleITK as sitk

    path = Path(path)
    try:
        if image.array.dtype.kind == "f" and path.name.endswith(".nii.gz"):
            _write_measured(to_sitk(image), path)
        else:
            sitk.WriteImage(to_sitk(image), str(path), useCompression=True, compressionLevel=1)
    except (RuntimeError, OSError) as error:
        raise OutputError(
            f"The {image.name} could not be written to {path}: check the folder's permissions and the free space."
        ) from error


def _write_measured(image, path: Path) -> None:
    """A compressed NIfTI file of numbers that hardly repeat: only runs are looked for, in less than half the time and
    to about the same size as with matches anywhere.
    """
    import SimpleITK as sitk

    compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "image.nii"
        sitk.WriteImage(image, str(plain))
        with plain.open("rb") as source, path.open("wb") as target:
            while part := source.read(1 << 20):
                target.write(compressor.compress(part))
            target.write(compressor.flush())
