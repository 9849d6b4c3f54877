"""A batch from pairs to summary: what command line and scripts call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InputError, OutputError, SettingsError
from ..registration.settings import Settings
from ..results.outputs import output_names
from . import sharing
from .counting import Counting
from .engine import run_here
from .job import Outcome
from .pair import Pair, check_id
from .places import Places
from .table import Table, once, read_table, table_of


@dataclass(frozen=True)
class Batch:
    """What came of a batch. done: pairs with results, earlier ones among them. failed: {id or row: why}. folder."""

    folder: Path
    done: int
    failed: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)


def run(
    pairs: str | Path | Table | Iterable[Mapping | Pair],
    output: str | Path,
    *,
    settings: Settings | None = None,
    inverse: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    dask: Any = None,
    dask_options: Mapping[str, Any] | None = None,
    part: tuple[int, int] | None = None,
    keep: Iterable[str] | None = None,
    retry: bool = False,
    trust_model: bool = False,
    progress: Callable[[Outcome, str], object] | None = None,
    counting: Callable[[int], Counting] = Counting,
) -> Batch:
    """Register many pairs; what is done already stays, what changed is done anew.

    pairs: a table's file, or rows {"fixed": ..., "moving": ..., ...} as those of a table (docs/batch.md), or Pair
    objects. output: its folder. settings: for what a row does not say. inverse: also make inverse transforms.
    jobs: processes at once (default: a processor each); threads: of each (default: what there is, shared out).
    dask: a client of distributed, the address of its scheduler, or a queue of batch.dask.QUEUES with `dask_options`
    for `jobs` jobs. part: (i, n), the i-th part of n, from 1; the summary is that of all. keep: results that are
    wanted beside the report, such as "transform" (all when None). retry: also what failed before.
    progress(outcome, text): after each pair; returning False ends the batch. counting: makes what counts, of their
    number. Raises errors of this library; Cancelled where progress returned False.
    """
    from .summary import check_table, summarise

    if isinstance(pairs, (str, Path)):
        check_table(pairs, output)
    table = _table(pairs, settings or Settings(), inverse)
    whole = table
    if part is not None:
        table = _part(table, part)
    places = Places(output, _kept(keep))
    places.make()
    count = counting(len(table.pairs))

    def told(outcome: Outcome) -> None:
        count(outcome)
        if progress is not None and progress(outcome, count.text()) is False:
            raise Cancelled(stopped(count))

    common: dict[str, Any] = dict(retry=retry, trust_model=trust_model, tick=count.tick)
    if dask is not None and threads is not None:
        raise SettingsError("Threads are those of Dask's workers here (dask worker --nthreads): leave --threads out.")
    if dask is None and dask_options:
        raise SettingsError("There are options for a cluster of Dask, but no --dask that names its queue.")
    if dask is not None:
        _on_dask(dask, dask_options, jobs or 1, table.pairs, places, told, common)
    else:
        jobs, threads = _shared_out(jobs, threads, len(table.pairs))
        run_here(table.pairs, places, told, jobs=jobs, threads=threads, **common)
    # Of runs that were killed after a pair was done.
    places.clear(pair.id for pair in table.pairs)
    if count.full:
        raise OutputError(f"{count.full} {stopped(count)}")
    summarise(places, whole)
    return Batch(places.root, count.made, {**table.bad, **count.failed}, table.told)


def stopped(count: Counting) -> str:
    """What is told where a batch ends early."""
    return f"{count.made:,} of {count.total:,} pairs are done; the same command goes on from there."


def _table(pairs: str | Path | Table | Iterable[Mapping | Pair], settings: Settings, inverse: bool) -> Table:
    if isinstance(pairs, Table):
        return pairs
    if isinstance(pairs, (str, Path)):
        return read_table(pairs, settings, inverse)
    given = list(pairs)
    if ready := [one for one in given if isinstance(one, Pair)]:
        if len(ready) < len(given):
            raise SettingsError("Give either Pair objects or rows as dictionaries, not both.")
        for pair in ready:
            check_id(pair.id)
        return Table(*once(((str(number), pair) for number, pair in enumerate(ready, 1)), "pair"))
    unlike = InputError('The pair is no dictionary, such as {"fixed": "a.nii.gz", "moving": "b.nii.gz"}.')
    rows = [(str(number), row if isinstance(row, Mapping) else unlike) for number, row in enumerate(given, 1)]
    return table_of(rows, settings, None, inverse)


def _part(table: Table, part: tuple[int, int]) -> Table:
    number, count = part
    if not 1 <= number <= count:
        raise SettingsError(f"There is no part {number} of {count}: parts are counted from 1.")
    return table.part(number, count)


def _kept(keep: Iterable[str] | None) -> tuple[str, ...]:
    """File names of results from their short names, such as "transform" or "warped"."""
    if keep is None:
        return ()
    known = {name.split(".")[0]: name for name in output_names(True, True, True)}
    names = list(keep)
    unknown = sorted(set(names) - known.keys())
    if unknown:
        raise SettingsError(f"There is no result '{unknown[0]}'. Results are {', '.join(sorted(known))}.")
    return tuple(known[name] for name in [*names, "report"])


def _shared_out(jobs: int | None, threads: int | None, pairs: int) -> tuple[int, int]:
    """Processes and threads of each: together as many as there are processors, unless both are given."""
    there = sharing.cores()
    if jobs is None:
        jobs = max(1, there // (threads or 1))
    jobs = max(1, min(jobs, pairs))
    return jobs, threads or max(1, there // jobs)


def _on_dask(
    dask: Any, options: Mapping[str, Any] | None, jobs: int, pairs: list[Pair], places: Places, told, common: dict
) -> None:
    from .dask import client_of, run_on

    with contextlib.ExitStack() as stack:
        client = stack.enter_context(client_of(dask, jobs, options)) if isinstance(dask, str) else dask
        run_on(client, pairs, places, told, **common)
