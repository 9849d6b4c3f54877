"""Refuses files over 5 MB: every version of a file stays in the history for ever."""

from __future__ import annotations

import sys
from pathlib import Path

LARGEST = 5_000_000


def main(names: list[str]) -> int:
    """1 when one of the files is too large."""
    large = [path for path in map(Path, names) if path.is_file() and path.stat().st_size > LARGEST]
    for path in large:
        print(f"{path} has {path.stat().st_size / 1e6:.1f} MB; the repository takes files of up to 5 MB.")
    return int(bool(large))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
