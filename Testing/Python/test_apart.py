"""Files that make the library which reads them crash, or run for ever, end in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import apart_readers as readers
from VoxelMorphRegistrationLib import apart
from VoxelMorphRegistrationLib.errors import InputError, ModelError


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    path = tmp_path / "stränger's.h5"
    path.write_bytes(b"x")
    return path


def test_what_a_reader_returns_comes_whole(file, monkeypatch):
    monkeypatch.setenv("ITK_AUTOLOAD_PATH", "somewhere")
    value, arrays = apart.call(readers.whole, file)
    expected = readers.whole(file)[1]
    assert value == {"name": file.name, "plugins": None}
    assert [array.dtype for array in arrays] == [array.dtype for array in expected]
    for array, right in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, right)


def test_a_reader_s_own_error_stays_itself(file):
    with pytest.raises(ModelError, match="is refused"):
        apart.call(readers.refused, file)


def test_a_package_that_is_missing_is_named_and_the_file_not_called_damaged(file):
    with pytest.raises(InputError, match=r"stränger's\.h5 cannot be read here: the package no_such_reader is missing"):
        apart.call(readers.needs_more, file, ModelError)


@pytest.mark.parametrize("reader", [readers.crashes, readers.never_ends])
def test_a_crash_and_an_endless_reader_are_a_sentence(reader, file, monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 0.5)
    with pytest.raises(ModelError, match=r"stränger's\.h5 cannot be read: it is damaged"):
        apart.call(reader, file, ModelError)


def test_an_application_takes_the_python_beside_it(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real"))
    with pytest.raises(InputError, match="PythonSlicer"):
        apart.call(readers.whole, file)
    beside = tmp_path / "PythonSlicer"
    beside.write_text("#!/bin/sh\nexit 3\n")
    beside.chmod(0o755)
    with pytest.raises(InputError, match="damaged"):
        apart.call(readers.whole, file)
