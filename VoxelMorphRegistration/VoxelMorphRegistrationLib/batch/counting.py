"""How far a batch is: counts, rate, time left, told on a terminal or in a log."""

from __future__ import annotations

import time
from collections import Counter, deque

from ..registration.expected import in_words
from ..streams import Terminal
from . import job
from .job import Outcome
from .places import DONE, FAILED

# Between lines of a log; between changes of a terminal's line.
LOG_S, LINE_S = 30.0, 0.2
# The rate is that of the last pairs.
_RECENT = 200


class Counting:
    """Called with each Outcome; `tick` tells how far it is, now and then. total: all pairs. stream: None is silent."""

    def __init__(self, total: int, stream=None, clock=time.monotonic) -> None:
        self.total = total
        self.counts: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.full = ""
        self._terminal, self._clock = Terminal(stream), clock
        self._told = self._start = clock()
        self._times: deque[float] = deque([self._start], maxlen=_RECENT)

    def __call__(self, outcome: Outcome) -> None:
        self.counts[outcome.state] += 1
        if outcome.state == FAILED:
            self.failed[outcome.id] = outcome.message
            self._write(f"{outcome.id}: {outcome.message}")
        if outcome.state == job.FULL:
            self.full = outcome.message
        if outcome.state in (DONE, FAILED) and outcome.seconds:
            self._times.append(self._clock())
        self.tick()

    @property
    def made(self) -> int:
        return self.counts[DONE] + self.counts[job.ALREADY]

    def tick(self) -> None:
        if self._terminal.silent or self._clock() - self._told < (LINE_S if self._terminal.bar else LOG_S):
            return
        self._told = self._clock()
        if self._terminal.bar:
            done = min(1.0, (self.made + len(self.failed)) / max(1, self.total))
            full = round(20 * done)
            self._terminal.write(f"\r\033[K[{'#' * full}{'.' * (20 - full)}] {self.text()}")
        else:
            self._terminal.write(self.text() + "\n")

    def text(self) -> str:
        """ "120 of 10,000 pairs, 3 failed, 240 an hour, about 41 minutes left"."""
        parts = [f"{self.made:,} of {self.total:,} pairs"]
        if self.failed:
            parts.append(f"{len(self.failed):,} failed")
        rate = self.an_hour()
        left = self.total - self.made - len(self.failed)
        if rate:
            parts.append(f"{rate:,.0f} an hour")
            if left > 0:
                parts.append(f"{_long(3600 * left / rate)} left")
        return ", ".join(parts)

    def an_hour(self) -> float:
        """Pairs an hour, of late; 0 before the first one."""
        if len(self._times) < 2 or self._times[-1] <= self._times[0]:
            return 0.0
        return 3600 * (len(self._times) - 1) / (self._clock() - self._times[0])

    def end(self) -> None:
        if self._terminal.bar:
            self._terminal.write("\r\033[K")

    def _write(self, line: str) -> None:
        self._terminal.write(f"\r\033[K{line}\n" if self._terminal.bar else f"{line}\n")


def _long(seconds: float) -> str:
    return in_words(seconds) if seconds < 2 * 3600 else f"about {seconds / 3600:.0f} hours"
