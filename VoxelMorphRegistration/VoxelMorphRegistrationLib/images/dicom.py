"""DICOM series and files: which one is read, and its real values in place.

Headers are read by pydicom (dicom_frames.py), the geometry is checked slice by slice (dicom_stack.py), and GDCM,
through SimpleITK, decodes what is compressed. ITK's series reader would spread slices evenly wherever they lie, and
take the number type of the first one for all.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dicom_frames import DamagedDicom, Frame, Series, headers_of, series_of, starts_as_dicom
from .dicom_stack import NoStack, Stack, grid_of, stack_of, straightened
from .grid import Grid
from .image import Image

_PIXEL_TAGS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]


def is_dicom_file(path: Path) -> bool:
    """Whether a file is to be read as DICOM, by its content or its suffix (.dcm, .ima)."""
    return path.is_file() and (path.suffix.lower() in (".dcm", ".ima") or starts_as_dicom(path))


def check_series(series: Iterable[int | str | None], images: Iterable[str | Path]) -> None:
    """Raise InputError where a series is asked for and no image is of DICOM."""
    if any(one is not None for one in series) and all(
        path.is_file() and not is_dicom_file(path) for path in map(Path, images)
    ):
        raise InputError("A DICOM series is asked for, but no image is a folder with DICOM files.")


def read_dicom(path: Path, label: str, series: int | str | None = None) -> Image:
    """The image of a DICOM file, or of a folder (and those in it, where it holds no DICOM file itself).

    series: which of several, as in read_image. Values are real ones: the slope and intercept of each slice applied;
    whole numbers stay whole. Raises InputError where the slices are no volume, with the slices' names.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"The {label} is DICOM, for which the package pydicom is needed: pip install pydicom"
        ) from error
    try:
        chosen = _chosen(_series_at(path, label), path, label, series)
        if chosen.refused:
            raise InputError(f"The {label} cannot be read from {path}: {chosen.refused}.")
        image = _image(chosen, label)
        return image.with_told(_one_of_many(path, chosen, label))
    except DamagedDicom as error:
        raise InputError(f"The {label} cannot be read from {path}: {error}.") from error
    except NoStack as error:
        raise InputError(
            f"The {label} in {path} is no even stack of slices of one volume: {error}. Correct the folder, or "
            "convert the series to NIfTI or NRRD with a program that knows its kind."
        ) from error


def _series_at(path: Path, label: str) -> list[Series]:
    """What a file or folder holds, in the order of the series' numbers."""
    if path.is_file():
        files = [path]
        found = headers_of(files)
    else:
        found = headers_of(sorted(entry for entry in path.iterdir() if entry.is_file()))
        found = found or headers_of(sorted(entry for entry in path.rglob("*") if entry.is_file()))
    if not found:
        what = f"the folder {path} holds no DICOM image" if path.is_dir() else f"{path} holds no DICOM image"
        raise InputError(f"The {label} cannot be read: {what}.")
    result = [series_of(uid, files) for uid, files in found.items()]
    return sorted(result, key=lambda one: (one.number is None, one.number or 0, one.uid))


def _chosen(found: list[Series], path: Path, label: str, series: int | str | None) -> Series:
    if series is None and len(found) == 1:
        return found[0]
    by_uid = [one for one in found if one.uid == str(series)]
    if by_uid:
        return by_uid[0]
    listing = "".join(f"\n  {place}: {_described(one)}" for place, one in enumerate(found, start=1))
    if series is None:
        raise InputError(
            f"The {label} is not one image: {path} holds {len(found)} DICOM series. Choose one by its number in this "
            f"list (--series, or the argument series):{listing}"
        )
    if not str(series).isdigit() or not 1 <= int(series) <= len(found):
        raise InputError(f"The {label} in {path} has no series {series}. There are:{listing}")
    return found[int(series) - 1]


def _one_of_many(path: Path, series: Series, label: str) -> list[str]:
    """A sentence where a file is one slice of a series whose next one lies beside it, by name."""
    # Radiographs of one series lie nowhere in space, and make no volume.
    if not path.is_file() or len(series.frames) != 1 or series.frames[0].position is None:
        return []
    with contextlib.suppress(DamagedDicom, OSError):
        names = sorted(path.absolute().parent.iterdir())
        # Windows takes names of another case as well.
        own = path.name.casefold()
        place = next((number for number, one in enumerate(names) if one.name.casefold() == own), 0)
        beside = [one for number, one in enumerate(names) if abs(number - place) == 1]
        if series.uid in headers_of([one for one in beside if is_dicom_file(one)]):
            return [
                f"The {label} is one slice of a series, whose other files lie beside it. Give the folder "
                f"{path.parent} for the whole volume."
            ]
    return []


