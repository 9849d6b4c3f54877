"""Thousands of tiny pairs through `batch.run`: cost of a pair and memory from the first hundreds to the last.

    python Testing/Benchmarks/batch_scale.py --pairs 10000 --folder DIR [--seconds 500]

Images of 12 voxels a side and a network of known answer, so that what is measured is the batch. The folder keeps what
is done: a run that ends early (--seconds) goes on when it is started again. Every 100 pairs a line goes to
DIR/rows.csv: pairs done, CPU seconds (user and system) and wall seconds a pair, and the resident memory in MB of the
batch and of each of its processes. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("VoxelMorphRegistration", "Testing/Python", "Testing/Python/batch")]

from batch_cases import quick, write_blobs  # noqa: E402
from small_models import save_centroid_model  # noqa: E402
from VoxelMorphRegistrationLib.batch import run  # noqa: E402
from VoxelMorphRegistrationLib.errors import Cancelled  # noqa: E402

EVERY, IMAGES = 100, 40
_TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int | str = "self") -> list[Path]:
    """/proc folders of this process and its children."""
    own = Path(f"/proc/{pid}").resolve()
    children = (own / "task" / own.name / "children").read_text().split()
    return [own, *(Path(f"/proc/{child}") for child in children)]


def cpu_seconds() -> float:
    """User and system seconds of those alive, and of those that this process waited for."""
    total = 0.0
    for number, folder in enumerate(family()):
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15] if number == 0 else fields[11:13])) / _TICK
    return total


def resident_mb() -> list[float]:
    """Of this process, and of each child."""
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return [round(int((folder / "statm").read_text().split()[1]) * page, 1) for folder in family()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so many, to go on later")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    model = args.folder / "model.pt"
    if not model.exists():
        save_centroid_model(model)
        write_blobs(args.folder, IMAGES)
    fixed = str(args.folder / "fixed.nii.gz")
    rows = [
        {"id": f"{number:05}", "fixed": fixed, "moving": str(args.folder / f"m{number % IMAGES:02}.nii.gz")}
        for number in range(args.pairs)
    ]
    begin, last = time.monotonic(), [0.0, 0.0]
    counts = {"all": 0, "made": 0}

    def progress(outcome, text) -> bool:
        counts["all"] += 1
        counts["made"] += outcome.state == "done"
        if outcome.state == "done" and counts["made"] % EVERY == 0:
            now = [cpu_seconds(), time.monotonic()]
            if counts["made"] > EVERY:
                row = [
                    counts["all"],
                    *((new - old) / EVERY for new, old in zip(now, last, strict=True)),
                    *resident_mb(),
                ]
                with (args.folder / "rows.csv").open("a", newline="") as file:
                    csv.writer(file).writerow([round(value, 4) for value in row])
            last[:] = now
        return time.monotonic() - begin < args.seconds

    start = cpu_seconds()
    try:
        run(rows, args.folder / "out", settings=quick(model), keep=["transform"], jobs=args.jobs, progress=progress)
    except Cancelled as error:
        print(error)
        return
    print(f"{counts['all']} pairs, {counts['made']} of them in this run: {cpu_seconds() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
