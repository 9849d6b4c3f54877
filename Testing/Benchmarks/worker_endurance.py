"""What the worker process of the panel costs, and whether it survives cancels and kills at random moments.

Drives the panel's client with PySide6 in place of Slicer's Qt, on two synthetic images of a given size or two files.
Overhead is the wall time from submit to the result in hand, less the stages that the library itself reports. Blocking
is seen by a timer of 10 ms in the client's event loop: the longest time between two of its ticks by the clock, and
the CPU time that the client's thread used within one such interval, which other load on the machine does not touch.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("VoxelMorphRegistration", "Testing/Harness", "Testing/Python")]

import numpy as np  # noqa: E402

import qt  # noqa: E402
import worker_cases as cases  # noqa: E402
from VoxelMorphRegistrationLib.images.files import read_image  # noqa: E402
from VoxelMorphRegistrationLib.images.grid import Grid  # noqa: E402
from VoxelMorphRegistrationLib.images.image import Image  # noqa: E402
from VoxelMorphRegistrationLib.registration.settings import Settings  # noqa: E402
from VoxelMorphRegistrationLib.worker.client import WorkerClient  # noqa: E402
from VoxelMorphRegistrationLib.worker.messages import Job  # noqa: E402

WAIT_S = 3600.0


class LoopWatch:
    """A timer of 10 ms in the event loop, and the longest it was kept waiting."""

    def __init__(self) -> None:
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(10)
        self.reset()

    def reset(self) -> None:
        self.wall = self.cpu = 0.0
        self.late = 0
        self._last = time.perf_counter(), time.thread_time()

    def _tick(self) -> None:
        now = time.perf_counter(), time.thread_time()
        wall, cpu = now[0] - self._last[0], now[1] - self._last[1]
        self.wall, self.cpu, self.late = max(self.wall, wall), max(self.cpu, cpu), self.late + (wall > 0.1)
        self._last = now

    def line(self) -> str:
        return (
            f"event loop: longest interval {1000 * self.wall:.0f} ms by the clock ({self.late} over 100 ms), "
            f"{1000 * self.cpu:.0f} ms of CPU"
        )


def synthetic_pair(size: list[int]) -> tuple[Image, Image]:
    """Smooth blobs of 1 mm voxels, and the same a little further; float32 (K, J, I) from sizes I, J, K."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in size[::-1]]
    pair = []
    for shift in (0.0, 0.06):
        k, j, i = np.ix_(axes[0] + shift, axes[1], axes[2] - shift)
        shell = np.exp(-4 * (k**2 + j**2 + i**2)) * (1.2 + np.cos(9 * k) * np.cos(7 * j) * np.cos(8 * i))
        pair.append(Image((100 * shell).astype(np.float32), Grid(shell.shape, np.eye(4)), f"shift {shift}"))
    return pair[0], pair[1]


def timed(client: WorkerClient, job: Job) -> tuple[cases.Run, float]:
    start = time.perf_counter()
    run = cases.Run(client, job)
    cases.spin(lambda: run.outcomes, WAIT_S)
    return run, time.perf_counter() - start


def warm_up(client: WorkerClient) -> float:
    """Seconds until the process is ready."""
    ready: list = []
    start = time.perf_counter()
    client.start(ready.append, lambda error: sys.exit(f"Error: {error}"))
    cases.spin(lambda: ready, WAIT_S)
    return time.perf_counter() - start


def result_of(run: cases.Run):
    if run.kind != "result":
        sys.exit(f"Error: the registration ended with {run.outcomes[0]}")
    return run.value


def measure_overhead(client: WorkerClient, job: Job, repeats: int, watch: LoopWatch) -> float:
    """Print what the process costs; returns the wall seconds of a registration."""
    result_of(timed(client, job)[0])
    overheads, walls = [], []
    watch.reset()
    for _ in range(repeats):
        run, wall = timed(client, job)
        overheads.append(wall - result_of(run).report.seconds["total"])
        walls.append(wall)
    print(
        f"overhead of {repeats} registrations of {statistics.median(walls):.2f} s: median "
        f"{statistics.median(overheads):.3f} s, largest {max(overheads):.3f} s; {watch.line()}",
        flush=True,
    )
    return statistics.median(walls)


