"""`voxelmorph demo`."""

from __future__ import annotations

import argparse

from .terminal import EXIT_OK, Progress


def add_demo(commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="register a real brain with a known answer",
        description="Registers the MNI152 template (from the package nilearn) with a copy of it deformed by a known "
        "field, and prints the error in millimetres.",
    )
    parser.add_argument("-o", "--output", metavar="DIR", default="demo-output", help="default: demo-output")
    parser.add_argument(
        "--model", metavar="NAME|FILE", default="auto", help="a network first (default: refinement alone)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from . import demo_case as demo

    with Progress() as progress:
        text = demo.run(args.output, model=args.model, overwrite=args.overwrite, progress=progress)
    print(text)
    return EXIT_OK