def _described(series: Series) -> str:
    shapes = [frame.shape for frame in series.frames]
    rows, columns = max(set(shapes), key=shapes.count)
    words = [series.modality, f"'{series.description}'" if series.description else "without a description"]
    number = "" if series.number is None else f", number {series.number} of the scanner"
    images = f"{len(shapes)} image{'s' if len(shapes) > 1 else ''} of {columns} x {rows}"
    return f"{' '.join(word for word in words if word)}, {images}{number}"


def _image(series: Series, label: str) -> Image:
    frames, told = _without_copies(series.frames, label)
    if len(frames) == 1 and (frames[0].position is None or frames[0].rows is None):
        told.append(f"The {label} does not state where it lies in the patient; it was put at the origin.")
        return Image(_values(frames), _unplaced(frames[0]), label, tuple(told))
    stack = stack_of(frames)
    array = _values(stack.frames)
    if stack.is_even and stack.is_straight:
        return Image(array, grid_of(stack), label, tuple(told))
    array, grid = straightened(stack, array)
    told.append(_put_right(stack, grid, label))
    return Image(array, grid, label, tuple(told))


def _unplaced(frame: Frame) -> Grid:
    matrix = np.diag([-frame.spacing[1], -frame.spacing[0], frame.thickness or np.mean(frame.spacing), 1.0])
    return Grid((1, *frame.shape), matrix)


def _put_right(stack: Stack, grid: Grid, label: str) -> str:
    """What was done to slices that are no straight, even stack."""
    what = []
    if not stack.is_straight:
        angle = np.degrees(np.arctan2(np.linalg.norm(stack.shifts[-1]), stack.distances[-1]))
        line = np.outer(np.linspace(0, 1, len(stack.shifts)), stack.shifts[-1])
        bent = np.abs(stack.shifts - line).max() > 0.1
        what.append("are shifted within their planes" if bent else f"lean by {angle:.1f} degrees (a tilted gantry)")
    if not stack.is_even:
        gaps = np.diff(stack.distances)
        what.append(f"are unevenly spaced ({gaps.min():.4g} to {gaps.max():.4g} mm)")
    size = " x ".join(map(str, grid.size))
    return (
        f"The slices of the {label} {' and '.join(what)}. They were resampled to their right positions on a straight "
        f"grid of {size} voxels, {grid.spacing[2]:.4g} mm apart."
    )


def _without_copies(frames: list[Frame], label: str) -> tuple[list[Frame], list[str]]:
    """Frames without those of files that are copies of another one (the same SOPInstanceUID and the same bytes)."""
    kept: dict[tuple[str, int], Frame] = {}
    copies = []
    for frame in frames:
        known = kept.setdefault((frame.uid, frame.index), frame)
        if known is frame or not frame.uid:
            continue
        if known.path.read_bytes() != frame.path.read_bytes():
            raise NoStack(f"{known.name} and {frame.name} have one identity (SOPInstanceUID), but differ; keep one")
        copies.append(frame)
    if not copies:
        return frames, []
    left = [frame for frame in frames if not any(frame is copy for copy in copies)]
    files = sorted({frame.path.name for frame in copies})
    some = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    return left, [f"The folder of the {label} holds copies of its files, which were left out: {some}."]


def _values(frames: list[Frame]) -> np.ndarray:
    """Real values (N, J, I) of frames in their order: whole numbers in the smallest type that holds them, or floats."""
    whole = all(float(part).is_integer() for frame in frames for part in (frame.slope, frame.intercept))
    as_stored = all(frame.slope == 1 and frame.intercept == 0 for frame in frames)
    stored: dict[Path, np.ndarray] = {}
    result: np.ndarray | None = None
    for n, frame in enumerate(frames):
        if frame.path not in stored:
            # A file at a time, or the frames of one.
            stored = {frame.path: _stored(frame)}
        plane = stored[frame.path][frame.index]
        if result is None:
            steepest = max(abs(one.slope) for one in frames)
            kind = plane.dtype if as_stored else _real_type(plane.dtype, whole, steepest)
            result = np.empty((len(frames), *plane.shape), kind)
        if as_stored:
            # A file may have another number type than those before it.
            result = result.astype(np.promote_types(result.dtype, plane.dtype), copy=False)
            result[n] = plane
        elif whole and result.dtype.kind == "i":
            np.multiply(plane, int(frame.slope), out=result[n], dtype=result.dtype, casting="unsafe")
            result[n] += int(frame.intercept)
        else:
            result[n] = plane * np.float64(frame.slope) + frame.intercept
    assert result is not None, "no frame"
    if as_stored or result.dtype.kind == "f":
        return result
    low, high = result.min(), result.max()
    smaller = (np.uint8, np.int16, np.uint16, np.int32, np.uint32)
    fitting = [kind for kind in smaller if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]
    return result.astype(fitting[0]) if fitting else result


