"""Starts a process of a batch. Run by its path, so that it needs neither an installed package nor PYTHONPATH."""

import os
import sys
from pathlib import Path


def main() -> int:
    # Python puts the script's own folder first; the library's parent folder belongs there.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    # Slicer's plug-ins for ITK, named by its launcher, crash SimpleITK outside of Slicer (its issue 8947).
    os.environ.pop("ITK_AUTOLOAD_PATH", None)
    # Read when torch is loaded: threads that wait for work are not to burn the time of those that have some.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from VoxelMorphRegistrationLib.batch import serving

    return serving.main()


if __name__ == "__main__":
    sys.exit(main())
