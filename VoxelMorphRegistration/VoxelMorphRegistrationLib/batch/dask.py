"""The pairs of a batch by Dask: a scheduler that runs already, or a cluster's queue through dask-jobqueue.

Each pair is a task of its own; all it needs is the folder of the batch, on a disk that the workers see under the same
name. A task whose worker died is given to another one by Dask; a pair that is in work elsewhere is asked for again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import InputError, VoxelMorphError
from . import job
from .engine import LOOK_AGAIN_S, Told, standing
from .job import Outcome
from .pair import Pair
from .places import FAILED, Places

QUEUES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
}
_MISSING = 'Dask is missing: pip install "voxelmorph-registration[dask]".'


@contextlib.contextmanager
def client_of(address: str, jobs: int = 1, options: Mapping[str, Any] | None = None):
    """A client of the scheduler at `address`, or of a queue of QUEUES, to which `jobs` jobs are given.

    options: of dask-jobqueue's cluster, beside what its own configuration file says. Raises InputError or
    VoxelMorphError.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise VoxelMorphError(_MISSING) from error
    with contextlib.ExitStack() as stack:
        target: Any = address
        if address.lower() in QUEUES:
            target = stack.enter_context(cluster_of(address, options))
            target.scale(jobs=jobs)
        elif options:
            raise InputError(f"Options are for a queue ({', '.join(QUEUES)}); the scheduler at {address} runs already.")
        try:
            client = Client(target, timeout="30s", set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise VoxelMorphError(f"There is no Dask scheduler at {address}: {error}.") from error
        yield stack.enter_context(client)


def cluster_of(name: str, options: Mapping[str, Any] | None = None):
    """A cluster of dask-jobqueue, one process a job unless the options say otherwise. Raises InputError."""
    try:
        import dask_jobqueue
    except ImportError as error:
        raise VoxelMorphError(_MISSING) from error
    try:
        return getattr(dask_jobqueue, QUEUES[name.lower()])(**{"processes": 1, **(options or {})})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The options of the {name} cluster do not do: {error}. Give at least cores and memory, with "
            "--dask-options or in Dask's own configuration (jobqueue.yaml)."
        ) from error


def run_on(
    client: Any,
    pairs: Iterable[Pair],
    places: Places,
    told: Told,
    *,
    retry: bool = False,
    trust_model: bool = False,
    tick: Callable[[], object] | None = None,
) -> None:
    """As engine.run_here, by a client's workers. What has not begun is cancelled at the end, whatever happens."""
    from distributed import as_completed

    def submitted(pair: Pair):
        return client.submit(
            task, pair.to_dict(), str(places.root.absolute()), places.kept, trust_model, pure=False, retries=1
        )

    known: dict[str, Pair] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(client.as_current())
        running = as_completed()
        stack.callback(lambda: places.clear(pair.id for pair in known.values()))
        stack.callback(lambda: client.cancel(list(running.futures)))
        for pair in pairs:
            outcome = standing(pair, places, retry)
            if outcome is not None:
                told(outcome)
                continue
            future = submitted(pair)
            known[future.key] = pair
            running.add(future)
            if tick is not None:
                tick()
        for future in running:
            pair = known.pop(future.key)
            outcome = _outcome(future, pair, places)
            if tick is not None:
                tick()
            if outcome.state != job.ELSEWHERE:
                told(outcome)
                if outcome.state == job.FULL:
                    return
                continue
            time.sleep(LOOK_AGAIN_S)
            again = submitted(pair)
            known[again.key] = pair
            running.add(again)


def _outcome(future: Any, pair: Pair, places: Places) -> Outcome:
    if future.status == "finished":
        return Outcome(**future.result())
    message = f"Dask gave it up: {future.exception() if future.status == 'error' else future.status}."
    with contextlib.suppress(OSError):
        places.fail(pair.id, places.standing(pair).key, message)
    return Outcome(pair.id, FAILED, message)


def task(pair: Mapping, root: str, kept: Iterable[str], trust_model: bool) -> dict:
    """What a worker does."""
    return job.do(Pair.from_dict(pair), Places(root, kept), trust_model=trust_model).to_dict()
