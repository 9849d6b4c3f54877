"""The command line's manners: signals, closed and broken streams, names that are no text, and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.commands.terminal import Progress, exit_code_of
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.registration.memory import too_little_memory
from VoxelMorphRegistrationLib.results import outputs

LIBRARY = str(Path(outputs.__file__).parents[2])


def shell(line: str) -> subprocess.CompletedProcess:
    """A line of the shell, where `voxelmorph` is the program."""
    program = f'"{sys.executable}" -m VoxelMorphRegistrationLib'
    environment = {**os.environ, "PYTHONPATH": LIBRARY}
    line = line.replace("voxelmorph", program)
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_end_is_what_ctrl_c_is(name, tmp_path, capsys, request):
    # Under nohup the tests themselves do not hear a closed terminal.
    number = getattr(signal, name)
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))

    def command():
        with outputs.reserved(tmp_path / "out") as place:
            (place.path / "half").write_text("written")
            os.kill(os.getpid(), number)
        return 0

    assert exit_code_of(command) == 130
    assert "Cancelled. Nothing was written." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_closed_terminal_does_not_end_what_nohup_started(request):
    request.addfinalizer(partial(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN)))

    def command():
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    assert exit_code_of(command) == 0


def test_a_full_standard_output_is_an_error_with_a_sentence():
    done = shell("voxelmorph models list > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "Error: The output could not be written: No space left on device.\n"


def test_a_closed_standard_output_disturbs_nothing(tmp_path):
    done = shell("voxelmorph models list >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_that_nobody_reads_ends_like_other_programs():
    done = shell("voxelmorph models describe general-3d | true; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 141) and done.stderr == ""
    code = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
    code += "import sys; from VoxelMorphRegistrationLib.__main__ import main; sys.exit(main(['models', 'list']))"
    environment = {**os.environ, "PYTHONPATH": LIBRARY}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_progress_goes_on_when_nobody_looks():
    class Broken:
        def isatty(self):
            return False

        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    with Progress(Broken()) as progress:
        progress("aligning", 0.0)
        progress("registering", 0.5)


def test_names_that_are_no_text_are_told(tmp_path, capsys):
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.nii")
    assert main(["register", odd, "b.nii", "-o", str(tmp_path / "out")]) == 1
    assert "caf\\udce9.nii is no valid UTF-8 text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate"),
        RuntimeError("Exception thrown in SimpleITK: std::bad_alloc"),
    ],
)
def test_running_out_of_memory_is_one_sentence(error, capsys):
    def command():
        raise error

    assert exit_code_of(command) == 1
    assert capsys.readouterr().err == f"Error: {too_little_memory()}\n"


def test_other_errors_of_the_program_are_not_hidden():
    def command():
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        exit_code_of(command)


def test_errors_of_the_library_are_told(capsys):
    def command():
        raise InputError("This is wrong.")

    assert exit_code_of(command) == 1
    assert capsys.readouterr().err == "Error: This is wrong.\n"
