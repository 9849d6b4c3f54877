"""What one `voxelmorph register` command costs and reaches: CPU seconds, wall time, memory, Dice, folds.

Each command runs in a process of its own; its CPU seconds (user + system, start-up and file writing included) and
peak memory are those that the operating system gives for that process. Accuracy is computed here, from the files the
command wrote, with SimpleITK and numpy alone: none of the measured code takes part.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import SimpleITK as sitk

COMMAND = (sys.executable, "-m", "VoxelMorphRegistrationLib")
TRANSFORM = "transform.h5"


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message says why."""


class TimedOut(BenchmarkError):
    """A command took longer than it may."""


@dataclass(frozen=True)
class Cost:
    """Of one process: user + system CPU seconds, wall seconds, peak resident memory in MB (10^6 bytes)."""

    cpu_s: float
    wall_s: float
    peak_mb: float


@dataclass(frozen=True)
class Result:
    """One pair. dice: mean over the labels of the fixed map, after nearest-neighbour warping. folds: voxels whose
    determinant is <= 0 by central differences, strict: by any of eight one-sided ones; in the fixed foreground and in
    the whole volume. sd_log_j: in the foreground.
    """

    method: str
    fixed: str
    moving: str
    dice_before: float
    dice: float
    folds: int
    folds_strict: int
    folds_volume: int
    folds_volume_strict: int
    sd_log_j: float
    cpu_s: float
    wall_s: float
    peak_mb: float


# A process starts with the peak memory of the one that made it, so a small one in between starts the command.
LAUNCHER = """
import json, os, subprocess, sys, threading, time
log, figures, limit, *command = sys.argv[1:]
start = time.perf_counter()
with open(log, "wb") as stream:
    process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    if limit:
        timer = threading.Timer(float(limit), process.kill)
        timer.daemon = True
        timer.start()
    _, status, usage = os.wait4(process.pid, 0)
values = [os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, time.perf_counter() - start]
with open(figures, "w") as stream:
    json.dump([*values, usage.ru_maxrss], stream)
os._exit(0)
"""


def run_measured(
    command: list[str], log: Path, limit_s: float | None = None, environment: dict[str, str] | None = None
) -> Cost:
    """Run a command to its end and measure it; its output goes to `log`.

    limit_s: wall seconds after which it is stopped. environment: variables beside those of this process. Raises
    BenchmarkError when the command fails, TimedOut when it was stopped.
    """
    if not hasattr(os, "wait4"):
        raise BenchmarkError("This benchmark measures child processes with os.wait4, which Windows does not have.")
    figures = log.with_suffix(".json")
    launcher = [sys.executable, "-c", LAUNCHER, str(log), str(figures), "" if limit_s is None else str(limit_s)]
    subprocess.run([*launcher, *command], check=True, env=os.environ | (environment or {}))
    code, cpu, wall, peak = json.loads(figures.read_text())
    if limit_s is not None and code < 0 and wall >= limit_s:
        raise TimedOut(f"Stopped after {wall:.0f} s: {' '.join(command)}")
    if code != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise BenchmarkError(f"The command failed ({code}): {' '.join(command)}\n" + "\n".join(tail))
    # Linux counts kilobytes, macOS bytes.
    return Cost(cpu, wall, peak * (1 if sys.platform == "darwin" else 1024) / 1e6)


# --- accuracy ------------------------------------------------------------------------------------------------------


def mean_dice(fixed_labels: sitk.Image, moving_labels: sitk.Image, transform: sitk.Transform) -> float:
    """Mean Dice over the labels of the fixed map but 0; the moving map is warped with nearest neighbours."""
    warped = sitk.Resample(moving_labels, fixed_labels, transform, sitk.sitkNearestNeighbor, 0)
    a, b = sitk.GetArrayViewFromImage(fixed_labels), sitk.GetArrayViewFromImage(warped)
    values = [value for value in np.unique(a) if value != 0]
    if not values:
        raise BenchmarkError("The fixed label map holds no label.")
    overlaps = []
    for value in values:
        in_a, in_b = a == value, b == value
        overlaps.append(2 * np.count_nonzero(in_a & in_b) / (np.count_nonzero(in_a) + np.count_nonzero(in_b)))
    return float(np.mean(overlaps))


