"""The worker: the library's own results from another process, and a client that survives whatever that one does."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import qt
import VoxelMorphRegistrationLib
import worker_cases as cases
from small_models import save_centroid_model
from VoxelMorphRegistrationLib import errors
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import save_model
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.worker import files, messages
from VoxelMorphRegistrationLib.worker.client import WorkerClient
from VoxelMorphRegistrationLib.worker.messages import Job, TorchMissingError, WorkerError
from VoxelMorphRegistrationLib.worker.process import find_python
from VoxelMorphRegistrationLib.worker.server import Server

LIBRARY = Path(VoxelMorphRegistrationLib.__file__).parent
HARNESS = Path(qt.__file__).parent
FAKE_TORCH = """
import types
__version__ = "none"
cuda = types.SimpleNamespace(is_available=lambda: False)
backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: False))
def get_num_threads():
    return 1
# Nothing can be measured with it.
import VoxelMorphRegistrationLib.registration.expected as expected
expected.probe_seconds = lambda device: 1.0
"""


class EndlessNetwork(nn.Module):
    """Answers small images with zeros at once; with larger ones it is busy for minutes, without a progress report.

    It writes a file when it begins with that.
    """

    def __init__(self, started: str) -> None:
        super().__init__()
        self.started = started

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        total = moving
        if fixed.size(2) > 16:
            torch.save(fixed, self.started)
            for _ in range(100_000_000):
                total = total * 1.0
        return torch.cat([total * 0.0] * 3, dim=1)


@pytest.fixture(autouse=True)
def no_exception_in_a_slot():
    qt.slot_errors.clear()
    yield
    assert qt.slot_errors == []


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def quick(models_folder):
    """Settings of a registration that takes a fraction of a second."""
    path = save_centroid_model(models_folder / "quick.pt")
    return Settings(model=str(path), alignment="none", device="cpu", refinement="off")


@pytest.fixture(scope="module")
def endless(models_folder):
    """Settings of a registration that neither ends nor can be interrupted."""
    path = models_folder / "endless.pt"
    card = ModelCard("endless", spacing_mm=(1.0,) * 3, stride=4, output="displacement", output_scale=1.0)
    save_model(EndlessNetwork(str(path.with_suffix(".started"))), card, path)
    return Settings(model=str(path), alignment="none", device="cpu", refinement="off")


@pytest.fixture(scope="module")
def patient():
    """Settings of a registration of some seconds that reports progress all the time."""
    return Settings(model="none", alignment="none", device="cpu", refinement="accurate")


@pytest.fixture(scope="module")
def warm():
    """One client for many tests; each may find another process behind it."""
    client = WorkerClient()
    yield client
    client.shutdown()
    assert cases.folders() == []


@pytest.fixture
def client(warm):
    """The warm client, ready; the test must leave it without a job and without a file."""
    ready = []
    warm.start(ready.append, pytest.fail)
    cases.spin(lambda: ready)
    yield warm
    assert warm.state in ("ready", "starting", "off")
    assert cases.job_folders() == []


@pytest.fixture
def make_client():
    """Clients with settings of their own, ended after the test, with nothing left over."""
    before, made = cases.folders(), []

    def make(**settings) -> WorkerClient:
        made.append(WorkerClient(**settings))
        return made[-1]

    yield make
    for client in made:
        client.shutdown()
        assert client.state == "off"
    assert set(cases.folders()) <= set(before)


@pytest.fixture
def fake_torch(tmp_path):
    """Environment in which torch is a stand-in that loads at once and computes nothing."""
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def write_program(tmp_path):
    """Writes a program that a client can start as its Python."""

    def write(text: str, interpreter: str = sys.executable) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!{interpreter}\n{textwrap.dedent(text)}")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def launcher(write_program):
    """Starts Python as Slicer's launcher does: as a process of its own that does not end with it."""
    return write_program(f'"{sys.executable}" "$@"\nexit $?\n', "/bin/sh")


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


