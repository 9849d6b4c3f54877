"""Starts the worker. Run by its path, so that it needs neither an installed package nor PYTHONPATH."""

import sys
from pathlib import Path


def main() -> int:
    # Python puts the script's own folder first; the library's parent folder belongs there.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from VoxelMorphRegistrationLib.worker import server

    return server.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
