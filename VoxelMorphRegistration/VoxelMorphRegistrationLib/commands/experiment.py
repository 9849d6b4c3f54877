"""`voxelmorph experiment`. Torch is imported only when one of them runs."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from ..errors import Cancelled, InputError, OutputError, SettingsError
from ..training import experiments
from .train import device_of

# Module and help of each experiment.
EXPERIMENTS = {
    "lambda": ("lambda_sweep", "Dice against the weight of the smoothness, for MSE and NCC"),
    "trainsize": ("training_size", "Dice against the number of training images, with and without refinement"),
    "supervision": ("supervision_sweep", "Dice of observed and unobserved structures against the weight of the Dice"),
    "losses": ("loss_comparison", "MSE, NCC, SSIM and Dice alone side by side"),
    "runtime": ("run_time", "seconds and Dice beside SyN and NiftyReg"),
}


def add_experiment_parser(commands) -> None:
    """Add `voxelmorph experiment` to argparse's subparsers."""
    parser = commands.add_parser(
        "experiment",
        help="the paper's experiments on your labelled images",
        description="Trains networks on a folder of labelled images, registers held-out pairs, and writes NAME.csv and "
        "NAME.png to the output folder.",
    )
    names = parser.add_subparsers(required=True, metavar="NAME", dest="experiment")
    parsers = {name: names.add_parser(name, help=text, description=text) for name, (_, text) in EXPERIMENTS.items()}
    for own in parsers.values():
        _add_common(own)
    values = {"type": float, "nargs": "*", "metavar": "LAMBDA"}
    parsers["lambda"].add_argument("--mse", **values, default=[0.002, 0.005, 0.02, 0.05, 0.2], help="for MSE")
    parsers["lambda"].add_argument("--ncc", **values, default=[0.1, 0.5, 1.0, 2.0, 5.0], help="for NCC")
    parsers["trainsize"].add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="numbers of training images (default: all, half, ... two)"
    )
    parsers["supervision"].add_argument(
        "--gammas", type=float, nargs="+", metavar="GAMMA", default=[0.01, 0.1, 1.0], help="weights of the Dice loss"
    )
    choices = ("one", "half", "all", "coarse")
    parsers["supervision"].add_argument("--seen", nargs="+", choices=choices, default=choices, help="in training")
    parsers["runtime"].add_argument("--niftyreg", metavar="FILE", help="the program reg_f3d (default: on the PATH)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR|CSV", help="folder with the images, or a table as in [images]")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--images", metavar="PATTERN", help="names of the images in DIR, such as '*_t1.nii.gz'")
    parser.add_argument("--labels", metavar="PATTERN", help="names of their label maps, such as '*_seg.nii.gz'")
    parser.add_argument("--structures", metavar="CSV", help="table label,name[,group] (default: brain, FreeSurfer)")
    parser.add_argument("--slices", choices=("sagittal", "coronal", "axial"), help="train in 2D on slices of volumes")
    parser.add_argument("--spacing", type=float, metavar="MM", help="voxel size of the grid (default: the images')")
    parser.add_argument("--config", metavar="TOML", help="training configuration that the options above change")
    parser.add_argument("--steps", type=int, metavar="N", help="of each training (default: 2000, or the TOML's)")
    parser.add_argument("--pairs", type=int, metavar="N", help="held-out pairs that are scored (default: 16)")
    parser.add_argument("--seed", type=int, metavar="N", help="default: 0, or the TOML's")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop cleanly after about N minutes")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="go on with what DIR holds")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, replacing what DIR holds")
    parser.set_defaults(run=experiment)


def experiment(args: argparse.Namespace) -> int:
    """Run `voxelmorph experiment`."""
    from ..training.curves import HOW_TO_GET, has_matplotlib
    from ..training.experiments.setup import experiment_config
    from ..training.experiments.study import OutOfTime, Study

    if not has_matplotlib():
        raise InputError(f"An experiment draws plots, and matplotlib is not installed. Get it with {HOW_TO_GET}.")
    if args.minutes is not None and not args.minutes > 0:
        raise SettingsError(f"--minutes must be positive, not {args.minutes:g}.")
    if args.go_on and args.overwrite:
        raise SettingsError("Give --continue or --overwrite, not both.")
    output, name = Path(args.output), args.experiment
    module = importlib.import_module(f"{experiments.__name__}.{EXPERIMENTS[name][0]}")
    existing = [path for path in (output / f"{name}.csv", output / f"{name}.png") if path.exists()]
    if existing and not (args.go_on or args.overwrite):
        raise OutputError(f"{existing[0]} exists. Give --continue, --overwrite, or another folder.")
    config, base = experiment_config(args)
    study = Study(output / name, base, device_of(args.device), args.minutes, lambda line: print(line, flush=True))
    if name == "trainsize":
        args.available = study.images(config).counts[0]
    trainings = module.runs(config, args)
    study.clear(trainings, args.go_on, args.overwrite)
    try:
        table = module.rows(study, trainings, args)
    except OutOfTime:
        print("Stopped: the minutes are over. The same command with --continue goes on.")
        return 0
    except KeyboardInterrupt as error:
        raise Cancelled("Cancelled. The same command with --continue goes on from the last checkpoint.") from error
    _write(output, name, module, study, config, table)
    return 0


def _write(output: Path, name: str, module, study, config, table) -> None:
    """The table and the plot of an experiment, and what they show on the terminal."""
    from ..training.experiments.plots import write_plot
    from ..training.experiments.study import caption
    from ..training.experiments.tables import formatted, write_table

    text = f"{caption(study, config)} {module.CAPTION}"
    try:
        write_table(table, output / f"{name}.csv")
        write_plot(module.draw, table, text, module.SIZE, output / f"{name}.png")
    except OSError as error:
        raise OutputError(f"The results cannot be written to {output}: {error.strerror}.") from error
    print(f"{formatted(table)}\n{text}\nWrote {output / f'{name}.csv'} and {name}.png.")
