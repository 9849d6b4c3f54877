"""One process against several on one computer: pairs an hour, CPU seconds, and memory of a batch of brain pairs.

    python Testing/Benchmarks/batch_jobs.py --data DIR --pairs 1012:1013 1014:1015 -- --quality preview

DIR holds `1012_t1.nii.gz` and so on (fixed:moving). Each number of processes works in a folder of its own; the
processors are shared out among them. What follows `--` goes to `voxelmorph batch`. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def resident_bytes(pid: int) -> int:
    """Of a process and all below it, what they share counted once (proportional set size)."""
    total = 0
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return total
    return total + sum(resident_bytes(int(child)) for child in below)


def measured(table: Path, folder: Path, jobs: int, options: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in bytes of one batch."""
    command = [
        sys.executable,
        "-m",
        "VoxelMorphRegistrationLib",
        "batch",
        table,
        "-o",
        folder,
        "--jobs",
        jobs,
        *options,
    ]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "VoxelMorphRegistration")}
    environment.pop("OMP_NUM_THREADS", None)
    process = subprocess.Popen([*map(str, command)], env=environment)
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], resident_bytes(process.pid))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    if code:
        raise SystemExit(f"the batch ended with code {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu, peak[0]


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", required=True)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args(arguments[:split])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [[str((args.data / f"{one}_t1.nii.gz").resolve()) for one in pair.split(":")] for pair in args.pairs]
        (folder / "pairs.csv").write_text("fixed,moving\n" + "".join(f"{','.join(row)}\n" for row in rows))
        print("| processes | pairs an hour | wall s a pair | CPU s a pair | peak MB |\n|---|---|---|---|---|")
        for jobs in args.jobs:
            wall, cpu, peak = measured(folder / "pairs.csv", folder / str(jobs), jobs, arguments[split + 1 :])
            count = len(rows)
            print(
                f"| {jobs} | {3600 * count / wall:.0f} | {wall / count:.1f} | {cpu / count:.1f} | {peak / 1e6:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
