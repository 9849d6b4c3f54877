"""The command line: voxelmorph register | demo | models | train | export | experiment."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from . import __version__
from .errors import Cancelled, InputError, ModelError, OutputError, SettingsError, VoxelMorphError

EXIT_OK, EXIT_ERROR, EXIT_CANCELLED = 0, 1, 130


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
    _add_register(commands)
    _add_demo(commands)
    _add_models(commands)
    from .training import commands as training_commands
    from .training.experiments import commands as experiment_commands

    training_commands.add_train_parser(commands)
    training_commands.add_export_parser(commands)
    experiment_commands.add_experiment_parser(commands)
    return parser


# --- register --------------------------------------------------------------------------------------------------


def _add_register(commands) -> None:
    parser = commands.add_parser(
        "register",
        help="deform a moving image onto a fixed one",
        description="Deform MOVING onto FIXED. Images may be anything SimpleITK reads (NIfTI, NRRD, MetaImage, a "
        "folder with one DICOM series). Landmarks are Slicer markups or tables with x, y, z in RAS mm.",
    )
    parser.add_argument("fixed", metavar="FIXED", help="image that stays")
    parser.add_argument("moving", metavar="MOVING", help="image to deform")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    parser.add_argument("--settings", metavar="JSON", help="file with settings; the options below go before it")
    parser.add_argument(
        "--model", metavar="NAME|FILE", help="shipped model, model file, or none (default: by dimension)"
    )
    parser.add_argument(
        "--alignment", choices=("none", "centers", "mass", "rigid", "similarity", "affine"), help="default: affine"
    )
    parser.add_argument("--initial-transform", metavar="FILE", help="linear transform, fixed to moving")
    parser.add_argument(
        "--passes", type=int, metavar="N", help="how often the network is applied (default: the model's)"
    )
    parser.add_argument(
        "--refine", choices=("off", "fast", "default", "accurate"), help="optimise for this pair (default: off)"
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
    from . import alignment, landmarks, outputs, registration
    from .geometry import read_image

    settings = _settings(args, registration.Settings)
    outputs.check_folder(args.output, args.moving_labels is not None, args.overwrite, args.inverse)
    if Path(args.fixed).exists() and Path(args.moving).exists() and Path(args.fixed).samefile(args.moving):
        raise InputError("The fixed and the moving image are the same file. Give two different images.")
    fixed = read_image(args.fixed, "fixed image").renamed(args.fixed)
    moving = read_image(args.moving, "moving image").renamed(args.moving)
    extras = {
        "fixed_labels": args.fixed_labels and _labels(args.fixed_labels, "fixed labels"),
        "moving_labels": args.moving_labels and _labels(args.moving_labels, "moving labels"),
        "fixed_mask": args.fixed_mask and _labels(args.fixed_mask, "fixed mask"),
        "moving_mask": args.moving_mask and _labels(args.moving_mask, "moving mask"),
        "fixed_points": args.fixed_points and landmarks.read_points(args.fixed_points, "fixed landmarks"),
        "moving_points": args.moving_points and landmarks.read_points(args.moving_points, "moving landmarks"),
        "initial_transform": args.initial_transform and alignment.read_linear_transform(args.initial_transform),
    }
    extras = {name: value for name, value in extras.items() if value is not None}
    with Progress() as progress:
        result = registration.register(fixed, moving, None, settings, progress, inverse=args.inverse, **extras)
        progress("writing", 0.0)
        labels = extras.get("fixed_labels")
        outputs.write_registration(result, fixed, moving, args.output, fixed_labels=labels, overwrite=args.overwrite)
        progress("writing", 1.0)
    print(summary(result.report))
    print(f"Results are in {args.output}: {', '.join(outputs.names_of(result))}")
    return EXIT_OK


def _settings(args: argparse.Namespace, kind):
    settings = kind()
    if args.settings:
        try:
            settings = kind.from_json(Path(args.settings).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The settings file {args.settings} cannot be read.") from error
    given = {own: getattr(args, option) for option, own in _OPTIONS.items() if getattr(args, option) is not None}
    return settings.replace(**given)


def _labels(path: str, name: str):
    """A label map; whole numbers stored as floats become integers."""
    import numpy as np

    from .geometry import read_image

    image = read_image(path, name).renamed(path)
    if image.array.dtype.kind == "f" and np.array_equal(image.array, np.rint(image.array)):
        image = image.with_array(image.array.astype(np.int32))
    return image


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
        f"  model {report.model['name']}, {report.passes} pass(es), refinement {report.settings['refinement']}, "
        f"on {report.device}, {report.seconds['total']:.1f} s",
    ]
    return "\n".join([head, *lines, *tail, *(f"  Warning: {text}" for text in report.warnings)])


def _inverse_line(inverse: dict | None) -> list[str]:
    if not inverse:
        return []
    return [f"  inverse: error {inverse['mean_mm']:.4f} mm in the mean, {inverse['max_mm']:.4f} mm at most"]


class Progress:
    """Progress on the terminal: a bar where there is one, a line a stage where the output is piped."""

    def __init__(self, stream=None) -> None:
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._stage, self._drawn = "", 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def __call__(self, stage: str, fraction: float) -> None:
        if not self._bar:
            if stage != self._stage:
                print(f"{stage} ...", file=self._stream, flush=True)
        elif stage != self._stage or fraction >= 1.0 or time.monotonic() - self._drawn > 0.1:
            full = round(30 * fraction)
            self._stream.write(f"\r\033[K[{'#' * full}{'.' * (30 - full)}] {100 * fraction:3.0f} %  {stage}")
            self._stream.flush()
            self._drawn = time.monotonic()
        self._stage = stage


# --- demo ------------------------------------------------------------------------------------------------------


def _add_demo(commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="register a real brain with a known answer",
        description="Registers the MNI152 template (from the package nilearn) with a copy of it deformed by a known "
        "field, and prints the error in millimetres.",
    )
    parser.add_argument("-o", "--output", metavar="DIR", default="demo-output", help="default: demo-output")
    parser.add_argument("--model", metavar="NAME|FILE", default="auto", help="default: the general 3D model")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from . import demo

    with Progress() as progress:
        text = demo.run(args.output, model=args.model, overwrite=args.overwrite, progress=progress)
    print(text)
    return EXIT_OK


# --- models ----------------------------------------------------------------------------------------------------


def _add_models(commands) -> None:
    parser = commands.add_parser("models", help="list, describe, check and import model files")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the shipped models")
    listing.set_defaults(run=_models_list)
    describe = actions.add_parser("describe", help="all facts of a model")
    describe.add_argument("model", metavar="NAME|FILE")
    describe.set_defaults(run=_models_describe)
    check = actions.add_parser("check", help="load a model file and run it once")
    check.add_argument("model", metavar="FILE")
    check.set_defaults(run=_models_check)
    importing = actions.add_parser(
        "import",
        help="convert a model from elsewhere",
        description="Converts published VoxelMorph Keras weights (.h5), or a TorchScript network that returns a flow "
        "or (moved, field), to a model file with its facts inside.",
    )
    importing.add_argument("file", metavar="FILE")
    importing.add_argument("-o", "--output", metavar="OUT", required=True, help="model file to write (.pt)")
    importing.add_argument("--name", help="name of the model (default: the file's)")
    importing.add_argument("--facts", metavar="JSON", help="facts of a TorchScript network (see the README)")
    importing.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    importing.set_defaults(run=_models_import)


def _models_list(_: argparse.Namespace) -> int:
    from . import models

    for name in models.model_names():
        card = models.read_card(models.find_model(name))
        print(f"{name:<16} {card.dimension}D  {card.description}")
    return EXIT_OK


def _models_describe(args: argparse.Namespace) -> int:
    from . import models

    print(models.read_card(models.find_model(args.model)).to_json())
    return EXIT_OK


def _models_check(args: argparse.Namespace) -> int:
    from . import models

    model = models.load_model(args.model)
    found = models.check_model(model)
    print(
        f"{args.model} is a usable {model.card.dimension}D model '{model.card.name}': "
        f"{found['parameters']} parameters, "
        f"{'x'.join(map(str, found['input']))} voxels in, {'x'.join(map(str, found['output']))} out."
    )
    if model.card.shape is not None:
        print(f"It is locked to {'x'.join(map(str, model.card.shape))} voxels: images are resampled to that grid.")
    return EXIT_OK


def _models_import(args: argparse.Namespace) -> int:
    from . import models

    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise OutputError(f"{output} exists. Give another name, or --overwrite to replace it.")
    if Path(args.file).suffix in (".h5", ".hdf5"):
        network, card = models.import_keras(args.file, args.name)
    else:
        network, card = models.import_foreign(args.file, _facts(args), args.name)
    models.save_model(network, card, output)
    print(f"Wrote {output}: {card.dimension}D model '{card.name}'.")
    return EXIT_OK


def _facts(args: argparse.Namespace) -> dict:
    path = Path(args.facts) if args.facts else Path(args.file).with_suffix(".json")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"A TorchScript network does not say what it expects, and there is no {path}. Give its facts as a JSON "
            "file with --facts (dimension, spacing_mm, output, output_scale, returns, shape, ...)."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"The facts in {path} cannot be read as JSON: {error}") from error
    if not isinstance(facts, dict):
        raise ModelError(f"The facts in {path} must be a JSON object.")
    return facts


if __name__ == "__main__":
    sys.exit(main())
