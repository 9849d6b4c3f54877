"""What the panel talks to: a worker process kept warm, one registration at a time, everything by signals.

Every callback comes from the event loop, never from inside start(), submit() or cancel(). Of each submitted job
exactly one of on_result, on_error and on_cancelled is called, at its very end: its files are then gone, and the next
one can be submitted, from within the callback, too.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import qt

from ..errors import VoxelMorphError
from ..images.image import Image
from ..registration.result import Registration
from . import files, messages
from .messages import Job, ProtocolError, Task, WorkerError
from .process import Slices, WorkerProcess, default_python, garbage


def _nothing(*_) -> None:
    """The callback of who does not want to know."""


@dataclass(eq=False)
class _Request:
    """A submitted job. sent: the server has it; answered: the server is through with it."""

    number: int
    packed: dict
    arrays: dict
    on_result: Callable
    on_error: Callable
    on_cancelled: Callable
    on_progress: Callable
    on_log: Callable
    on_preview: Callable
    folder: Path | None = None
    slices: Slices | None = None
    preview: Slices | None = None
    preview_lost: bool = False
    written: bool = False
    sent: bool = False
    answered: bool = False
    cancelled: bool = False
    error: VoxelMorphError | None = None
    registration: Registration | None = None

    def report(self) -> None:
        """Call the one callback for how it ended."""
        if self.cancelled:
            self.on_cancelled()
        elif self.error is not None:
            self.on_error(self.error)
        else:
            self.on_result(self.registration)

    def stop(self) -> None:
        for slices in (self.slices, self.preview):
            if slices is not None:
                slices.stop()


class WorkerClient:
    """Runs registrations in a process of their own.

    python: the executable (None: Slicer's PythonSlicer, or the running Python). environment: variables added to those
    of this process. start_s: how long the process may be silent before it is ready; silence_s: later; cancel_s: how
    long a cancelled computation may go on before its process is killed.
    """

    def __init__(
        self,
        python: str | None = None,
        environment: dict[str, str] | None = None,
        *,
        start_s: float = 120.0,
        silence_s: float = 30.0,
        cancel_s: float = 0.4,
    ) -> None:
        self._python, self._environment = python, {**os.environ, **(environment or {})}
        self._limits = {"start_s": start_s, "silence_s": silence_s}
        self._cancel_s = cancel_s
        self._process: WorkerProcess | None = None
        self._facts: dict | None = None
        self._waiting: list[tuple[Callable, Callable]] = []
        self._request: _Request | None = None
        self._numbers = itertools.count(1)
        qt.QCoreApplication.instance().aboutToQuit.connect(self.shutdown)

    @property
    def state(self) -> str:
        """ "off", "starting", "ready", "running" or "cancelling"."""
        if self._request is not None:
            return "cancelling" if self._request.cancelled else "running"
        if self._process is None:
            return "off"
        return "starting" if self._facts is None else "ready"

    @property
    def facts(self) -> dict | None:
        """What the process found: {"versions": {"python", "torch"}, "devices": [{"name", "text"}, ...], with
        "memory" (a graphics card) or "arithmetic" (expected.network_arithmetic), "speed": {device: seconds of
        expected.probe_seconds}}, or None.
        """
        return self._facts

    @property
    def pid(self) -> int | None:
        """Of the process that computes, or None."""
        return self._process.pid if self._process else None

    def start(self, on_ready: Callable[[dict], None] = _nothing, on_error: Callable = _nothing) -> None:
        """Warm up: start the process, which loads torch. Calls on_ready(facts) or on_error(error) later.

        The error is a messages.TorchMissingError when PyTorch is missing. Neither is called after a shutdown().
        """
        self._waiting.append((on_ready, on_error))
        self._ensure_process()
        if self._facts is not None:
            qt.QTimer.singleShot(0, self._tell_waiting)

    def submit(
        self,
        job: Job | Task,
        on_result: Callable = _nothing,
        on_error: Callable[[VoxelMorphError], None] = _nothing,
        on_cancelled: Callable[[], None] = _nothing,
        on_progress: Callable[[str, float, float], None] = _nothing,
        on_log: Callable[[str], None] = _nothing,
        on_preview: Callable[[Image], None] = _nothing,
    ) -> int:
        """Register, or do a task; returns the number of the request. Starts the process if there is none.

        on_result(result): a Registration, or a Product where the job wants one, or what a task returns.
        on_progress(stage, fraction in 0..1, seconds since the start); on_log(line). on_preview(image): the moving image
        on the fixed grid as it is so far, where the job wants previews; one that comes while the former is still being
        read is passed over, and so is one that cannot be read, which the log tells. The job's arrays must not change
        until on_progress is called first. Raises WorkerError when a registration is running, InputError when an
        array does not hold numbers.
        """
        if self._request is not None:
            raise WorkerError("A registration is running. Wait for its end, or cancel it first.")
        arrays: dict = {}
        packed = messages.pack(job, arrays, "input")
        callbacks = on_result, on_error, on_cancelled, on_progress, on_log, on_preview
        request = _Request(next(self._numbers), packed, arrays, *callbacks)
        self._ensure_process()
        self._request = request
        if self._process is not None:
            request.slices = Slices(self._write(request), self._on_written, self._on_transfer_error)
        return request.number

    def cancel(self) -> None:
        """Cancel the running registration, if there is one; on_cancelled is called within a second."""
        request = self._request
        if request is None or request.cancelled:
            return
        request.cancelled = True
        if request.sent and not request.answered:
            self._server().send("cancel", request.number)
            qt.QTimer.singleShot(int(1000 * self._cancel_s), lambda: self._on_patience_gone(request))
        else:
            self._clear(request)

    def stop_here(self) -> None:
        """Let the running registration end with what it has; on_result is called with it. Before the process has begun
        with it, as cancel().
        """
        request = self._request
        if request is None or request.cancelled or request.answered:
            return
        if request.sent:
            self._server().send("stop", request.number)
        else:
            self.cancel()

    def shutdown(self, *_) -> None:
        """End the process at once and remove its files; takes milliseconds. A running job counts as cancelled.

        A later start() or submit() begins anew.
        """
        request, self._request = self._request, None
        process, self._process = self._process, None
        self._facts, self._waiting = None, []
        if request is not None:
            request.stop()
        if process is not None:
            process.end_now()
        if request is not None:
            request.on_cancelled()

    # --- the process ---

    def _ensure_process(self) -> None:
        process = self._process
        # One that is about to end still has to answer for its request.
        if process is not None and (self._request is not None or not process.ending):
            if self._request is not None or process.folder.is_dir():
                return
            # Its folder was cleared away with other temporary files: it could not answer any more.
            process.end_now()
        self._launch()

    def _launch(self) -> None:
        self._process, self._facts = None, None
        try:
            process = WorkerProcess(
                self._python or default_python(),
                self._environment,
                on_message=lambda message: self._on_message(process, message),
                on_log=lambda line: self._on_printed(process, line),
                on_end=lambda error: self._on_end(process, error),
                **self._limits,
            )
        except WorkerError as error:
            failed = error
            qt.QTimer.singleShot(0, lambda: self._on_end(None, failed))
            return
        self._process = process
        process.start()

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for on_ready, _ in waiting:
            on_ready(self._facts)

    def _on_end(self, process: WorkerProcess | None, error: VoxelMorphError | None) -> None:
        """The process is gone. Without an error it was us: the next one is warmed up."""
        if process is not self._process:
            return
        self._process, self._facts = None, None
        request, self._request = self._request, None
        if request is not None:
            request.stop()
            if request.registration is None and request.error is None:
                request.error = error
        if error is None:
            self._launch()
        else:
            waiting, self._waiting = self._waiting, []
            for _, on_error in waiting:
                on_error(error)
        if request is not None:
            request.report()

    def _on_printed(self, process: WorkerProcess, line: str) -> None:
        if process is self._process and self._request is not None:
            self._request.on_log(line)

    def _on_message(self, process: WorkerProcess, message: dict) -> None:
        if process is not self._process:
            return
        kind, request = message["type"], self._request
        if message["id"] == 0 and kind == "ready":
            self._facts = {name: message[name] for name in ("versions", "devices", "speed")}
            self._send()
            self._tell_waiting()
        elif message["id"] == 0 and kind == "error":
            process.fail(messages.error_from(message))
        elif request is None or not request.sent or request.answered or message["id"] != request.number:
            raise ProtocolError(f"a message '{kind}' that belongs to no request")
        elif kind == "progress":
            if not request.cancelled:
                request.on_progress(message["stage"], message["fraction"], message["seconds"])
        elif kind == "preview":
            self._on_preview(request, message["image"])
        elif kind == "log":
            for line in message["text"].splitlines():
                request.on_log(line)
        else:
            self._on_answer(request, message)

    # --- a request ---

    def _running(self) -> _Request:
        assert self._request is not None
        return self._request

    def _server(self) -> WorkerProcess:
        assert self._process is not None
        return self._process

    def _write(self, request: _Request) -> Generator[None, None, None]:
        request.folder = Path(tempfile.mkdtemp(prefix="job-", dir=self._server().folder))
        for name, array in request.arrays.items():
            yield from files.writing(request.folder / name, array)

    def _on_written(self, _) -> None:
        request = self._running()
        request.written, request.arrays = True, {}
        self._send()

    def _send(self) -> None:
        """Pass the request on once its files are written and the server is ready."""
        request = self._request
        if request is None or request.cancelled or not request.written or self._facts is None:
            return
        request.sent = True
        self._server().send("register", request.number, folder=str(request.folder), job=request.packed)

    def _on_answer(self, request: _Request, message: dict) -> None:
        """The server's last word on the request."""
        kind = message["type"]
        if kind not in ("result", "error") and not (kind == "cancelled" and request.cancelled):
            raise ProtocolError(f"the answer '{kind}', which was not asked for")
        error = messages.error_from(message) if kind == "error" else None
        request.answered = True
        if request.preview is not None:
            request.preview.stop()
        if type(error) is WorkerError:
            # After an unexpected error nothing in that process is sure any more.
            request.error = error
            self._server().kill()
        elif request.cancelled or error is not None:
            request.error = error
            self._clear(request)
        else:
            assert request.folder is not None
            reading = self._read(request.folder, message["registration"])
            request.slices = Slices(reading, self._on_read, self._on_transfer_error)

    def _on_preview(self, request: _Request, packed: dict) -> None:
        if request.cancelled or request.preview is not None:
            return

        def shown(image: Image) -> None:
            request.preview = None
            if not (request.cancelled or request.answered):
                request.on_preview(image)

        def lost(error: Exception) -> None:
            request.preview = None
            if isinstance(error, ProtocolError):
                self._on_transfer_error(error)
            elif not (request.preview_lost or request.cancelled or request.answered or self._server().ending):
                request.preview_lost = True
                request.on_log(f"A preview could not be read ({error}). The registration goes on without it.")

        assert request.folder is not None
        request.preview = Slices(self._read(request.folder, packed), shown, lost)

    @staticmethod
    def _read(folder: Path, packed: dict) -> Generator[None, None, Registration]:
        arrays = {}
        for name in messages.array_names(packed):
            arrays[name] = yield from files.reading(folder / name)
        return messages.unpack(packed, arrays.__getitem__)

    def _on_read(self, registration: Registration) -> None:
        request = self._running()
        request.registration = registration
        self._clear(request)

    def _on_transfer_error(self, error: Exception) -> None:
        process = self._server()
        if process.ending:
            # The files went with the process; why it went is said at its end.
            return
        if isinstance(error, ProtocolError):
            process.fail(garbage(error))
            return
        request = self._running()
        request.error = WorkerError(
            f"The images could not be passed to the registration process or back ({error}). "
            f"Free some memory, and some space in {process.folder.parent}, and try again."
        )
        self._clear(request)

    def _clear(self, request: _Request) -> None:
        """Remove the request's files, then report how it ended."""
        request.stop()
        if request.folder is None:
            qt.QTimer.singleShot(0, lambda: self._close(request))
        else:
            done = partial(self._close, request)
            Slices(files.removing(request.folder), done, done)

    def _close(self, request: _Request, *_) -> None:
        if request is self._request:
            self._request = None
            request.report()

    def _on_patience_gone(self, request: _Request) -> None:
        """The computation did not stop in time: end it with its process."""
        if request is self._request and not request.answered:
            self._server().kill()
