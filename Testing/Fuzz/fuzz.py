"""Reads damaged and senseless files of every kind: each must end in a result or in a sentence of the library.

    python Testing/Fuzz/fuzz.py [--inputs 2000] [--seed 0] [--kinds cards settings ...]

A kind runs in slices, each in a process of its own, with at most so much memory and so many seconds a file; what went
wrong is told with the file that did it, kept in the folder of --keep. Nothing but the file may lie in its folder
afterwards. What is done is written down there: the next call goes on, and repeats the slices that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "VoxelMorphRegistration")]

SECONDS, MEMORY, SLICE = 40, 6 * 2**30, 1000


class TooSlow(BaseException):
    """A file took longer than it may."""


class Failure(AssertionError):
    """What went wrong with a file."""


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> dict[str, int]:
    """Read so many files of a kind; how many gave a result and how many a sentence. Raises Failure."""
    import hypothesis
    from kinds import kinds

    from VoxelMorphRegistrationLib.errors import VoxelMorphError

    kind = kinds()[name]
    path = folder / f"input{kind.ending}"
    counts = {"result": 0, "sentence": 0}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(kind.content)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        with _within(SECONDS):
            try:
                kind.read(path)
                counts["result"] += 1
            except VoxelMorphError as error:
                counts["sentence"] += 1
                if not str(error).strip() or len(str(error)) > 2000:
                    raise Failure(f"a sentence of {len(str(error))} characters") from error
            except TooSlow as error:
                raise Failure(f"no end within {SECONDS} s") from error
            except Exception as error:
                raise Failure("".join(traceback.format_exception(error)[-3:])) from error
        left = sorted(p.name for p in folder.iterdir() if p != path)
        if left:
            raise Failure(f"left files: {left}")

    with forked_readers():
        check()
    return counts


@contextlib.contextmanager
def forked_readers():
    """Where the library starts a process for a file, copy this one instead: that takes a hundredth of the time."""
    from VoxelMorphRegistrationLib import apart
    from VoxelMorphRegistrationLib.errors import InputError

    def call(reader, path, error=InputError):
        source, target = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(source)
            faulthandler.dump_traceback_later(5, exit=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
            with contextlib.suppress(BaseException), os.fdopen(target, "wb") as stream:
                apart.answer(reader, path, stream)
            os._exit(0)
        os.close(target)
        try:
            with os.fdopen(source, "rb") as stream:
                return apart.received(stream, path, error)
        finally:
            os.waitpid(child, 0)

    started = apart.call
    if hasattr(os, "fork"):
        apart.call = call
    try:
        yield
    finally:
        apart.call = started


@contextlib.contextmanager
def _within(seconds: int):
    """Raise TooSlow after so many seconds, where the system has such an alarm."""

    def ring(*_):
        raise TooSlow

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    former = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _one(name: str, inputs: int, seed: int, folder: Path) -> int:
    """A slice of a kind in this process. The file lies in `folder` while it is read: it is there after a crash."""
    warnings.simplefilter("ignore")
    _limit_memory()
    start = time.process_time()
    try:
        counts = fuzz(name, inputs, seed, folder)
    except Failure as failure:
        print(f"{name}: {failure}")
        return 1
    print(json.dumps({**counts, "cpu_seconds": round(time.process_time() - start, 1)}))
    return 0


def _slice(name: str, number: int, inputs: int, args: argparse.Namespace) -> dict:
    """A slice of a kind in a process of its own, ended when a file takes too long in code that no alarm can end."""
    folder = Path(args.keep) / f"{name.replace(' ', '-')}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seed = args.seed * 1000 + number
    command = [sys.executable, __file__, "--here", "--kinds", name, "--inputs", str(inputs), "--seed", str(seed)]
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen([*command, "--keep", str(folder)], stdout=output, stderr=subprocess.STDOUT)
        while True:
            try:
                code = child.wait(1)
                break
            except subprocess.TimeoutExpired:
                since = max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
                if since and time.time() - since > 3 * SECONDS:
                    child.kill()
                    code = f"{child.wait()} (no end within {3 * SECONDS} s)"
                    break
            except BaseException:
                child.kill()
                raise
        output.seek(0)
        text = output.read().strip()
    if code == 0:
        shutil.rmtree(folder)
        return json.loads(text.splitlines()[-1])
    return {"failed": str(code), "file": str(folder), "text": text[-1500:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", help="default: all")
    parser.add_argument("--keep", default=str(Path(tempfile.gettempdir()) / "voxelmorph-fuzz"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no slice after so many seconds")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        return _one(args.kinds[0], args.inputs, args.seed, Path(args.keep))
    from kinds import kinds

    begin = time.monotonic()
    record = Path(args.keep) / f"slices-{args.seed}.json"
    done = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    record.parent.mkdir(parents=True, exist_ok=True)
    wanted = [(n, name) for n in range(-(-args.inputs // SLICE)) for name in args.kinds or kinds()]
    for number, name in wanted:
        key = f"{name} {number}"
        if "result" in done.get(key, {}):
            continue
        if time.monotonic() - begin > args.seconds:
            break
        done[key] = _slice(name, number, min(SLICE, args.inputs - number * SLICE), args)
        record.write_text(json.dumps(done, indent=1), encoding="utf-8")
        if "failed" in done[key]:
            print(f"{key}: failed with {done[key]['failed']}; {done[key]['file']}\n{done[key]['text']}", flush=True)
    return _told(args.kinds or list(kinds()), done)


def _told(names: list[str], done: dict[str, dict]) -> int:
    """Print what each kind came to; 1 where anything failed."""
    failed = 0
    for name in names:
        slices = [value for key, value in done.items() if key.rpartition(" ")[0] == name]
        good = [value for value in slices if "result" in value]
        failed += len(slices) - len(good)
        results, sentences = (sum(value[what] for value in good) for what in ("result", "sentence"))
        print(
            f"{name:<20} {results + sentences:>6} files {results:>6} results {sentences:>6} sentences "
            f"{sum(value['cpu_seconds'] for value in good):>6.0f} CPU s {len(slices) - len(good):>3} slices failed"
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
