"""Stages, seconds, progress and warnings of one registration."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import Cancelled
from ..images.ahead import Ahead

if TYPE_CHECKING:
    from .result import Preview

# What a progress callback returns to end a registration with what it has so far.
STOP_HERE = "stop here"
ProgressCallback = Callable[[str, float], bool | str | None]


class Run:
    """Stages, their seconds, progress and warnings of one registration.

    preview: called with a Preview while the result improves, or None. stopping: the user wants what there is.
    stopped_at: the stage in which they said so, where something was left out for it. ahead: what makes parts of later
    stages beside those that one thread works on.
    """

    def __init__(self, progress: ProgressCallback | None, preview: Callable[[Preview], object] | None = None) -> None:
        self._progress = progress
        self._stage = ""
        self._part = (0.0, 1.0)
        self._asked_at = ""
        self.preview = preview
        self.stopping = False
        self.stopped_at: str | None = None
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []
        self.ahead = Ahead()

    @contextmanager
    def stage(self, name: str):
        self._stage = name
        self.report(0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        self.report(1.0)

    @contextmanager
    def part(self, number: int, count: int):
        """What is reported meanwhile is one of `count` equal parts of the stage, counted from 0."""
        self._part = (number / count, (number + 1) / count)
        yield
        self._part = (0.0, 1.0)

    def report(self, fraction: float) -> None:
        """Tell the progress of the stage. Raises Cancelled where the answer is False."""
        if self._progress is None:
            return
        low, high = self._part
        answer = self._progress(self._stage, low + (high - low) * min(max(fraction, 0.0), 1.0))
        if answer is False:
            raise Cancelled
        if answer == STOP_HERE and not self.stopping:
            self.stopping, self._asked_at = True, self._stage

    def cut_short(self) -> bool:
        """Whether what would come next is left out, since the user wants what there is."""
        if self.stopping:
            self.stopped_at = self._asked_at
        return self.stopping

    def finish(self) -> None:
        self.seconds["total"] = round(sum(self.seconds.values()), 3)
