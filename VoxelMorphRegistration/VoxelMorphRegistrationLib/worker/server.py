"""The process that runs registrations: reads requests from its input, writes replies to its output.

The main thread computes. A second one reads the input, so that a cancel is seen at the next progress report and the
end of the input (the parent died) ends this process at once; a third one sends heartbeats.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ..errors import Cancelled, VoxelMorphError
from ..networks.model import Model, load_model
from ..networks.shelf import find_model
from ..registration.device import choose_device
from ..registration.memory import is_out_of_memory, too_little_memory
from ..registration.progress import STOP_HERE
from ..registration.register import register
from ..registration.result import Preview
from ..results.written import Stored, product_of
from . import files, messages, watch
from .messages import Job, ProtocolError, Task, TorchMissingError, WorkerError

_PROGRESS_INTERVAL_S = 0.05
_TASKS: dict[str, Callable] = {"inverse": Stored.inverse, "overview": Stored.overview}


def main(arguments: list[str]) -> int:
    """arguments: the folder for arrays, removed at the end, and the seconds between heartbeats."""
    folder, heartbeat_s = Path(arguments[0]), float(arguments[1])
    if sys.platform != "win32" and os.getpgrp() != os.getpid():
        # A group of its own, so that it can be killed with whatever it may start.
        os.setsid()
    watch.end_with_input(folder)
    source, sink = _take_streams()
    faulthandler.enable()
    return Server(source, sink, folder).run(heartbeat_s)


def _take_streams():
    """Input and output for messages alone; what libraries print goes to the standard error."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def facts() -> dict:
    """Versions and devices, the one that "auto" takes first, with the free memory of a graphics card, and their speed
    and arithmetic (see expected.probe_seconds and network_arithmetic). Imports torch; raises TorchMissingError.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        raise TorchMissingError(f"Registration needs PyTorch, which cannot be loaded: {error}") from error
    count = torch.get_num_threads()
    from ..registration.expected import network_arithmetic, probe_seconds

    text = f"CPU, {count} thread{'s' if count > 1 else ''}"
    devices: list[dict] = [{"name": "cpu", "text": text, "arithmetic": network_arithmetic()}]
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "text": "Apple GPU (mps)"})
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        text = f"CUDA: {properties.name}, {properties.total_memory / 2**30:.0f} GB"
        devices.insert(0, {"name": "cuda", "text": text, "memory": int(torch.cuda.mem_get_info()[0])})
    speed = {one["name"]: probe_seconds(one["name"]) for one in devices if one["name"] != "mps"}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"versions": versions, "devices": devices, "speed": speed}


class Server:
    """Answers requests until its input ends. source, sink: binary streams. folder: removed at the end."""

    def __init__(self, source, sink, folder: Path) -> None:
        self._source, self._sink, self._folder = source, sink, folder
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._stopped: set[int] = set()
        self._kept: tuple[tuple, Model] | None = None

    def run(self, heartbeat_s: float) -> int:
        """Returns only when torch is missing."""
        threading.Thread(target=self._read, daemon=True).start()
        self._send("hello", pid=os.getpid())
        threading.Thread(target=self._beat, args=(heartbeat_s,), daemon=True).start()
        files.remove_stale_folders()
        try:
            found = facts()
        except TorchMissingError as error:
            self._send("error", **messages.error_content(error))
            return 1
        # The alignment's library, so that the first registration need not wait for it.
        import SimpleITK  # noqa: F401

        self._send("ready", **found)
        while True:
            message = self._requests.get()
            # Sent once nothing refers to the job's arrays: Windows does not remove files that are mapped.
            kind, content = self._answer(message)
            self._send(kind, message["id"], **content)

    # --- the other threads ---

    def _read(self) -> None:
        try:
            for line in self._source:
                message = messages.decode(line)
                if message["type"] == "cancel":
                    self._cancelled.add(message["id"])
                elif message["type"] == "stop":
                    self._stopped.add(message["id"])
                else:
                    self._requests.put(message)
        except ProtocolError as error:
            print(f"The worker received {error}.", file=sys.stderr, flush=True)
        self._leave()

    def _beat(self, seconds: float) -> None:
        while True:
            time.sleep(seconds)
            self._send("heartbeat")

    def _leave(self) -> None:
        """End now, whatever the other threads do."""
        files.remove_folder(self._folder)
        os._exit(0)

    def _send(self, kind: str, request: int = 0, /, **content) -> None:
        line = messages.encode(kind, request, **content)
        with self._lock:
            try:
                self._sink.write(line)
                self._sink.flush()
            except OSError:
                # Nobody listens any more.
                self._leave()

    # --- a registration ---

    def _answer(self, message: dict) -> tuple[str, dict]:
        """The last reply to a request: its type and content."""
        try:
            return "result", {"registration": self._register(message)}
        except Cancelled:
            return "cancelled", {}
        except VoxelMorphError as error:
            return "error", messages.error_content(error)
        except Exception as error:
            # The boundary of the process: what is not expected becomes a reply, too, and its traceback a log.
            if is_out_of_memory(error):
                self._free_memory()
                return "error", messages.error_content(too_little_memory())
            self._send("log", message["id"], text=traceback.format_exc())
            text = f"The registration failed unexpectedly ({type(error).__name__}: {error}). The log has the details."
            return "error", messages.error_content(WorkerError(text))

    def _register(self, message: dict):
        request, folder = message["id"], Path(message["folder"])
        loaded = {name: files.mapped(folder / name) for name in messages.array_names(message["job"])}
        job: Job | Task = messages.unpack(message["job"], loaded.__getitem__)
        progress = self._progress(request)
        result = self._done(job, request, progress, folder)
        arrays: dict = {}
        packed = messages.pack(result, arrays, "result")
        for name, array in arrays.items():
            for _ in files.writing(folder / name, array):
                progress("returning the result", 0.0)
        return packed

    def _done(self, job: Job | Task, request: int, progress, folder: Path):
        """The result of a job or a task."""
        if isinstance(job, Task):
            progress("computing", 0.0)
            return _TASKS[job.method](job.stored, *job.arguments)
        model = self._model(job, request, progress)
        preview = self._preview(request, folder) if job.previews else None
        result = register(job.fixed, job.moving, model, job.settings, progress, preview=preview, **job.keywords)
        if job.wanted is None:
            return result
        progress("returning the result", 0.0)
        return product_of(result, job.wanted)

    def _preview(self, request: int, folder: Path):
        """A callback that sends the moving image as it is so far, each in files of its own."""
        count = itertools.count()
        lost: list[OSError] = []

        def show(preview: Preview) -> None:
            arrays: dict = {}
            packed = messages.pack(preview.warped, arrays, f"preview-{next(count)}")
            try:
                for name, array in arrays.items():
                    for _ in files.writing(folder / name, array):
                        if request in self._cancelled:
                            raise Cancelled
            except OSError as error:
                for name in arrays:
                    with contextlib.suppress(OSError):
                        (folder / name).unlink()
                if not lost:
                    text = f"A preview could not be written ({error}). The registration goes on without it."
                    self._send("log", request, text=text)
                lost.append(error)
                return
            self._send("preview", request, image=packed)

        return show

    def _progress(self, request: int):
        """A callback that sends every stage but not every fraction, and cancels where asked to."""
        start, last = time.monotonic(), ("", 0.0)

        def report(stage: str, fraction: float) -> bool | str:
            nonlocal last
            now = time.monotonic()
            if stage != last[0] or fraction >= 1.0 or now - last[1] > _PROGRESS_INTERVAL_S:
                last = stage, now
                self._send("progress", request, stage=stage, fraction=float(fraction), seconds=now - start)
            if request in self._cancelled:
                return False
            return STOP_HERE if request in self._stopped else True

        return report

    def _model(self, job: Job, request: int, progress) -> Model | None:
        """The model that the settings name, loaded once for a file as it is and a device."""
        name = job.settings.model
        if name in ("none", "auto"):
            return None
        path = find_model(name)
        device = choose_device(job.settings.device)
        trust = bool(job.keywords.get("trust_model", False))
        key = path.resolve(), path.stat().st_mtime_ns, device, job.settings.precision, trust
        if self._kept is None or self._kept[0] != key:
            progress("loading the model", 0.0)
            self._kept = None
            self._kept = key, load_model(path, device, job.settings.precision, trust=trust)
            self._send("log", request, text=f"Loaded the model {path.name} on {device}.")
        return self._kept[1]

    def _free_memory(self) -> None:
        import torch

        self._kept = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
