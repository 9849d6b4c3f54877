"""Exit codes, and progress on the terminal."""

from __future__ import annotations

import argparse
import sys
import time

EXIT_OK, EXIT_ERROR, EXIT_CANCELLED = 0, 1, 130


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The option of commands that run a model file."""
    parser.add_argument(
        "--trust-model",
        action="store_true",
        help="run a model file whose program does more than networks need; only if you trust who made it",
    )


class Progress:
    """Progress on the terminal: a bar where there is one, a line a stage where the output is piped."""

    def __init__(self, stream=None) -> None:
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._stage, self._drawn = "", 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def __call__(self, stage: str, fraction: float) -> None:
        if not self._bar:
            if stage != self._stage:
                print(f"{stage} ...", file=self._stream, flush=True)
        elif stage != self._stage or fraction >= 1.0 or time.monotonic() - self._drawn > 0.1:
            full = round(30 * fraction)
            self._stream.write(f"\r\033[K[{'#' * full}{'.' * (30 - full)}] {100 * fraction:3.0f} %  {stage}")
            self._stream.flush()
            self._drawn = time.monotonic()
        self._stage = stage
