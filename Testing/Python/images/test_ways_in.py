"""Names that lead to no file, heads that lead elsewhere, and small files that unpack without an end."""

from __future__ import annotations

import bz2
import os
from pathlib import Path

import numpy as np
import pytest

from dicom_cases import SIZE, new_dataset, set_pixels
from grids import make_grid
from VoxelMorphRegistrationLib.batch.table import read_table
from VoxelMorphRegistrationLib.errors import InputError, ModelError
from VoxelMorphRegistrationLib.fields.files import read_field
from VoxelMorphRegistrationLib.images import nifti
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.images.landmarks import read_points
from VoxelMorphRegistrationLib.images.segmentations import read_labels, read_mask
from VoxelMorphRegistrationLib.networks.importers import import_keras
from VoxelMorphRegistrationLib.networks.shelf import find_model
from VoxelMorphRegistrationLib.training.config import load_config
from VoxelMorphRegistrationLib.transforms.frames import read_frames
from VoxelMorphRegistrationLib.transforms.reading import read_transform

READERS = (
    *(read_image, read_frames, read_points, read_transform, read_field, load_config, read_table),
    *(lambda path: read_labels(path, "labels"), lambda path: read_mask(path, "mask")),
)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["a" * 300 + ".nii", "absent.nii", "a\0b.nii", "file/a.nii"])
def test_names_of_nothing_are_a_sentence(reader, name, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="there is no file"):
        reader(tmp_path / name)


@pytest.mark.parametrize("reader", [find_model, import_keras])
def test_names_that_are_too_long_are_no_models(reader):
    with pytest.raises(ModelError, match="There is no"):
        reader("a" * 300)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", ["", ".nii", ".nrrd", ".dcm", ".h5", ".csv", ".tfm"])
def test_pipes_and_devices_are_not_opened(reader, ending, tmp_path):
    (tmp_path / f"device{ending}").symlink_to(os.devnull)
    os.mkfifo(tmp_path / f"pipe{ending}")
    for name in ("device", "pipe"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            reader(tmp_path / f"{name}{ending}")


@pytest.mark.parametrize("reader", [read_points, read_transform, read_field])
def test_a_folder_is_no_list_and_no_transform(reader, tmp_path):
    (tmp_path / "field.nii.gz").mkdir()
    for path in (tmp_path, tmp_path / "field.nii.gz"):
        with pytest.raises(InputError, match="is a folder"):
            reader(path)


NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspace: left-posterior-superior\n"
NRRD += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\ndata file: {}\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
META += "ElementDataFile = {}\n"
HEADS = [("a.nhdr", NRRD, "{}"), ("a.mhd", META, "{}"), ("b.nhdr", NRRD, "LIST\n{}"), ("b.mhd", META, "LIST\n{}")]


@pytest.mark.parametrize(("name", "head", "way"), HEADS)
def test_heads_that_lead_to_a_device_are_refused(name, head, way, tmp_path):
    (tmp_path / name).write_text(head.format(way.format("/dev/zero")))
    with pytest.raises(InputError, match=r"its voxels are in /dev/zero, which is no file"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(("name", "head"), [("a.nhdr", NRRD), ("a.mhd", META)])
def test_heads_that_lead_to_a_file_are_read(name, head, tmp_path):
    (tmp_path / "LOCAL").mkdir()
    (tmp_path / "a b.raw").write_bytes(bytes(range(64)))
    (tmp_path / name).write_text(head.format("a b.raw"))
    np.testing.assert_array_equal(read_image(tmp_path / name).array.ravel(), np.arange(64))


def test_a_dicom_file_that_states_more_frames_than_it_can_hold_is_refused_at_once(tmp_path):
    data = new_dataset("1.2.840.10008.5.1.4.1.1.481.2", NumberOfFrames=10**9)
    set_pixels(data, np.zeros((SIZE[1], SIZE[0])))
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="it states 1000000000 frames, more than it can hold"):
        read_image(tmp_path / "a.dcm")


def packed(path: Path, behind: int, offset: int = 352) -> Path:
    """A packed image of 64 voxels, and zeros behind it."""
    plain = path.with_name("plain.nii")
    nifti.write_nifti(plain, np.ones((4, 4, 4), np.uint8), make_grid((4, 4, 4)))
    content = bytearray(plain.read_bytes())
    content[108:112] = np.float32(offset).tobytes()
    path.write_bytes(bz2.compress(bytes(content) + bytes(behind)))
    return path


def test_what_unpacks_far_beyond_its_head_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "_MOST_BEHIND", 0.1)
    assert "is longer than its header says" in read_image(packed(tmp_path / "a.nii.bz2", 1 << 20)).told[-1]
    with pytest.raises(InputError, match="goes on far behind the voxels"):
        read_image(packed(tmp_path / "a.nii.bz2", 1 << 22))
    with pytest.raises(InputError, match="none of the 64 bytes"):
        read_image(packed(tmp_path / "a.nii.bz2", 1 << 22, 1 << 30))
