"""Programs that are no worker: each is one sentence, and the client is ready for the next one."""

from __future__ import annotations

import textwrap

import pytest

import worker_cases as cases
from VoxelMorphRegistrationLib import errors
from VoxelMorphRegistrationLib.worker.messages import Job, TorchMissingError, WorkerError

SPEAK = """
import json, os, sys, time
def say(**content):
    sys.stdout.write(json.dumps({"version": 1, "id": 0, **content}) + "\\n")
    sys.stdout.flush()
say(type="hello", pid=os.getpid())
"""
WAIT = "\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (SPEAK + "say(type='ready', version=2)" + WAIT, "version 2 instead of 1"),
        (SPEAK + "say(type='progress', id=77, stage='x', fraction=0, seconds=0)" + WAIT, "belongs to no request"),
        (SPEAK + "say(type='dance')" + WAIT, "unknown type 'dance'"),
        (SPEAK + "say(type='ready')" + WAIT, "without a proper 'versions'"),
        (SPEAK + "sys.stdout.write('x' * 9_000_000); sys.stdout.flush()" + WAIT, "a line without end"),
        ("import sys; print('{\"version\": 1', end='', flush=True); sys.exit(3)", "exit code 3"),
        ("import sys; sys.exit('libfoo is missing')", "exit code 1: libfoo is missing"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("import os; os._exit(137)", "memory ran out"),
        ("import sys; sys.exit('[python-real] exit abnormally - Report the problem.')", "memory ran out"),
    ],
)
def test_wrong_programs_are_one_sentence(make_client, write_program, quick, program, sentence):
    client = make_client(python=write_program(program))
    failed = []
    client.start(pytest.fail, failed.append)
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert (run.kind, type(run.value)) == ("error", WorkerError)
    assert sentence in str(run.value)
    assert failed == [run.value]
    assert client.state == "off"


def test_answers_to_the_wrong_request_are_refused(make_client, write_program, quick):
    program = SPEAK + textwrap.dedent("""
        say(type="ready", versions={}, devices=[], speed={})
        number = json.loads(sys.stdin.readline())["id"]
        say(type="cancelled", id=number + 1)
        time.sleep(60)
    """)
    run = cases.Run(make_client(python=write_program(program)), Job(*cases.images(), quick)).wait()
    assert "belongs to no request" in str(run.value)


@pytest.mark.parametrize("name", ["../../etc/passwd.npy", "missing.npy", "C:x.npy"])
def test_results_in_other_places_are_refused(make_client, write_program, quick, name):
    program = SPEAK + textwrap.dedent(f"""
        say(type="ready", versions={{}}, devices=[], speed={{}})
        number = json.loads(sys.stdin.readline())["id"]
        say(type="result", id=number, registration={{"npy": {name!r}}})
        time.sleep(60)
    """)
    run = cases.Run(make_client(python=write_program(program)), Job(*cases.images(), quick)).wait()
    assert (run.kind, type(run.value)) == ("error", WorkerError)
    assert name in str(run.value)


def test_program_that_says_nothing_is_given_up(make_client, write_program):
    client = make_client(python=write_program("import time; time.sleep(60)"), start_s=0.5)
    failed = []
    client.start(pytest.fail, failed.append)
    cases.spin(lambda: failed)
    assert "did not answer for 0.5 seconds" in str(failed[0])


def test_worker_does_not_load_slicers_plugins(make_client, quick, tmp_path):
    told = 'raise ImportError(f\'{os.environ.get("ITK_AUTOLOAD_PATH")} and {os.environ["KEPT"]}\')'
    (tmp_path / "torch.py").write_text(f"import os\n{told}\n")
    client = make_client(
        environment={"PYTHONPATH": str(tmp_path), "ITK_AUTOLOAD_PATH": "/slicer/plugins", "KEPT": "others are kept"}
    )
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert "None and others are kept" in str(run.value)


def test_missing_python_is_one_sentence(make_client, quick, tmp_path):
    client = make_client(python=str(tmp_path / "python-of-nobody"))
    run = cases.Run(client, Job(*cases.images(), quick))
    assert run.outcomes == []
    run.wait()
    assert "python-of-nobody is missing or cannot be run" in str(run.value)


def test_missing_torch_has_its_own_error_and_prints_do_not_garble(make_client, quick, tmp_path):
    (tmp_path / "torch.py").write_text(
        "import os\nprint('noise', flush=True)\nos.write(1, b'more noise')\nraise ImportError('no torch here')\n"
    )
    client = make_client(environment={"PYTHONPATH": str(tmp_path)})
    run = cases.Run(client, Job(*cases.images(), quick)).wait()
    assert type(run.value) is TorchMissingError
    assert "no torch here" in str(run.value)
    assert "noise" in run.log
    assert client.state == "off"


def test_what_is_printed_before_the_first_message_is_a_line_of_the_log(make_client, write_program, quick):
    program = "print('Welcome!', flush=True)\nprint('[1, 2]', flush=True)\n" + SPEAK
    program += textwrap.dedent("""
        say(type="ready", versions={}, devices=[], speed={})
        number = json.loads(sys.stdin.readline())["id"]
        print("a line of a library")
        say(type="error", id=number, kind="InputError", text="answered")
        time.sleep(60)
    """)
    run = cases.Run(make_client(python=write_program(program)), Job(*cases.images(), quick)).wait()
    assert (type(run.value), str(run.value)) == (errors.InputError, "answered")
    assert run.log == ["Welcome!", "[1, 2]", "a line of a library"]
