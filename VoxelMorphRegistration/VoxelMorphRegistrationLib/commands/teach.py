"""`voxelmorph teach`: the displacement fields that a training on label maps learns from."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import SettingsError


def add_teach_parser(commands) -> None:
    """Add `voxelmorph teach` to argparse's subparsers."""
    parser = commands.add_parser(
        "teach",
        help="make displacement fields between label maps to train with",
        description="Make the displacement fields between the label maps of CONFIG (TOML), for its section [teacher]; "
        "for a network of slices, between slices of them. Fields that are in the folder are kept, so that it goes on "
        "where it stopped.",
    )
    parser.add_argument("config", metavar="CONFIG", help='training configuration (TOML) with source = "anatomy"')
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the fields")
    parser.add_argument("--pairs", type=int, default=40, metavar="N", help="how many fields (default: 40)")
    parser.add_argument("--data", metavar="DIR", help="folder of the label maps, instead of the configuration's")
    parser.set_defaults(run=teach)


def teach(args: argparse.Namespace) -> int:
    """Run `voxelmorph teach`."""
    from ..training.config import load_config, with_data
    from ..training.teaching import make_fields

    config = load_config(args.config)
    if config.source != "anatomy":
        raise SettingsError(f'voxelmorph teach needs a configuration with source = "anatomy", not "{config.source}".')
    if args.pairs < 1:
        raise SettingsError(f"--pairs must be 1 or more, not {args.pairs}.")
    config = with_data(config, args.data) if args.data else config
    maps = config.label_maps(Path(args.config).parent)
    folder = Path(args.output)
    count = make_fields(maps, folder, args.pairs, config.seed, lambda line: print(line, flush=True))
    print(f"{count} displacement field{'s' * (count > 1)} in {folder}.")
    return 0
