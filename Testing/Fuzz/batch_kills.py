"""Kills of batches at random moments: at the end every pair is there whole, exactly once, and nothing else.

    python Testing/Fuzz/batch_kills.py [--kills 50] [--seed 0]

Two batches and one of Dask with two workers work at one folder; processes of theirs, whole batches, and Dask workers
are killed. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("VoxelMorphRegistration", "Testing/Python", "Testing/Python/batch")]

_DASK = """
import sys
sys.path[:0] = {paths!r}
from distributed import LocalCluster
from VoxelMorphRegistrationLib import Settings, batch
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        settings = Settings.from_json(open({settings!r}).read())
        with cluster.get_client() as client:
            batch.run({table!r}, {out!r}, settings=settings, keep=["transform"], dask=client)
"""


def kill_batch(kills: int, seed: int) -> None:
    """Kills at random moments, a third each of a process, of a whole batch, and of a Dask worker."""
    from batch_cases import quick, whole, write_blobs, write_table
    from small_models import save_centroid_model

    moments = random.Random(seed)
    killed = {"process": 0, "batch": 0, "Dask worker": 0}
    runs: dict[str, subprocess.Popen | None] = {"a": None, "b": None, "dask": None}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        stack.callback(lambda: [_end(run) for run in runs.values() if run is not None])
        folder = Path(name)
        out = folder / "out"
        settings = quick(save_centroid_model(folder / "model.pt"))
        (folder / "settings.json").write_text(settings.to_json())
        fixed, *moving = write_blobs(folder, 20)
        count = 0
        dask = folder / "dask_batch.py"
        paths = [str(ROOT / part) for part in ("VoxelMorphRegistration", "Testing/Python")]
        table = folder / "pairs.csv"
        texts = {"settings": str(folder / "settings.json"), "table": str(table), "out": str(out)}
        dask.write_text(_DASK.format(paths=paths, **texts))
        command = [sys.executable, "-m", "VoxelMorphRegistrationLib", "batch", str(table), "-o", str(out)]
        command += ["--settings", str(folder / "settings.json"), "--keep", "transform", "--jobs", "1"]
        rows: list[dict] = []
        while sum(killed.values()) < kills:
            # There is always work: the table grows, and whoever ended starts again.
            if not rows or len(list(out.glob("pairs/*/job.json"))) > len(rows) - 20:
                rows += [{"id": f"{count + n:04}", "fixed": fixed, "moving": m} for n, m in enumerate(moving)]
                count = len(rows)
                write_table(table, rows)
            for kind in runs:
                runs[kind] = _running(runs[kind], [sys.executable, str(dask)] if kind == "dask" else command)
            time.sleep(moments.uniform(0.2, 6.0))
            kind = moments.choice(list(runs))
            run = runs[kind]
            assert run is not None
            inner = _below(run.pid)
            if kind == "dask":
                workers = [pid for pid in inner if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
                what, victim = "Dask worker", moments.choice(workers) if workers else None
            elif inner and moments.random() < 0.5:
                what, victim = "process", inner[-1]
            else:
                what, victim = "batch", run.pid
            if victim is not None and run.poll() is None:
                os.kill(victim, signal.SIGKILL)
                killed[what] += 1
                print(f"{sum(killed.values())}: {what}, {len(list(out.glob('pairs/*/job.json')))} pairs", flush=True)
        for run in runs.values():
            assert run is not None
            _end(run)
        done = subprocess.run([*command, "--retry"], env=_environment(), capture_output=True, text=True, check=False)
        state = whole(out, {"transform.h5"})
        failed = {path.name: path.read_text() for path in (out / "failed").iterdir()}
        if done.returncode or len(state) != len(rows) or not all(state.values()) or failed:
            raise SystemExit(
                f"{done.stderr}\n{len(state)} of {len(rows)} pairs; not whole: {[n for n in state if not state[n]]}; "
                f"failed: {failed}; exit status {done.returncode}"
            )
    told = ", ".join(f"{number} of a {what}" for what, number in killed.items())
    print(f"{kills} kills ({told}): each of {len(rows)} pairs is there once and whole, and nothing else is left.")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "VoxelMorphRegistration")}


def _running(run: subprocess.Popen | None, command: list[str]) -> subprocess.Popen:
    if run is not None and run.poll() is None:
        return run
    if run is not None:
        _end(run)
    return subprocess.Popen(
        command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _below(pid: int) -> list[int]:
    """All processes that one has started, from any of its threads (Dask has its own), and those that these have."""
    own: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            own += [int(child) for child in task.read_text().split()]
    return [*own, *(other for child in own for other in _below(child))]


def _end(run: subprocess.Popen) -> None:
    """All of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Whoever ends this ends all of it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kill_batch(args.kills, args.seed)


if __name__ == "__main__":
    main()
