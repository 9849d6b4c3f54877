"""Kills registrations at random moments: nothing may be lost, mixed, or left after the next run.

    python Testing/Fuzz/kills.py register [--kills 200] [--seed 0] [--seconds 500] [--record FILE]
    python Testing/Fuzz/kills.py worker [--kills 100] [--seed 0] [--seconds 500] [--record FILE]

register: two registrations whose files are known byte by byte are written in turn over each other into one folder,
and each run is killed. Afterwards, and after the next run looked at the folder, it holds all files of one of them.
worker: a client submits jobs whose process is killed; each job ends with one answer, the next one works, and no folder
of a worker is left.

With --record what was done is written down after each kill, and the next call goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("VoxelMorphRegistration", "Testing/Harness", "Testing/Python")]
REPORT = "report.json"


def _images(folder: Path) -> None:
    from VoxelMorphRegistrationLib.images.files import write_image
    from worker_cases import images

    for name, shift in (("a", 2), ("b", 3)):
        fixed, moving = images(shift)
        write_image(fixed, folder / "fixed.nii.gz")
        write_image(moving, folder / f"{name}.nii.gz")


def _register(folder: Path, name: str) -> int:
    from VoxelMorphRegistrationLib.__main__ import main

    arguments = ["register", folder / "fixed.nii.gz", folder / f"{name}.nii.gz", "-o", folder / "out", "--overwrite"]
    arguments += ["--model", folder / "model.pt", "--alignment", "none", "--refine", "off", "--device", "cpu"]
    return main([*map(str, arguments), *(["--inverse"] if name == "b" else [])])


def _state(out: Path) -> dict[str, str]:
    """What the folder holds: of each file a digest, of the report the name of the moving image."""
    found = {}
    for path in out.iterdir() if out.is_dir() else ():
        if path.name == REPORT:
            found[path.name] = Path(json.loads(path.read_text(encoding="utf-8"))["inputs"]["moving"]).name
        else:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Record:
    """What the kills of one kind came to, over several calls. left(): whether more are wanted, and there is time."""

    def __init__(self, what: str, kills: int, seconds: float, path: Path | None) -> None:
        self._what, self._kills, self._path = what, kills, path
        self._end = time.monotonic() + seconds
        self._all = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
        self.counts: dict[str, int] = self._all.setdefault(what, {"kills": 0})

    def left(self) -> bool:
        return self.counts["kills"] < self._kills and time.monotonic() < self._end

    def add(self, *endings: str) -> None:
        for name in ("kills", *endings):
            self.counts[name] = self.counts.get(name, 0) + 1
        if self._path:
            self._path.write_text(json.dumps(self._all), encoding="utf-8")

    def print(self, verdict: str) -> None:
        told = ", ".join(f"{name} {count}" for name, count in self.counts.items() if name != "kills")
        print(f"{self.counts['kills']} of {self._kills} kills of {self._what}: {told}; {verdict}")


def kill_register(record: Record, seed: int) -> None:
    """A child is forked for each run: the libraries are loaded once."""
    from small_models import save_centroid_model
    from VoxelMorphRegistrationLib.results import outputs

    moments = random.Random(seed + record.counts["kills"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _images(folder)
        save_centroid_model(folder / "model.pt")
        whole, seconds = {}, 0.0
        for each in ("a", "b"):
            start = time.monotonic()
            _wait(_start(folder, each))
            seconds = time.monotonic() - start
            whole[each] = _state(folder / "out")
        assert whole["a"] != whole["b"] and len(whole["b"]) == len(whole["a"]) + 1, "the two are not told apart"
        now = "b"
        number = 0
        while record.left():
            number += 1
            other = "a" if now == "b" else "b"
            child = _start(folder, other)
            # Half of the kills in the last quarter, where files are written and swapped.
            part = moments.uniform(0.7, 1.1) if number % 2 else moments.uniform(0, 1.1)
            time.sleep(part * seconds)
            os.kill(child, signal.SIGKILL)
            _wait(child)
            left = [path for path in (folder / "out").iterdir() if path.name.startswith(".voxelmorph")]
            # The next run looks at the folder first.
            outputs.check_folder(folder / "out", overwrite=True)
            state = _state(folder / "out")
            if state not in whole.values():
                raise SystemExit(f"kill {number}: the folder holds {sorted(state)}, mixed of two runs")
            ending = "new files" if state == whole[other] else "former files"
            record.add(ending, *(["something that the next run cleared away"] if left else []))
            now = other if state == whole[other] else now
    record.print("nothing lost, mixed or left.")


def _start(folder: Path, name: str) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (1, 2):
                os.dup2(nothing, number)
            code = _register(folder, name)
        finally:
            # Whatever happened: the folder is the parent's to remove.
            os._exit(code)
    return child


def _wait(child: int) -> None:
    os.waitpid(child, 0)


def kill_worker(record: Record, seed: int) -> None:
    import qt
    import worker_cases as cases
    from small_models import save_centroid_model
    from VoxelMorphRegistrationLib.registration.settings import Settings
    from VoxelMorphRegistrationLib.worker.client import WorkerClient
    from VoxelMorphRegistrationLib.worker.messages import Job

    moments = random.Random(seed + record.counts["kills"])
    with tempfile.TemporaryDirectory() as name:
        path = save_centroid_model(Path(name) / "model.pt")
        settings = Settings(model=str(path), alignment="none", refinement="off", device="cpu")
        client = WorkerClient()
        while record.left():
            run = cases.Run(client, Job(*cases.images(), settings))
            cases.spin(lambda: client.pid is not None, 300)
            pid = client.pid

            def kill(pid=pid) -> None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    return

            # Some while it starts, some while it works.
            if moments.random() < 0.5:
                cases.spin(lambda run=run: run.progress or run.outcomes, 300)
                qt.QTimer.singleShot(int(moments.uniform(0, 200)), kill)
            else:
                qt.QTimer.singleShot(int(moments.uniform(0, 6000)), kill)
            cases.spin(lambda run=run: run.outcomes, 300)
            assert len(run.outcomes) == 1, run.outcomes
            kill()
            cases.spin(lambda: client.state in ("off", "ready"), 300)
            record.add("jobs with a result" if run.kind == "result" else "jobs with a sentence")
        last = cases.Run(client, Job(*cases.images(), settings))
        cases.spin(lambda: last.outcomes, 300)
        assert last.kind == "result", last.value
        client.shutdown()
    left = cases.folders()
    if left:
        raise SystemExit(f"left: {left}")
    record.print("each job had one answer, the next process worked, and no folder is left.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("register", "worker"))
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="kill nothing any more after so many")
    parser.add_argument("--record", type=Path, help="file of what is done, to go on from")
    args = parser.parse_args()
    kill, kills = {"register": (kill_register, 200), "worker": (kill_worker, 100)}[args.what]
    kill(Record(args.what, args.kills or kills, args.seconds, args.record), args.seed)


if __name__ == "__main__":
    main()
