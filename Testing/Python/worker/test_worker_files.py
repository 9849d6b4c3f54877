"""What goes between the two processes: arrays in files, values and errors in messages; which Python runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qt
import VoxelMorphRegistrationLib
import worker_cases as cases
from VoxelMorphRegistrationLib import errors
from VoxelMorphRegistrationLib.apart import find_python
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.worker import files, messages
from VoxelMorphRegistrationLib.worker.messages import Job, TorchMissingError
from VoxelMorphRegistrationLib.worker.process import WorkerProcess

LIBRARY = Path(VoxelMorphRegistrationLib.__file__).parent
HARNESS = Path(qt.__file__).parent


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "<i2", "?", "<u8"])
def test_arrays_survive_their_files(tmp_path, dtype):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, (3, 4, 5)).astype(dtype)
    for number, each in enumerate((array, array.T, array[::2, ::-1], np.asfortranarray(array), array[:0])):
        path = tmp_path / f"{number}.npy"
        list(files.writing(path, each))
        steps = files.reading(path)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                read = end.value
                break
        assert read.dtype == each.dtype
        assert read.shape == each.shape
        assert np.array_equal(read, each)
        assert np.array_equal(np.load(path), each)


def test_large_arrays_go_in_pieces(tmp_path):
    array = np.arange(3 * files.CHUNK_BYTES // 4 + 1, dtype=np.float32).reshape(1, 1, -1)
    assert len(list(files.writing(tmp_path / "a.npy", array))) == 4
    assert len(list(files.reading(tmp_path / "a.npy"))) == 4


def test_cut_file_is_an_error(tmp_path):
    path = tmp_path / "a.npy"
    list(files.writing(path, np.zeros((50, 50))))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        list(files.reading(path))


def test_values_survive_a_message():
    shared = np.arange(100.0).reshape(20, 5)
    report = Report(
        similarity={},
        folding={},
        largest_displacement_mm=1.0,
        linear=[[1.0]],
        dice={"labels": {7: float("nan"), 8: 0.1}},
    )
    value = {"a": [1, (2, None)], 3: shared, "b": np.float32([0.1, 0.2]), "report": report, "again": shared}
    arrays = {}
    line = messages.encode("register", 5, folder="x", job=messages.pack(value, arrays, "input"))
    message = messages.decode(line)
    assert list(arrays) == ["input-0.npy"] == messages.array_names(message["job"])
    result = messages.unpack(message["job"], arrays.__getitem__)
    assert result["a"] == [1, (2, None)]
    assert result[3] is result["again"] is shared
    assert result["b"].dtype == np.float32
    assert np.array_equal(result["b"], value["b"])
    np.testing.assert_equal(result["report"].to_dict(), report.to_dict())


def test_a_job_is_passed_on_when_its_files_are_written_not_when_the_process_is_ready(
    make_client, fake_torch, quick, monkeypatch
):
    client, writing, passed_on = make_client(environment=fake_torch), files.writing, []

    def slowly(path, array):
        while client.facts is None:
            yield
        yield from writing(path, array)

    def send(_, kind, number, **content):
        passed_on.append((kind, sorted(path.name for path in Path(content["folder"]).iterdir())))

    monkeypatch.setattr(files, "writing", slowly)
    monkeypatch.setattr(WorkerProcess, "send", send)
    cases.Run(client, Job(*cases.images(), quick))
    cases.spin(lambda: passed_on)
    assert passed_on == [("register", ["input-0.npy", "input-1.npy"])]


@pytest.mark.parametrize(
    "error", [errors.InputError("a"), errors.DeviceError("b"), TorchMissingError("c"), errors.Cancelled("d")]
)
def test_errors_survive_a_message(error):
    message = messages.decode(messages.encode("error", 1, **messages.error_content(error)))
    assert (type(messages.error_from(message)), str(messages.error_from(message))) == (type(error), str(error))


def test_python_is_found_beside_the_application(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    name = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"
    slicer = tmp_path / "bin" / name
    folders = [str(tmp_path), str(slicer.parent)]
    assert find_python(folders, "/usr/bin/python3.12") == "/usr/bin/python3.12"
    assert find_python(folders, "/opt/Slicer/bin/SlicerApp-real") is None
    slicer.parent.mkdir()
    slicer.write_text("")
    slicer.chmod(0o755)
    assert find_python(folders, "/opt/Slicer/bin/SlicerApp-real") == str(slicer)
    monkeypatch.setenv("PATH", str(slicer.parent))
    assert find_python([], "/opt/Slicer/bin/SlicerApp-real") == str(slicer)
    # Without a launcher in between where Slicer's environment is there already.
    real = slicer.with_name(slicer.name.replace("PythonSlicer", "python-real"))
    shutil.copy(slicer, real)
    assert find_python(folders, "/opt/Slicer/bin/SlicerApp-real") == str(real)


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [("client", {"torch", "SimpleITK", "slicer", "vtk"}), ("server", {"torch", "qt", "slicer", "vtk"})],
)
def test_rooms_import_only_what_their_process_needs(room, forbidden):
    code = f"""
import sys
sys.path[:0] = [{str(LIBRARY.parent)!r}, {str(HARNESS)!r}]
import VoxelMorphRegistrationLib.worker.{room}
print(*sys.modules)"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & forbidden
