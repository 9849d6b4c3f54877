"""The command line's manners: exit codes, signals, closed streams, memory, and progress on the terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

from ..errors import Cancelled, InputError, VoxelMorphError
from ..registration.memory import is_out_of_memory, too_little_memory
from ..streams import Terminal, give_up

EXIT_OK, EXIT_ERROR, EXIT_CANCELLED = 0, 1, 130
# As a shell reports a program that wrote into a pipe nobody read any more.
EXIT_BROKEN_PIPE = 141


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The option of commands that run a model file."""
    parser.add_argument(
        "--trust-model",
        action="store_true",
        help="run a model file whose program does more than networks need; only if you trust who made it",
    )


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command; its errors become a sentence and an exit code."""
    try:
        with _ending_signals():
            code = command()
            if sys.stdout is not None:
                # What was printed arrives, or the exit code says that it did not.
                sys.stdout.flush()
            return code
    except Cancelled as error:
        return _told(str(error), EXIT_CANCELLED)
    except KeyboardInterrupt:
        return _told("\nCancelled. Nothing was written.", EXIT_CANCELLED)
    except VoxelMorphError as error:
        return _told(f"Error: {error}", EXIT_ERROR)
    except BrokenPipeError:
        give_up(sys.stdout)
        return EXIT_BROKEN_PIPE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _told(f"Error: {too_little_memory()}", EXIT_ERROR)
    except OSError as error:
        # What a command writes on its own account it guards itself: left are its printed lines and the machine.
        give_up(sys.stdout)
        what = f"{error.filename} cannot be used" if error.filename else "The output could not be written"
        return _told(f"Error: {what}: {error.strerror or error}.", EXIT_ERROR)


def _told(text: str, code: int) -> int:
    # Without a place to say it, the exit code alone does.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def _ending_signals() -> Iterator[None]:
    """Within it, a request to end (SIGTERM, a closed terminal) is what Ctrl-C is."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    former = {}
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        # Whoever starts a program with nohup ignores the closed terminal; and not in another thread than the main one.
        with contextlib.suppress(ValueError):
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                former[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def prepare_streams() -> None:
    """Standard streams that are closed stay unused: the first file opened would get their number, and C libraries
    would print into it. Names that are no UTF-8 can be printed.
    """
    with contextlib.suppress(OSError):
        while True:
            number = os.open(os.devnull, os.O_RDWR)
            if number > 2:
                os.close(number)
                break
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def check_names(arguments: list[str]) -> None:
    """Raise InputError for a file name that ITK and JSON cannot hold."""
    for text in arguments:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode(errors="backslashreplace").decode()
            raise InputError(f"The name {shown} is no valid UTF-8 text, which file formats need. Rename it.") from error


class Progress:
    """Progress on the terminal: a bar where there is one, a line a stage where the output is piped."""

    def __init__(self, stream=None) -> None:
        self._terminal = Terminal(stream or sys.stderr)
        self._stage, self._drawn = "", 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self._terminal.bar:
            self._terminal.write("\r\033[K")

    def __call__(self, stage: str, fraction: float) -> None:
        if not self._terminal.bar:
            if stage != self._stage:
                self._terminal.write(f"{stage} ...\n")
        elif stage != self._stage or fraction >= 1.0 or time.monotonic() - self._drawn > 0.1:
            full = round(30 * fraction)
            self._terminal.write(f"\r\033[K[{'#' * full}{'.' * (30 - full)}] {100 * fraction:3.0f} %  {stage}")
            self._drawn = time.monotonic()
        self._stage = stage
