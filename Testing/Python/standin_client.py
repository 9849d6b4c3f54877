"""Stands in for the worker where its process is not what is tested: known results at once, from the event loop."""

from __future__ import annotations

import itertools
from dataclasses import replace

import mrml_cases
import qt
from VoxelMorphRegistrationLib.errors import VoxelMorphError
from VoxelMorphRegistrationLib.results.written import product_of
from VoxelMorphRegistrationLib.worker.messages import Job, WorkerError

FACTS = {
    "versions": {"python": "3", "torch": "2"},
    "devices": [{"name": "cpu", "text": "CPU, 2 threads"}],
    "speed": {"cpu": 2.0},
}
STAGES = ("checking", "loading the model", "aligning", "registering", "warping", "measuring")
STAGED = {"before": 0.5, "aligned": 0.7, "after": 0.9}


def known_report(report, number: int, labels: tuple = ()):
    """A whole report around the few numbers of a known registration; `number` tells runs apart."""

    def dice(value: float) -> dict:
        return {"mean": value, "labels": {str(label): value for label in labels}}

    return replace(
        report,
        similarity={stage: {"ncc": value, "mi": value} for stage, value in STAGED.items()},
        folding={
            "inside": {
                "count": 0,
                "voxels": 1000,
                "percent": 0.0,
                "any_corner_count": 0,
                "any_corner_percent": 0.0,
                "minimum": 0.4,
                "maximum": 1.9,
                "sd_log": 0.2,
            },
            "volume": {"count": 0, "voxels": 8000},
        },
        largest_displacement_mm=3.0 + number,
        covered_percent=99.0,
        worst_ras={"determinant": [1.0, 2.0, 3.0]},
        dice={stage: dice(value) for stage, value in STAGED.items()} if labels else None,
        seconds={"total": 0.1},
        inputs={"fixed": "fixed volume", "moving": "moving volume"},
    )


def _first(side):
    return side[0] if isinstance(side, tuple) else side


class StandInClient:
    """What panel and logic ask of a WorkerClient. Each job takes `steps` turns of the event loop.

    failing: errors given in turn to the next jobs, None for a success. changes: fields of the next reports.
    """

    def __init__(self, steps: int = 4) -> None:
        self.steps, self.failing, self.changes = steps, [], {}
        self.facts, self.pid, self.jobs = FACTS, 0, []
        self._numbers = itertools.count(1)
        self._request: dict | None = None

    @property
    def state(self) -> str:
        return "ready" if self._request is None else "running"

    def start(self, on_ready=lambda *_: None, on_error=lambda *_: None) -> None:
        qt.QTimer.singleShot(0, lambda: on_ready(self.facts))

    def submit(self, job, **callbacks) -> int:
        if self._request is not None:
            raise WorkerError("A registration is running. Wait for its end, or cancel it first.")
        number = next(self._numbers)
        self.jobs.append(job)
        self._request = {"job": job, "number": number, "step": 0, "cancelled": False, **callbacks}
        qt.QTimer.singleShot(1, lambda: self._step(number))
        return number

    def cancel(self) -> None:
        if self._request is not None:
            self._request["cancelled"] = True

    def stop_here(self) -> None:
        if self._request is not None:
            self._request["step"] = self.steps

    def shutdown(self, *_) -> None:
        request, self._request = self._request, None
        if request is not None:
            request["on_cancelled"]()

    def _step(self, number: int) -> None:
        request = self._request
        if request is None or request["number"] != number:
            return
        if request["cancelled"]:
            self._request = None
            request["on_cancelled"]()
            return
        request["step"] += 1
        if request["step"] < self.steps:
            if "on_progress" in request:
                stage = STAGES[min(request["step"], len(STAGES) - 1)]
                request["on_progress"](stage, 0.5, 0.1 * request["step"])
            job = request["job"]
            if request["step"] in (2, 3) and getattr(job, "previews", False):
                request["on_preview"](_first(job.fixed))
            qt.QTimer.singleShot(1, lambda: self._step(number))
            return
        error, result = self.failing.pop(0) if self.failing else None, None
        try:
            result = None if error else self._result(request["job"], number)
        except VoxelMorphError as found:
            error = found
        self._request = None
        if error:
            request["on_error"](error)
        else:
            request["on_result"](result)

    def _result(self, job, number: int):
        if not isinstance(job, Job):
            return getattr(job.stored, job.method)(*job.arguments)
        labels = job.keywords.get("moving_labels")
        made = mrml_cases.make_registration(_first(job.fixed), _first(job.moving), labels)
        values = () if labels is None or job.keywords.get("fixed_labels") is None else (1,)
        settings = dict(vars(job.settings))
        report = replace(known_report(made.report, number, values), settings=settings, **self.changes)
        return product_of(replace(made, report=report), job.wanted)
