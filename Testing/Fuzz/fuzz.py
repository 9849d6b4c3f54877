"""Reads damaged and senseless files of every kind: each must end in a result or in a sentence of the library.

    python Testing/Fuzz/fuzz.py [--inputs 2000] [--seed 0] [--kinds cards settings ...]

A kind runs in a process of its own, with at most so much memory and so many seconds a file; what went wrong is told
with the file that did it, kept in the folder of --keep. Nothing but the file may lie in its folder afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "VoxelMorphRegistration")]

SECONDS, MEMORY = 20, 6 * 2**30


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

    check()
    return counts


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


def _one(name: str, inputs: int, seed: int, keep: Path) -> int:
    """A kind in this process. The file lies in `keep` while it is read, so that it is there after a crash."""
    warnings.simplefilter("ignore")
    _limit_memory()
    folder = keep / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    try:
        counts = fuzz(name, inputs, seed, folder)
    except Failure as failure:
        print(f"{name}: {failure}")
        return 1
    for path in folder.iterdir():
        path.unlink()
    total = sum(counts.values())
    print(
        f"{name:<20} {total:>6} files {counts['result']:>6} results {counts['sentence']:>6} sentences "
        f"{time.process_time() - start:>6.0f} CPU s"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", help="default: all")
    parser.add_argument("--keep", default=str(Path(tempfile.gettempdir()) / "voxelmorph-fuzz"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        return _one(args.kinds[0], args.inputs, args.seed, Path(args.keep))
    from kinds import kinds

    failed = 0
    for name in args.kinds or kinds():
        command = [sys.executable, __file__, "--here", "--kinds", name, "--inputs", str(args.inputs)]
        code = subprocess.run([*command, "--seed", str(args.seed), "--keep", args.keep], check=False).returncode
        if code:
            failed += 1
            print(f"{name}: failed with {code}; the file is in {args.keep}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
