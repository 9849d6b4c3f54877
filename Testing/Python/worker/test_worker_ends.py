"""The worker process ends with whom it works for, however that ends, and leaves no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qt
import VoxelMorphRegistrationLib
import worker_cases as cases
from VoxelMorphRegistrationLib.worker import files
from VoxelMorphRegistrationLib.worker.messages import Job

LIBRARY = Path(VoxelMorphRegistrationLib.__file__).parent
HARNESS = Path(qt.__file__).parent


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
