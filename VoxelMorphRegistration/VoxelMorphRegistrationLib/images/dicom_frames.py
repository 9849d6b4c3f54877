"""What the headers of DICOM files say of each slice: where it lies, its value scale, what tells it from others.

pydicom reads the headers, since SimpleITK shows no sequences (where enhanced multi-frame files keep their positions)
and no file that is damaged; it is pure Python and part of 3D Slicer.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

# What tells apart images that are taken at one place, in the words of messages.
DISTINCTIONS = {
    "EchoTime": "echo time",
    "EffectiveEchoTime": "echo time",
    "EchoNumbers": "echo number",
    "TemporalPositionIdentifier": "time position",
    "TemporalPositionIndex": "time position",
    "DiffusionBValue": "b-value",
    "TriggerTime": "trigger time",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "InversionTime": "inversion time",
    "FlipAngle": "flip angle",
    "ImageType": "image type",
    "FrameType": "image type",
    "AcquisitionNumber": "acquisition number",
    "AcquisitionTime": "acquisition time",
    "FrameReferenceTime": "frame time",
    "ContentTime": "content time",
    "ReferencedSegmentNumber": "segment",
}
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "GridFrameOffsetVector",
    "DoseGridScaling",
    "DetectorInformationSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *(name for name in DISTINCTIONS if name not in ("EffectiveEchoTime", "FrameType", "TemporalPositionIndex")),
]
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice. path and index: the file and the frame in it. position: centre of the first pixel, LPS mm.

    rows, columns: unit vectors (3,) in LPS along which the row and the column number grow. spacing: mm along them.
    position, rows and columns are None where the file does not say. slope, intercept: of real values.
    """

    path: Path
    index: int
    count: int
    shape: tuple[int, int]
    position: np.ndarray | None
    rows: np.ndarray | None
    columns: np.ndarray | None
    spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    uid: str
    distinct: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file as messages call it, and the frame where it holds several."""
        return self.path.name if self.count == 1 else f"{self.path.name}, frame {self.index + 1}"

    @property
    def placed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """position, rows and columns, where the file says them."""
        assert self.position is not None and self.rows is not None and self.columns is not None
        return self.position, self.rows, self.columns

    @property
    def normal(self) -> np.ndarray:
        _, rows, columns = self.placed
        return np.cross(columns, rows)


@dataclass(frozen=True, eq=False)
class Series:
    """Frames with one SeriesInstanceUID. refused: why this is no image that can be used, as a sentence's end."""

    uid: str
    number: int | None
    description: str
    modality: str
    frames: list[Frame]
    refused: str = ""


def starts_as_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM, or begins as files without it do (group 8, as of ACR-NEMA)."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:132] == b"DICM":
        return True
    if len(start) < 132 or start[:2] != b"\x08\x00" or start[3] != 0:
        return False
    # A value representation in two capitals, or an even length: that of a group's length is 4. Other files begin with
    # an 8 as well, such as images of 8 columns.
    length = int.from_bytes(start[4:8], "little")
    return (start[4:6].isalpha() and start[4:6].isupper()) or (length == 4 if start[2] == 0 else length % 2 == 0)


