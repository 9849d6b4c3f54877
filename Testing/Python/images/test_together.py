"""Tasks side by side."""

import threading
import warnings
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from grids import make_grid
from VoxelMorphRegistrationLib.fields import files as field_files
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images import packed
from VoxelMorphRegistrationLib.images.files import read_image


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_two_threads_run_two_tasks_at_once(threads):
    threads(2)
    meet = threading.Barrier(2, timeout=20)
    packed.together([meet.wait, meet.wait])


def test_one_thread_runs_them_one_after_the_other(threads):
    threads(1)
    done = []
    packed.together([lambda n=n: done.append((n, threading.current_thread())) for n in range(3)])
    assert done == [(n, threading.main_thread()) for n in range(3)]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_is_raised_when_what_runs_has_ended(threads, error):
    threads(2)
    begun, ended = threading.Event(), []

    def fail():
        begun.wait(20)
        raise error

    def work():
        begun.set()
        threading.Event().wait(0.1)
        ended.append(True)

    with pytest.raises(error):
        packed.together([fail, work])
    assert ended


def test_a_pytorch_that_is_being_loaded_has_no_threads_yet(monkeypatch):
    monkeypatch.setitem(packed.sys.modules, "torch", packed)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert packed.threads() == 3


def test_tasks_that_silence_warnings_leave_them_as_they_were(threads):
    threads(2)
    before = list(warnings.filters)
    begun, silenced = threading.Event(), threading.Event()

    def first():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            begun.set()
            silenced.wait(20)

    def second():
        begun.wait(20)
        with warnings.catch_warnings():
            silenced.set()
            threading.Event().wait(0.1)

    packed.together([first, second])
    assert warnings.filters == before


@pytest.fixture
def most_within(monkeypatch):
    """Of a function of SimpleITK: a list with how many threads were in it, call by call."""

    def watched(name):
        original, within, counts = getattr(sitk, name), [], []

        def call(*arguments, **named):
            within.append(True)
            threading.Event().wait(0.1)
            counts.append(len(within))
            try:
                return original(*arguments, **named)
            finally:
                within.pop()

        monkeypatch.setattr(sitk, name, call)
        return counts

    return watched


def test_one_thread_at_a_time_reads_with_itk(threads, most_within, tmp_path):
    """Its NRRD library crashes where two read damaged files."""
    threads(2)
    paths = [tmp_path / "a.nrrd", tmp_path / "b.nrrd"]
    for path in paths:
        sitk.WriteImage(sitk.Image([4, 5, 6], sitk.sitkInt16), str(path))
    counts = most_within("ReadImage")
    packed.together([partial(read_image, path) for path in paths])
    assert counts == [1, 1]


def test_one_thread_at_a_time_writes_transforms_with_itk(threads, most_within, tmp_path, monkeypatch):
    """Its HDF5 library crashes where two write; Slicer has no other."""
    threads(2)
    monkeypatch.setattr(field_files, "has_hdf5", lambda: False)
    grid = make_grid((4, 5, 6))
    field = DisplacementField(np.ones((*grid.shape, 3), np.float32), grid)
    counts = most_within("WriteTransform")
    packed.together([partial(field_files.write_field, field, tmp_path / name) for name in ("a.h5", "b.h5")])
    assert counts == [1, 1]
    assert all(field_files.reads_back(tmp_path / name, field) for name in ("a.h5", "b.h5"))
