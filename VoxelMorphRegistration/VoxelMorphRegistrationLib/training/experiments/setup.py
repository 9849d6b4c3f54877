"""The training configuration of an experiment, from the options of the command and, if given, a TOML file."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ...errors import InputError, SettingsError
from ...images.files import read_image
from ...images.grid import working_grid
from ..config import TrainingConfig, config_from_dict, load_config
from ..files import cases_in_folder, cases_in_table, is_table_of_pairs, pairs_in_table
from ..stored import across_axis

DEFAULT_STEPS = 2000
STRIDE = 16


def experiment_config(args: Namespace) -> tuple[TrainingConfig, Path]:
    """The configuration, and the folder where its relative paths start. InputError, SettingsError."""
    if args.config:
        values, base = load_config(args.config).to_dict(), Path(args.config).parent
        if values["source"] != "images":
            raise SettingsError(f'An experiment needs images: {args.config} has source = "{values["source"]}".')
    else:
        values, base = _defaults(args.steps or DEFAULT_STEPS), Path()
    _set_data(values, args)
    for name in ("steps", "seed"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    if args.pairs is not None:
        values["validation"]["pairs"] = args.pairs
    if "shape" not in values:
        values["shape"] = _fitting_shape(values["images"], base)
    return config_from_dict(values), base


def _defaults(steps: int) -> dict:
    """A network as in the paper, diffeomorphic, trained by MSE without labels."""
    return {
        "name": "experiment",
        "source": "images",
        "steps": steps,
        "log_every": max(1, steps // 100),
        "network": {"encoder": [16, 32, 32, 32], "decoder": [32, 32, 32, 32, 16], "symmetric": False},
        "images": {},
        "supervision": {},
        "loss": {"similarity": "mse", "smoothness": 0.02, "dice": 0.0},
        "optimiser": {"warm_steps": steps // 20, "decay_steps": steps // 2},
        "validation": {"every": max(1, steps // 4)},
    }


def _set_data(values: dict, args: Namespace) -> None:
    """Put the options about the images into the sections."""
    images = values["images"]
    if args.data:
        path = Path(args.data).resolve()
        if not path.exists():
            raise InputError(f"There is no folder or table {args.data} (--data).")
        images |= {"folder": str(path), "table": ""} if path.is_dir() else {"folder": "", "table": str(path)}
    elif not args.config:
        raise SettingsError("Give the folder of the images, or a table of them, with --data.")
    options = {"image_names": args.images, "label_names": args.labels, "slices": args.slices}
    options["spacing_mm"] = None if args.spacing is None else [args.spacing]
    images |= {name: value for name, value in options.items() if value is not None}
    if args.structures:
        values["supervision"]["table"] = str(Path(args.structures).resolve())
    if images.get("folder") and not images.get("label_names"):
        raise SettingsError("An experiment needs segmentations: name the label maps with --labels, '*_seg.nii.gz' say.")


def _fitting_shape(images: dict, base: Path) -> list[int]:
    """Sizes (K, J, I) or (J, I), multiples of the network's stride, that hold the first image at the spacing asked."""
    first = read_image(_first_image(images, base))
    grid = working_grid(first.grid, None, 1, images.get("orientation") or None)
    across = across_axis(grid, images.get("slices", ""))
    plane = [axis for axis in range(3) if axis != across]
    spacing = grid.spacing.copy()
    if images.get("spacing_mm"):
        spacing[plane] = images["spacing_mm"]
    size = working_grid(grid, tuple(spacing)).size[plane]
    return [int(-(-n // STRIDE) * STRIDE) for n in size[::-1]]


def _first_image(images: dict, base: Path) -> Path:
    if images.get("folder"):
        return cases_in_folder(base / images["folder"], images.get("image_names", "*"), images["label_names"])[0].image
    table = base / images["table"]
    if is_table_of_pairs(table):
        return pairs_in_table(table)[0].fixed.image
    return cases_in_table(table)[0].image
