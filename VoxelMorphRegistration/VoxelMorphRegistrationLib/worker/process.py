"""One life of the worker process, as Qt sees it: started, watched, ended; every death becomes a plain sentence.

Qt here is PythonQt in Slicer and its stand-in in tests. Everything is driven by signals and timers: Python threads do
not run while Slicer's event loop waits.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import qt

from ..apart import find_python
from ..errors import VoxelMorphError
from . import files, messages
from .family import Family
from .messages import PrintedLine, ProtocolError, WorkerError

_TICKS = 10


def default_python() -> str:
    """The Python that belongs to this program. Raises WorkerError."""
    application = qt.QCoreApplication.applicationDirPath()
    folders = [application, str(Path(application).parent / "bin"), str(Path(sys.executable or ".").parent)]
    python = find_python(folders, sys.executable or "")
    if python is None:
        raise WorkerError(
            "The registration process needs Slicer's PythonSlicer, which was not found. Reinstall Slicer."
        )
    return python


class Slices:
    """Drives a generator by the event loop, a step at a time, so that the window stays alive.

    done(returned value) or failed(OSError, ValueError, MemoryError or ProtocolError) is called at its end, and neither
    after stop().
    """

    def __init__(self, generator: Generator[None, None, Any], done: Callable, failed: Callable) -> None:
        self._generator, self._done, self._failed = generator, done, failed
        self._stopped = False
        qt.QTimer.singleShot(0, self._step)

    def stop(self) -> None:
        self._stopped = True
        self._generator.close()

    def _step(self) -> None:
        if self._stopped:
            return
        try:
            next(self._generator)
        except StopIteration as end:
            self._done(end.value)
        except (OSError, ValueError, MemoryError, ProtocolError) as error:
            self._failed(error)
        else:
            qt.QTimer.singleShot(0, self._step)


class WorkerProcess:
    """A running server and the folder for its arrays.

    on_message(message) gets every message but hello and heartbeats, and may raise ProtocolError. on_log(text) gets
    what the process prints. on_end(error) is called once, when the process is gone and the folder removed; the error
    says why, and is None after kill(). start_s: how long it may be silent until it is ready (loading torch from a slow
    disk can silence even its heartbeats); silence_s: later. Raises WorkerError when there is no folder to work in.
    """

    def __init__(
        self,
        python: str,
        environment: dict[str, str],
        on_message: Callable[[dict], None],
        on_log: Callable[[str], None],
        on_end: Callable[[VoxelMorphError | None], None],
        start_s: float,
        silence_s: float,
    ) -> None:
        self._python = python
        self._on_message, self._on_log, self._on_end = on_message, on_log, on_end
        self._limit_s, self._silence_s = start_s, silence_s
        self._pid: int | None = None
        self._buffer = bytearray()
        self._printed: deque[str] = deque(maxlen=50)
        self._error: VoxelMorphError | None = None
        self.ending = False
        self._ticks = 0
        try:
            self._held = files.HeldFolder()
        except OSError as error:
            raise WorkerError(f"No folder for temporary files can be made ({error}). Free some disk space.") from error
        self.folder = self._held.path
        self._family = Family() if sys.platform == "win32" else None
        self._process = qt.QProcess()
        # What is printed comes as UTF-8, whatever the code page of Windows is.
        environment = {**environment, "PYTHONIOENCODING": "utf-8:backslashreplace"}
        self._process.setEnvironment([f"{key}={value}" for key, value in environment.items()])
        self._process.started.connect(self._on_started)
        self._process.readyReadStandardOutput.connect(self._on_output)
        self._process.readyReadStandardError.connect(self._on_printed)
        self._process.errorOccurred.connect(self._on_process_error)
        self._process.finished.connect(self._on_finished)
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._on_tick)

    @property
    def pid(self) -> int | None:
        """Of the server itself (its launcher may have another); None before it said hello."""
        return self._pid

    def start(self) -> None:
        self._watch(self._limit_s)
        main = Path(__file__).with_name("__main__.py")
        self._process.start(self._python, [str(main), str(self.folder), str(min(2.0, self._silence_s / 5))])

    def send(self, kind: str, request: int, /, **content) -> None:
        if not self.ending:
            self._process.write(messages.encode(kind, request, **content))

    def kill(self) -> None:
        """End the process and whatever it started, at once."""
        self.ending = True
        self._kill_tree()

    def fail(self, error: VoxelMorphError) -> None:
        """Kill the process; on_end gets the error."""
        if not self.ending:
            self._error = error
            self.kill()

    def end_now(self) -> None:
        """Kill, wait for the end (milliseconds) and remove the folder; on_end is not called. For Slicer's exit."""
        self._on_end = lambda error: None
        self.kill()
        if self._process.state() != qt.QProcess.NotRunning:
            self._process.waitForFinished(2000)
        self._timer.stop()
        self._let_go()
        files.remove_folder(self.folder)

    def _let_go(self) -> None:
        self._held.release()
        if self._family is not None:
            self._family.close()

    def _kill_tree(self) -> None:
        if self._process.state() == qt.QProcess.NotRunning:
            return
        if self._family is not None:
            self._family.kill()
        self._kill_group()
        self._process.kill()

    def _kill_group(self) -> None:
        """Kill the server's process group: the process that Qt knows may be only its launcher."""
        if self._pid is not None and sys.platform != "win32":
            try:
                os.killpg(self._pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                # Gone already; macOS says so with the latter for a process not yet waited for.
                return

    # --- slots ---

    def _on_started(self, *_) -> None:
        if self._family is not None:
            self._family.add(self._process.processId())

    def _on_output(self, *_) -> None:
        self._buffer += self._process.readAllStandardOutput().data()
        while not self.ending:
            line, found, rest = self._buffer.partition(b"\n")
            if not found:
                break
            self._buffer = rest
            self._receive(bytes(line))
        if len(self._buffer) > messages.MAX_LINE_BYTES:
            self.fail(garbage("a line without end"))

    def _receive(self, line: bytes) -> None:
        self._ticks = 0
        try:
            message = messages.decode(line)
            if message["type"] == "ready":
                self._watch(self._silence_s)
            if message["type"] == "hello":
                self._greet(message)
            elif message["type"] != "heartbeat":
                self._on_message(message)
        except PrintedLine as printed:
            self._print(str(printed))
        except ProtocolError as error:
            self.fail(garbage(error))

    def _print(self, line: str) -> None:
        self._printed.append(line)
        self._on_log(line)

    def _greet(self, message: dict) -> None:
        if message["pid"] < 2:
            raise ProtocolError("a process number that is none")
        self._pid = message["pid"]

    def _watch(self, seconds: float) -> None:
        """From now on, this many seconds of silence are the end."""
        self._limit_s, self._ticks = seconds, 0
        self._timer.start(int(1000 * seconds / _TICKS))

    def _on_printed(self, *_) -> None:
        text = self._process.readAllStandardError().data().decode(errors="replace")
        for line in text.splitlines():
            self._print(line)

    def _on_tick(self, *_) -> None:
        # Counted by ticks, not by the clock: when Slicer itself was busy, no message could be read.
        self._ticks += 1
        if self._ticks >= _TICKS:
            text = f"The registration process did not answer for {self._limit_s:g} seconds and was ended. Try again."
            self.fail(WorkerError(text))

    def _on_process_error(self, error) -> None:
        if error == qt.QProcess.FailedToStart:
            self._error = WorkerError(
                f"The registration process could not be started: {self._python} is missing or cannot be run. "
                "Reinstall Slicer, or choose another Python."
            )
            self._finish()

    def _on_finished(self, *_) -> None:
        self._on_printed()
        self._on_output()
        self._kill_group()
        if self._error is None and not self.ending:
            crashed = self._process.exitStatus() == qt.QProcess.CrashExit
            self._error = _death(self._process.exitCode(), crashed, list(self._printed))
        self._finish()

    def _finish(self) -> None:
        self.ending = True
        self._timer.stop()
        self._let_go()
        Slices(files.removing(self.folder), self._on_removed, self._on_removed)

    def _on_removed(self, *_) -> None:
        self._on_end(self._error)


def garbage(what: object) -> WorkerError:
    """The error for a process that sent what is no message."""
    return WorkerError(
        f"The registration process did not speak as it should: it sent {what}. It was ended; try again, and reinstall "
        "the extension if that does not help."
    )


def _death(code: int, crashed: bool, printed: list[str]) -> WorkerError:
    """Why the process ended by itself, from exit code or signal and what it printed.

    A shell reports the signal of its program as 128 and more; Slicer's launcher exits with 1 and says so in words.
    """
    number = code if crashed else code - 128 if 128 < code < 160 else None
    if number == 9 or (not crashed and any("exit abnormally" in line for line in printed)):
        return WorkerError(
            "The registration process was ended from outside, most likely because the memory ran out. Close other "
            "programs, crop the images or set a coarser working spacing, and try again."
        )
    if number is not None:
        return WorkerError(
            f"The registration process crashed (signal {number}). Try again, perhaps with the device 'cpu'; "
            "the log has the details."
        )
    last = next((line.strip() for line in reversed(printed) if line.strip()), "")
    why = f"exit code {code}: {last[:200]}" if last else f"exit code {code}"
    return WorkerError(f"The registration process ended unexpectedly ({why}). Try again.")
