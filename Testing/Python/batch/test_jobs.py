"""One pair as a job: done once, all or none, its failures kept."""

import dataclasses
import errno
import json
from pathlib import Path

import pytest

from batch_cases import blob, pairs_of, quick, whole, write_blobs
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.batch import claims, job
from VoxelMorphRegistrationLib.batch.claims import Claims
from VoxelMorphRegistrationLib.batch.engine import standing
from VoxelMorphRegistrationLib.batch.places import DONE, FAILED, Places, read_json
from VoxelMorphRegistrationLib.errors import InUseError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.results import outputs, staging
from VoxelMorphRegistrationLib.results.staging import Staging

KEPT = ("transform.h5", "report.json")


@pytest.fixture
def places(tmp_path):
    found = Places(tmp_path / "out", KEPT)
    found.make()
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return write_blobs(folder, 2), quick(save_centroid_model(folder / "model.pt"))


@pytest.fixture
def pair(study):
    return pairs_of(*study)[0]


def test_a_pair_is_done_once_and_whole(places, pair):
    assert job.do(pair, places).state == DONE
    assert whole(places.root, {"transform.h5"}) == {"m00": True}
    before = (places.folder("m00") / "job.json").stat().st_mtime_ns
    assert job.do(pair, places).state == job.ALREADY
    assert (places.folder("m00") / "job.json").stat().st_mtime_ns == before
    # Another batch gave it up as this one did it.
    places.fail("m00", places.standing(pair).key, "Twice its process was ended.")
    assert standing(pair, places, retry=False).state == job.ALREADY
    assert not places.failure("m00").exists()


def test_all_results_are_written_unless_some_are_asked_for(tmp_path, pair):
    places = Places(tmp_path)
    places.make()
    assert job.do(pair, places).state == DONE
    assert whole(tmp_path, set(outputs.output_names(False))) == {"m00": True}
    # Fewer are asked for: those that belong to the earlier result go.
    fewer = Places(tmp_path, KEPT)
    assert job.do(pair, fewer).state == DONE
    assert whole(tmp_path, {"transform.h5"}) == {"m00": True}


def test_changed_settings_and_changed_images_are_done_anew(places, pair, tmp_path):
    moving = tmp_path / "moving.nii.gz"
    write_image(blob(1.0), moving)
    pair = dataclasses.replace(pair, files=dataclasses.replace(pair.files, moving=str(moving)))
    assert job.do(pair, places).state == DONE
    pair = dataclasses.replace(pair, settings=pair.settings.replace(jacobian="deformable"))
    assert job.do(pair, places).state == DONE
    write_image(blob(2.0), moving)
    assert job.do(pair, places).state == DONE
    assert job.do(pair, places).state == job.ALREADY
    assert read_json(places.folder("m00") / "job.json")["pair"]["settings"]["jacobian"] == "deformable"


def test_a_failure_is_kept_and_tried_again_on_demand_or_when_something_changed(places, pair, tmp_path):
    missing = tmp_path / "missing.nii.gz"
    bad = dataclasses.replace(pair, files=dataclasses.replace(pair.files, moving=str(missing)))
    outcome = job.do(bad, places)
    assert outcome.state == FAILED and "there is no file" in outcome.message
    assert not places.folder("m00").exists()
    assert standing(bad, places, retry=False).state == FAILED
    assert standing(bad, places, retry=True) is None
    write_image(blob(1.0), missing)
    assert standing(bad, places, retry=False) is None
    assert job.do(bad, places).state == DONE
    assert not places.failure("m00").exists()


def test_an_error_of_the_program_costs_its_pair_and_is_kept_with_its_traceback(places, pair, monkeypatch):
    monkeypatch.setattr(outputs, "write_registration", lambda *a, **k: 1 / 0)
    outcome = job.do(pair, places)
    assert outcome.state == FAILED and "ZeroDivisionError" in outcome.message
    assert "Traceback" in read_json(places.failure("m00"))["details"]


