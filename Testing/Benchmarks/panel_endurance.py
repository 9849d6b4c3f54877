"""How the panel holds out: cancels and worker kills at random moments, and how long the window ever waits.

    python Testing/Benchmarks/panel_endurance.py [--cancels 100] [--kills 20]
    python Testing/Benchmarks/panel_endurance.py --cancels 0 --kills 0 --overheads 5 [--images FIXED MOVING]

Drives the real panel through the stand-ins of Testing/Harness, on volumes that it makes itself. After each cancel and
kill the scene must be as before and no file of the worker left; at the end a registration must succeed. Prints the
longest time from Cancel to the free panel, and the longest gap between ticks of a 10 ms timer, by clock and by the
CPU time of this process (the second tells what a machine without other work would show).

Overhead is the time from the click on Register to the result in the slice views, less what the library itself
reports, with a warm worker, on two files or on volumes of 160x192x224 voxels; by the clock, and the CPU time of this
process and of the worker beside it.
"""

from __future__ import annotations

import argparse
import json
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

import mrml_cases  # noqa: E402
import panel_cases  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
import slicer_application  # noqa: E402
import worker_cases  # noqa: E402
from VoxelMorphRegistrationLib.images.files import read_image  # noqa: E402
from VoxelMorphRegistrationLib.images.grid import Grid  # noqa: E402
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE  # noqa: E402

SIZE = (160, 192, 224)
WAIT_S = 3600.0


class Ticks:
    """Gaps between the ticks of a 10 ms timer: (CPU seconds, clock seconds)."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float]] = []
        self._last = time.process_time(), time.monotonic()
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(10)

    def _tick(self) -> None:
        now = time.process_time(), time.monotonic()
        self.gaps.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now


def start_application():
    """The module, in the stand-ins of the application with a new scene and two slice views."""
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    slicer_application.start()
    import VoxelMorphRegistration as module

    slicer_application.add_module(module.VoxelMorphRegistration, module.__file__)
    panel_cases.add_slice_views(scene)
    return module


def open_panel(module):
    """The opened panel, once its worker is warm."""
    widget = slicer_application.open_panel(module.VoxelMorphRegistrationWidget)
    worker_cases.spin(lambda: widget.logic.worker().facts, 300)
    return widget


def add_small_volumes() -> None:
    grid = mrml_cases.centred_grid((64, 64, 64), (2.0, 2.0, 2.0))
    for name, seed in (("Fixed", 1), ("Moving", 2)):
        mrml_cases.add_volume(mrml_cases.blobs(grid, seed), grid, name)


def add_large_volumes() -> None:
    """Smooth shells of 1 mm voxels, and the same a little further."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in SIZE[::-1]]
    for name, shift in (("Fixed", 0.0), ("Moving", 0.06)):
        k, j, i = np.ix_(axes[0] + shift, axes[1], axes[2] - shift)
        shell = np.exp(-4 * (k**2 + j**2 + i**2)) * (1.2 + np.cos(9 * k) * np.cos(7 * j) * np.cos(8 * i))
        mrml_cases.add_volume((100 * shell).astype(np.float32), Grid(shell.shape, np.eye(4)), name)


def wait_a_moment(rng: random.Random) -> None:
    end = time.monotonic() + rng.uniform(0.0, 1.5)
    worker_cases.spin(lambda: time.monotonic() >= end)


def check(widget, before: list, what: str) -> None:
    assert mrml_cases.scene_state(slicer.mrmlScene) == before, f"the scene changed after {what}"
    assert worker_cases.job_folders() == [], f"files are left after {what}"
    assert widget.ui.registerButton.text == "Register", f"the panel still runs after {what}"
    assert qt.slot_errors == [], qt.slot_errors


