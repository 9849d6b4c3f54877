"""A file that one process at a time holds: the operating system lets go of it when the process ends, however it does.

A number of a process, kept in a file, says nothing on another computer that shares the disk, or after a restart.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from pathlib import Path

# Disks that know no locks, such as some of the network: there the file alone must do.
_UNKNOWN = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Lock:
    """Holds the file `path` from acquire() on; release() removes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Whether it is held now; False when another process, or another Lock of this one, has it. Raises OSError."""
        while True:
            # Not what a link of a stranger leads to.
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            file = os.open(self.path, flags, 0o644)
            try:
                if not _locked(file):
                    os.close(file)
                    return False
            except BaseException:
                os.close(file)
                raise
            if self._is(file):
                self._file = file
                return True
            # Removed by its last holder between the two steps.
            os.close(file)

    def release(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        if sys.platform == "win32":
            # An open file cannot be removed there.
            os.close(file)
            with contextlib.suppress(OSError):
                self.path.unlink()
            return
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(file)

    def _is(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except OSError:
            return False


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock of this file; False where there is no such file."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        # Somebody else's: not ours to judge.
        return True
    try:
        return not _locked(file)
    finally:
        os.close(file)


def knows_locks(folder: Path) -> bool:
    """Whether the disk of a folder knows locks. Raises OSError where no file can be made there."""
    if sys.platform == "win32":
        return True
    import fcntl

    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNKNOWN:
                return False
            raise
    return True


def _locked(file: int) -> bool:
    """Take the lock of an open file, without waiting."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno in _UNKNOWN:
            return True
        raise
    return True
