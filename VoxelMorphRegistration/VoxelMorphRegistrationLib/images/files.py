"""The one door for image files: NIfTI (nifti.py), DICOM (dicom.py), and others through SimpleITK.

SimpleITK's images are in LPS; their positions are converted to RAS here only.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from .. import apart
from ..errors import InputError, OutputError
from . import tiff
from .dicom import is_dicom_file, read_dicom
from .ends import ends_early
from .grid import LPS_FROM_RAS, Grid, check_right_angles
from .image import Image
from .nifti import SHEARED, NiftiContent, is_nifti_name, read_nifti, write_nifti
from .packed import DamagedFile
from .places import check_data_files, check_place, missing_data_file, units_told

# ITK's libraries for some formats keep what they are at in one place for all: two threads in them crash (HDF5 always,
# NRRD where files are damaged).
ITK_ALONE = threading.Lock()
# What readers of ITK say of files that end early (NRRD raw and packed, MetaImage).
_EARLY = ("fread got only", "bytes but received", "data not read completely", "not read completely")


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
    origin, spacing, directions = itk_geometry(grid)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(directions.ravel().tolist())


def itk_geometry(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin (3,), spacing (3,) and directions (3, 3) of a grid in LPS. Raises InputError for a sheared one."""
    if not grid.is_orthogonal:
        raise InputError(SHEARED)
    lps = LPS_FROM_RAS @ grid.ijk_to_ras
    # ITK refuses directions whose columns are not exactly orthonormal after rounding.
    u, _, vt = np.linalg.svd(lps[:3, :3] / grid.spacing)
    return lps[:3, 3], grid.spacing, u @ vt


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
        raise _vectors(name, image.GetNumberOfComponentsPerPixel())
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        size = list(image.GetSize())
        size[3] = 0
        image = sitk.Extract(image, size, [0, 0, 0, 0])
    if image.GetDimension() > 3:
        raise _time_series(name, image.GetSize()[3])
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"The {name} has complex values. Give its magnitude.")
    array = sitk.GetArrayFromImage(image)
    if image.GetDimension() == 2:
        array = array[None]
    return Image(array, grid_from_sitk(image), name)


def _vectors(name: str, count: int) -> InputError:
    return InputError(
        f"The {name} has {count} values a voxel (colour or vectors). "
        "Give a scalar image: convert it to grey values, or extract one component."
    )


def _time_series(name: str, count: int) -> InputError:
    return InputError(f"The {name} has {count} frames (a time series). Extract one frame and register that.")


def read_image(path: str | Path, name: str | None = None, series: int | str | None = None) -> Image:
    """Read an image: NIfTI, DICOM (a folder or a file), or what SimpleITK knows (NRRD, MetaImage, TIFF, ...).

    series: which one of several DICOM series, by its place in the list that the error gives (from 1) or its
    SeriesInstanceUID. Image.told says what was doubtful. Raises InputError when the file is missing, damaged, not
    scalar, a time series, or sheared.
    """
    path = Path(path)
    label = name or path.name
    check_place(path, label)
    if path.is_dir() or is_dicom_file(path):
        image = read_dicom(path, label, series)
    elif is_nifti_name(path):
        image = _from_nifti(read_nifti(path, label), label)
    else:
        with ITK_ALONE:
            image = from_sitk(open_image(path, label), label)
            image = image.with_told([*units_told(path, label), *_distance_told(path, image, label)])
    check_right_angles(image.grid, label)
    return image


def _distance_told(path: Path, image: Image, label: str) -> list[str]:
    """A sentence for the pages of a TIFF file, whose distance it cannot hold."""
    if path.suffix.lower() not in (".tif", ".tiff") or image.grid.dimension == 2:
        return []
    voxel = " x ".join(f"{size:g}" for size in image.grid.spacing)
    return [
        f"The file of the {label} cannot say how far its slices lie apart, nor where: voxels of {voxel} mm were taken. "
        "Convert it to NIfTI or NRRD with the right voxel size if that is wrong."
    ]


