"""Where a batch keeps what: the folders are all that it remembers.

DIR/pairs/ID/        the results of a pair and job.json, which says of what inputs and settings; all or none
DIR/failed/ID.json   why a pair failed, and with what inputs and settings
DIR/summary.csv, index.html
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from ..results.locks import Lock, is_held
from ..results.staging import LOCK, recover, unfinished
from .key import Key, key_of
from .pair import Pair

# How names begin of what a run needs while it works.
HIDDEN = ".voxelmorph"
JOB, THUMBNAIL = "job.json", "thumbnail.jpg"
OPEN, DONE, FAILED = "open", "done", "failed"


@dataclass(frozen=True)
class Standing:
    """Where a pair stands: OPEN, DONE or FAILED with these inputs and settings; error: why it failed."""

    state: str
    key: Key
    error: str = ""


class Places:
    """The folder of a batch. kept: the results that are asked for (of results.outputs)."""

    def __init__(self, root: str | Path, kept: Iterable[str] = ()) -> None:
        self.root = Path(root)
        self.kept = tuple(kept)

    def make(self) -> None:
        """Raises OutputError where nothing can be written."""
        try:
            for name in ("pairs", "failed"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Nothing can be written to {self.root}: {error.strerror}. Choose a folder that you may write to."
            ) from error

    def folder(self, name: str) -> Path:
        return self.root / "pairs" / name

    def failure(self, name: str) -> Path:
        return self.root / "failed" / f"{name}.json"

    def standing(self, pair: Pair) -> Standing:
        job = read_json(self.folder(pair.id) / JOB)
        former = {path: (stamp, content) for path, stamp, content in job.get("inputs", [])}
        key = key_of(pair, self.kept, former)
        if job.get("key") == key.digest and not unfinished(self.folder(pair.id)):
            # Who gave it up, or did it and was ended, may have left a failure of before.
            self.succeeded(pair.id)
            return Standing(DONE, key)
        failure = read_json(self.failure(pair.id))
        if failure.get("key") == key.digest:
            return Standing(FAILED, key, str(failure.get("error", "")))
        return Standing(OPEN, key)

    def known(self, name: str) -> bool:
        """Whether a pair of this name was ever done or has failed."""
        return (self.folder(name) / JOB).is_file() or self.failure(name).is_file()

    def in_work(self, name: str) -> bool:
        """Whether a living process holds the pair."""
        return is_held(self.folder(name) / LOCK)

    def fail(self, name: str, key: Key, error: str, details: str = "") -> None:
        """Keep why a pair failed. Raises OSError."""
        write_json(self.failure(name), {"key": key.digest, "error": error, "details": details})

    def succeeded(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.failure(name).unlink()

    def clear(self, names: Iterable[str]) -> None:
        """Remove what runs that ended left of these pairs, and put back what they had moved away."""
        for name in names:
            folder = self.folder(name)
            # Not there, or somebody else's by now: no harm.
            with contextlib.suppress(OSError):
                content = os.listdir(folder)  # noqa: PTH208
                if content and not any(one.startswith(HIDDEN) for one in content):
                    continue
                lock = Lock(folder / LOCK)
                if not lock.acquire():
                    continue
                try:
                    recover(folder)
                finally:
                    lock.release()
                # Unless there is more in it.
                folder.rmdir()


def read_json(path: Path) -> dict:
    """A JSON object; an empty one where there is none, or a damaged one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, values: dict) -> None:
    """Replace a file at once. Raises OSError."""
    write_text(path, json.dumps(values, indent=1))


def write_text(path: Path, text: str) -> None:
    """Replace a file at once. Raises OSError."""
    number, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
