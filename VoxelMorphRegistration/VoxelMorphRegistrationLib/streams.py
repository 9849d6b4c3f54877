"""Standard streams that may be gone: nobody looks any more, and the work goes on."""

from __future__ import annotations

import contextlib
import os
from typing import TextIO


def give_up(stream: TextIO | None) -> None:
    """Let what is left in the stream's buffer go, so that Python's own flush at the end does not complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())  # type: ignore[union-attr]
        os.close(nothing)


class Terminal:
    """What is told while a command works. bar: whether a line can be drawn anew. stream: None is silent."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.bar = stream is not None and stream.isatty()

    @property
    def silent(self) -> bool:
        return self._stream is None

    def write(self, text: str) -> None:
        """Write at once; from the first failure on nothing is written any more."""
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            give_up(self._stream)
            self._stream, self.bar = None, False
