"""`voxelmorph template`."""

from __future__ import annotations

import argparse
import sys

from .options import add_settings, check_counts, settings_of
from .terminal import EXIT_OK

_DESCRIPTION = """\
Build an unbiased average of IMAGES (a .txt is a list of files, a line each): every round registers all of them to the
template so far, averages them, and brings the group's mean displacement to zero. DIR gets template.nii.gz,
template_labels.nii.gz where label maps are given, pairs/ID with the transform from the template to each image,
summary.csv, index.html, and report.json with what each round did. Started again, the same command goes on.
"""


def add_template(commands) -> None:
    parser = commands.add_parser(
        "template",
        help="average a group of images, unbiased",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="the images of the group")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for everything")
    parser.add_argument("--labels", metavar="FILE", nargs="+", help="label maps of the images, in their order")
    parser.add_argument("--start", metavar="IMAGE", help="whose grid and pose the template gets (default: the first)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="voxels of the template (default: those of START)")
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--jobs", type=int, metavar="N", help="images at once (default: a processor each)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each")
    parser.add_argument("--dask", metavar="ADDRESS|QUEUE", help="as of 'voxelmorph batch'")
    parser.add_argument("--retry", action="store_true", help="try again what failed before")
    add_settings(parser.add_argument_group("settings"))
    parser.set_defaults(run=_template)


def _template(args: argparse.Namespace) -> int:
    from ..batch.counting import Counting
    from ..batch.table import names_of
    from ..batch.template import TEMPLATE, build, with_labels
    from ..registration.settings import Settings

    check_counts(args)
    images, labels = with_labels(names_of(args.images), names_of(args.labels or []))
    result = build(
        images,
        args.output,
        labels=labels,
        start=args.start,
        spacing=args.spacing,
        rounds=args.rounds,
        settings=settings_of(args, Settings()),
        told=lambda text: print(f"{text} ...", file=sys.stderr, flush=True),
        jobs=args.jobs,
        threads=args.threads,
        dask=args.dask,
        retry=args.retry,
        trust_model=args.trust_model,
        counting=lambda total: Counting(total, sys.stderr),
    )
    print("  round   bias, mm   change   sharpness   correlation")
    for number, one in enumerate(result.rounds, 1):
        print(f"  {number:>5}{one.bias_mm:>11.3f}{one.change:>9.4f}{one.sharpness:>12.4f}{one.similarity:>14.4f}")
    print(f"  the last template: bias {result.bias_mm:.3f} mm, sharpness {result.sharpness:.4f}", end="")
    print(f", labels' mean pairwise Dice {result.dice:.3f}" if result.dice is not None else "")
    print(f"The template is {result.folder / TEMPLATE}")
    return EXIT_OK