# --- cancel ------------------------------------------------------------------------------------------------


def test_cancel_at_a_progress_report_keeps_the_process(make_client, patient):
    # However busy the computer: a progress report comes within this time.
    client = make_client(cancel_s=60)
    run = cases.Run(client, Job(*cases.images(), patient))
    cases.spin(lambda: run.outcomes or any(stage == "refining" for stage, *_ in run.progress))
    pid = client.pid
    client.cancel()
    assert client.state == "cancelling"
    client.cancel()
    assert run.wait().kind == "cancelled"
    assert (client.state, client.pid) == ("ready", pid)
    assert cases.job_folders() == []


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


def test_unexpected_error_is_told_with_its_traceback_and_replaces_the_process(client):
    pid = client.pid
    run = cases.Run(client, Job(*cases.images(), keywords={"no_such_keyword": 1})).wait()
    assert run.kind == "error"
    assert "TypeError" in str(run.value)
    assert any("Traceback" in line for line in run.log)
    cases.wait_until_gone(pid)


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


def test_idle_process_that_dies_is_replaced(make_client, fake_torch):
    client = make_client(environment=fake_torch)
    ready = []
    client.start(ready.append, pytest.fail)
    cases.spin(lambda: ready)
    os.kill(client.pid, signal.SIGKILL)
    cases.spin(lambda: client.state == "off")
    client.start(ready.append, pytest.fail)
    cases.spin(lambda: len(ready) == 2)


def test_stopped_process_is_noticed_and_ended_with_its_launcher(make_client, fake_torch, launcher, quick):
    client = make_client(python=launcher, environment=fake_torch, silence_s=2)
    ready = []
    client.start(ready.append, pytest.fail)
    cases.spin(lambda: ready)
    pid = client.pid
    os.kill(pid, signal.SIGSTOP)
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert "did not answer for 2 seconds" in str(run.value)
    cases.wait_until_gone(pid)
    assert client.state == "off"


# --- processes that are none -------------------------------------------------------------------------------

SPEAK = """
import json, os, sys, time
def say(**content):
    sys.stdout.write(json.dumps({"version": 1, "id": 0, **content}) + "\\n")
    sys.stdout.flush()
say(type="hello", pid=os.getpid())
"""
WAIT = "\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (SPEAK + "say(type='ready', version=2)" + WAIT, "version 2 instead of 1"),
        (SPEAK + "say(type='progress', id=77, stage='x', fraction=0, seconds=0)" + WAIT, "belongs to no request"),
        (SPEAK + "say(type='dance')" + WAIT, "unknown type 'dance'"),
        (SPEAK + "say(type='ready')" + WAIT, "without a proper 'versions'"),
        (SPEAK + "sys.stdout.write('x' * 9_000_000); sys.stdout.flush()" + WAIT, "a line without end"),
        ("import sys; print('{\"version\": 1', end='', flush=True); sys.exit(3)", "exit code 3"),
        ("import sys; sys.exit('libfoo is missing')", "exit code 1: libfoo is missing"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("import os; os._exit(137)", "memory ran out"),
        ("import sys; sys.exit('[python-real] exit abnormally - Report the problem.')", "memory ran out"),
    ],
)
def test_wrong_programs_are_one_sentence(make_client, write_program, quick, program, sentence):
    client = make_client(python=write_program(program))
    failed = []
    client.start(pytest.fail, failed.append)
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert (run.kind, type(run.value)) == ("error", WorkerError)
    assert sentence in str(run.value)
    assert failed == [run.value]
    assert client.state == "off"


def test_answers_to_the_wrong_request_are_refused(make_client, write_program, quick):
    program = SPEAK + textwrap.dedent("""
        say(type="ready", versions={}, devices=[], speed={})
        number = json.loads(sys.stdin.readline())["id"]
        say(type="cancelled", id=number + 1)
        time.sleep(60)
    """)
    run = cases.Run(make_client(python=write_program(program)), Job(*cases.images(), quick)).wait()
    assert "belongs to no request" in str(run.value)


