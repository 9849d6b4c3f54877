"""What makes a pair anew: content and settings, and neither a copy's time nor the device."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from batch_cases import pairs_of
from VoxelMorphRegistrationLib.batch import key
from VoxelMorphRegistrationLib.batch.key import key_of
from VoxelMorphRegistrationLib.registration.settings import Settings


@pytest.fixture
def pair(tmp_path):
    for name in ("fixed.nii", "m00.nii"):
        (tmp_path / name).write_text(name)
    return pairs_of([str(tmp_path / "fixed.nii"), str(tmp_path / "m00.nii")], Settings())[0]


def test_content_counts_and_time_does_not(pair):
    first = key_of(pair)
    os.utime(pair.files.moving, (1, 1))
    assert key_of(pair).digest == first.digest
    Path(pair.files.moving).write_text("m11.nii")
    assert key_of(pair).digest != first.digest


def test_unchanged_files_are_not_read_again(pair, monkeypatch):
    first = key_of(pair)
    monkeypatch.setattr(key, "_file_digest", lambda path: pytest.fail(f"{path} was read"))
    key._content.cache_clear()
    assert key_of(pair, (), first.inputs) == first


def test_settings_count_but_not_where_it_is_computed(pair):
    first = key_of(pair).digest
    for changes, same in (({"smoothness": 2.0}, False), ({"device": "cpu"}, True)):
        other = dataclasses.replace(pair, settings=pair.settings.replace(**changes))
        assert (key_of(other).digest == first) is same
    assert key_of(dataclasses.replace(pair, inverse=True)).digest != first
    assert key_of(pair, ["transform.h5"]).digest != first


def test_a_model_counts_by_its_content(pair, tmp_path):
    digests = []
    for name, content in (("a.pt", "weights"), ("b.pt", "weights"), ("b.pt", "others")):
        (tmp_path / name).write_text(content)
        other = dataclasses.replace(pair, settings=pair.settings.replace(model=str(tmp_path / name)))
        digests.append(key_of(other).digest)
    assert digests[0] == digests[1] != digests[2]
    assert key_of(pair).digest not in digests


def test_files_that_appear_and_folders_count(pair, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_text("a")
    files = dataclasses.replace(pair.files, fixed=str(series), moving_labels=str(tmp_path / "later.nii"))
    pair = dataclasses.replace(pair, files=files)
    digests = [key_of(pair).digest]
    (tmp_path / "later.nii").write_text("labels")
    digests.append(key_of(pair).digest)
    (series / "2.dcm").write_text("b")
    digests.append(key_of(pair).digest)
    assert len(set(digests)) == 3
    shutil.copytree(series, tmp_path / "copy")
    shutil.rmtree(series)
    (tmp_path / "copy").rename(series)
    assert key_of(pair).digest == digests[-1]


def test_voxels_beside_a_header_count(pair, tmp_path):
    for name in ("m.mhd", "m.raw"):
        (tmp_path / name).write_text(name)
    pair = dataclasses.replace(pair, files=dataclasses.replace(pair.files, moving=str(tmp_path / "m.mhd")))
    first = key_of(pair).digest
    (tmp_path / "m.raw").write_text("other")
    assert key_of(pair).digest != first


def test_the_same_transform_inverted_is_another_start(pair, tmp_path):
    (tmp_path / "a.tfm").write_text("a")
    digests = set()
    for name in ("a.tfm", "a.tfm:inverse"):
        files = dataclasses.replace(pair.files, initial_transform=(str(tmp_path / name),))
        digests.add(key_of(dataclasses.replace(pair, files=files)).digest)
    assert len(digests) == 2