def positions_on_grid(reference: sitk.Image, transform: sitk.Transform) -> np.ndarray:
    """T(x) in the index coordinates of `reference` for each of its voxels, (K, J, I, 3) ordered i, j, k.

    In index coordinates the determinant is the physical one, whatever the directions and spacing.
    """
    displacement = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        reference.GetSize(),
        reference.GetOrigin(),
        reference.GetSpacing(),
        reference.GetDirection(),
    )
    to_index = np.linalg.inv(np.array(reference.GetDirection()).reshape(3, 3) * reference.GetSpacing())
    positions = sitk.GetArrayFromImage(displacement) @ to_index.T
    for axis in range(3):
        shape = [1, 1, 1]
        size = positions.shape[2 - axis]
        shape[2 - axis] = size
        positions[..., axis] += np.arange(size).reshape(shape)
    return positions


def central_determinant(positions: np.ndarray) -> np.ndarray:
    """det dT/dx by central differences, one-sided at the border."""
    columns = [np.gradient(positions, axis=2 - axis) for axis in range(3)]
    return _determinant(*columns)


def strict_folds(positions: np.ndarray) -> np.ndarray:
    """Voxels where any of the eight determinants of one-sided differences is <= 0; at the border the inner ones."""
    sides = []
    for axis in range(3):
        along = 2 - axis
        step = np.diff(positions, axis=along)
        first, last = (np.take(step, [place], axis=along) for place in (0, -1))
        sides.append((np.concatenate([first, step], along), np.concatenate([step, last], along)))
    folded = np.zeros(positions.shape[:3], bool)
    for columns in itertools.product(*sides):
        folded |= _determinant(*columns) <= 0
    return folded


