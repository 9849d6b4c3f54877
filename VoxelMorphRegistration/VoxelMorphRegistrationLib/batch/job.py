"""One pair: claimed, done at most once, its results written all or none; a failure is kept with its reason."""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import json
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import InUseError, OutputError, VoxelMorphError
from ..registration.memory import available_memory, is_out_of_memory, too_little_memory
from ..results import outputs
from .claims import Claims
from .key import Key
from .pair import Pair
from .places import DONE, JOB, THUMBNAIL, Places

if TYPE_CHECKING:
    from ..networks.model import Model

# How a pair ended, beside places.DONE and places.FAILED: another process has it; the disk is full.
ALREADY, ELSEWHERE, FULL = "already", "elsewhere", "full"
FAILED = "failed"
# A disk with less than this is full: nothing of a pair would fit.
FULL_BYTES = 4_000_000
# needs, free bytes by device -> once it returns, the pair may begin.
Ask = Callable[[Mapping[str, int], Mapping[str, int]], object]


@dataclass(frozen=True)
class Outcome:
    """How a pair ended. state: DONE, ALREADY, FAILED, ELSEWHERE or FULL. message: why not done."""

    id: str
    state: str
    message: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict:
        return asdict(self)


def do(pair: Pair, places: Places, ask: Ask | None = None, *, trust_model: bool = False) -> Outcome:
    """Register a pair, unless it is done or in work elsewhere. Raises nothing that a pair can be the reason of."""
    start = time.monotonic()

    def ended(state: str, message: str = "") -> Outcome:
        return Outcome(pair.id, state, message, round(time.monotonic() - start, 3))

    folder = places.folder(pair.id)
    try:
        with _claims(places.root).held(pair.id):
            standing = places.standing(pair)
            if standing.state == DONE:
                return ended(ALREADY)
            try:
                again = (folder / JOB).exists()
                inputs = [path for _, path in pair.files.read_names()]
                with outputs.reserved(folder, again, inputs) as place:
                    # Whoever held the folder a moment ago has done it.
                    if places.standing(pair).state == DONE:
                        return ended(ALREADY)
                    _registered(pair, places, standing.key, place, ask, trust_model, start)
            except InUseError:
                raise
            except (VoxelMorphError, Exception) as error:
                return _failure(pair, places, standing.key, error, ended)
    except InUseError as error:
        return ended(ELSEWHERE, str(error))
    except OSError as error:
        if _is_full(places.root, error):
            return ended(FULL, _full(places.root))
        return ended(FAILED, f"The folder {places.root} cannot be used: {error.strerror or error}.")
    places.succeeded(pair.id)
    return ended(DONE)


def _registered(pair: Pair, places: Places, key: Key, place, ask: Ask | None, trust: bool, start: float) -> None:
    """Read, register, write."""
    from ..registration.device import choose_device
    from ..registration.needs import needed_bytes
    from ..registration.register import register
    from ..results.thumbnail import thumbnail

    read = pair.files.read()
    device = choose_device(pair.settings.device)
    network = _network(pair, device, trust)
    if ask is not None:
        further = len(read.further_fixed)
        needs = needed_bytes(read.fixed, read.moving, pair.settings, device, network, further, **read.extras)
        free = {name: available_memory(name) for name in needs if name != "mps"}
        ask(needs, {name: count for name, count in free.items() if count is not None})
    result = register(*read.sides, network, pair.settings, inverse=pair.inverse, **read.extras)
    job = {
        "key": key.digest,
        "inputs": [[path, *known] for path, known in key.inputs.items()],
        "pair": pair.to_dict(),
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 3),
        "computer": platform.node(),
        "version": __version__,
    }
    labels = read.extras.get("fixed_labels")
    more = {JOB: json.dumps(job, indent=1).encode(), THUMBNAIL: thumbnail(result, read.fixed, read.moving)}
    outputs.write_registration(
        result,
        read.fixed,
        read.moving,
        places.folder(pair.id),
        fixed_labels=labels,
        place=place,
        kept=places.kept or None,
        more=more,
    )


def _network(pair: Pair, device: str, trust: bool) -> Model | None:
    """The network that the settings name, loaded once a process."""
    from ..networks.shelf import find_model

    if pair.settings.model in ("auto", "none"):
        return None
    path = find_model(pair.settings.model)
    return _loaded(path, path.stat().st_mtime_ns, device, pair.settings.precision, trust)


@functools.lru_cache(maxsize=2)
def _loaded(path: Path, changed: int, device: str, precision: str, trust: bool) -> Model:
    from ..networks.model import load_model

    return load_model(path, device, precision, trust=trust)


@functools.lru_cache(maxsize=8)
def _claims(root: Path) -> Claims:
    return Claims(root)


def _failure(pair: Pair, places: Places, key: Key, error: Exception, ended: Callable[..., Outcome]) -> Outcome:
    """Keep the reason; where the disk is full, none: it is not the pair's."""
    details = ""
    if isinstance(error, VoxelMorphError):
        message = str(error)
    elif is_out_of_memory(error):
        message = str(too_little_memory())
    else:
        message = f"An error of the program ({type(error).__name__}: {error})."
        details = traceback.format_exc()
    if isinstance(error, (OutputError, OSError)) and _is_full(places.root, error):
        return ended(FULL, _full(places.root))
    with contextlib.suppress(OSError):
        places.fail(pair.id, key, message, details)
    return ended(FAILED, message)


def _is_full(root: Path, error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    with contextlib.suppress(OSError):
        return shutil.disk_usage(root).free < FULL_BYTES
    return False


def _full(root: Path) -> str:
    return f"The disk of {root} is full. Free some space and start again: what is done stays."
