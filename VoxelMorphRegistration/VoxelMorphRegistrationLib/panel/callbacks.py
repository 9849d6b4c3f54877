"""What a run tells whoever started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _nothing(*_unused) -> None:
    return None


@dataclass
class Callbacks:
    """Exactly one of finished(outputs), error(error) and cancelled() is called at a run's end, from the event loop.

    Before it, progress(stage, fraction, seconds), log(line), and preview(image) with the moving image on the fixed grid
    as it improves; without the latter none are made.
    """

    finished: Callable = _nothing
    error: Callable = _nothing
    cancelled: Callable = _nothing
    progress: Callable = _nothing
    log: Callable = _nothing
    preview: Callable | None = None

    def silence(self) -> None:
        """Call nothing any more."""
        self.finished = self.error = self.cancelled = self.progress = self.log = _nothing
        self.preview = None
