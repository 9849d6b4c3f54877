"""The options that set settings, the same for every command that registers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingsError
from .terminal import add_trust

if TYPE_CHECKING:
    from ..registration.settings import Settings


def add_series(parser: argparse.ArgumentParser, fixed: str, moving: str) -> None:
    """fixed, moving: what the help calls them."""
    parser.add_argument(
        "--series",
        metavar="N[,M]",
        help="which DICOM series where a folder holds several, by its number in the list that is shown then: N for "
        f"{fixed}, M for {moving} (one number serves for both)",
    )


def series_of(text: str | None) -> tuple[str | None, str | None]:
    """The series of the fixed and of the moving image; one serves for both."""
    parts = [part.strip() or None for part in (text or "").split(",")]
    if len(parts) > 2:
        raise SettingsError(f"--series takes one number, or two with a comma between them, not '{text}'.")
    return parts[0], parts[-1]


def add_settings(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--channel-weights", type=float, nargs="+", metavar="W", help="of several images of each side (default: all 1)"
    )
    parser.add_argument(
        "--channel-similarities",
        nargs="+",
        metavar="NAME",
        help="of several images of each side, as --similarity (default: that of all)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="default: auto")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32"),
        help="auto: bfloat16 or 8-bit integers where the processor is faster with them (default: auto)",
    )
    parser.add_argument("--working-spacing", type=float, metavar="MM", help="voxel size of the network's grid")
    parser.add_argument("--label-interpolation", choices=("nearest", "linear"), help="default: nearest")
    parser.add_argument("--jacobian", choices=("total", "deformable"), help="with or without the linear part")
    parser.add_argument(
        "--expected-error",
        action="store_const",
        const="full",
        help="also write a map of the error in mm that is not exceeded with 90 %%; takes up to as long again",
    )
    parser.add_argument(
        "--jacobian-grid",
        choices=("field", "fixed"),
        help="voxels of the Jacobian map and of the folds counted: those of the field, where they are the larger "
        "ones, or always those of FIXED (default: field)",
    )
    parser.add_argument("--seed", type=int, help="of the alignment's sampling (default: 0)")


def check_counts(args: argparse.Namespace) -> None:
    """Raise SettingsError for a number of processes or threads below one."""
    for name in ("jobs", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SettingsError(f"--{name} is {value}; it must be at least 1.")


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
    "channel_weights": "channel_weights",
    "channel_similarities": "channel_similarities",
    "device": "device",
    "precision": "precision",
    "working_spacing": "working_spacing_mm",
    "label_interpolation": "label_interpolation",
    "jacobian": "jacobian",
    "expected_error": "expected_error",
    "jacobian_grid": "jacobian_grid",
    "seed": "seed",
}


def settings_of(args: argparse.Namespace, base: Settings) -> Settings:
    """`base`, or the settings of the file that was given, with the options that were given. Raises SettingsError."""
    from ..registration.settings import Settings

    settings = base
    if args.settings:
        try:
            settings = Settings.from_json(Path(args.settings).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The settings file {args.settings} cannot be read.") from error
    given = {own: getattr(args, option) for option, own in _OPTIONS.items() if getattr(args, option) is not None}
    return settings.replace(**given)