class DamagedDicom(Exception):
    """A file that claims to be DICOM and cannot be used, and why, as a sentence's end."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"the file {path.name} {why}")


def headers_of(paths: list[Path]) -> dict[str, list[tuple[Path, object]]]:
    """Headers of the files that hold images, by SeriesInstanceUID. Raises DamagedDicom."""
    found: dict[str, list[tuple[Path, object]]] = {}
    for path in paths:
        if starts_as_dicom(path):
            header = _header(path)
            if header is not None:
                found.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
        elif path.suffix.lower() in (".dcm", ".ima"):
            raise DamagedDicom(path, "is no DICOM file, or it is damaged")
    return found


def _header(path: Path):
    """The header of a file with an image, None of one without (a directory, a report). Raises DamagedDicom."""
    import pydicom

    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            meta = header.file_meta
            kind = str(header.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", ""))
            deflated = bool(meta.get("TransferSyntaxUID") and meta.TransferSyntaxUID.is_deflated)
        except Exception as error:  # pydicom raises what its parts raise
            raise DamagedDicom(path, "is damaged: its header cannot be read") from error
        ended = not deflated and file.tell() >= path.stat().st_size
        if "Rows" not in header and _is_no_image(kind, "SeriesInstanceUID" in header):
            return None
    if ended or not all(name in header for name in ("Rows", "Columns", "SeriesInstanceUID")):
        raise DamagedDicom(path, "is damaged: it ends early, before its pixels")
    return header


def _is_no_image(kind: str, has_series: bool) -> bool:
    """Whether a file without rows is of a kind that has none, and not one that lost them."""
    from pydicom.uid import UID

    name = UID(kind).name
    is_known = name != kind
    return "Image Storage" not in name if is_known else has_series


def series_of(uid: str, files: list[tuple[Path, Any]]) -> Series:
    """The frames of the files of one series, in the order of the files."""
    first = files[0][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames, refused = [], ""
        for path, header in files:
            try:
                frames += _frames(path, header)
                refused = refused or _unusable(header)
            except DamagedDicom:
                raise
            except Exception as error:  # pydicom converts values when they are asked for, and raises what that raises
                raise DamagedDicom(path, "is damaged: its header holds values that are none") from error
        number = _number(first.get("SeriesNumber"))
        return Series(
            uid,
            None if number is None else int(number),
            str(first.get("SeriesDescription", "") or ""),
            str(first.get("Modality", "") or ""),
            frames,
            refused,
        )


def _unusable(header) -> str:
    if str(header.get("SOPClassUID", "")) == _SEGMENTATION:
        return "it is a DICOM segmentation; load it in 3D Slicer and save it as a label map (.nrrd)"
    if int(header.get("SamplesPerPixel", 1) or 1) != 1:
        return f"it has {header.SamplesPerPixel} values a voxel (colour); give a scalar image"
    if str(header.get("PhotometricInterpretation", "")).upper() == "PALETTE COLOR":
        return "its values are numbers of colours; give a scalar image"
    if "MOSAIC" in [str(word).upper() for word in _several(header.get("ImageType"))]:
        return "its files are mosaics (many slices in one picture); convert them first, for example with dcm2niix"
    return ""


def _several(value) -> list:
    return [] if value is None else [value] if isinstance(value, (str, int, float)) else list(value)


def _numbers(value, count: int) -> np.ndarray | None:
    """`count` finite numbers of an element, or None."""
    try:
        numbers = np.array([float(part) for part in _several(value)])
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def _number(value) -> float | None:
    found = _numbers(value, 1)
    return None if found is None else float(found[0])


def _frames(path: Path, header) -> list[Frame]:
    count = max(1, int(header.get("NumberOfFrames", 1) or 1))
    # The least of a packed one; else a small file would be read for hours.
    if count > 1 and 8 * count > path.stat().st_size:
        raise DamagedDicom(path, f"is damaged: it states {count} frames, more than it can hold")
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame is not None and len(per_frame) != count:
        raise DamagedDicom(path, f"is damaged: it has {count} frames and describes {len(per_frame)}")
    shared = header.get("SharedFunctionalGroupsSequence")
    shared = shared[0] if shared else None
    frames = [
        _frame(path, header, index, count, [per_frame[index] if per_frame else None, shared]) for index in range(count)
    ]
    return frames if count == 1 or frames[0].position is None or per_frame else _offset_frames(header, frames)


def _frame(path: Path, header, index: int, count: int, groups: list) -> Frame:
    def value(name: str, sequence: str, **more):
        """An element of the frame's functional group, of the shared one, or of the file itself."""
        for group in groups:
            if group is not None and (items := group.get(sequence)) and (found := items[0].get(name)) is not None:
                return found
        return header.get(name)

    detector = header.get("DetectorInformationSequence")
    position = _numbers(value("ImagePositionPatient", "PlanePositionSequence"), 3)
    turn = _numbers(value("ImageOrientationPatient", "PlaneOrientationSequence"), 6)
    if detector and position is None:
        position = _numbers(detector[0].get("ImagePositionPatient"), 3)
    if detector and turn is None:
        turn = _numbers(detector[0].get("ImageOrientationPatient"), 6)
    rows, columns = (None, None) if turn is None else _directions(path, turn)
    spacing = _numbers(value("PixelSpacing", "PixelMeasuresSequence"), 2)
    if spacing is None:
        spacing = _numbers(header.get("ImagerPixelSpacing"), 2)
    if spacing is None:
        spacing = np.ones(2)
    if spacing.min() <= 0:
        raise DamagedDicom(path, "gives no pixel spacing above 0")
    between = _number(value("SpacingBetweenSlices", "PixelMeasuresSequence"))
    thickness = _number(value("SliceThickness", "PixelMeasuresSequence"))
    slope = _number(value("RescaleSlope", "PixelValueTransformationSequence"))
    intercept = _number(value("RescaleIntercept", "PixelValueTransformationSequence"))
    dose = _number(header.get("DoseGridScaling"))
    return Frame(
        path,
        index,
        count,
        (int(header.Rows), int(header.Columns)),
        position,
        rows,
        columns,
        (float(spacing[0]), float(spacing[1])),
        abs(between) if between else thickness,
        dose or slope or 1.0,
        intercept or 0.0,
        str(header.get("SOPInstanceUID", "")),
        _distinctions(header, groups),
    )


def _directions(path: Path, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along which rows and columns grow, made exactly perpendicular where they are so but for rounding."""
    columns, rows = turn[:3], turn[3:]
    lengths = np.linalg.norm(columns), np.linalg.norm(rows)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(columns @ rows) > 1e-2:
        raise DamagedDicom(path, "has an orientation that is none: its row and column directions are no unit vectors")
    u, _, vt = np.linalg.svd(np.stack([columns, rows]), full_matrices=False)
    columns, rows = u @ vt
    return rows, columns


def _distinctions(header, groups: list) -> dict[str, str]:
    found = {
        name: str(header.get(name)) for name in DISTINCTIONS if name in header and header.get(name) not in (None, "")
    }
    sequences = ("FrameContentSequence", "MREchoSequence", "MRDiffusionSequence", "SegmentIdentificationSequence")
    types = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
    for group in groups:
        for sequence in (*sequences, *types):
            items = group.get(sequence) if group is not None else None
            if not items:
                continue
            for name in DISTINCTIONS:
                if items[0].get(name) not in (None, ""):
                    found[name] = str(items[0].get(name))
    return found


def _offset_frames(header, frames: list[Frame]) -> list[Frame]:
    """Frames of a file that gives one position and how far the others are along the normal (dose, nuclear medicine)."""
    offsets = _numbers(header.get("GridFrameOffsetVector"), len(frames))
    between = _number(header.get("SpacingBetweenSlices"))
    if offsets is None and between and header.get("DetectorInformationSequence"):
        offsets = between * np.arange(len(frames))
    if offsets is None or frames[0].rows is None:
        return [replace(frame, position=None) for frame in frames]
    first = frames[0].position
    if header.get("GridFrameOffsetVector") is not None and abs(offsets[0]) > 1e-6:
        # The offsets may be patient coordinates themselves: they start at the first position then.
        offsets = offsets - offsets[0]
    return [
        replace(frame, position=first + offset * frame.normal) for frame, offset in zip(frames, offsets, strict=True)
    ]
