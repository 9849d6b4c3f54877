"""`voxelmorph register`. Torch is imported only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, SettingsError
from .terminal import EXIT_OK, Progress, add_trust

if TYPE_CHECKING:
    from ..images.image import Image
    from ..registration.settings import Settings


def add_register(commands) -> None:
    parser = commands.add_parser(
        "register",
        help="deform a moving image onto a fixed one",
        description="Deform MOVING onto FIXED. Images may be NIfTI, a folder with a DICOM series, or anything "
        "SimpleITK reads (NRRD, MetaImage, ...). Landmarks are Slicer markups or tables with x, y, z in RAS mm.",
    )
    parser.add_argument("fixed", metavar="FIXED", help="image that stays")
    parser.add_argument("moving", metavar="MOVING", help="image to deform")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    parser.add_argument(
        "--series",
        metavar="N[,M]",
        help="which DICOM series where a folder holds several, by its number in the list that is shown then: N for "
        "FIXED, M for MOVING (one number serves for both)",
    )
    parser.add_argument("--settings", metavar="JSON", help="file with settings; the options below go before it")
    parser.add_argument(
        "--quality",
        choices=("best", "preview"),
        help="best: the most accurate result; preview: one within seconds (default: best)",
    )
    parser.add_argument(
        "--model", metavar="NAME|FILE", help="shipped model, model file, auto or none (default: auto, by the quality)"
    )
    add_trust(parser)
    parser.add_argument(
        "--alignment", choices=("none", "centers", "mass", "rigid", "similarity", "affine"), help="default: affine"
    )
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
        "--passes", type=int, metavar="N", help="how often the network is applied (default: the model's)"
    )
    parser.add_argument(
        "--refine",
        choices=("auto", "off", "coarse", "fast", "default", "accurate"),
        help="optimise for this pair (default: auto, by the quality); off: a network alone",
    )
    parser.add_argument(
        "--similarity",
        choices=("auto", "lncc", "mind", "mi", "mse"),
        help="what the refinement compares: lncc for one modality, mind or mi for any (default: auto)",
    )
    parser.add_argument("--smoothness", type=float, metavar="X", help="of the refinement, a factor (default: 1)")
    parser.add_argument("--label-weight", type=float, metavar="W", help="labels guide the refinement (default: 0)")
    parser.add_argument(
        "--landmark-weight", type=float, metavar="W", help="landmarks guide the refinement (default: 0)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="default: auto")
    parser.add_argument(
        "--precision", choices=("auto", "float32"), help="auto: bfloat16 where the processor has it (default: auto)"
    )
    parser.add_argument("--working-spacing", type=float, metavar="MM", help="voxel size of the network's grid")
    parser.add_argument("--label-interpolation", choices=("nearest", "linear"), help="default: nearest")
    parser.add_argument(
        "--preview",
        metavar="DIR",
        help="folder for preview.nii.gz, the moving image as it improves, first after some seconds",
    )
    parser.add_argument("--jacobian", choices=("total", "deformable"), help="with or without the linear part")
    parser.add_argument(
        "--inverse", action="store_true", help="also write the inverse transform, from MOVING to FIXED positions"
    )
    parser.add_argument("--seed", type=int, help="of the alignment's sampling (default: 0)")
    parser.add_argument("--fixed-labels", metavar="FILE", help="label map of FIXED, to measure overlap")
    parser.add_argument("--moving-labels", metavar="FILE", help="label map of MOVING, to carry over and measure")
    parser.add_argument("--fixed-points", metavar="FILE", help="landmarks in FIXED, to measure the error")
    parser.add_argument("--moving-points", metavar="FILE", help="the same landmarks in MOVING")
    parser.add_argument("--fixed-mask", metavar="FILE", help="where FIXED counts")
    parser.add_argument("--moving-mask", metavar="FILE", help="where MOVING counts in the refinement")
    parser.set_defaults(run=_register)


# Options of the command line and the settings they set.
_OPTIONS = {
    "quality": "quality",
    "model": "model",
    "alignment": "alignment",
    "passes": "passes",
    "refine": "refinement",
    "similarity": "similarity",
    "smoothness": "smoothness",
    "label_weight": "label_weight",
    "landmark_weight": "landmark_weight",
    "device": "device",
    "precision": "precision",
    "working_spacing": "working_spacing_mm",
    "label_interpolation": "label_interpolation",
    "jacobian": "jacobian",
    "seed": "seed",
}


def _register(args: argparse.Namespace) -> int:
    from ..registration.settings import Settings
    from ..results import outputs
    from ..results.preview import PreviewFolder

    settings = _settings(args, Settings)
    preview = PreviewFolder(args.preview, args.overwrite) if args.preview else None
    series = _series(args.series)
    exist = Path(args.fixed).exists() and Path(args.moving).exists()
    if exist and Path(args.fixed).samefile(args.moving) and series[0] == series[1]:
        raise InputError("The fixed and the moving image are the same file. Give two different images.")
    with outputs.reserved(
        args.output, args.moving_labels is not None, args.overwrite, args.inverse, _inputs(args)
    ) as place:
        result = _into(place, args, settings, series, preview)
    print(summary(result.report))
    print(f"Results are in {args.output}: {', '.join(outputs.names_of(result))}")
    return EXIT_OK


def _start(args: argparse.Namespace, fixed, moving, told: list[str]):
    """The start of the registration: None, a matrix (4, 4), or the displacement of what bends space."""
    from ..images.grid import working_grid
    from ..results import outputs
    from ..transforms.reading import read_chain

    names = args.initial_transform or []
    if args.earlier:
        if names:
            raise InputError("--continue starts from the earlier result: leave --initial-transform out.")
        names = [str(Path(args.earlier) / outputs.TRANSFORM)]
    if not names:
        return None
    chain = read_chain(names, fixed=fixed, moving=moving, told=told)
    return chain.matrix if chain.matrix is not None else chain.field_on(working_grid(fixed))


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


def _into(place, args: argparse.Namespace, settings, series, preview):
    """Register, and write the results to the folder that is held."""
    from ..images import landmarks
    from ..images.files import read_image
    from ..registration.expected import in_words
    from ..registration.register import register
    from ..results import outputs

    fixed = read_image(args.fixed, "fixed image", series[0]).renamed(args.fixed)
    moving = read_image(args.moving, "moving image", series[1]).renamed(args.moving)
    fixed_points, moving_points, told = landmarks.matched(
        args.fixed_points and landmarks.read_landmarks(args.fixed_points, "fixed landmarks"),
        args.moving_points and landmarks.read_landmarks(args.moving_points, "moving landmarks"),
    )
    extras = {
        **_labels(args, fixed, moving),
        "fixed_points": fixed_points,
        "moving_points": moving_points,
        "initial_transform": _start(args, fixed.grid, moving.grid, told),
    }
    fixed = fixed.with_told(told)
    extras = {name: value for name, value in extras.items() if value is not None}
    print(f"Expected: {in_words(_expected(settings, fixed, extras.get('fixed_mask')))}.", file=sys.stderr, flush=True)
    with Progress() as progress:
        result = register(
            fixed,
            moving,
            None,
            settings,
            progress,
            preview=preview,
            inverse=args.inverse,
            trust_model=args.trust_model,
            **extras,
        )
        progress("writing", 0.0)
        labels = extras.get("fixed_labels")
        outputs.write_registration(result, fixed, moving, args.output, fixed_labels=labels, place=place)
        progress("writing", 1.0)
    return result


def _series(text: str | None) -> tuple[str | None, str | None]:
    """The series of the fixed and of the moving image; one serves for both."""
    parts = [part.strip() or None for part in (text or "").split(",")]
    if len(parts) > 2:
        raise SettingsError(f"--series takes one number, or two with a comma between them, not '{text}'.")
    return parts[0], parts[-1]


def _expected(settings: Settings, fixed: Image, mask: Image | None) -> float:
    """Seconds that the registration will take, by the speed of the device of the settings."""
    from ..networks.model import read_card
    from ..networks.shelf import find_model
    from ..registration.device import choose_device
    from ..registration.expected import expected_seconds, probe_seconds
    from ..registration.intensity import measured_region

    named = settings.model not in ("auto", "none")
    card = read_card(find_model(settings.model)) if named else None
    device = choose_device(settings.device)
    # Apple's GPU runs networks alone.
    probe = probe_seconds("cpu" if device == "mps" else device)
    return expected_seconds(settings, fixed.grid, probe, measured_region(fixed, mask), card)


# Options that name files; none of these is ever an output.
_INPUTS = (
    "fixed",
    "moving",
    "settings",
    "model",
    "fixed_labels",
    "moving_labels",
    "fixed_points",
    "moving_points",
    "fixed_mask",
    "moving_mask",
)


def _inputs(args: argparse.Namespace) -> list[str]:
    """The files that are read."""
    from ..results import outputs

    found = [getattr(args, name) for name in _INPUTS if getattr(args, name) is not None]
    found += args.initial_transform or []
    if args.earlier:
        found.append(str(Path(args.earlier) / outputs.TRANSFORM))
    return found


def _settings(args: argparse.Namespace, kind):
    settings = kind()
    if args.earlier:
        settings = _earlier_settings(args.earlier, kind)
    if args.settings:
        try:
            settings = kind.from_json(Path(args.settings).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The settings file {args.settings} cannot be read.") from error
    given = {own: getattr(args, option) for option, own in _OPTIONS.items() if getattr(args, option) is not None}
    if args.earlier and given.get("refinement", settings.refinement) != "off":
        # It has run in the earlier result.
        given.setdefault("model", "none")
    return settings.replace(**given)


def _labels(args: argparse.Namespace, fixed, moving) -> dict:
    """Labels and masks on the grids of their images; segmentations of Slicer by nearest neighbour."""
    from ..fields.warp import warp_labels
    from ..images.labels import on_image
    from ..images.segmentations import matched_by_name, read_labels, read_mask

    images = {"fixed": fixed, "moving": moving}
    found = {}
    for what, read in (("labels", read_labels), ("mask", read_mask)):
        for side in images:
            if path := getattr(args, f"{side}_{what}"):
                found[f"{side}_{what}"] = read(path, f"{side} {what}")
    if "fixed_labels" in found and "moving_labels" in found:
        found["moving_labels"] = matched_by_name(found["fixed_labels"], found["moving_labels"])
    result = {}
    for name, labels in found.items():
        side, what = name.split("_")
        image, own = images[side], labels.image.renamed(getattr(args, name))
        if labels.is_segmentation and not own.grid.same_as(image.grid):
            own = warp_labels(own, image.grid, mode="nearest").with_told(own.told)
        result[name] = on_image(own, image, f"{side} {what}", f"{side} image")
    return result


def summary(report) -> str:
    """The report as a short table."""
    lines = []
    for title, values in (
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
        *_inverse_line(report.inverse),
        f"  model {report.model['name']}, {report.passes} pass(es), refinement {_refinement(report)}, "
        f"on {report.device}, {report.seconds['total']:.1f} s",
    ]
    return "\n".join([head, *lines, *tail, *(f"  Warning: {text}" for text in report.warnings)])


def _refinement(report) -> str:
    name = report.refinement["preset"] if report.refinement else "off"
    return f"{name} (stopped while {report.stopped_at})" if report.stopped_at else name


def _inverse_line(inverse: dict | None) -> list[str]:
    if not inverse:
        return []
    return [f"  inverse: error {inverse['mean_mm']:.4f} mm in the mean, {inverse['max_mm']:.4f} mm at most"]
