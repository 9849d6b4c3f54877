"""The files of a registration: all or none, one run at a time, and nothing left by one that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from VoxelMorphRegistrationLib.errors import OutputError
from VoxelMorphRegistrationLib.results import outputs
from VoxelMorphRegistrationLib.results.locks import Lock, is_held
from VoxelMorphRegistrationLib.results.staging import Staging

NAMES = ["a", "b", "c"]


def fill(folder, text, names=NAMES):
    for name in names:
        (folder / name).write_text(text)


def contents(folder) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(folder.iterdir())}


def test_files_take_their_places_together_and_older_ones_go(tmp_path):
    fill(tmp_path, "old", [*NAMES, "inverse", "foreign"])
    place = Staging(tmp_path)
    with place as stage:
        fill(stage, "new")
        assert place.swap(NAMES, ["inverse", "never there"]) == [tmp_path / name for name in NAMES]
    assert contents(tmp_path) == dict.fromkeys(NAMES, "new") | {"foreign": "old"}


@pytest.mark.parametrize("failing", range(1, 7))
@pytest.mark.parametrize("error", [PermissionError("in use"), KeyboardInterrupt()])
def test_a_failure_at_any_file_leaves_the_former_ones(failing, error, tmp_path, monkeypatch):
    fill(tmp_path, "old", ["a", "c", "inverse"])
    before = contents(tmp_path)
    rename, calls = Path.replace, []

    def replace(self, target):
        calls.append(target)
        if len(calls) == failing + 1:
            raise error
        return rename(self, target)

    def put():
        place = Staging(tmp_path)
        with place as stage:
            fill(stage, "new")
            monkeypatch.setattr(Path, "replace", replace)
            place.swap(NAMES, ["inverse"])

    with pytest.raises(type(error)):
        put()
    assert contents(tmp_path) == before


KILLED = """
import os, sys
from pathlib import Path
from VoxelMorphRegistrationLib.results.staging import Staging
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
rename, calls = Path.replace, []
def replace(self, target):
    calls.append(target)
    if len(calls) > steps:
        os._exit(9)
    return rename(self, target)
Path.replace = replace
place = Staging(folder)
with place as stage:
    for name in "abc":
        (stage / name).write_text("new")
    place.swap(list("abc"), ["inverse"])
"""


@pytest.mark.parametrize("steps", range(8))
def test_what_a_killed_run_left_is_undone_by_the_next_one(steps, tmp_path):
    fill(tmp_path, "old", ["a", "b", "c", "inverse"])
    before = contents(tmp_path)
    library = str(Path(outputs.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(steps)],
        env={**os.environ, "PYTHONPATH": library},
        check=False,
    )
    assert done.returncode == (9 if steps < 8 else 0)
    assert len(list(tmp_path.glob(".voxelmorph-*"))) == 1
    with Staging(tmp_path):
        pass
    assert contents(tmp_path) == before


def test_a_second_run_into_the_same_folder_is_refused_with_a_sentence(tmp_path):
    folder = tmp_path / "out"
    with outputs.reserved(folder), pytest.raises(OutputError, match="Another registration is writing to"):
        outputs.check_folder(folder)
    assert not folder.exists()


def test_a_lock_ends_with_its_process_not_with_its_file(tmp_path):
    path = tmp_path / "lock"
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(outputs.__file__).parents[2])!r})
from pathlib import Path
from VoxelMorphRegistrationLib.results.locks import Lock
lock = Lock(Path({str(path)!r}))
print(lock.acquire(), flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "True\n"
        assert is_held(path) and not Lock(path).acquire()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert path.exists() and not is_held(path)
    lock = Lock(path)
    assert lock.acquire() and is_held(path)
    lock.release()
    assert not path.exists() and not is_held(path)


def test_an_output_is_never_an_input(tmp_path):
    own = tmp_path / "warped.nii.gz"
    own.write_text("image")
    for inputs in ([own], [tmp_path], [tmp_path / "link"]):
        if inputs[0].name == "link":
            inputs[0].symlink_to(own)
        with pytest.raises(OutputError, match=r"would be replaced by a result|is read as an input"):
            outputs.check_folder(tmp_path, overwrite=True, inputs=inputs)
    outputs.check_folder(tmp_path, overwrite=True, inputs=[tmp_path / "missing.nii", tmp_path / "other"])
    assert own.read_text() == "image"


@pytest.mark.parametrize("name", ["inverse.h5", "warped_labels.nii.gz"])
def test_what_a_run_would_not_write_is_not_taken_away_unasked(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"already holds {name}"):
        outputs.check_folder(tmp_path)
    outputs.check_folder(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_in_a_result_s_place_is_told_before_the_work(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OutputError, match="which no result can replace"):
        outputs.check_folder(tmp_path, overwrite=True)


def test_transforms_written_at_different_times_are_the_same_bytes(tmp_path):
    import numpy as np

    from grids import make_grid
    from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
    from VoxelMorphRegistrationLib.fields.files import read_field, write_field

    grid = make_grid((5, 6, 7), (1, 1.1, 1.5))
    values = np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32)
    field = DisplacementField(values, grid)
    for name in ("transform.h5", "displacement.nii.gz"):
        write_field(field, tmp_path / name)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # HDF5 notes whole seconds.
    time.sleep(1.01)
    for name, expected in first.items():
        write_field(field, tmp_path / name)
        assert (tmp_path / name).read_bytes() == expected
        np.testing.assert_allclose(read_field(tmp_path / name).displacement_ras, values, atol=1e-6)


@pytest.mark.parametrize("way", ["name", "former", "new", "place"])
def test_what_only_looks_like_a_cut_off_run_moves_nothing_elsewhere(way, tmp_path):
    """A folder that came from a stranger, given as the output."""
    others, folder = tmp_path / "others", tmp_path / "out"
    place = folder / ".voxelmorph-x"
    for path in (others, place, folder / "kept"):
        path.mkdir(parents=True)
    fill(others, "mine")
    (place / "new").mkdir()
    (place / "former").mkdir()
    (place / "swap").write_text({"name": "../others/a\n../others/b"}.get(way, "a"))
    if way in ("former", "new"):
        (place / way).rmdir()
        (place / way).symlink_to(others)
    elif way == "place":
        place.rename(others / "x")
        place.symlink_to(others / "x")
    with Staging(folder) as stage:
        fill(stage, "new")
    assert contents_of_files(others) == dict.fromkeys(NAMES, "mine")
    assert not contents_of_files(folder)


def contents_of_files(folder) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(folder.iterdir()) if p.is_file()}


def test_a_lock_is_never_taken_through_a_link(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"):
        Lock(tmp_path / "lock").acquire()
    assert not (tmp_path / "elsewhere").exists()
