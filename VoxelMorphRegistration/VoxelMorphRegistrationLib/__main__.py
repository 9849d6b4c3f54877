"""The command line: voxelmorph register | batch | template | apply | transform | demo | models | train | ..."""

from __future__ import annotations

import argparse
import gc
import os
import sys

from . import __version__
from .commands.apply import add_apply
from .commands.batch import add_batch
from .commands.demo import add_demo
from .commands.models import add_models
from .commands.register import add_register
from .commands.template import add_template
from .commands.terminal import check_names, exit_code_of, prepare_streams
from .commands.transform import add_transform


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 done, 1 an error told in one sentence, 2 usage, 130 cancelled (Ctrl-C, SIGTERM or a closed terminal), 141 nobody
    read what was printed.
    """
    # Slicer's plug-ins for ITK, named by its launcher, crash SimpleITK outside of Slicer (its issue 8947).
    os.environ.pop("ITK_AUTOLOAD_PATH", None)
    # Read when torch is loaded: threads that wait for work are not to burn the time of those that have some.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    prepare_streams()
    args = _parser().parse_args(arguments)

    def command() -> int:
        check_names(sys.argv[1:] if arguments is None else arguments)
        return args.run(args)

    return exit_code_of(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="voxelmorph", description="VoxelMorph deformable image registration.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_register(commands)
    add_batch(commands)
    add_template(commands)
    add_apply(commands)
    add_transform(commands)
    add_demo(commands)
    add_models(commands)
    from .commands import experiment as experiment_commands
    from .commands import teach as teach_commands
    from .commands import train as training_commands

    training_commands.add_train_parser(commands)
    training_commands.add_export_parser(commands)
    teach_commands.add_teach_parser(commands)
    experiment_commands.add_experiment_parser(commands)
    return parser


def command_line() -> int:
    """`main` for a process of its own, which ends with it."""
    code = main()
    # Python's last look for what nobody uses, with all that came with PyTorch, takes a third of a second.
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(command_line())
