"""Small faults put into the library one at a time, and whether the tests of their room notice.

    python Testing/Mutation/mutate.py images fields --count 50 --seed 1 --minutes 9

A sample by seed of the faults of faults.py over the rooms named. Each room's tests run once to learn which lines each
of them runs (lines_of_tests.py); a fault then meets only the tests that run its line, the fast ones first, until one
fails. A fault survives when all of them pass, or when there are none. What was found is added to log.jsonl in --state;
the same command goes on where it was cut. `--faults FILE` takes faults from a file of that form instead, for instance
survivors, or known_faults.jsonl. Works on a copy of the tree. Linux and macOS; needs `coverage`. Not part of CI.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from faults import Fault, faults, reached_by

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path("VoxelMorphRegistration/VoxelMorphRegistrationLib")
ROOMS = ("images", "fields", "registration", "refinement", "alignment", "mrml", "worker", "networks", "results")
# Imported once; each fault's tests run in a fork of this process.
HEAVY = (
    *("torch", "numpy", "SimpleITK", "h5py", "pydicom", "nibabel", "PIL.Image", "scipy.ndimage", "hypothesis", "tomli"),
    *("PySide6.QtWidgets", "slicer", "vtk.util.numpy_support", "xml.etree.ElementTree", "pytest"),
)
QUICK_S = 1.0


@dataclass(frozen=True)
class Outcome:
    outcome: str
    by: str = ""
    seconds: float = 0.0
    tests: int = 0


def copy_of_tree(state: Path) -> Path:
    """A copy of what git knows of the tree, with its files compiled; the last one when nothing has changed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted({name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()})
    names = [name for name in names if not name.startswith("Testing/Mutation/")]
    facts = [(name, (ROOT / name).stat().st_size, (ROOT / name).stat().st_mtime_ns) for name in names]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    tree, mark = state / "tree", state / "tree.digest"
    if mark.exists() and mark.read_text() == digest:
        for name in names:
            # A run that was cut leaves its fault.
            if (
                name.startswith(LIBRARY.as_posix())
                and (tree / name).stat().st_mtime_ns != (ROOT / name).stat().st_mtime_ns
            ):
                shutil.copy2(ROOT / name, tree / name)
        return tree
    mark.unlink(missing_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    # pytest keeps its own compiled form of the tests.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for words in (["compileall", "-q", str(LIBRARY)], ["pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]):
        subprocess.run(
            [sys.executable, "-m", *words], cwd=tree, env=environment, stdout=subprocess.DEVNULL, check=False
        )
    mark.write_text(digest)
    return tree


def tests_of(room: str) -> Path:
    return Path("Testing/Python") / room


class Map:
    """Which tests of a room run which lines."""

    def __init__(self, tree: Path, room: str, state: Path) -> None:
        self.tree, self.room = tree, room
        parts = sorted([*(tree / LIBRARY / room).rglob("*.py"), *(tree / tests_of(room)).rglob("*.py")])
        digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:12]
        path = state / f"{room}-{digest}.json"
        if not path.exists():
            self._collect(path)
        content = json.loads(path.read_text())
        self.tests, self.lines = content["tests"], content["lines"]
        broken = [name for name, test in self.tests.items() if not test["passed"]]
        if broken:
            print(f"{room}: these fail without a fault and are left out: {', '.join(broken)}", flush=True)
        self.tests = {name: test for name, test in self.tests.items() if test["passed"]}

    def _collect(self, path: Path) -> None:
        environment = {
            **os.environ,
            "MUTATION_LINES": str(path),
            "MUTATION_ROOM": str(LIBRARY / self.room),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "lines_of_tests"]
        subprocess.run([*command, str(tests_of(self.room))], cwd=self.tree, env=environment, check=False)

    def _running(self, file: str, lines) -> set[str]:
        table = self.lines.get(file, {})
        names = {name for line in lines for name in table.get(str(line), [])}
        shared = {name.removeprefix("fixture ") for name in names if name.startswith("fixture ")}
        return {name for name, test in self.tests.items() if name in names or shared & set(test["fixtures"])}

    def running(self, file: str, line: int) -> list[str]:
        """The tests that run what a fault of this line changes, in the order in which to try them.

        Processes that tests start are not seen, so the tests of the worker are all tried.
        """
        folder = self.tree / LIBRARY / self.room
        span, names = reached_by(ast.parse((folder / file).read_text()), line)
        if span is not None:
            found = self._running(file, span)
        else:
            found = set()
            for path in folder.rglob("*.py"):
                nodes = ast.walk(ast.parse(path.read_text()))
                said = [n.lineno for n in nodes if getattr(n, "id", getattr(n, "attr", None)) in names]
                found |= self._running(path.relative_to(folder).as_posix(), said)
            found = found or self._running(file, self.lines.get(file, {})) or set(self.tests)
        if self.room == "worker":
            found = set(self.tests)
        # A file's tests stay together, for what they share is made once; the slow ones wait for all quick ones.
        return sorted(
            found,
            key=lambda name: (self.tests[name]["seconds"] > QUICK_S, name.split("::")[0], self.tests[name]["seconds"]),
        )

    def within(self, tests: list[str], budget: float) -> list[str]:
        """Those of the tests that together take so many seconds; one at least."""
        kept, spent = [], 0.0
        for name in tests:
            spent += self.tests[name]["seconds"]
            if kept and spent > budget:
                break
            kept.append(name)
        return kept

    def seconds(self, tests: list[str]) -> float:
        return sum(self.tests[name]["seconds"] for name in tests)


