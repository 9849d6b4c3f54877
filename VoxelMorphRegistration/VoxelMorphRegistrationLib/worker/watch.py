"""The end of a server whose parent is gone, however busy the server is.

A thread of the server reads its input, and sees its end. But a model that never comes back from loading keeps
Python's lock, and no thread runs any more. So a second process looks at the input, too, without reading from it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

from . import files

# What a server needs to remove its files and leave by itself.
PATIENCE_S = 3.0


def end_with_input(folder: Path) -> None:
    """Watch over this process from now on. To be called before it has threads; folder: its files.

    Windows has no fork; there the processes are a family that the system itself ends (see family).
    """
    if sys.platform == "win32":
        return
    server = os.getpid()
    if os.fork() != 0:
        return
    try:
        _watch(server, folder)
    finally:
        os._exit(0)


def _watch(server: int, folder: Path) -> None:
    if sys.platform == "win32":
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(nothing, number)
    poll = select.poll()
    # No event is asked for: that the other end is closed is told anyway.
    poll.register(0, 0)
    while _lives(server):
        if poll.poll(1000):
            end = time.monotonic() + PATIENCE_S
            while _lives(server) and time.monotonic() < end:
                time.sleep(0.05)
            if _lives(server):
                os.kill(server, signal.SIGKILL)
            files.remove_folder(folder)
            return


def _lives(server: int) -> bool:
    """An orphan gets another parent."""
    return os.getppid() == server