def measure_cancels(client: WorkerClient, job: Job, count: int, duration: float, watch: LoopWatch, rng) -> None:
    seconds, replaced, finished = [], 0, 0
    watch.reset()
    for _ in range(count):
        warm_up(client)
        pid, asked = client.pid, []

        def cancel(asked=asked) -> None:
            asked.append(time.perf_counter())
            client.cancel()

        run = cases.Run(client, job)
        qt.QTimer.singleShot(int(1000 * rng.uniform(0, duration)), cancel)
        cases.spin(lambda run=run: run.outcomes, WAIT_S)
        ended = time.perf_counter()
        if run.kind == "cancelled":
            seconds.append(ended - asked[0])
            if client.pid != pid:
                replaced += 1
                cases.wait_until_gone(pid)
        else:
            result_of(run)
            finished += 1
            cases.spin(lambda asked=asked: asked, WAIT_S)
        check_nothing_left()
    result_of(timed(client, job)[0])
    print(
        f"{count} cancels: {len(seconds)} took effect, after median {statistics.median(seconds):.3f} s, largest "
        f"{max(seconds):.3f} s ({replaced} by replacing the process), {finished} came too late; {watch.line()}",
        flush=True,
    )


def measure_kills(client: WorkerClient, job: Job, count: int, duration: float, watch: LoopWatch, rng) -> None:
    told, finished = 0, 0
    watch.reset()
    for _ in range(count):
        warm_up(client)
        pid = client.pid
        run = cases.Run(client, job)
        qt.QTimer.singleShot(int(1000 * rng.uniform(0, duration)), lambda pid=pid: os.kill(pid, signal.SIGKILL))
        cases.spin(lambda run=run: run.outcomes, WAIT_S)
        told += run.kind == "error"
        finished += run.kind == "result"
        cases.spin(lambda pid=pid: client.pid != pid, WAIT_S)
        cases.wait_until_gone(pid)
        check_nothing_left()
    result_of(timed(client, job)[0])
    print(f"{count} kills: {told} told as an error, {finished} came too late; {watch.line()}", flush=True)


def check_nothing_left() -> None:
    if cases.job_folders():
        sys.exit(f"Error: files were left in {cases.job_folders()}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="Cost and endurance of the panel's worker process (Linux).")
    result.add_argument(
        "--size", type=int, nargs=3, default=[48, 48, 48], metavar=("I", "J", "K"), help="of the images"
    )
    result.add_argument("--images", nargs=2, metavar=("FIXED", "MOVING"), help="files, instead of synthetic images")
    result.add_argument("--model", default="auto", help="model name or file, or none (default: %(default)s)")
    result.add_argument("--alignment", default="none", help="default: %(default)s")
    result.add_argument("--refinement", default="off", help="default: %(default)s")
    result.add_argument("--repeats", type=int, default=5, help="registrations for the overhead (default: %(default)s)")
    result.add_argument("--cancels", type=int, default=100, help="default: %(default)s")
    result.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    result.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    return result


def main() -> int:
    args = parser().parse_args()
    pair = [read_image(path) for path in args.images] if args.images else synthetic_pair(args.size)
    settings = Settings(model=args.model, alignment=args.alignment, refinement=args.refinement)
    job, watch, rng = Job(*pair, settings), LoopWatch(), random.Random(args.seed)
    client = WorkerClient()
    print(
        f"{'x'.join(map(str, pair[0].grid.size))} voxels, {settings.model=}, {settings.alignment=}, "
        f"{settings.refinement=}; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    print(f"start to ready: {warm_up(client):.2f} s, {client.facts}", flush=True)
    duration = measure_overhead(client, job, args.repeats, watch)
    if args.cancels:
        measure_cancels(client, job, args.cancels, duration, watch, rng)
    if args.kills:
        measure_kills(client, job, args.kills, duration, watch, rng)
    pid = client.pid
    client.shutdown()
    cases.wait_until_gone(pid)
    if cases.folders():
        sys.exit(f"Error: files were left in {cases.folders()}")
    print(f"nothing left: no process, no file; errors in slots: {len(qt.slot_errors)}")
    return 1 if qt.slot_errors else 0


if __name__ == "__main__":
    sys.exit(main())
