"""Large arrays that are packed part by part; pixels of floats in DICOM files, and bits that are not read."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_cases import ORIGIN, SIZE, SPACING, item, linear, new_dataset, set_pixels
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images import nifti
from VoxelMorphRegistrationLib.images.files import read_image


@pytest.mark.parametrize("shape", [(7,), (3, 400), (30, 40), (2, 3, 400), (5, 6, 7)])
def test_large_arrays_are_packed_in_parts_that_are_all_there(shape, monkeypatch):
    monkeypatch.setattr(nifti, "PACKED_BYTES", 600)
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    for each in (array, array[..., ::-1]):
        parts = list(nifti._parts(each))
        assert b"".join(bytes(part) for part in parts) == np.ascontiguousarray(each).tobytes()
        # No part is larger than asked for, where a row is not.
        assert max(part.nbytes for part in parts) <= max(600, array[:1].nbytes if array.ndim == 1 else 800)
    assert len(list(nifti._parts(array))) == {(7,): 1, (3, 400): 3, (30, 40): 5, (2, 3, 400): 6, (5, 6, 7): 1}[shape]


def pet_of(name: str, kind: str):
    """A single slice whose pixels are floats."""
    data = new_dataset("1.2.840.10008.5.1.4.1.1.30")
    data.ImagePositionPatient, data.ImageOrientationPatient = list(ORIGIN), [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
    j, i = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]), indexing="ij")
    values = linear(ORIGIN + np.stack([i * SPACING[0], j * SPACING[1], 0 * i], -1)) / 7
    set_pixels(data, np.zeros((SIZE[1], SIZE[0])))
    del data.PixelData
    data.BitsAllocated = 8 * np.dtype(kind).itemsize
    setattr(data, name, values.astype(kind).tobytes())
    return data, values


@pytest.mark.parametrize(("name", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_pixels_that_are_floats_are_read_as_they_are(name, kind, tmp_path):
    data, values = pet_of(name, kind)
    data.save_as(tmp_path / "a.dcm")
    found = read_image(tmp_path / "a.dcm")
    np.testing.assert_allclose(found.array[0], values, rtol=1e-6)


def test_bits_that_are_not_read_and_missing_pixels_are_told(tmp_path):
    data, _ = pet_of("FloatPixelData", "<f4")
    del data.FloatPixelData
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="ends early, before its pixels"):
        read_image(tmp_path / "a.dcm")
    set_pixels(data, np.zeros((SIZE[1], SIZE[0])))
    data.BitsAllocated = 12
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="has 12 bits a pixel, which are not read here"):
        read_image(tmp_path / "a.dcm")


def test_a_detector_says_where_the_frames_of_nuclear_medicine_lie(tmp_path):
    data = new_dataset("1.2.840.10008.5.1.4.1.1.20", NumberOfFrames=4, SpacingBetweenSlices=SPACING[2])
    data.PixelSpacing = [SPACING[1], SPACING[0]]
    turn = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    data.DetectorInformationSequence = [item(ImagePositionPatient=list(ORIGIN), ImageOrientationPatient=turn)]
    j, i = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]), indexing="ij")
    plane = ORIGIN + np.stack([i * SPACING[0], j * SPACING[1], 0 * i], -1)
    set_pixels(data, np.stack([linear(plane + [0, 0, k * SPACING[2]]) for k in range(4)]), "<u2")
    data.save_as(tmp_path / "a.dcm")
    found = read_image(tmp_path / "a.dcm")
    lps = found.grid.positions() * [-1, -1, 1]
    np.testing.assert_allclose(found.array, linear(lps), atol=0.6)
    assert found.grid.spacing[2] == pytest.approx(SPACING[2])
