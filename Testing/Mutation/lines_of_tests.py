"""pytest plugin: which lines of a room each test runs, and how long it takes, as JSON.

    MUTATION_LINES=map.json MUTATION_ROOM=VoxelMorphRegistration/... pytest -p lines_of_tests Testing/Python/fields

{"tests": {test: {"seconds": s, "passed": yes, "fixtures": [name, ...]}}, "lines": {file: {line: [test or fixture]}}}.
What a fixture of a whole file or session runs counts for every test that asks for it. Processes that a test starts
are not seen.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import coverage
import pytest

_room = Path(os.environ["MUTATION_ROOM"]).resolve()
_cover = coverage.Coverage(data_file=None, source=[str(_room)], config_file=False, messages=False)
_tests: dict[str, dict] = {}
_running = [""]


def pytest_sessionstart() -> None:
    _cover.start()
    _cover.switch_context("import")


def _switch(name: str) -> None:
    _running.append(name)
    _cover.switch_context(name)


def _back() -> None:
    _running.pop()
    _cover.switch_context(_running[-1] or "import")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    _tests[item.nodeid] = {"seconds": 0.0, "passed": True, "fixtures": sorted(item.fixturenames)}
    _switch(item.nodeid)
    yield
    _back()


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef):
    shared = fixturedef.scope != "function"
    if shared:
        _switch(f"fixture {fixturedef.argname}")
    yield
    if shared:
        _back()


def pytest_runtest_logreport(report) -> None:
    entry = _tests[report.nodeid]
    entry["seconds"] += report.duration
    entry["passed"] = entry["passed"] and report.passed


def pytest_sessionfinish() -> None:
    _cover.stop()
    data = _cover.get_data()
    lines = {
        Path(name).relative_to(_room).as_posix(): {
            str(line): sorted(set(contexts) - {"import", ""})
            for line, contexts in data.contexts_by_lineno(name).items()
        }
        for name in data.measured_files()
    }
    Path(os.environ["MUTATION_LINES"]).write_text(json.dumps({"tests": _tests, "lines": lines}))
