"""This project beside its peers: the same pairs, the same alignment, one process each, scored by one piece of code.

See docs/benchmarks.md for the cases, the peers and how to install them. Needs the project installed, and matplotlib.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cases
import numpy as np
import peers
from cases import Case, Pair
from compare_plot import write_plot
from compare_rows import ALIGNED, BEFORE, DONE, Results, Row, means, table_head, table_row, wrong_conventions
from resources import BenchmarkError, Cost, TimedOut, run_measured
from scores import score

import VoxelMorphRegistrationLib
from VoxelMorphRegistrationLib.errors import VoxelMorphError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import resample

# --- one case ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """seed, shrink, threads: as in a row. limit_s: wall seconds for one run. keep: leave fields and logs in OUT."""

    output: Path
    seed: int
    shrink: int = 1
    threads: int = 1
    limit_s: float = 3600.0
    keep: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """Threads for every library, and this project's library for the processes, wherever it was found."""
        names = ("OMP", "MKL", "OPENBLAS")
        threads = {f"{name}_NUM_THREADS": str(self.threads) for name in names}
        library = str(Path(VoxelMorphRegistrationLib.__file__).resolve().parents[1])
        paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
        itk = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(self.threads)}
        return {**threads, **itk, "PYTHONPATH": os.pathsep.join(paths)}


class CaseRun:
    """The methods of one case, run one after the other; rows that are done are left out."""

    def __init__(self, case: Case, options: Options, results: Results, tell: Callable[[Row], None]) -> None:
        self.case, self.options, self.results, self.tell = case, options, results, tell
        self.folder = options.output / "work" / case.name.replace(" ", "_").replace("<-", "-")

    def run(self, methods: Iterable[peers.Peer]) -> None:
        """Raises nothing for what a method does wrong: that is its row."""
        due = [peer for peer in methods if not self._done(peer.name)]
        able = []
        for peer in due:
            reason = peer.unsuitable(self.case)
            reason = f"not for this case: {reason}" if reason else _not_installed(peer)
            if reason:
                self._add(self._row(peer.name, reason))
            else:
                able.append(peer)
        if not able and self._done(BEFORE) and (self.case.alignment == "none" or self._done(ALIGNED)):
            return
        try:
            pair = cases.shrunk(self.case, self.options.shrink).load()
        except (BenchmarkError, VoxelMorphError) as error:
            for name in (BEFORE, *(peer.name for peer in able)):
                self._add(self._row(name, f"no data: {error}"))
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._run_all(pair, able)
        if not self.options.keep:
            shutil.rmtree(self.folder)

    def _run_all(self, pair: Pair, able: list[peers.Peer]) -> None:
        write_image(pair.fixed, self.folder / "fixed.nii.gz")
        write_image(pair.moving, self.folder / "moving.nii.gz")
        self._score_start(pair, BEFORE, np.eye(4), Cost(0.0, 0.0, 0.0))
        linear, cost = None, Cost(0.0, 0.0, 0.0)
        if self.case.alignment != "none":
            try:
                linear, cost = self._aligned(pair)
            except (BenchmarkError, VoxelMorphError, OSError) as error:
                for name in (ALIGNED, *(peer.name for peer in able)):
                    self._add(self._row(name, f"failed: alignment: {_plain(error)}"))
                return
            self._score_start(pair, ALIGNED, linear, cost)
        for peer in able:
            own = self.case.alignment == "own" and peer.has_linear_stage
            self._add(self._measured(peer, pair, None if own else linear, Cost(0.0, 0.0, 0.0) if own else cost, own))

    def _aligned(self, pair: Pair) -> tuple[np.ndarray, Cost]:
        """This project's linear alignment, and the moving image resampled by it onto the fixed grid, as a file."""
        output = self.folder / "affine.txt"
        files = [str(self.folder / name) for name in ("fixed.nii.gz", "moving.nii.gz")]
        kind = "affine" if self.case.alignment == "own" else self.case.alignment
        command = [sys.executable, str(peers.PROGRAMS), "align", *files, str(output), str(self.options.threads), kind]
        log, options = self.folder / "align_log.txt", self.options
        cost = run_measured(command, log, options.limit_s, options.environment)
        matrix = np.loadtxt(output)
        aligned = resample(pair.moving, pair.fixed.grid, matrix, float(pair.moving.array.min()))
        write_image(aligned, self.folder / "aligned.nii.gz")
        return matrix, cost

    def _score_start(self, pair: Pair, name: str, matrix: np.ndarray, cost: Cost) -> None:
        if not self._done(name):
            field = DisplacementField.identity(pair.fixed.grid).then_linear(matrix)
            self._add(self._row(name, DONE, **_figures(pair, field, cost)))

    def _measured(self, peer: peers.Peer, pair: Pair, linear: np.ndarray | None, start: Cost, own: bool) -> Row:
        """Run one method. linear: the alignment of the moving image it gets, start: what that cost."""
        folder = self.folder / "".join(c if c.isalnum() or c in "-." else "_" for c in peer.name)
        folder.mkdir()
        moving = self.folder / ("moving.nii.gz" if linear is None else "aligned.nii.gz")
        job = peers.Job(self.folder / "fixed.nii.gz", moving, pair.fixed.grid, folder, self.options.threads, own)
        try:
            command = peer.command(job)
            cost = run_measured(command, folder / "log.txt", self.options.limit_s, self.options.environment)
            field = peer.field(job)
            if linear is not None:
                field = field.then_linear(linear, pair.fixed.grid)
        except TimedOut:
            return self._row(peer.name, f"stopped after {self.options.limit_s:g} s")
        except (BenchmarkError, VoxelMorphError, OSError, RuntimeError) as error:
            return self._row(peer.name, f"failed: {_plain(error)}")
        total = Cost(cost.cpu_s + start.cpu_s, cost.wall_s + start.wall_s, max(cost.peak_mb, start.peak_mb))
        row = self._row(peer.name, DONE, **_figures(pair, field, total))
        if not self.options.keep:
            shutil.rmtree(folder)
        return row

    def _row(self, method: str, status: str, **figures) -> Row:
        o = self.options
        return Row(o.seed, o.shrink, o.threads, self.case.name, self.case.group, method, status, **figures)

    def _done(self, method: str) -> bool:
        found = self.results.rows.get(self._row(method, DONE).key)
        return found is not None and found.status == DONE

    def _add(self, row: Row) -> None:
        self.results.add(row)
        self.tell(row)