def test_a_full_disk_is_no_failure_of_the_pair(places, pair, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "write_field", full)
    outcome = job.do(pair, places)
    assert outcome.state == job.FULL and "is full" in outcome.message
    assert not places.folder("m00").exists() and not places.failure("m00").exists()
    monkeypatch.undo()
    assert job.do(pair, places).state == DONE


def test_what_another_process_has_in_work_is_left_to_it(places, pair):
    with Staging(places.folder("m00")):
        assert places.in_work("m00")
        assert job.do(pair, places).state == job.ELSEWHERE
    assert job.do(pair, places).state == DONE


def test_a_swap_that_was_cut_off_is_no_result(places, pair, monkeypatch):
    assert job.do(pair, places).state == DONE
    former = (places.folder("m00") / "report.json").read_bytes()
    pair = dataclasses.replace(pair, settings=pair.settings.replace(jacobian="deformable"))

    class Killed(BaseException):
        pass

    def unlink(path, *args, **kwargs):
        if path.name == "swap":
            raise Killed
        return original(path, *args, **kwargs)

    original = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(staging, "recover", lambda folder: None)
    with pytest.raises(Killed):
        job.do(pair, places)
    monkeypatch.undo()
    # All files are in their places, but not yet for good.
    assert read_json(places.folder("m00") / "job.json")["pair"]["settings"]["jacobian"] == "deformable"
    assert standing(pair, places, retry=False) is None
    places.clear(["m00"])
    assert (places.folder("m00") / "report.json").read_bytes() == former
    assert job.do(pair, places).state == DONE


def test_files_of_others_in_the_folder_are_not_replaced(places, pair):
    places.folder("m00").mkdir(parents=True)
    (places.folder("m00") / "transform.h5").write_text("mine")
    outcome = job.do(pair, places)
    assert outcome.state == FAILED and "already holds" in outcome.message
    assert (places.folder("m00") / "transform.h5").read_text() == "mine"


def test_clearing_removes_what_is_left_and_nothing_else(places):
    folder = places.folder("x")
    (folder / ".voxelmorph-1" / "new").mkdir(parents=True)
    (folder / staging.LOCK).touch()
    places.clear(["x", "none"])
    assert not folder.exists()
    (folder / ".voxelmorph-1").mkdir(parents=True)
    (folder / "kept.txt").touch()
    places.clear(["x"])
    assert [path.name for path in folder.iterdir()] == ["kept.txt"]


# Where the disk knows no locks.


def test_a_claim_is_one_holders_at_a_time(tmp_path):
    own, other = Claims(tmp_path, needed=True), Claims(tmp_path)
    assert other.needed
    with own.held("a"):
        assert not other.free("a") and other.free("b")
        with pytest.raises(InUseError), other.held("a"):
            pass
        with other.held("b"):
            pass
    assert own.free("a")
    with other.held("a"):
        pass
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_claim_of_a_process_that_ended_is_taken_over_once(tmp_path, monkeypatch):
    own = Claims(tmp_path, needed=True)
    (tmp_path / "claims" / "a.1").touch()
    assert not own.free("a")
    monkeypatch.setattr(claims, "STALE_S", -1.0)
    assert own.free("a")
    with own.held("a"):
        assert [path.name for path in (tmp_path / "claims").iterdir()] == ["a.2"]


def test_a_claim_is_kept_fresh(tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    own = Claims(tmp_path, needed=True)
    with own.held("a"):
        path = tmp_path / "claims" / "a.1"
        os.utime(path, (1, 1))
        for _ in range(500):
            if path.stat().st_mtime > 1:
                break
            import time

            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_report_of_a_pair_is_that_of_register(places, pair):
    job.do(pair, places)
    report = json.loads((places.folder("m00") / "report.json").read_text())
    assert report["similarity"]["after"]["ncc"] > report["similarity"]["before"]["ncc"]
    assert report["settings"]["model"] == pair.settings.model