def run_tests(tree: Path, tests: list[str], seconds: float) -> Outcome:
    """The tests in a fork of this process, until one fails. A run that takes longer than `seconds` is noticed, too."""
    scratch = tree.parent / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    begun, output = time.monotonic(), tree.parent / "output.txt"
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            # The file's own folder is not on the tests' path.
            sys.path[:] = [
                entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
            ]
            os.chdir(tree)
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
            import pytest

            code = pytest.main(
                ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
            )
            sys.stdout.flush()
            os._exit(int(code))
        finally:
            os._exit(70)
    status, late = None, False
    while status is None:
        done, found = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(found)
        elif time.monotonic() - begun > seconds:
            late = True
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = -signal.SIGKILL
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    took = round(time.monotonic() - begun, 1)
    if status == 0:
        return Outcome("survived", "", took, len(tests))
    said = output.read_text(errors="replace").splitlines()
    by = next((row for row in said if row.startswith(("FAILED", "ERROR"))), said[-1] if said else "")
    return Outcome("killed", "out of time" if late else by[:300], took, len(tests))


def known(rooms: list[str], count: int, seed: int) -> list[Fault]:
    every = [
        fault
        for room in rooms
        for path in sorted((ROOT / LIBRARY / room).rglob("*.py"))
        for fault in faults(path, path.relative_to(ROOT / LIBRARY).as_posix())
    ]
    print(f"{len(every)} faults in {', '.join(rooms)}", flush=True)
    random.Random(seed).shuffle(every)
    return every[:count]


def read(path: Path) -> list[dict]:
    return [json.loads(row) for row in path.read_text().splitlines() if row.strip()] if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--count", type=int, default=30, help="how many faults (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--faults", type=Path, help="a file of faults, those that were killed left out")
    parser.add_argument("--state", type=Path, default=ROOT / "runs/mutation", help="where log and maps are kept")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further fault after (default: 60)")
    parser.add_argument(
        "--budget", type=float, default=1e9, help="seconds of tests a fault meets at most, fast ones first"
    )
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.rooms) - set(ROOMS)):
        parser.error(f"no room {', '.join(unknown)}; there are {', '.join(ROOMS)}")
    begun = time.monotonic()
    state: Path = arguments.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    log = state / "log.jsonl"
    done = {Fault(**row["fault"]) for row in read(log)}
    if arguments.faults:
        rows = [row for row in read(arguments.faults) if row.get("outcome") != "killed"]
        wanted = [Fault(**row["fault"]) for row in rows]
    else:
        wanted = known(arguments.rooms or list(ROOMS[:7]), arguments.count, arguments.seed)
    left = [fault for fault in wanted if fault not in done]
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    tree = copy_of_tree(state)
    # Slicer's package looks for its further parts when it is imported, and the tests bring some.
    sys.path.insert(0, str(tree / "Testing/Harness"))
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            __import__(name)
    sys.path.pop(0)
    maps: dict[str, Map] = {}
    for fault in left:
        if time.monotonic() - begun > arguments.minutes * 60:
            break
        room, _, file = fault.file.partition("/")
        if room not in maps:
            maps[room] = Map(tree, room, state)
            check(tree, maps[room])
        outcome = meet(tree, fault, maps[room], file, arguments.budget)
        with log.open("a") as out:
            out.write(json.dumps({"fault": fault.to_dict(), **vars(outcome)}) + "\n")
        if outcome.outcome != "killed":
            print(f"{outcome.outcome}  {fault.file}:{fault.line}\n  - {fault.before}\n  + {fault.after}", flush=True)
    summary(log, wanted)
    return 0


def check(tree: Path, tests: Map) -> None:
    """A test of each file passes in a fork as well: what breaks there without a fault would count as noticed."""
    first: dict[str, str] = {}
    for name in sorted(tests.tests, key=lambda name: tests.tests[name]["seconds"]):
        first.setdefault(name.split("::")[0], name)
    found = run_tests(tree, list(first.values()), 600.0)
    if found.outcome != "survived":
        sys.exit(f"{tests.room}: without a fault, {found.by}")


def meet(tree: Path, fault: Fault, tests: Map, file: str, budget: float) -> Outcome:
    target = tree / LIBRARY / fault.file
    source, times = target.read_text(), (target.stat().st_atime_ns, target.stat().st_mtime_ns)
    applied = fault.applied(source)
    if applied is None:
        return Outcome("gone")
    line, changed = applied
    try:
        compile(changed, fault.file, "exec")
    except SyntaxError:
        return Outcome("gone")
    chosen = tests.within(tests.running(file, line), budget)
    if not chosen:
        return Outcome("survived, no test runs it")
    target.write_text(changed)
    try:
        return run_tests(tree, chosen, 60 + 4 * tests.seconds(chosen))
    finally:
        target.write_text(source)
        os.utime(target, ns=times)


def summary(log: Path, wanted: list[Fault]) -> None:
    """Counts a room, of the faults asked for."""
    counts: dict[str, Counter] = {}
    asked = set(wanted)
    for row in read(log):
        fault = Fault(**row["fault"])
        if fault in asked:
            counts.setdefault(fault.file.partition("/")[0], Counter())[row["outcome"].partition(",")[0]] += 1
    whole = sum(counts.values(), Counter())
    for room, count in [*sorted(counts.items()), ("together", whole)]:
        met = count["killed"] + count["survived"]
        print(f"{room}: {count['killed']} of {met} killed ({100 * count['killed'] / max(met, 1):.0f} %)")
    print(f"{len(wanted) - whole.total()} of {len(wanted)} are left to do")


if __name__ == "__main__":
    sys.exit(main())