def _determinant(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a . (b x c), written out: np.cross takes several times the memory."""
    return (
        a[..., 0] * (b[..., 1] * c[..., 2] - b[..., 2] * c[..., 1])
        + a[..., 1] * (b[..., 2] * c[..., 0] - b[..., 0] * c[..., 2])
        + a[..., 2] * (b[..., 0] * c[..., 1] - b[..., 1] * c[..., 0])
    )


def folding(fixed: sitk.Image, transform: sitk.Transform) -> dict[str, float]:
    """Fold counts and SDlogJ (determinants clipped to [1e-9, 1e9]); the foreground is where `fixed` is positive."""
    positions = positions_on_grid(fixed, transform)
    determinant, strict = central_determinant(positions), strict_folds(positions)
    inside = sitk.GetArrayViewFromImage(fixed) > 0
    return {
        "folds": int(np.count_nonzero(determinant[inside] <= 0)),
        "folds_strict": int(np.count_nonzero(strict[inside])),
        "folds_volume": int(np.count_nonzero(determinant <= 0)),
        "folds_volume_strict": int(np.count_nonzero(strict)),
        "sd_log_j": float(np.log(np.clip(determinant[inside], 1e-9, 1e9)).std()),
    }


# --- cases ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """The files of one pair."""

    fixed_name: str
    moving_name: str
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path


def find_cases(data: Path, pairs: list[str], image: str, labels: str) -> list[Case]:
    """The files of pairs such as "1012:1013" (fixed:moving) by their name patterns. Raises BenchmarkError."""
    cases = []
    for pair in pairs:
        names = pair.split(":")
        if len(names) != 2:
            raise BenchmarkError(f"'{pair}' is no pair: write FIXED:MOVING, such as 1012:1013.")
        paths = [data / pattern.format(id=name) for pattern in (image, labels) for name in names]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise BenchmarkError(f"Missing for the pair {pair}: {', '.join(missing)}")
        cases.append(Case(*names, *paths))
    return cases


def measure(case: Case, method: str, options: list[str], folder: Path) -> Result:
    """Register one pair into `folder`, which must be new, and measure the command and its transform."""
    folder.mkdir(parents=True)
    command = [*COMMAND, "register", str(case.fixed), str(case.moving), "-o", str(folder / "output"), *options]
    cost = run_measured(command, folder / "log.txt")
    transform = sitk.ReadTransform(str(folder / "output" / TRANSFORM))
    fixed = sitk.ReadImage(str(case.fixed))
    maps = [sitk.ReadImage(str(path)) for path in (case.fixed_labels, case.moving_labels)]
    return Result(
        method=method,
        fixed=case.fixed_name,
        moving=case.moving_name,
        dice_before=mean_dice(*maps, sitk.Transform(3, sitk.sitkIdentity)),
        dice=mean_dice(*maps, transform),
        **folding(fixed, transform),
        **asdict(cost),
    )


def mean_of(results: list[Result]) -> Result:
    """A row of means over all pairs."""
    numbers = {
        f.name: float(np.mean([getattr(result, f.name) for result in results]))
        for f in fields(Result)
        if f.name not in ("method", "fixed", "moving")
    }
    return Result(method=results[0].method, fixed="mean", moving="", **numbers)


# --- output --------------------------------------------------------------------------------------------------------

_HEAD = ("fixed <- moving", "Dice before", "Dice", "folds", "strict", "SDlogJ", "CPU s", "wall s", "peak MB")


def table_row(result: Result) -> str:
    pair = f"{result.fixed} <- {result.moving}" if result.moving else result.fixed
    return (
        f"{pair:<18}{result.dice_before:>12.3f}{result.dice:>8.3f}{result.folds:>8.0f}{result.folds_strict:>8.0f}"
        f"{result.sd_log_j:>8.3f}{result.cpu_s:>8.1f}{result.wall_s:>8.1f}{result.peak_mb:>9.0f}"
    )


def table_head() -> str:
    widths = (-18, 12, 8, 8, 8, 8, 8, 8, 9)
    return "".join(f"{t:<{-w}}" if w < 0 else f"{t:>{w}}" for t, w in zip(_HEAD, widths, strict=True))


def write_csv(results: list[Result], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Result)])
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Measures the whole command `voxelmorph register` on pairs of a folder: CPU s, wall s, peak "
        "memory, Dice and folds.",
        epilog="Options after -- go to the command, e.g.: -- --alignment none",
    )
    result.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with images and label maps")
    result.add_argument("--pairs", nargs="+", required=True, metavar="FIXED:MOVING", help="names of the images")
    result.add_argument("--image", default="{id}_t1.nii.gz", metavar="PATTERN", help="default: %(default)s")
    result.add_argument("--labels", default="{id}_labels30.nii.gz", metavar="PATTERN", help="default: %(default)s")
    model = result.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="NAME|FILE", help="model (default: the shipped one)")
    model.add_argument("--keras", type=Path, metavar="FILE", help="published Keras weights; converted first, untimed")
    result.add_argument("--csv", type=Path, metavar="FILE", help="write the results there as well")
    result.add_argument("--keep", type=Path, metavar="DIR", help="keep the commands' files and logs in this new folder")
    result.add_argument("options", nargs="*", metavar="OPTION", help="options of the command, after --")
    return result


def run(args: argparse.Namespace, folder: Path) -> list[Result]:
    """Measure all pairs, printing rows as they come."""
    cases = find_cases(args.data, args.pairs, args.image, args.labels)
    method, options = args.model or "default", list(args.options)
    if args.keras:
        method, converted = args.keras.stem, folder / "imported.pt"
        run_measured([*COMMAND, "models", "import", str(args.keras), "-o", str(converted)], folder / "import.txt")
        options = ["--model", str(converted), *options]
    elif args.model:
        options = ["--model", args.model, *options]
    print(f"model {method}, options: {' '.join(args.options) or 'none'}; {os.cpu_count()} CPUs")
    print(table_head(), flush=True)
    results = []
    for case in cases:
        results.append(measure(case, method, options, folder / f"{case.fixed_name}-{case.moving_name}"))
        print(table_row(results[-1]), flush=True)
    if len(results) > 1:
        print(table_row(mean_of(results)))
    return results


def main() -> int:
    args = parser().parse_args()
    try:
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=False)
            results = run(args, args.keep)
        else:
            with tempfile.TemporaryDirectory() as folder:
                results = run(args, Path(folder))
        if args.csv:
            write_csv(results, args.csv)
    except (BenchmarkError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
