"""`voxelmorph register`. Torch is imported only when it runs."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, SettingsError
from .options import add_series, add_settings, series_of, settings_of
from .terminal import EXIT_OK, Progress

if TYPE_CHECKING:
    import numpy as np

    from ..images.grid import Grid
    from ..registration.files import PairFiles
    from ..registration.settings import Settings


def add_register(commands) -> None:
    parser = commands.add_parser(
        "register",
        help="deform a moving image onto a fixed one",
        description="Deform MOVING onto FIXED. Images may be NIfTI, a folder with a DICOM series, or anything "
        "SimpleITK reads (NRRD, MetaImage, ...). Landmarks are Slicer markups or tables with x, y, z in RAS mm.",
    )
    parser.add_argument("images", metavar="FIXED MOVING", nargs="*", help="image that stays, image to deform")
    parser.add_argument(
        "--fixed", metavar="FILE", nargs="+", help="instead: several that lie alike, such as T1 T2, with --moving"
    )
    parser.add_argument(
        "--moving",
        metavar="FILE",
        nargs="+",
        help="as many, in the same order. The first ones are aligned, seen by a network, and written; the refinement "
        "compares all, each with its own similarity",
    )
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    add_series(parser, "FIXED", "MOVING")
    add_settings(parser)
    parser.add_argument(
        "--initial-transform",
        metavar="FILE",
        action="append",
        help="transform, fixed to moving, from which to start: any file that 'voxelmorph apply' takes, with :inverse "
        "behind its name for its inverse; again for the next one of a chain. The alignment starts from a linear one; "
        "one that bends space takes the alignment's place, and network and refinement go on from it",
    )
    parser.add_argument(
        "--continue",
        dest="earlier",
        metavar="DIR",
        help="go on from the result in DIR with its settings; the options here go before them. Where --refine is on, "
        "no network runs again unless --model names one",
    )
    parser.add_argument(
        "--preview",
        metavar="DIR",
        help="folder for preview.nii.gz, the moving image as it improves, first after some seconds",
    )
    parser.add_argument(
        "--inverse", action="store_true", help="also write the inverse transform, from MOVING to FIXED positions"
    )
    parser.add_argument("--fixed-labels", metavar="FILE", help="label map of FIXED, to measure overlap")
    parser.add_argument("--moving-labels", metavar="FILE", help="label map of MOVING, to carry over and measure")
    parser.add_argument("--fixed-points", metavar="FILE", help="landmarks in FIXED, to measure the error")
    parser.add_argument("--moving-points", metavar="FILE", help="the same landmarks in MOVING")
    parser.add_argument("--fixed-mask", metavar="FILE", help="where FIXED counts")
    parser.add_argument("--moving-mask", metavar="FILE", help="where MOVING counts in the refinement")
    parser.set_defaults(run=_register)


def _register(args: argparse.Namespace) -> int:
    from ..results import outputs
    from ..results.preview import PreviewFolder

    settings = _settings(args)
    files = _files(args)
    files.check_different()
    read = [path for _, path in files.read_names()]
    read += [path for path in (args.settings, args.model) if path is not None]
    preview = PreviewFolder(args.preview, args.overwrite, read) if args.preview else None
    with outputs.reserved(args.output, args.overwrite, read) as place:
        result = _into(place, args, files, settings, preview)
    print(summary(result.report))
    print(f"Results are in {args.output}: {', '.join(outputs.names_of(result))}")
    return EXIT_OK


def _files(args: argparse.Namespace) -> PairFiles:
    from ..registration.files import PairFiles
    from ..results import outputs

    starts = args.initial_transform or []
    if args.earlier:
        if starts:
            raise InputError("--continue starts from the earlier result: leave --initial-transform out.")
        starts = [str(Path(args.earlier) / outputs.TRANSFORM)]
    names = ("fixed_labels", "moving_labels", "fixed_points", "moving_points", "fixed_mask", "moving_mask")
    fixed, moving = _images(args)
    return PairFiles(
        fixed[0],
        moving[0],
        *series_of(args.series),
        **{name: getattr(args, name) for name in names},
        initial_transform=tuple(starts),
        further_fixed=tuple(fixed[1:]),
        further_moving=tuple(moving[1:]),
    )


def _images(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The fixed and the moving images."""
    if args.fixed or args.moving:
        if args.images or not (args.fixed and args.moving):
            raise InputError("Give FIXED and MOVING, or --fixed and --moving with as many images each.")
        return args.fixed, args.moving
    if len(args.images) != 2:
        raise InputError(f"Two images are due, FIXED and MOVING in this order; {len(args.images)} given.")
    return args.images[:1], args.images[1:]


