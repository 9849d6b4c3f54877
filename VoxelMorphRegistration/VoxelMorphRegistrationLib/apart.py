"""Reading a stranger's file by a library that a damaged one makes crash, or run for ever: in a process of its own.

libhdf5 has both faults, and no alarm ends C code. The process is a bare Python with a limit of time, kept by a thread
of C in it, so that it also ends after its parent is gone. It needs no torch, and takes .3 s, most of it to import
numpy and SimpleITK.

pyfive, which reads HDF5 in Python, is no way around it: version 1.3 takes 3 GB for 6 kB that are deflated twice, does
not come back from an object header of 12 kB that goes on in itself, and needs C code of its own (numcodecs), numpy 2
and Python 3.11.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import errors
from .errors import InputError, VoxelMorphError

# Of a damaged file of some kilobytes; and of a whole one, on a slow disk, for each byte.
SECONDS, SECONDS_A_BYTE = 30.0, 1e-6
_CODE = "import sys; sys.path[0] = sys.argv[1]; from VoxelMorphRegistrationLib.apart import serve; serve()"
Reader = Callable[[Path], tuple[Any, list[np.ndarray]]]


def call(reader: Reader, path: Path, error: type[VoxelMorphError] = InputError) -> tuple[Any, list[np.ndarray]]:
    """reader(path), in a process of its own: what it returns, a value for JSON and arrays.

    reader: a function of a module of this library. Raises what it raises where that is an error of the library, and
    `error` when the process crashes, or is not through with the file in time.
    """
    executable = Path(sys.executable or ".")
    # The running Python knows the same libraries; inside an application there is the one beside it.
    is_python = executable.name.lower().startswith("python")
    python = str(executable) if is_python else find_python([str(executable.parent)], "")
    if python is None:
        raise error(f"Reading {path.name} needs Slicer's PythonSlicer, which was not found. Reinstall Slicer.")
    try:
        seconds = SECONDS + SECONDS_A_BYTE * path.stat().st_size
        arguments = [str(Path(__file__).parents[1]), reader.__module__, reader.__qualname__, str(path), str(seconds)]
        # Slicer's plug-ins for ITK, named by its launcher, crash SimpleITK outside of Slicer (its issue 8947).
        environment = {name: value for name, value in os.environ.items() if name != "ITK_AUTOLOAD_PATH"}
        process = subprocess.Popen(
            [python, "-c", _CODE, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as failed:
        raise error(f"{path.name} cannot be read: no process can be started for it ({failed}).") from failed
    try:
        assert process.stdout is not None
        with process.stdout:
            return received(process.stdout, path, error)
    finally:
        process.kill()
        process.wait()


def find_python(folders: list[str], executable: str) -> str | None:
    """The Python to run: Slicer's own in one of `folders` or on the PATH, else `executable` if it is a Python.

    python-real before PythonSlicer: Slicer's environment is set already, and a launcher in between might keep the
    standard input to itself and outlive its child. Inside an application, sys.executable may be the application itself.
    """
    suffix = ".exe" if sys.platform == "win32" else ""
    for name in (f"python-real{suffix}", f"PythonSlicer{suffix}"):
        for folder in folders:
            if os.access(Path(folder) / name, os.X_OK):
                return str(Path(folder) / name)
        found = shutil.which(name)
        if found:
            return found
    return executable if Path(executable).name.lower().startswith("python") else None


def received(stream: IO[bytes], path: Path, error: type[VoxelMorphError]) -> tuple[Any, list[np.ndarray]]:
    """What `answer` wrote. Raises the reader's error, and `error` when the answer is not whole."""
    try:
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        message = json.loads(line)
        if "error" in message:
            raise getattr(errors, message["error"])(message["text"])
        arrays = [np.empty(shape, kind) for kind, shape in message["arrays"]]
        for array in arrays:
            rest = array.reshape(-1).view(np.uint8).data
            while rest:
                count = stream.readinto(rest)  # type: ignore[attr-defined]
                if not count:
                    raise EOFError
                rest = rest[count:]
    except EOFError:
        raise error(
            f"{path.name} cannot be read: it is damaged in a way that makes its reader crash, or work without an end."
        ) from None
    return message["value"], arrays


def answer(reader: Reader, path: Path, stream: IO[bytes]) -> None:
    """Write what the reader returns or raises: a line of JSON, and the bytes of the arrays."""
    arrays: list[np.ndarray] = []
    try:
        value, arrays = reader(path)
        arrays = [np.ascontiguousarray(array) for array in arrays]
        message = {"value": value, "arrays": [(array.dtype.str, array.shape) for array in arrays]}
    except VoxelMorphError as error:
        message = {"error": type(error).__name__, "text": str(error)}
    except ImportError as error:
        text = f"{path.name} cannot be read here: the package {error.name or error} is missing. Install it with pip."
        message = {"error": "InputError", "text": text}
    stream.write(json.dumps(message).encode() + b"\n")
    for array in arrays:
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def serve() -> None:
    """The process: folder of the library, module, function, path and seconds are its arguments."""
    _, module, function, path, seconds = sys.argv[1:]
    # Ends the process whatever code it is in; an alarm in Python would wait for the C code's end.
    nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115 - it is needed to the very end
    faulthandler.dump_traceback_later(float(seconds), exit=True, file=nowhere)
    with contextlib.suppress(OSError):
        # Where Linux has to end a process for want of memory, it is to be this one.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # What libraries print is not part of the answer.
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answer(lambda path: getattr(importlib.import_module(module), function)(path), Path(path), stream)
    # Without the libraries' own end, which a damaged file may have spoilt.
    os._exit(0)