def _figures(pair: Pair, field: DisplacementField, cost: Cost) -> dict:
    labels = next(iter(pair.labels), "")
    return {**asdict(score(pair, field)), **asdict(cost), "labels": labels}


def _not_installed(peer: peers.Peer) -> str | None:
    advice = peer.missing()
    return advice and f"not installed: {advice}"


def _plain(error: Exception) -> str:
    """The last line of a message, which is where programs say what happened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:200]


# --- command -------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, metavar="DIR", help="folder with the data (docs/benchmarks.md)")
    result.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for table and plot")
    result.add_argument("--cases", metavar="A,B", help=f"of {', '.join(cases.GROUPS)} (default: all but convention)")
    result.add_argument("--peers", metavar="A,B", help=f"of {', '.join(peers.NAMES)} (default: all)")
    result.add_argument("--model", metavar="A,B", help="shipped models, model files, or none (default: those that fit)")
    result.add_argument("--seed", type=int, metavar="N", help="of the known warps (default: a fresh one)")
    result.add_argument("--warps", type=int, default=1, metavar="N", help="known warps of each kind (default: 1)")
    result.add_argument("--image", type=Path, metavar="FILE", help="known warps of this image, too")
    result.add_argument("--labels", type=Path, metavar="FILE", help="its label map")
    result.add_argument("--largest", type=float, default=15.0, metavar="MM", help="its largest motion (default: 15)")
    result.add_argument("--shrink", type=int, default=1, metavar="N", help="larger voxels by N: a quick look")
    result.add_argument("--threads", type=int, default=1, metavar="N", help="for every method (default: 1)")
    result.add_argument(
        "--timeout", type=float, default=3600.0, metavar="S", help="wall seconds of a run (default: 3600)"
    )
    result.add_argument("--keep", action="store_true", help="keep images, fields and logs in OUT/work")
    return result


def chosen_cases(args: argparse.Namespace, seed: int) -> list[Case]:
    default = [] if args.image else [name for name in cases.GROUPS if name != "convention"]
    names = args.cases.split(",") if args.cases else default
    found = cases.chosen(names, args.data, seed, args.warps)
    if args.image:
        found += cases.image_cases(args.image, args.labels, args.largest, seed, args.warps)
    return found


def compare(args: argparse.Namespace, seed: int, tell: Callable[[Row], None]) -> list[Row]:
    """Run what is not done yet; returns the rows of this run's cases and methods."""
    args.output.mkdir(parents=True, exist_ok=True)
    results = Results(args.output / "results.csv")
    names = args.peers.split(",") if args.peers else list(peers.NAMES)
    options = Options(args.output, seed, args.shrink, args.threads, args.timeout, args.keep)
    wanted = []
    for case in chosen_cases(args, seed):
        run = CaseRun(case, options, results, tell)
        given = args.model.split(",") if args.model else None
        methods = []
        for name in names:
            found = peers.find(name, case, given, args.data, args.output)
            methods += found
            if not found:
                run._add(run._row(name, f"not for this case: there is no model for {case.dimension}D"))
                wanted.append(run._row(name, DONE).key)
        run.run(methods)
        wanted += [run._row(name, DONE).key for name in (BEFORE, ALIGNED, *(peer.name for peer in methods))]
    return [results.rows[key] for key in wanted if key in results.rows]


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 a plain error, or a method whose displacements are not in the convention."""
    args = parser().parse_args(arguments)
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    print(f"seed {seed}; {args.threads} thread(s) of {os.cpu_count()}; to go on: --seed {seed}")
    print(table_head(), flush=True)
    try:
        rows = compare(args, seed, lambda row: print(table_row(row), flush=True))
    except (BenchmarkError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print("\nMeans over the cases that are done\n" + table_head())
    print("\n".join(table_row(row) for row in means(rows)))
    write_plot(means(rows), args.output / "accuracy.png")
    wrong = wrong_conventions(rows)
    if wrong:
        print(f"Error: the displacements of {', '.join(wrong)} do not undo a known shift.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