def _earlier_settings(folder: str, kind):
    """Those of the result in a folder."""
    from ..results import outputs

    report = Path(folder) / outputs.REPORT
    try:
        found = json.loads(report.read_text(encoding="utf-8"))["settings"]
        settings = kind.from_json(json.dumps(found))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no earlier result to go on from: there is no {report.name} with settings in it. Give the "
            "output folder of an earlier 'voxelmorph register'."
        ) from error
    return settings


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Within it another thread loads what registers: PyTorch takes as long as large images do to be read."""

    def load() -> None:
        # Whoever needs it next is told what is wrong.
        with contextlib.suppress(Exception):
            for name in ("torch", "SimpleITK", "..registration.register"):
                importlib.import_module(name, __package__)

    thread = threading.Thread(target=load, daemon=True)
    # Nothing that is loaded is thrown away; looking for that again and again takes a quarter of a second.
    collects = gc.isenabled()
    gc.disable()
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if collects:
            gc.enable()


def _into(place, args: argparse.Namespace, files: PairFiles, settings: Settings, preview):
    """Register, and write the results to the folder that is held."""
    from ..registration.expected import in_words
    from ..registration.intensity import measured_region
    from ..results import outputs

    with _loading():
        pair = files.read()
        region = measured_region(pair.fixed, pair.extras.get("fixed_mask"))
    from ..registration.register import register

    expected = in_words(_expected(settings, pair.fixed.grid, region))
    print(f"Expected: {expected}.", file=sys.stderr, flush=True)
    with Progress() as progress:
        result = register(
            *pair.sides,
            None,
            settings,
            progress,
            preview=preview,
            inverse=args.inverse,
            trust_model=args.trust_model,
            **pair.extras,
        )
        result = outputs.with_doubts_of_files(result)
        progress("writing", 0.0)
        labels = pair.extras.get("fixed_labels")
        outputs.write_registration(result, pair.fixed, pair.moving, args.output, fixed_labels=labels, place=place)
        progress("writing", 1.0)
    return result


def _expected(settings: Settings, fixed: Grid, region: np.ndarray) -> float:
    """Seconds that the registration will take, by the speed of the device of the settings."""
    from ..networks.model import read_card
    from ..networks.shelf import find_model
    from ..registration.device import choose_device
    from ..registration.expected import expected_seconds, network_arithmetic, probe_seconds

    named = settings.model not in ("auto", "none")
    card = read_card(find_model(settings.model)) if named else None
    device = choose_device(settings.device)
    # Apple's GPU runs networks alone.
    probe = probe_seconds("cpu" if device == "mps" else device)
    arithmetic = network_arithmetic() if device == "cpu" else "float32"
    return expected_seconds(settings, fixed, probe, region, card, arithmetic=arithmetic)


def _settings(args: argparse.Namespace) -> Settings:
    from ..registration.settings import Settings

    earlier = _earlier_settings(args.earlier, Settings) if args.earlier else Settings()
    settings = settings_of(args, earlier)
    if args.earlier and args.model is None and args.settings is None and settings.refinement != "off":
        # The network has run in the earlier result.
        settings = settings.replace(model="none")
    of_networks = {"--passes": args.passes, "--working-spacing": args.working_spacing}
    given = [option for option, value in of_networks.items() if value is not None]
    if given and not _with_network(settings):
        raise SettingsError(f"{given[0]} is for a network, and none runs here. Name one with --model.")
    return settings


def _with_network(settings: Settings) -> bool:
    from ..registration.choice import resolved

    return resolved(settings).model != "none"


def summary(report) -> str:
    """The report as a short table."""
    lines = []
    for title, values in (
        ("local correlation", {k: v["local"] for k, v in report.similarity.items() if "local" in v}),
        ("similarity NCC", {k: v["ncc"] for k, v in report.similarity.items()}),
        ("similarity MI", {k: v["mi"] for k, v in report.similarity.items()}),
        ("mean Dice", {k: v["mean"] for k, v in (report.dice or {}).items()}),
        ("mean 95 % surface distance, mm", {k: v["mean"] for k, v in (report.hd95_mm or {}).items()}),
        ("mean landmark error, mm", {k: v["mean"] for k, v in (report.tre_mm or {}).items()}),
    ):
        if values:
            lines.append(f"  {title:<31}" + "".join(f"{values[k]:>10.3f}" for k in ("before", "aligned", "after")))
    inside = report.folding["inside"]
    head = f"  {'':<31}" + "".join(f"{k:>10}" for k in ("before", "aligned", "after"))
    tail = [
        f"  folded voxels inside: {inside['count']} of {inside['voxels']} "
        f"({inside['any_corner_count']} by the stricter count), in the volume: {report.folding['volume']['count']}",
        f"  determinant {inside['minimum']:.3f} to {inside['maximum']:.3f}, SDlogJ {inside['sd_log']:.3f}, "
        f"largest displacement {report.largest_displacement_mm:.1f} mm",
        *_expected_line(report.expected_error),
        *_inverse_line(report.inverse),
        f"  model {report.model['name']}, {report.passes} pass(es), refinement {_refinement(report)}, "
        f"on {report.device}, {report.seconds['total']:.1f} s",
    ]
    return "\n".join([head, *lines, *tail, *(f"  Warning: {text}" for text in report.warnings)])


def _expected_line(expected: dict | None) -> list[str]:
    if not expected:
        return []
    under = ", ".join(f"{limit} mm in {expected[f'under_{limit}mm']:.0f} %" for limit in (1, 2, 5))
    return [f"  expected error ({expected['effort']}), with 90 % under {under} of the anatomy"]


def _refinement(report) -> str:
    from ..results.table import network_start

    name = report.refinement["preset"] if report.refinement else "off"
    start = network_start(report.refinement)
    name += f" from {start}" if start else ""
    return f"{name} (stopped while {report.stopped_at})" if report.stopped_at else name


def _inverse_line(inverse: dict | None) -> list[str]:
    if not inverse:
        return []
    return [f"  inverse: error {inverse['mean_mm']:.4f} mm in the mean, {inverse['max_mm']:.4f} mm at most"]
