"""Claims on pairs where the disk knows no locks, as some of the network: each pair is one process' at a time.

Elsewhere the lock of the pair's folder is enough (results.staging), and is let go by the system itself. Here a claim
is a file that only one process can have made, NAME.1; its holder touches it every BEAT_S seconds. A claim that was not
touched for STALE_S is that of a process that ended: whoever makes NAME.2 takes its place, and again only one can. Ages
are told by the disk's own clock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
import time
from pathlib import Path

from ..errors import InUseError
from ..results.locks import knows_locks

BEAT_S, STALE_S = 15.0, 180.0


class Claims:
    """The claims of one batch folder. needed: whether the disk knows no locks (None: it is tried)."""

    def __init__(self, root: Path, needed: bool | None = None) -> None:
        self.folder = root / "claims"
        if needed is None:
            needed = self.folder.is_dir() or not knows_locks(root)
        self.needed = needed
        if needed:
            self.folder.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def held(self, name: str):
        """Within it, the pair is this process'. Raises InUseError where it is another one's."""
        if not self.needed:
            yield
            return
        path = self._take(name)
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(path, ended), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            with contextlib.suppress(OSError):
                path.unlink()

    def free(self, name: str) -> bool:
        """Whether nobody holds the pair."""
        latest = self._latest(name)
        return latest is None or self._age_s(latest) > STALE_S

    def _latest(self, name: str) -> Path | None:
        start = f"{name}."
        found = [one for one in os.listdir(self.folder) if one.startswith(start) and one[len(start) :].isdigit()]  # noqa: PTH208
        return self.folder / max(found, key=lambda one: int(one[len(start) :])) if found else None

    def _take(self, name: str) -> Path:
        latest = self._latest(name)
        number = 1
        if latest is not None:
            if self._age_s(latest) <= STALE_S:
                raise InUseError(f"The pair {name} is in work elsewhere.")
            number = int(latest.suffix[1:]) + 1
        path = self.folder / f"{name}.{number}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError as error:
            raise InUseError(f"The pair {name} is in work elsewhere.") from error
        if latest is not None:
            # Its process ended.
            with contextlib.suppress(OSError):
                latest.unlink()
        return path

    def _beat(self, path: Path, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(path)

    def _age_s(self, path: Path) -> float:
        """By a file that is made now on the same disk: clocks of computers differ."""
        try:
            then = path.stat().st_mtime
        except OSError as error:
            if error.errno == errno.ENOENT:
                return float("inf")
            return 0.0
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".now-") as file:
                return Path(file.name).stat().st_mtime - then
        except OSError:
            return time.time() - then
