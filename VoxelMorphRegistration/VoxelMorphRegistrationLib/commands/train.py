"""`voxelmorph train` and `voxelmorph export`. Torch is imported only when one of them runs."""

from __future__ import annotations

import argparse
import os
from contextlib import contextmanager
from pathlib import Path

from ..errors import Cancelled, DeviceError, OutputError, SettingsError


def add_train_parser(commands) -> None:
    """Add `voxelmorph train` to argparse's subparsers."""
    parser = commands.add_parser(
        "train",
        help="train a network",
        description="Train a registration network as CONFIG (TOML) says: on images, on label maps or on random shapes. "
        "DIR gets checkpoint.ckpt, steps.csv and validation.csv. Several GPUs: torchrun --nproc-per-node N -m "
        "VoxelMorphRegistrationLib train ...",
    )
    parser.add_argument("config", metavar="CONFIG", help="training configuration (TOML)")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the run (default: runs/NAME)")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop cleanly after about N minutes")
    parser.add_argument(
        "--continue", dest="go_on", action="store_true", help="go on from DIR/checkpoint.ckpt, with CONFIG's settings"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="FILE",
        help="go on from this checkpoint instead; or begin at step 0 with the weights of this model (.pt, or a "
        "shipped one's name)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="begin at step 0 with the weights of this checkpoint or model"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the training data, instead of the configuration's")
    parser.add_argument("--scans", metavar="DIR", help="folder of the scans of [scans], likewise")
    parser.add_argument("--teacher", metavar="DIR", help="folder of the displacement fields of [teacher], likewise")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto")
    parser.set_defaults(run=train)


def add_export_parser(commands) -> None:
    """Add `voxelmorph export` to argparse's subparsers."""
    parser = commands.add_parser(
        "export",
        help="make a model file from a training checkpoint",
        description="Write the network of CHECKPOINT as a TorchScript model file with its facts inside.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint.ckpt of a training run")
    parser.add_argument("-o", "--output", metavar="MODEL.pt", required=True, help="model file to write")
    parser.add_argument("--name", help="name of the model (default: the configuration's)")
    parser.add_argument("--description", default="", help="one sentence")
    parser.add_argument("--passes", type=int, default=1, metavar="N", help="passes a registration makes (default: 1)")
    parser.add_argument("--target-voxels", type=int, metavar="N", help="size of the working grid (default: trained)")
    parser.add_argument(
        "--spacing-mm", type=float, metavar="S", help="voxel size of the working grid (default: trained)"
    )
    parser.add_argument("--orientation", metavar="RAS", help="directions of the working grid (default: trained)")
    parser.add_argument("--facts", metavar="JSON", help="file with more of the card: validation, limits, training")
    parser.add_argument("--overwrite", action="store_true", help="replace MODEL.pt")
    parser.set_defaults(run=export)


def train(args: argparse.Namespace) -> int:
    """Run `voxelmorph train`."""
    from ..training.beginnings import is_model_file
    from ..training.config import load_config, with_data, with_scans, with_teacher
    from ..training.trainer import CHECKPOINT_NAME, Trainer

    config = load_config(args.config)
    if args.minutes is not None and not args.minutes > 0:
        raise SettingsError(f"--minutes must be positive, not {args.minutes:g}.")
    if sum(map(bool, (args.go_on, args.start, args.weights))) > 1:
        raise SettingsError("Give one of --continue, --from and --weights, not several.")
    args.start, args.weights = (_shipped(name) for name in (args.start, args.weights))
    # A model file has no step and no moments of Adam to go on from.
    if args.start and is_model_file(args.start):
        args.start, args.weights = None, args.start
    config = with_data(config, args.data) if args.data else config
    config = with_scans(config, args.scans) if args.scans else config
    config = with_teacher(config, args.teacher) if args.teacher else config
    output = Path(args.output) if args.output else Path("runs") / config.name
    checkpoint = output / CHECKPOINT_NAME
    device = device_of(args.device)
    if not args.go_on and checkpoint.exists():
        raise OutputError(f"{checkpoint} exists. Go on from it with --continue, or give another folder with --output.")
    with _process_group(device) as device:
        source = config.pairs(Path(args.config).parent, lambda line: print(line, flush=True))
        if args.go_on or args.start:
            trainer = Trainer.resume(checkpoint if args.go_on else Path(args.start), output, device, config, source)
        else:
            trainer = Trainer(config, output, device, source)
        if args.weights:
            trainer.start_from(Path(args.weights))
        try:
            trainer.run(args.minutes, lambda line: print(line, flush=True))
        except KeyboardInterrupt as error:
            where = f"--continue goes on from {checkpoint}." if checkpoint.exists() else "No checkpoint was reached."
            raise Cancelled(f"Cancelled at step {trainer.step}. {where}") from error
    if trainer.rank == 0:
        print(f"Step {trainer.step} of {config.steps} is in {checkpoint}.")
    return 0


def _shipped(name: str | None) -> str | None:
    """The file of a shipped model's name; any other name as it is."""
    from ..networks.shelf import find_model, model_names

    return str(find_model(name)) if name in model_names() and not Path(name).exists() else name


@contextmanager
def _process_group(device: str):
    """The device of this process, joined with the others where torchrun started several."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def export(args: argparse.Namespace) -> int:
    """Run `voxelmorph export`."""
    from ..training.export import checkpoint_dimension, export_checkpoint, read_facts
    from ..transforms.written import check_free

    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise OutputError(f"{output} exists. Give --overwrite to replace it.")
    check_free(output, True, [args.checkpoint, *([args.facts] if args.facts else [])])
    if args.passes < 1:
        raise SettingsError(f"--passes must be 1 or more, not {args.passes}.")
    facts = read_facts(args.facts) if args.facts else {}
    chosen = {
        "name": args.name,
        "description": args.description,
        "target_voxels": args.target_voxels,
        "orientation": args.orientation,
    }
    if args.spacing_mm is not None:
        if not args.spacing_mm > 0:
            raise SettingsError(f"--spacing-mm must be positive, not {args.spacing_mm:g}.")
        chosen["spacing_mm"] = (args.spacing_mm,) * checkpoint_dimension(args.checkpoint)
    facts |= {key: value for key, value in chosen.items() if value}
    card = export_checkpoint(args.checkpoint, output, facts | {"passes": args.passes})
    print(f"Wrote {output}: {card.name}, {card.training['steps']} steps.")
    return 0


def device_of(name: str) -> str:
    """The torch device of an option. DeviceError when it is missing."""
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        # Apple's GPU lacks 3D interpolation, which every step needs.
        return "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        raise DeviceError(f"This computer has no {name} device that PyTorch can use. Give --device cpu.")
    return name
