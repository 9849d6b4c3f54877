"""The worker: the library's own results from another process, and a client that survives whatever that one does."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import qt
import worker_cases as cases
from small_models import save_centroid_model
from VoxelMorphRegistrationLib import errors
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.worker import files, messages
from VoxelMorphRegistrationLib.worker.messages import Job, WorkerError
from VoxelMorphRegistrationLib.worker.server import Server

# --- results -----------------------------------------------------------------------------------------------


def assert_same_registration(a, b):
    assert np.array_equal(a.linear, b.linear)
    assert np.array_equal(a.field.displacement_ras, b.field.displacement_ras)
    assert a.field.grid.same_as(b.field.grid, 1e-12)
    for name in ("warped", "jacobian", "warped_labels"):
        one, other = getattr(a, name), getattr(b, name)
        assert one.name == other.name
        assert one.array.dtype == other.array.dtype
        assert one.array.flags.writeable
        assert type(one.array) is np.ndarray
        assert np.array_equal(one.array, other.array)
        assert one.grid.same_as(other.grid, 1e-12)
    reports = [{k: v for k, v in r.report.to_dict().items() if k != "seconds"} for r in (a, b)]
    np.testing.assert_equal(*reports)
    assert a.report.seconds.keys() == b.report.seconds.keys()


def test_result_is_that_of_the_library(client, quick):
    fixed, moving = cases.images()
    labels = [image.with_array((image.array > 40).astype(np.int16) * 7) for image in (fixed, moving)]
    points = np.random.default_rng(0).uniform(6, 18, (40, 3))
    keywords = {
        "fixed_labels": labels[0],
        "moving_labels": labels[1],
        "fixed_points": points,
        "moving_points": points + [0.0, 0.0, 2.0],
        "fixed_mask": fixed.with_array(fixed.array > 5),
        "initial_transform": None,
    }
    run = cases.Run(client, Job(fixed, moving, quick, keywords)).wait()
    assert run.kind == "result", run.value
    expected = register(fixed, moving, None, quick, **keywords)
    assert_same_registration(run.value, expected)
    assert isinstance(run.value, Registration)


def test_progress_comes_stage_by_stage(client, quick):
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    stages = list(dict.fromkeys(stage for stage, *_ in run.progress))
    assert stages.index("aligning") < stages.index("registering") < stages.index("warping") < stages.index("measuring")
    assert all(0 <= fraction <= 1 for _, fraction, _ in run.progress)
    seconds = [value for *_, value in run.progress]
    assert seconds == sorted(seconds)


def test_model_is_loaded_once_and_again_when_its_file_changes(client, models_folder, quick):
    path = save_centroid_model(models_folder / "kept.pt")
    settings = quick.replace(model=str(path))

    def loads() -> int:
        run = cases.Run(client, Job(*cases.images(), settings)).wait()
        assert run.kind == "result"
        return sum("Loaded the model kept.pt" in line for line in run.log)

    assert [loads(), loads()] == [1, 0]
    save_centroid_model(path, part=0.5)
    os.utime(path, (1, 1))
    assert loads() == 1


def test_ready_tells_versions_and_devices(client):
    assert client.facts["versions"] == {"python": sys.version.split()[0], "torch": torch.__version__}
    (text,) = (device["text"] for device in client.facts["devices"] if device["name"] == "cpu")
    assert text == "CPU, 1 thread" or re.fullmatch(r"CPU, \d+ threads", text)


def test_errors_of_the_library_arrive_as_they_are(client, quick):
    fixed, moving = cases.images()
    jobs = [
        Job(fixed, moving.with_array(np.zeros_like(moving.array)), quick),
        Job(fixed, fixed, quick),
        Job(fixed, moving, quick.replace(model="no-such-model")),
        Job(fixed, moving, quick, {"fixed_points": np.zeros((1, 3))}),
    ]
    for job in jobs:
        run = cases.Run(client, job).wait()
        with pytest.raises(errors.VoxelMorphError) as expected:
            register(job.fixed, job.moving, None, job.settings, **job.keywords)
        assert (run.kind, type(run.value), str(run.value)) == ("error", expected.type, str(expected.value))
    assert cases.Run(client, Job(fixed, moving, quick)).wait().kind == "result"


def test_next_job_can_be_submitted_from_a_callback(client, quick):
    ended = []

    def again(_):
        client.submit(Job(*cases.images(), quick), on_result=ended.append)

    client.submit(Job(*cases.images(), quick), on_result=again)
    cases.spin(lambda: ended)


def test_second_job_is_refused_while_one_runs(client, quick):
    run = cases.Run(client, Job(*cases.images(), quick))
    with pytest.raises(WorkerError, match="is running"):
        client.submit(Job(*cases.images(), quick))
    assert run.wait().kind == "result"


def test_images_without_numbers_are_refused_at_once(client, quick):
    fixed, moving = cases.images()
    with pytest.raises(errors.InputError, match="real numbers"):
        client.submit(Job(fixed, moving.with_array(moving.array.astype(object)), quick))
    assert client.state == "ready"


def test_files_that_cannot_be_written_are_one_sentence_and_the_next_job_works(client, quick, monkeypatch):
    def full(path, array):
        yield
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "writing", full)
        run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert (run.kind, type(run.value)) == ("error", WorkerError)
    assert "No space left on device" in str(run.value) and "try again" in str(run.value)
    assert cases.Run(client, Job(*cases.images(), quick)).wait().kind == "result"


def unreadable(path):
    yield
    raise ValueError(f"The file {path.name} is cut short.")


@pytest.mark.parametrize("end", ["read", "written"])
def test_previews_that_cannot_be_passed_on_are_left_out_and_told_once(client, patient, monkeypatch, end):
    read, write = files.reading, files.writing
    if end == "read":
        monkeypatch.setattr(files, "reading", lambda path: (unreadable if "preview" in path.name else read)(path))
    else:

        def taken(path, array):
            # No new file can be made where one is.
            for number in range(30):
                (path.parent / f"preview-{number}-0.npy").touch()
            yield from write(path, array)

        monkeypatch.setattr(files, "writing", taken)
    settings = patient.replace(refinement="default")
    run = cases.Run(client, Job(*cases.images(), settings, previews=True)).wait()
    assert run.kind == "result" and run.value.report.stopped_at is None
    told = [line for line in run.log if "preview" in line]
    assert len(told) == 1 and f"A preview could not be {end} (" in told[0] and "goes on without it" in told[0]
    assert run.previews == [] and client.state == "ready"


def test_previews_come_while_it_improves_and_stop_here_ends_it_with_what_there_is(client, patient):
    fixed, moving = cases.images()
    run = cases.Run(client, Job(fixed, moving, patient, previews=True))
    cases.spin(lambda: run.outcomes or run.previews)
    client.stop_here()
    run.wait()
    assert run.kind == "result" and run.value.report.stopped_at == "refining"
    shown = []

    def show(preview):
        shown.append(preview.warped.array)
        if len(shown) == len(run.previews):
            raise errors.Cancelled

    with pytest.raises(errors.Cancelled):
        register(fixed, moving, None, patient, preview=show)
    for preview, expected in zip(run.previews, shown, strict=True):
        assert preview.grid.same_as(fixed.grid)
        assert np.array_equal(preview.array, expected)
    # The next one goes on to its own end.
    settings = patient.replace(refinement="fast")
    assert cases.Run(client, Job(fixed, moving, settings)).wait().value.report.stopped_at is None


def test_stop_here_before_anything_was_done_is_a_cancel(client, quick):
    client.stop_here()
    run = cases.Run(client, Job(*cases.images(), quick))
    client.stop_here()
    assert run.wait().kind == "cancelled"


# --- cancel ------------------------------------------------------------------------------------------------


def test_cancel_at_a_progress_report_keeps_the_process(client, patient, quick, monkeypatch):
    # However busy the computer: a progress report comes within this time.
    monkeypatch.setattr(client, "_cancel_s", 60.0)
    run = cases.Run(client, Job(*cases.images(), patient))
    cases.spin(lambda: run.outcomes or any(stage == "refining" for stage, *_ in run.progress))
    pid, told, removing = client.pid, len(run.progress), files.removing

    def slowly(folder):
        # Its patience ends after the answer, while files are still being removed: no reason to end the process.
        client._on_patience_gone(client._request)
        yield from removing(folder)

    monkeypatch.setattr(files, "removing", slowly)
    client.cancel()
    assert client.state == "cancelling"
    client.cancel()
    late = {"type": "progress", "id": run.number, "stage": "refining", "fraction": 0.5, "seconds": 9.0}
    client._on_message(client._process, late)
    assert run.wait().kind == "cancelled"
    # What was on its way when it was cancelled moves no bar any more.
    assert len(run.progress) == told
    assert (client.state, client.pid) == ("ready", pid)
    assert cases.job_folders() == []
    assert cases.Run(client, Job(*cases.images(), quick)).wait().kind == "result"
    assert client.pid == pid


def test_cancel_of_what_cannot_be_interrupted_replaces_the_process(client, endless, quick):
    run = cases.run_endlessly(client, endless)
    pid = client.pid
    client.cancel()
    assert run.wait().kind == "cancelled"
    cases.wait_until_gone(pid)
    assert cases.job_folders() == []
    assert client.state == "starting"
    assert cases.Run(client, Job(*cases.images(), quick)).wait().kind == "result"
    assert client.pid != pid


def test_cancel_at_random_moments_leaves_nothing(client, quick):
    moments = random.Random(0)
    for _ in range(10):
        run = cases.Run(client, Job(*cases.images(), quick))
        # A timer may fire when its job is done already; the next one is not its business.
        qt.QTimer.singleShot(int(moments.uniform(0, 150)), lambda run=run: run.outcomes or client.cancel())
        run.wait()
        assert run.kind in ("cancelled", "result")
        assert cases.job_folders() == []
    assert cases.Run(client, Job(*cases.images(), quick)).wait().kind == "result"


def test_cancel_before_anything_was_done(client, quick):
    client.cancel()
    run = cases.Run(client, Job(*cases.images(), quick))
    client.cancel()
    assert run.outcomes == []
    assert run.wait().kind == "cancelled"
    assert client.state == "ready"


# --- deaths of a working process ---------------------------------------------------------------------------


def test_killed_process_is_one_sentence_and_the_next_job_works(client, endless, quick):
    run = cases.run_endlessly(client, endless)
    os.kill(client.pid, signal.SIGKILL)
    assert run.wait().kind == "error"
    assert type(run.value) is WorkerError
    assert "memory ran out" in str(run.value)
    assert client.state == "off"
    assert cases.folders() == []
    assert cases.Run(client, Job(*cases.images(), quick)).wait().kind == "result"


def test_a_lost_folder_means_a_new_process(client, quick):
    pid = client.pid
    (folder,) = cases.folders()
    shutil.rmtree(folder)
    assert cases.Run(client, Job(*cases.images(), quick)).wait().kind == "result"
    assert client.pid != pid
    cases.wait_until_gone(pid)


def test_unexpected_error_is_told_with_its_traceback_and_replaces_the_process(client):
    pid = client.pid
    run = cases.Run(client, Job(*cases.images(), keywords={"no_such_keyword": 1})).wait()
    assert run.kind == "error"
    assert "TypeError" in str(run.value)
    assert any("Traceback" in line for line in run.log)
    cases.wait_until_gone(pid)


def test_shutdown_during_a_run_leaves_nothing(client, endless):
    run = cases.run_endlessly(client, endless)
    pid = client.pid
    client.shutdown()
    assert [kind for kind, _ in run.outcomes] == ["cancelled"]
    cases.wait_until_gone(pid)
    assert cases.folders() == []
    client.shutdown()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_a_device_error(monkeypatch, tmp_path, error, quick):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("VoxelMorphRegistrationLib.worker.server.register", fail)
    arrays = {}
    packed = messages.pack(Job(*cases.images(), quick), arrays, "input")
    for name, array in arrays.items():
        list(files.writing(tmp_path / name, array))
    server = Server(None, Path(os.devnull).open("wb"), tmp_path)  # noqa: SIM115
    kind, content = server._answer({"id": 1, "folder": str(tmp_path), "job": packed})
    assert (kind, content["kind"]) == ("error", "DeviceError")
    assert "crop the fixed image" in content["text"]
