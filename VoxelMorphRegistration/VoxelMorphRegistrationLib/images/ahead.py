"""Work begun before its result is asked for, beside what one thread does alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import cached_property
from typing import TypeVar

Result = TypeVar("Result")


class Ahead:
    """Functions that run one after the other on a thread of those for slabs (slabs.py), where PyTorch has several.

    `with Ahead() as ahead`: at its end nothing is begun any more, and what runs is waited for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future, Callable[[], object]]] = deque()
        self._running: Future | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_) -> None:
        self.drop()
        with self._lock:
            running = self._running
            if running is not None:
                running.cancel()
        if running is not None:
            wait([running])

    @cached_property
    def _threads(self) -> int:
        # As slabs ask for, also where PyTorch is loaded here: else their pool would be made anew each time.
        import torch

        return torch.get_num_threads()

    def drop(self) -> None:
        """Begin nothing of what waits; who asks for it makes it."""
        with self._lock:
            self._waiting.clear()

    @property
    def has_thread(self) -> bool:
        """Whether anything is done before it is asked for."""
        return self._threads > 1

    def begin(self, function: Callable[[], Result]) -> Callable[[], Result]:
        """What gives the result of `function`, once: of the thread if it has begun with it, else made when asked."""
        if not self.has_thread:
            return function
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.append((future, function))
            if self._running is None:
                self._go_on()

        def result() -> Result:
            return function() if future.cancel() else future.result()

        return result

    def _go_on(self) -> None:
        """Hand the next one over. One at a time, so that slabs do not wait behind all of them."""
        from .slabs import workers

        self._running = None
        while self._waiting and self._running is None:
            future, function = self._waiting.popleft()
            if not future.cancelled():
                self._running = future
                workers(self._threads).submit(self._run, future, function)

    def _run(self, future: Future, function: Callable[[], object]) -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
        with self._lock:
            self._go_on()
