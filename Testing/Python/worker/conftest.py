"""Clients of the worker, and what runs behind them in tests: networks, programs, a torch that is none."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch
from torch import nn

import qt
import worker_cases as cases
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import save_model
from VoxelMorphRegistrationLib.panel.run import shared_client
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.worker.client import WorkerClient

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
expected.network_arithmetic = lambda: "float32"
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


@pytest.fixture(scope="module", autouse=True)
def no_other_worker():
    """The panel's, which tests in this process may have left running, is ended: here, files are counted."""
    shared_client().shutdown()


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
    assert cases.folders() == before


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