@pytest.mark.parametrize("name", ["../../etc/passwd.npy", "missing.npy", "C:x.npy"])
def test_results_in_other_places_are_refused(make_client, write_program, quick, name):
    program = SPEAK + textwrap.dedent(f"""
        say(type="ready", versions={{}}, devices=[], speed={{}})
        number = json.loads(sys.stdin.readline())["id"]
        say(type="result", id=number, registration={{"npy": {name!r}}})
        time.sleep(60)
    """)
    run = cases.Run(make_client(python=write_program(program)), Job(*cases.images(), quick)).wait()
    assert (run.kind, type(run.value)) == ("error", WorkerError)
    assert name in str(run.value)


def test_program_that_says_nothing_is_given_up(make_client, write_program):
    client = make_client(python=write_program("import time; time.sleep(60)"), start_s=0.5)
    failed = []
    client.start(pytest.fail, failed.append)
    cases.spin(lambda: failed)
    assert "did not answer for 0.5 seconds" in str(failed[0])


def test_worker_does_not_load_slicers_plugins(make_client, quick, tmp_path):
    told = 'raise ImportError(f\'{os.environ.get("ITK_AUTOLOAD_PATH")} and {os.environ["KEPT"]}\')'
    (tmp_path / "torch.py").write_text(f"import os\n{told}\n")
    client = make_client(
        environment={"PYTHONPATH": str(tmp_path), "ITK_AUTOLOAD_PATH": "/slicer/plugins", "KEPT": "others are kept"}
    )
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert "None and others are kept" in str(run.value)


def test_missing_python_is_one_sentence(make_client, quick, tmp_path):
    client = make_client(python=str(tmp_path / "python-of-nobody"))
    run = cases.Run(client, Job(*cases.images(), quick))
    assert run.outcomes == []
    run.wait()
    assert "python-of-nobody is missing or cannot be run" in str(run.value)


def test_missing_torch_has_its_own_error_and_prints_do_not_garble(make_client, quick, tmp_path):
    (tmp_path / "torch.py").write_text(
        "import os\nprint('noise', flush=True)\nos.write(1, b'more noise')\nraise ImportError('no torch here')\n"
    )
    client = make_client(environment={"PYTHONPATH": str(tmp_path)})
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert type(run.value) is TorchMissingError
    assert "no torch here" in str(run.value)
    assert "noise" in run.log
    assert client.state == "off"


# --- ends --------------------------------------------------------------------------------------------------


def test_shutdown_during_a_run_leaves_nothing(make_client, endless):
    client = make_client()
    run = cases.run_endlessly(client, endless)
    pid = client.pid
    client.shutdown()
    assert [kind for kind, _ in run.outcomes] == ["cancelled"]
    cases.wait_until_gone(pid)
    client.shutdown()


PARENT = """
import sys
sys.path[:0] = {paths!r}
import qt
import worker_cases as cases
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.worker.client import WorkerClient

client = WorkerClient({python!r})
{wait}
print(client.pid, flush=True)
{end}
qt.application.exec()
"""


def start_parent(python: str, wait: str, end: str = "", environment=None) -> tuple[subprocess.Popen, int]:
    """A process that drives a worker, and the worker's number."""
    paths = [str(LIBRARY.parent), str(HARNESS), str(Path(__file__).parents[1])]
    text = PARENT.format(paths=paths, python=python, wait=wait, end=end)
    environment = {**os.environ, **(environment or {})}
    parent = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=environment)
    with parent.stdout:
        return parent, int(parent.stdout.readline())


def test_worker_ends_with_a_killed_parent_in_the_midst_of_a_computation(launcher, endless):
    settings = f'Settings(model={endless.model!r}, alignment="none", device="cpu", refinement="off")'
    wait = f"cases.run_endlessly(client, {settings})"
    parent, pid = start_parent(launcher, wait)
    assert len(cases.folders(parent.pid)) == 1
    parent.kill()
    parent.wait(20)
    cases.wait_until_gone(pid)
    assert cases.folders(parent.pid) == []


