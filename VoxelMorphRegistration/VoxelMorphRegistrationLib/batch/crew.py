"""The processes of a batch on this computer: started, asked, and told apart when one dies."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ..apart import find_python
from ..errors import VoxelMorphError
from . import sharing
from .pair import Pair
from .places import Places

# How long a process may take to end by itself, once its input ended.
PATIENCE_S = 2.0


class Member:
    """One process. pair: what it works at, None where it waits for one. spoke: whether it answered anything."""

    def __init__(self, places: Places, threads: int, trust_model: bool, events: queue.Queue) -> None:
        self.pair: Pair | None = None
        self.spoke = False
        # What it prints, for the reason where it dies.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [python(), str(Path(__file__).with_name("__main__.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=sharing.environment(threads),
            # Windows would open a console for each.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()
        self._send(root=str(places.root.absolute()), kept=list(places.kept), trust_model=trust_model)

    def do(self, pair: Pair) -> None:
        self.pair = pair
        self._send(pair=pair.to_dict())

    def go(self) -> None:
        self._send(go=True)

    def _send(self, **message: Any) -> None:
        assert self.process.stdin is not None
        # A process that is gone is told by the end of its output.
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _read(self, events: queue.Queue) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout:
                events.put((self, json.loads(line)))
        events.put((self, None))

    def why_ended(self) -> str:
        """In words, once it did."""
        code = self.process.wait()
        if code == -9:
            return "its process was killed, perhaps for want of memory (fewer --jobs need less)"
        text = f"its process ended by signal {-code}" if code < 0 else f"its process ended with code {code}"
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            text += f" ({lines[-1]})" if lines else ""
        return text

    def end(self) -> None:
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def gone(self, wait_s: float = PATIENCE_S) -> None:
        """Wait for its end after end(), and end it where it does not."""
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError, ValueError):
            self._log.close()


def python() -> str:
    """The Python to run: inside Slicer, sys.executable may be the application, and its Python is beside it."""
    executable = Path(sys.executable or "python")
    if executable.name.lower().startswith("python"):
        return str(executable)
    found = find_python([str(executable.parent), str(executable.parent.parent / "bin")], "")
    if found is not None:
        return found
    raise VoxelMorphError("The batch needs a Python to run, and none was found beside Slicer. Reinstall Slicer.")
