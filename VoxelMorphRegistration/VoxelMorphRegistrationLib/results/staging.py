"""Files that take their places in a folder together, or not at all, whatever happens in between.

In the folder, one temporary folder holds:
    new/       the files, while they are written and checked
    swap       from the moment on at which they are complete: the names that are put in, a line each
    former/    the files that made room for them
A run that ends in between leaves it; the next one puts the former files back, or clears up after a finished swap.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import InUseError, OutputError
from .locks import Lock

LOCK = ".voxelmorph.lock"
_PREFIX = ".voxelmorph-"
_NEW, _FORMER, _SWAP = "new", "former", "swap"


class Staging:
    """The folder of results, held by this process: `with Staging(folder) as stage`, write into stage, then swap().

    Raises OutputError when another process holds the folder, or nothing can be written there. At the end the folder
    goes as well, if it was made here and is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock(folder / LOCK)

    def __enter__(self) -> Path:
        self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire():
                raise InUseError(
                    f"Another registration is writing to {self.folder}. Wait for its end, or give another folder."
                )
            recover(self.folder)
            self._place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.folder))
            self.path = self._place / _NEW
            self.path.mkdir()
        except OSError as error:
            self._leave()
            raise OutputError(
                f"Nothing can be written to {self.folder}: {error.strerror}. Choose a folder that you may write to."
            ) from error
        except BaseException:
            self._leave()
            raise
        return self.path

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):
            # An interrupted swap is undone.
            recover(self.folder)
        self._leave()

    def _leave(self) -> None:
        self._lock.release()
        for folder in self._made:
            # Not empty, or another process' by now.
            with contextlib.suppress(OSError):
                folder.rmdir()

    def swap(self, names: Iterable[str], gone: Iterable[str] = ()) -> list[Path]:
        """Put the files of these names in; those of their names and of `gone` make room. Raises OSError, all undone."""
        names = list(names)
        former = self._place / _FORMER
        former.mkdir()
        # From here on a run that ends is undone by the next one.
        part = self._place / f"{_SWAP}.part"
        part.write_text("\n".join(names), encoding="utf-8")
        part.replace(self._place / _SWAP)
        for name in (*names, *(name for name in gone if name not in names)):
            if os.path.lexists(self.folder / name):
                (self.folder / name).replace(former / name)
            if name in names:
                (self.path / name).replace(self.folder / name)
        # Finished: what is left is only cleared away.
        (self._place / _SWAP).unlink()
        return [self.folder / name for name in names]


def recover(folder: Path) -> None:
    """Undo the unfinished swaps of runs that ended, and remove what they left. The folder's lock must be held."""
    for place in sorted(folder.glob(f"{_PREFIX}*")):
        swap, former, new = place / _SWAP, place / _FORMER, place / _NEW
        # A folder of a stranger may hold what only looks like a swap, and leads elsewhere: nothing out there is moved.
        if not place.is_dir() or any(path.is_symlink() for path in (place, swap, former, new)):
            continue
        if swap.is_file():
            for name in swap.read_text(encoding="utf-8", errors="replace").splitlines():
                if Path(name).name != name:
                    continue
                if not os.path.lexists(new / name) and os.path.lexists(folder / name):
                    (folder / name).replace(new / name)
            for path in sorted(former.iterdir()) if former.is_dir() else ():
                path.replace(folder / path.name)
            swap.unlink()
        shutil.rmtree(place, ignore_errors=True)


def unfinished(folder: Path) -> bool:
    """Whether a swap of the folder's files is under way, or was cut off: what it holds is not yet a result."""
    return any(folder.glob(f"{_PREFIX}*/{_SWAP}"))