def test_worker_ends_with_an_application_that_quits(launcher, fake_torch):
    wait = "client.start(); cases.spin(lambda: client.facts)"
    parent, pid = start_parent(launcher, wait, "qt.QTimer.singleShot(0, qt.application.quit)", fake_torch)
    assert parent.wait(20) == 0
    cases.wait_until_gone(pid)
    assert cases.folders(parent.pid) == []


def test_folders_that_no_process_holds_are_cleaned_up_whatever_their_numbers_say(make_client, fake_torch, monkeypatch):
    own, orphan = files.HeldFolder(), files.HeldFolder()
    # A number of a living process says nothing: it may be one of another computer, or a later one.
    (orphan.path / "input-0.npy").write_bytes(b"x")
    orphan.release()
    (orphan.path / files.LOCK).write_bytes(b"")
    ready = []
    make_client(environment=fake_torch).start(ready.append, pytest.fail)
    cases.spin(lambda: ready)
    assert not orphan.path.exists()
    assert own.path.exists()
    own.release()
    # Without a lock a folder may be in the making: it goes when it is old.
    files.remove_stale_folders()
    assert own.path.exists()
    monkeypatch.setattr(files, "LOCKLESS_S", -1.0)
    files.remove_stale_folders()
    assert not own.path.exists()


def test_a_lost_folder_means_a_new_process(make_client, quick):
    client = make_client()
    ready = []
    client.start(ready.append, pytest.fail)
    cases.spin(lambda: ready)
    pid = client.pid
    for folder in cases.folders():
        shutil.rmtree(folder)
    assert cases.Run(client, Job(*cases.images(), quick)).wait().kind == "result"
    assert client.pid != pid
    cases.wait_until_gone(pid)


class NeverLoaded(nn.Module):
    """Does not come back from being loaded."""

    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False
        while state > 0:
            state += 1

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return torch.cat([moving, fixed, fixed], 1)


def test_a_model_that_never_loads_ends_with_a_killed_parent(models_folder):
    path = models_folder / "never.pt"
    facts = '{"name": "never", "stride": 4, "output": "displacement", "output_scale": 1.0}'
    torch.jit.save(torch.jit.script(NeverLoaded()), str(path), _extra_files={"voxelmorph.json": facts})
    settings = f'Settings(model={str(path)!r}, alignment="none", device="cpu")'
    wait = f"""
run = cases.Run(client, cases.Job(*cases.images(), {settings}))
cases.spin(lambda: any(stage == "loading the model" for stage, *_ in run.progress))
"""
    parent, pid = start_parent(sys.executable, wait)
    parent.kill()
    parent.wait(20)
    cases.wait_until_gone(pid)
    cases.spin(lambda: cases.folders(parent.pid) == [])


def test_what_is_printed_before_the_first_message_is_a_line_of_the_log(make_client, write_program, quick):
    program = "print('Welcome!', flush=True)\nprint('[1, 2]', flush=True)\n" + SPEAK
    program += textwrap.dedent("""
        say(type="ready", versions={}, devices=[], speed={})
        number = json.loads(sys.stdin.readline())["id"]
        print("a line of a library")
        say(type="error", id=number, kind="InputError", text="answered")
        time.sleep(60)
    """)
    run = cases.Run(make_client(python=write_program(program)), Job(*cases.images(), quick)).wait()
    assert (type(run.value), str(run.value)) == (errors.InputError, "answered")
    assert run.log == ["Welcome!", "[1, 2]", "a line of a library"]


# --- the parts ---------------------------------------------------------------------------------------------


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
    with pytest.raises(WorkerError, match="PythonSlicer"):
        find_python(folders, "/opt/Slicer/bin/SlicerApp-real")
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
