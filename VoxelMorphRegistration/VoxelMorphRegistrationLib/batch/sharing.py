"""One computer shared by several processes: threads, and memory that is asked for before each pair."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Processors that this process may use, by its affinity and the limit of its control group.

    root: of the file system in which /sys is.
    """
    count = os.cpu_count() or 1
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    try:
        limit, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, max(1, round(int(limit) / int(period))))
    except (OSError, ValueError):
        # No such group, or "max".
        pass
    return count


def environment(threads: int) -> dict[str, str]:
    """Of a process that is to use so many threads."""
    count = str(threads)
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return {**os.environ, **dict.fromkeys(limits, count)}


class Memory:
    """Who was granted how many bytes of which device. A pair alone is always granted: `register` judges it."""

    # Not the last of it: other programs, and files in the cache that make reading fast.
    PART = 0.9

    def __init__(self) -> None:
        self._free: dict[str, int] = {}
        self._granted: dict[object, dict[str, int]] = {}

    def told(self, free: Mapping[str, int]) -> None:
        """Free bytes by device, before anything was granted; what is told later has been taken by those in work."""
        for device, count in free.items():
            if not self._granted:
                self._free[device] = count
            self._free.setdefault(device, count)

    def grant(self, who: object, needs: Mapping[str, int]) -> bool:
        for device, count in needs.items():
            taken = sum(other.get(device, 0) for other in self._granted.values())
            if taken and device in self._free and taken + count > self.PART * self._free[device]:
                return False
        self._granted[who] = dict(needs)
        return True

    def give_back(self, who: object) -> None:
        self._granted.pop(who, None)

    def room_for(self, needs: Mapping[str, int]) -> int:
        """How many of such pairs fit beside each other."""
        counts = [
            int(self.PART * self._free[device] // count) for device, count in needs.items() if device in self._free
        ]
        return max(1, min(counts, default=sys.maxsize))