def cpu_seconds(pid: int) -> float:
    """Of another process; Linux."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def reported_seconds(widget) -> float:
    """What the library itself took for the last result."""
    report = json.loads(widget._parameterNode.outputTransform.GetAttribute(REPORT_ATTRIBUTE))
    return report["seconds"]["total"]


def measure_overheads(module, count: int, images, refinement: str) -> None:
    """Registrations from the click to the result shown; the first one, which loads the model, is not counted."""
    widget, rows = open_panel(module), []
    widget.ui.refinementComboBox.currentText = refinement
    client, ticks = widget.logic.worker(), None
    for number in range(count + 1):
        if number == 1:
            ticks = Ticks()
        before = time.monotonic(), time.process_time(), cpu_seconds(client.pid)
        widget.ui.registerButton.click()
        worker_cases.spin(lambda: widget._register.run is None, WAIT_S)
        after = time.monotonic(), time.process_time(), cpu_seconds(client.pid)
        assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
        clock, own, workers = (b - a for a, b in zip(before, after, strict=True))
        rows.append((clock - reported_seconds(widget), own, workers))
    overheads, own, workers = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    what = "given images" if images else "x".join(map(str, SIZE))
    print(
        f"{count} registrations of {what}: overhead {overheads:.2f} s by the clock (median), "
        f"{own:.2f} CPU s in this process, {workers:.2f} CPU s in the worker; load {os.getloadavg()[0]:.1f}"
    )
    print_gaps(ticks)
    widget.cleanup()
    client.shutdown()
    assert worker_cases.folders() == []


def print_gaps(ticks: Ticks) -> None:
    by_cpu, by_clock = max(gap[0] for gap in ticks.gaps), max(gap[1] for gap in ticks.gaps)
    print(f"longest gap of a 10 ms timer: {1000 * by_cpu:.0f} ms CPU, {1000 * by_clock:.0f} ms by the clock")


def endure(module, cancels: int, kills: int) -> None:
    rng, widget = random.Random(0), open_panel(module)
    panel_cases.choose_slow(widget)
    widget.ui.similarityComboBox.currentText = "lncc"
    before = mrml_cases.scene_state(slicer.mrmlScene)
    ticks, waits, client = Ticks(), [], widget.logic.worker()
    for number in range(cancels):
        widget.ui.registerButton.click()
        wait_a_moment(rng)
        assert widget._register.run is not None, widget.ui.statusLabel.text
        start = time.monotonic()
        widget.ui.registerButton.click()
        panel_cases.wait(widget)
        waits.append(time.monotonic() - start)
        check(widget, before, f"cancel {number + 1}")
    for number in range(kills):
        widget.ui.registerButton.click()
        worker_cases.spin(lambda: client.pid and client.facts, 300)
        wait_a_moment(rng)
        os.kill(client.pid, signal.SIGKILL)
        panel_cases.wait(widget)
        check(widget, before, f"kill {number + 1}")
    widget.ui.refinementComboBox.currentText = "fast"
    panel_cases.press_and_wait(widget)
    assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
    widget.cleanup()
    client.shutdown()
    assert worker_cases.folders() == []
    if waits:
        median, longest = statistics.median(waits), max(waits)
        print(f"{len(waits)} cancels: panel free after {median:.2f} s (median), {longest:.2f} s (longest)")
    print(f"{kills} kills; nothing left over, the registration after them succeeded")
    print_gaps(ticks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--overheads", type=int, default=0, help="registrations whose overhead is measured")
    parser.add_argument("--images", nargs=2, metavar=("FIXED", "MOVING"), help="files for the overhead")
    parser.add_argument("--refinement", default="off", help="of the registrations for the overhead")
    args = parser.parse_args()
    module = start_application()
    if args.overheads:
        if args.images:
            for name, path in zip(("Fixed", "Moving"), args.images, strict=True):
                image = read_image(path)
                mrml_cases.add_volume(image.array, image.grid, name)
        else:
            add_large_volumes()
        measure_overheads(module, args.overheads, args.images, args.refinement)
    if args.cancels or args.kills:
        slicer.mrmlScene.Clear(0)
        add_small_volumes()
        endure(module, args.cancels, args.kills)


if __name__ == "__main__":
    main()
