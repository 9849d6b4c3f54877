"""Driving the worker in tests: Qt's event loop, small images, jobs with all their callbacks, and what is left over."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

import qt
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.worker import files
from VoxelMorphRegistrationLib.worker.client import WorkerClient
from VoxelMorphRegistrationLib.worker.messages import Job

SIZE = 24


def images(shift: int = 2) -> tuple[Image, Image]:
    """A soft block in a dark volume and the same elsewhere, 1 mm voxels."""
    line = np.arange(SIZE)
    pair = []
    for start in (0, shift):
        distance = [(line - SIZE / 2 - start * (axis == 0)) ** 2 for axis in range(3)]
        array = 100 * np.exp(-(distance[0][:, None, None] + distance[1][:, None] + distance[2]) / 18)
        pair.append(array.astype(np.float32))
    grid = Grid((SIZE,) * 3, np.eye(4))
    return Image(pair[0], grid, "fixed"), Image(pair[1], grid, "moving")


def spin(done, seconds: float = 60.0) -> None:
    """Let Qt's event loop run until done() is true; fails when it does not become so."""
    loop, timer, end = qt.QEventLoop(), qt.QTimer(), time.monotonic() + seconds
    timer.timeout.connect(lambda: loop.quit() if done() or time.monotonic() > end else None)
    timer.start(5)
    loop.exec()
    timer.stop()
    assert done(), "what was waited for did not happen"


class Run:
    """A submitted job and every callback it got."""

    def __init__(self, client: WorkerClient, job: Job) -> None:
        self.outcomes: list[tuple] = []
        self.progress: list[tuple] = []
        self.log: list[str] = []
        self.previews: list[Image] = []
        self.number = client.submit(
            job,
            on_result=lambda result: self.outcomes.append(("result", result)),
            on_error=lambda error: self.outcomes.append(("error", error)),
            on_cancelled=lambda: self.outcomes.append(("cancelled", None)),
            on_progress=lambda *values: self.progress.append(values),
            on_log=self.log.append,
            on_preview=self.previews.append,
        )

    def wait(self) -> Run:
        spin(lambda: self.outcomes)
        assert len(self.outcomes) == 1
        return self

    @property
    def kind(self) -> str:
        return self.outcomes[0][0]

    @property
    def value(self):
        return self.outcomes[0][1]


def run_endlessly(client: WorkerClient, settings: Settings) -> Run:
    """Submit a job with a model that writes a file when it starts to compute, and wait for that."""
    started = Path(settings.model).with_suffix(".started")
    started.unlink(missing_ok=True)
    # It saves a tensor, which no network needs.
    run = Run(client, Job(*images(), settings, {"trust_model": True}))
    spin(lambda: run.outcomes or started.exists())
    assert not run.outcomes, run.outcomes
    return run


def wait_until_gone(pid: int, seconds: float = 20.0) -> None:
    """Wait for the end of a process that may be no child of this one, or not yet waited for."""
    end = time.monotonic() + seconds
    while _runs(pid):
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    if not _lives(pid):
        return False
    try:
        # A zombie does not run; nobody may be there to wait for an orphan.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def folders(pid: int | None = None) -> list[Path]:
    """The workers' folders of a client's process, by default this one."""
    return sorted(Path(tempfile.gettempdir()).glob(f"{files.PREFIX}{pid or os.getpid()}-*"))


def job_folders() -> list[Path]:
    return [job for folder in folders() for job in folder.iterdir() if job.name != files.LOCK]
