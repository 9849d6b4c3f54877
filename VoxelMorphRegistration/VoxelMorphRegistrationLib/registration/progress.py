"""Stages, seconds, progress and warnings of one registration."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager

from ..errors import Cancelled

ProgressCallback = Callable[[str, float], bool | None]


class Run:
    """Stages, their seconds, progress and warnings of one registration."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self._progress = progress
        self._stage = ""
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str):
        self._stage = name
        self.report(0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        self.report(1.0)

    def report(self, fraction: float) -> None:
        if self._progress is not None and self._progress(self._stage, min(max(fraction, 0.0), 1.0)) is False:
            raise Cancelled

    def finish(self) -> None:
        self.seconds["total"] = round(sum(self.seconds.values()), 3)
