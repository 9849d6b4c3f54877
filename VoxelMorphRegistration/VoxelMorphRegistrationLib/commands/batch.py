"""`voxelmorph batch`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, SettingsError
from .options import add_settings, check_counts, settings_of
from .terminal import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from ..batch.table import Table
    from ..registration.settings import Settings

_DESCRIPTION = """\
Register every pair of TABLE (.csv, .tsv, or .jsonl with one JSON object a line). Columns: fixed, moving; id (names the
pair's folder), fixed_labels, moving_labels, fixed_mask, moving_mask, fixed_points, moving_points, initial_transform,
fixed_series, moving_series, inverse, and any setting by its name. Files are relative to the table's folder. The options
below hold for pairs that do not say otherwise.

DIR/pairs/ID gets what 'voxelmorph register' writes, all or none; DIR/summary.csv all reports in one table, and
DIR/index.html a picture a pair, the most doubtful first. Started again, the same command goes on: pairs that are done
stay, those whose files or settings changed are done anew. Several of them may work in one folder.
"""


def add_batch(commands) -> None:
    parser = commands.add_parser(
        "batch",
        help="register many pairs, on one machine or a cluster",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="voxelmorph batch TABLE -o DIR [options]\n"
        "       voxelmorph batch --fixed ATLAS --moving-list FILE [FILE ...] -o DIR [options]\n"
        "       voxelmorph batch --moving ATLAS --fixed-list FILE [FILE ...] -o DIR [options]\n"
        "       voxelmorph batch --all-pairs FILE FILE [FILE ...] -o DIR [options]",
    )
    parser.add_argument("table", metavar="TABLE", nargs="?", help="table of pairs")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for everything")
    pairs = parser.add_argument_group("pairs without a table (a .txt in a list is read as a list of files)")
    pairs.add_argument("--fixed", metavar="IMAGE", help="fixed image of all pairs, with --moving-list")
    pairs.add_argument("--moving-list", metavar="FILE", nargs="+", help="the moving images")
    pairs.add_argument("--moving", metavar="IMAGE", help="moving image of all pairs, with --fixed-list")
    pairs.add_argument("--fixed-list", metavar="FILE", nargs="+", help="the fixed images")
    pairs.add_argument("--labels", metavar="FILE", help="label map of --moving, carried onto each other image")
    pairs.add_argument("--all-pairs", metavar="FILE", nargs="+", help="any two of these, the earlier one fixed")
    pairs.add_argument("--both-ways", action="store_true", help="with --all-pairs, also the other way round")
    work = parser.add_argument_group("work")
    work.add_argument(
        "--jobs", type=int, metavar="N", help="pairs at once (default: a processor each, as memory allows)"
    )
    work.add_argument("--threads", type=int, metavar="N", help="of each (default: the processors, shared out)")
    work.add_argument("--part", metavar="i/n", help="only the i-th part of n: for the array jobs of a cluster")
    work.add_argument(
        "--dask",
        metavar="ADDRESS|QUEUE",
        help="give the pairs to a Dask scheduler, or to --jobs jobs of slurm, pbs, sge, lsf, htcondor or oar",
    )
    work.add_argument("--dask-options", metavar="JSON", help="file with options of dask-jobqueue's cluster")
    work.add_argument("--retry", action="store_true", help="try again what failed before")
    work.add_argument(
        "--keep",
        metavar="RESULT",
        nargs="+",
        help="write only these, beside the report: transform, displacement, inverse, warped, warped_labels, jacobian, "
        "expected_error, overview (default: all)",
    )
    work.add_argument("--inverse", action="store_true", help="also write inverse transforms")
    work.add_argument("--summary", action="store_true", help="only write summary.csv and index.html of what there is")
    add_settings(parser.add_argument_group("settings"))
    parser.set_defaults(run=_batch)


def _batch(args: argparse.Namespace) -> int:
    from ..batch.counting import Counting
    from ..batch.places import Places
    from ..batch.running import run, stopped
    from ..batch.summary import PAGE, check_table, summarise
    from ..registration.settings import Settings

    settings = settings_of(args, Settings())
    if args.table is not None:
        check_table(args.table, args.output)
    table = _table(args, settings)
    for text in table.told:
        print(text, file=sys.stderr)
    for where, why in table.bad.items():
        print(f"{where}: {why}", file=sys.stderr)
    if args.summary:
        summarise(Places(args.output), table)
        print(f"The summary is in {Path(args.output) / PAGE}")
        return EXIT_OK
    check_counts(args)
    part = _part(args.part)
    counting = Counting(0, sys.stderr)

    def counted(total: int) -> Counting:
        counting.total = total
        return counting

    try:
        done = run(
            table,
            args.output,
            jobs=args.jobs,
            threads=args.threads,
            dask=args.dask,
            dask_options=_json(args.dask_options),
            part=part,
            keep=args.keep,
            retry=args.retry,
            trust_model=args.trust_model,
            counting=counted,
        )
    except KeyboardInterrupt:
        from ..errors import Cancelled

        counting.end()
        raise Cancelled(f"Cancelled. {stopped(counting)}") from None
    finally:
        counting.end()
    bad = len(done.failed) - len(counting.failed)
    rows = f", {bad} more row{'s are' if bad > 1 else ' is'} no pair" if bad > 0 else ""
    print(f"{counting.text()}{rows}. Look at {Path(args.output) / PAGE}")
    return EXIT_ERROR if done.failed else EXIT_OK


def _table(args: argparse.Namespace, settings: Settings) -> Table:
    from ..batch.table import all_pairs, one_to_many, read_table

    kinds = [args.table, args.moving_list, args.fixed_list, args.all_pairs]
    if sum(kind is not None for kind in kinds) != 1:
        raise InputError("Give a table of pairs, or one of --moving-list, --fixed-list and --all-pairs.")
    for side, other in (("fixed", "moving"), ("moving", "fixed")):
        one, many = getattr(args, side), getattr(args, f"{other}_list")
        if (one is None) != (many is None):
            raise InputError(f"--{side} and --{other}-list go together.")
        if many is not None:
            if args.labels and side == "fixed":
                raise InputError(
                    "--labels are carried from the image of all pairs onto the others: give that as --moving, and the "
                    "others as --fixed-list. Labels of both sides are columns of a table."
                )
            labels = {f"{side}_labels": args.labels} if args.labels else {}
            return _of_rows(one_to_many(side, one, many, labels), settings, args)
    if args.labels:
        raise InputError("--labels are those of --moving. In a table, give them as columns.")
    if args.all_pairs is not None:
        return _of_rows(all_pairs(args.all_pairs, args.both_ways), settings, args)
    if args.both_ways:
        raise InputError("--both-ways goes with --all-pairs.")
    return read_table(args.table, settings, args.inverse)


def _of_rows(rows: list[dict], settings: Settings, args: argparse.Namespace) -> Table:
    from ..batch.table import table_of

    return table_of([(str(number), row) for number, row in enumerate(rows, 1)], settings, None, args.inverse)


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, count = text.partition("/")
    try:
        return int(number), int(count)
    except ValueError:
        raise SettingsError(f"--part is '{text}'. Write i/n, such as 3/100.") from None


def _json(path: str | None) -> dict | None:
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} must be a JSON object with names and values.")
    return found