def open_image(path: Path, label: str):
    """The SimpleITK image of a file that is neither NIfTI nor DICOM, of any dimension and values.

    Raises InputError when it is unreadable or sheared.
    """
    import SimpleITK as sitk

    if not _is_hdf5(path):
        check_data_files(path, label)
        try:
            # Before ITK, which asks libtiff about a file of any name.
            tiff.check(path)
        except DamagedFile as error:
            raise InputError(f"The {label} cannot be read from {path}: {error}.") from error
        if ends_early(path):
            raise _refusal(path, label, _EARLY[0])
        try:
            return sitk.ReadImage(str(path))
        except RuntimeError as error:
            if lost := missing_data_file(path):
                raise InputError(
                    f"The {label} cannot be read from {path}: its voxels are in {lost}, and there is no such file."
                ) from error
            raise _refusal(path, label, str(error)) from error
        except UnicodeDecodeError as error:
            raise _refusal(path, label, "") from error
    # HDF5 and MINC: libhdf5 may crash on a damaged file, or never come back.
    told, arrays = apart.call(read_here, path)
    if not arrays:
        raise _refusal(path, label, told)
    image = sitk.GetImageFromArray(arrays[0], isVector=told["vectors"])
    image.SetOrigin(told["origin"])
    image.SetSpacing(told["spacing"])
    image.SetDirection(told["direction"])
    return image


def read_here(path: Path) -> tuple[dict | str, list[np.ndarray]]:
    """Geometry and voxels of a file that SimpleITK reads; where it does not, what it says, and no voxels."""
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        return str(error), []
    geometry = {"origin": image.GetOrigin(), "spacing": image.GetSpacing(), "direction": image.GetDirection()}
    return {**geometry, "vectors": image.GetNumberOfComponentsPerPixel() > 1}, [sitk.GetArrayFromImage(image)]


def _is_hdf5(path: Path) -> bool:
    """By the signature, which lies at 0, 512, 1024, 2048, ... (HDF5 File Format Specification 3.0, II.A)."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return True
            place = max(512, 2 * place)
    return False


def _refusal(path: Path, label: str, text: str) -> InputError:
    """The sentence for what SimpleITK says of a file."""
    if "orthonormal" in text:
        return InputError(
            f"The {label} ({path}) has sheared axes, which image files here cannot express. "
            "Resample it onto a grid with right angles first."
        )
    if any(words in text for words in _EARLY):
        return InputError(f"The {label} cannot be read from {path}: the file is damaged, it ends early.")
    if "domain axes" in text:
        return InputError(
            f"The {label} cannot be read from {path}: it has more axes than space (a time series, or several "
            "volumes in one file). Extract one volume and register that."
        )
    return InputError(
        f"The {label} cannot be read from {path}: it is no image in a format known here "
        "(NIfTI, NRRD, MetaImage, TIFF, DICOM, ...), or the file is damaged."
    )


def _from_nifti(content: NiftiContent, label: str) -> Image:
    """The one scalar volume of a file. Raises InputError for vectors and time series."""
    array = content.array
    if array.ndim > 4:
        raise _vectors(label, len(array))
    if array.ndim == 4:
        raise _time_series(label, len(array))
    return Image(array, Grid(array.shape, content.ijk_to_ras), label, content.told)


def write_image(image: Image, path: str | Path) -> None:
    """Write an Image with its geometry. Raises OutputError when that fails."""
    path = Path(path)
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            write_nifti(path, image.array, image.grid)
        else:
            import SimpleITK as sitk

            with ITK_ALONE:
                sitk.WriteImage(to_sitk(image), str(path), useCompression=True, compressionLevel=1)
    except (RuntimeError, OSError) as error:
        raise OutputError(
            f"The {image.name} could not be written to {path}: check the folder's permissions and the free space."
        ) from error
