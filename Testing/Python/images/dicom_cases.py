"""DICOM stacks with a known picture, slice by slice, for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from grids import rotation

CT, MR, PET = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "128"))
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SIZE, SPACING = (7, 6, 8), (2.0, 2.5, 4.0)
ORIGIN = np.array([-11.0, 7.0, 20.0])


def linear(lps) -> np.ndarray:
    """A picture that is linear in LPS mm, so that linear resampling is exact."""
    return np.asarray(lps) @ [3.0, -2.0, 5.0] + 700.0


def directions(degrees=(0, 0, 0)) -> np.ndarray:
    return rotation(degrees)


def place(k: int, turn: np.ndarray) -> np.ndarray:
    """Where the first pixel of slice k of an even, straight stack lies, LPS mm."""
    return ORIGIN + turn[:, 2] * SPACING[2] * k


def pixels(position, turn: np.ndarray, size=SIZE) -> np.ndarray:
    """The picture (rows, columns) on a slice."""
    j, i = np.meshgrid(np.arange(size[1]), np.arange(size[0]), indexing="ij")
    return linear(position + i[..., None] * turn[:, 0] * SPACING[0] + j[..., None] * turn[:, 1] * SPACING[1])


def new_dataset(kind=CT, series="1.2.3", **fields) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = series, "1.2.4", "CT"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def set_pixels(data, stored, dtype="<i2", bits=None) -> None:
    stored = np.rint(stored).astype(dtype)
    data.Rows, data.Columns = stored.shape[-2:]
    data.BitsAllocated = 8 * stored.dtype.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    raw = stored.tobytes()
    data.PixelData = raw + bytes(len(raw) % 2)


def place_in(data, position, turn) -> None:
    data.ImagePositionPatient = [f"{value:.6f}" for value in position]
    data.ImageOrientationPatient = [f"{value:.9f}" for value in (*turn[:, 0], *turn[:, 1])]
    data.PixelSpacing = [SPACING[1], SPACING[0]]


def slice_of(k: int, turn=None, position=None, slope=1.0, intercept=0.0, dtype="<i2", **fields) -> FileDataset:
    turn = directions() if turn is None else turn
    position = place(k, turn) if position is None else position
    data = new_dataset(**{"InstanceNumber": k + 1, "SliceThickness": SPACING[2], **fields})
    place_in(data, position, turn)
    if (slope, intercept) != (1.0, 0.0):
        data.RescaleSlope, data.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
    set_pixels(data, (pixels(position, turn) - intercept) / slope, dtype)
    return data


def write(folder: Path, k: int, name="{:03d}.dcm", **parts) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name.format(k)
    slice_of(k, **parts).save_as(path)
    return path


def stack(folder: Path, count=SIZE[2], **parts) -> Path:
    """A folder with an even, straight stack."""
    for k in range(count):
        write(folder, k, **parts)
    return folder


def item(**fields) -> Dataset:
    data = Dataset()
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def enhanced(path: Path, positions, turn=None, slopes=None, frame_fields=None, **fields) -> Path:
    """One file with a frame at each position (LPS mm)."""
    turn = directions() if turn is None else turn
    data = new_dataset(ENHANCED_MR, NumberOfFrames=len(positions), **fields)
    slopes = slopes or [1.0] * len(positions)
    set_pixels(data, np.stack([pixels(p, turn) / s for p, s in zip(positions, slopes, strict=True)]), "<u2")
    orientation = item(ImageOrientationPatient=[float(v) for v in (*turn[:, 0], *turn[:, 1])])
    measures = item(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2])
    data.SharedFunctionalGroupsSequence = Sequence(
        [item(PlaneOrientationSequence=Sequence([orientation]), PixelMeasuresSequence=Sequence([measures]))]
    )
    groups = []
    for n, (position, slope) in enumerate(zip(positions, slopes, strict=True)):
        group = item(
            PlanePositionSequence=Sequence([item(ImagePositionPatient=[float(v) for v in position])]),
            PixelValueTransformationSequence=Sequence([item(RescaleSlope=slope, RescaleIntercept=0)]),
        )
        for sequence, names in (frame_fields or {}).items():
            setattr(group, sequence, Sequence([item(**{name: value[n] for name, value in names.items()})]))
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data.save_as(path)
    return path


def cut(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def edited(path: Path, **fields) -> None:
    data = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path)
