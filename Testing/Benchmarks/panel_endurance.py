"""How the panel holds out: cancels and worker kills at random moments, and how long the window ever waits.

    python Testing/Benchmarks/panel_endurance.py [--cancels 100] [--kills 20]

Drives the real panel through the stand-ins of Testing/Harness, on volumes that it makes itself. After each cancel and
kill the scene must be as before and no file of the worker left; at the end a registration must succeed. Prints the
longest time from Cancel to the free panel, and the longest gap between ticks of a 10 ms timer, by clock and by the
CPU time of this process (the second tells what a machine without other work would show).
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

import mrml_cases  # noqa: E402
import panel_cases  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
import slicer_application  # noqa: E402
import worker_cases  # noqa: E402


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


def open_panel():
    """The opened panel with two volumes of its own."""
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    slicer_application.start()
    import VoxelMorphRegistration as module

    slicer_application.add_module(module.VoxelMorphRegistration, module.__file__)
    grid = mrml_cases.centred_grid((64, 64, 64), (2.0, 2.0, 2.0))
    for name, seed in (("Fixed", 1), ("Moving", 2)):
        mrml_cases.add_volume(mrml_cases.blobs(grid, seed), grid, name)
    widget = slicer_application.open_panel(module.VoxelMorphRegistrationWidget)
    worker_cases.spin(lambda: widget.logic.worker().facts, 300)
    return widget


def wait_a_moment(rng: random.Random) -> None:
    end = time.monotonic() + rng.uniform(0.0, 1.5)
    worker_cases.spin(lambda: time.monotonic() >= end)


def check(widget, before: list, what: str) -> None:
    assert mrml_cases.scene_state(slicer.mrmlScene) == before, f"the scene changed after {what}"
    assert worker_cases.job_folders() == [], f"files are left after {what}"
    assert widget.ui.registerButton.text == "Register", f"the panel still runs after {what}"
    assert qt.slot_errors == [], qt.slot_errors


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    rng, widget = random.Random(0), open_panel()
    panel_cases.choose_slow(widget)
    widget.ui.similarityComboBox.currentText = "lncc"
    before = mrml_cases.scene_state(slicer.mrmlScene)
    ticks, waits, client = Ticks(), [], widget.logic.worker()
    for number in range(args.cancels):
        widget.ui.registerButton.click()
        wait_a_moment(rng)
        assert widget._run is not None, widget.ui.statusLabel.text
        start = time.monotonic()
        widget.ui.registerButton.click()
        panel_cases.wait(widget)
        waits.append(time.monotonic() - start)
        check(widget, before, f"cancel {number + 1}")
    for number in range(args.kills):
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
    widget.logic.worker().shutdown()
    assert worker_cases.folders() == []
    if waits:
        median, longest = statistics.median(waits), max(waits)
        print(f"{len(waits)} cancels: panel free after {median:.2f} s (median), {longest:.2f} s (longest)")
    print(f"{args.kills} kills; nothing left over, the registration after them succeeded")
    by_cpu, by_clock = max(gap[0] for gap in ticks.gaps), max(gap[1] for gap in ticks.gaps)
    print(f"longest gap of a 10 ms timer: {1000 * by_cpu:.0f} ms CPU, {1000 * by_clock:.0f} ms by the clock")


if __name__ == "__main__":
    main()