def _real_type(stored: np.dtype, whole: bool, steepest: float) -> type:
    """The number type that holds slope * stored + intercept. whole: whether slopes and intercepts are whole numbers."""
    small = stored.itemsize <= 2 and steepest < 2**14
    if whole and stored.kind != "f":
        return np.int32 if small else np.int64
    return np.float32 if small or stored == np.float32 else np.float64


def _stored(frame: Frame) -> np.ndarray:
    """The numbers of a file as stored, (frames, J, I). Raises DamagedDicom when it ends early."""
    import pydicom
    from pydicom.uid import RLELossless

    path = frame.path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path, force=True, specific_tags=_PIXEL_TAGS)
            syntax = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
            if syntax == RLELossless:
                # GDCM refuses some small slices that are packed so.
                return _used_bits(data.pixel_array.reshape(frame.count, *frame.shape), data)
            if syntax and syntax.is_compressed and not syntax.is_deflated:
                return _unpacked(data, frame)
            return _plain(data, frame, bool(syntax and not syntax.is_little_endian))
        except DamagedDicom:
            raise
        except Exception as error:  # pydicom and GDCM raise what their parts raise
            raise DamagedDicom(path, "is damaged, or it ends early: its pixels cannot be read") from error


def _plain(data, frame: Frame, big_endian: bool) -> np.ndarray:
    order = ">" if big_endian else "<"
    if "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        single = "FloatPixelData" in data
        kind, raw = (order + "f4", data.FloatPixelData) if single else (order + "f8", data.DoubleFloatPixelData)
        bits = 8 * np.dtype(kind).itemsize
    elif "PixelData" in data:
        bits = int(data.BitsAllocated)
        kind = f"{order}{'i' if int(data.get('PixelRepresentation', 0)) else 'u'}{bits // 8}"
        raw = data.PixelData
    else:
        raise DamagedDicom(frame.path, "is damaged: it ends before its pixels")
    if bits not in (8, 16, 32, 64):
        raise DamagedDicom(frame.path, f"has {bits} bits a pixel, which are not read here")
    shape = (frame.count, *frame.shape)
    due = int(np.prod(shape)) * bits // 8
    if len(raw) < due:
        raise DamagedDicom(frame.path, f"is damaged: it ends early ({len(raw)} of the {due} bytes of its pixels)")
    array = np.frombuffer(raw, kind, int(np.prod(shape))).reshape(shape)
    return _used_bits(array.astype(array.dtype.newbyteorder("=")), data)


def _used_bits(array: np.ndarray, data) -> np.ndarray:
    """Stored numbers without the bits beyond the stored ones, which may hold overlays or repeat no sign."""
    bits = 8 * array.dtype.itemsize
    used, highest = int(data.get("BitsStored", bits) or bits), int(data.get("HighBit", bits - 1) or bits - 1)
    if array.dtype.kind != "f" and (used < bits or highest != bits - 1):
        # The sign is that of the highest bit stored.
        array = (array << (bits - 1 - highest)) >> (bits - used)
    return array


def _unpacked(data, frame: Frame) -> np.ndarray:
    """Compressed pixels, decoded by GDCM as plain numbers: it is given nothing else of the file."""
    import SimpleITK as sitk
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    kind = "1.2.840.10008.5.1.4.1.1.7.3" if frame.count > 1 and data.BitsAllocated > 8 else "1.2.840.10008.5.1.4.1.1.7"
    bare.SOPClassUID = bare.file_meta.MediaStorageSOPClassUID = UID(kind)
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    names = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored")
    for name in (*names, "HighBit", "PixelRepresentation", "NumberOfFrames"):
        if name in data:
            setattr(bare, name, data.get(name))
    bare.add(data["PixelData"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.dcm"
        bare.save_as(path, enforce_file_format=True) if hasattr(bare, "is_implicit_VR") else bare.save_as(path)
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if array.size != frame.count * frame.shape[0] * frame.shape[1]:
        raise DamagedDicom(frame.path, "is damaged: it has fewer pixels than it says")
    return array.reshape(frame.count, *frame.shape)
