"""The command line: voxelmorph register | apply | transform | demo | models | train | export | experiment."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__
from .commands.apply import add_apply
from .commands.demo import add_demo
from .commands.models import add_models
from .commands.register import add_register
from .commands.terminal import EXIT_CANCELLED, EXIT_ERROR
from .commands.transform import add_transform
from .errors import Cancelled, VoxelMorphError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 an error told in one sentence, 2 usage, 130 cancelled."""
    # Slicer's plug-ins for ITK, named by its launcher, crash SimpleITK outside of Slicer (its issue 8947).
    os.environ.pop("ITK_AUTOLOAD_PATH", None)
    # Read when torch is loaded: threads that wait for work are not to burn the time of those that have some.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except Cancelled as error:
        print(error, file=sys.stderr)
        return EXIT_CANCELLED
    except KeyboardInterrupt:
        print("\nCancelled. Nothing was written.", file=sys.stderr)
        return EXIT_CANCELLED
    except VoxelMorphError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="voxelmorph", description="VoxelMorph deformable image registration.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_register(commands)
    add_apply(commands)
    add_transform(commands)
    add_demo(commands)
    add_models(commands)
    from .commands import experiment as experiment_commands
    from .commands import train as training_commands

    training_commands.add_train_parser(commands)
    training_commands.add_export_parser(commands)
    experiment_commands.add_experiment_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
