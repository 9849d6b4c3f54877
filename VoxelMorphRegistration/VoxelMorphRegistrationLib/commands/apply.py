"""`voxelmorph apply`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .options import add_series, series_of
from .terminal import EXIT_OK

if TYPE_CHECKING:
    from ..images.grid import Grid

_DESCRIPTION = """\
Carry INPUT through one or several transforms, as ANTs lists them: a position of the reference (fixed) goes through the
first one first, and ends in the input (moving). However many there are, an image is interpolated once.

Images (slices, volumes, time series, colours) keep their type; label maps want --interpolation nearest or labels;
.seg.nrrd, landmarks (.mrk.json, .fcsv, tables with x, y, z) and surfaces or lines (.vtk, .vtp, .stl, .ply, .obj) are
known by their names. The same transforms in the same order carry an image and what was drawn in it: an image looks up,
for each voxel of the reference, where it comes from, and points go the other way, by the inverse, which is computed.

Transforms: .h5, .tfm, .txt and .mat of ITK, ANTs and Slicer; displacement fields of ITK, ANTs, greedy, elastix and
Slicer (.nii.gz, .nrrd, .mha); matrices in RAS mm in a text file (greedy); .lta of FreeSurfer; FSL's matrices
(FILE:fsl); fields in voxels of VoxelMorph and SynthMorph (FILE:voxelmorph). FILE:inverse is the inverse of any.

Outside the grid of a field the displacement at the nearest place of its border holds, for every kind of file (ITK and
ANTs take zero there, Slicer does as here). Outside INPUT an image gets the background.
"""


def add_apply(commands) -> None:
    parser = commands.add_parser(
        "apply",
        help="carry images, labels, landmarks and surfaces through transforms",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="voxelmorph apply TRANSFORM [TRANSFORM ...] INPUT -o OUT [options]\n"
        "       voxelmorph apply TRANSFORM [TRANSFORM ...] --inputs INPUT [INPUT ...] -o DIR [options]",
    )
    parser.add_argument("files", metavar="TRANSFORM", nargs="+", help="transforms, and INPUT as the last one")
    parser.add_argument(
        "--inputs",
        metavar="INPUT",
        nargs="+",
        help="several inputs; OUT is then a folder, and names are kept (folders become .nii.gz)",
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="file, or folder with --inputs")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that are already there")
    parser.add_argument(
        "--reference",
        metavar="IMAGE",
        help="image whose grid the output gets (default: the grid of the first field, else INPUT's own)",
    )
    parser.add_argument(
        "--spacing",
        metavar="MM",
        type=float,
        nargs="+",
        help="voxel size of the output, one or three, on the reference",
    )
    parser.add_argument("--crop", action="store_true", help="cut the output to what is not background")
    parser.add_argument(
        "--interpolation",
        choices=("nearest", "linear", "cubic", "labels"),
        help="labels: the label of the largest linear weight (default: linear, nearest for .seg.nrrd)",
    )
    parser.add_argument(
        "--background", metavar="X", type=float, help="value outside INPUT (default: its smallest; 0 for labels)"
    )
    parser.add_argument(
        "--frame", choices=("RAS", "LPS"), help="of tables (default: RAS) and of surfaces that do not say it (LPS)"
    )
    add_convention(parser)
    add_series(parser, "the reference", "INPUT")
    parser.set_defaults(run=_apply)


def add_convention(parser: argparse.ArgumentParser) -> None:
    """Options that say what transform files mean."""
    parser.add_argument(
        "--convention",
        choices=("auto", "voxelmorph", "fsl"),
        default="auto",
        help="of the transforms for which it is not said behind the name (:voxelmorph, :fsl)",
    )
    parser.add_argument("--moving", metavar="IMAGE", help="moving image, for FSL's matrices (default: INPUT)")


def read_names(files: list[str], args: argparse.Namespace) -> list[Path]:
    """What a command reads: transforms as they are named, and the images of its options."""
    from ..transforms.reading import Named

    options = (getattr(args, name, None) for name in ("reference", "moving", "labels"))
    return [Named.of(name).path for name in files] + [Path(name) for name in options if name]


def read_grids(args: argparse.Namespace, images: Sequence[str] = ()) -> tuple[Grid | None, Grid | None]:
    """Those of the reference and of the moving image, where they are given. images: others that --series may mean."""
    from ..images.dicom import check_series
    from ..transforms.frames import read_grid

    fixed, moving = series_of(args.series)
    check_series((fixed, moving), [*images, *(one for one in (args.reference, args.moving) if one)])
    reference = read_grid(args.reference, "reference", fixed) if args.reference else None
    return reference, read_grid(args.moving, "moving image", moving) if args.moving else None


def _apply(args: argparse.Namespace) -> int:
    from ..images.nifti_space import lost_places
    from ..transforms.apply import IMAGE, Wishes, apply_to_file, check_names, check_wishes, kind_of
    from ..transforms.reading import read_chain
    from ..transforms.written import check_free, whole

    names, inputs, outputs = _files(args)
    for one, output in zip(inputs, outputs, strict=True):
        if not Path(one).exists():
            raise InputError(f"The input cannot be read: there is no file {one}.")
        check_names(one, output)
    read = read_names([*names, *inputs], args)
    for output in outputs:
        check_free(output, args.overwrite, read)
    images = [one for one in inputs if kind_of(one) == IMAGE]
    args.moving = args.moving or next(iter(images), None)
    reference, moving = read_grids(args, images)
    told: list[str] = []
    chain = read_chain(names, args.convention, reference, moving, told)
    wishes = Wishes(
        reference,
        tuple(args.spacing) if args.spacing else None,
        args.interpolation,
        args.background,
        args.crop,
        args.frame,
        series_of(args.series)[1],
    )
    check_wishes(inputs, wishes)
    with whole(outputs, args.overwrite) as stages:
        done = [
            apply_to_file(chain, one, stage, output, wishes)
            for one, stage, output in zip(inputs, stages, outputs, strict=True)
        ]
    if reference is not None and any(output.name.endswith((".nii", ".nii.gz")) for output in outputs):
        lost = lost_places(reference)
        told += [f"{lost} Write .nrrd instead."] if lost else []
    print("\n".join([*done, *(f"  Warning: {text}" for text in told)]))
    return EXIT_OK


def _files(args: argparse.Namespace) -> tuple[list[str], list[str], list[Path]]:
    """Transforms, inputs and outputs."""
    if args.inputs:
        return args.files, args.inputs, [Path(args.output) / _kept_name(Path(one)) for one in args.inputs]
    if len(args.files) < 2:
        raise InputError("Give at least one transform and, behind it, the input.")
    return args.files[:-1], args.files[-1:], [Path(args.output)]


def _kept_name(source: Path) -> str:
    """Of an output: that of its input; a folder with DICOM files becomes one file."""
    return f"{source.resolve().name}.nii.gz" if source.is_dir() else source.name
