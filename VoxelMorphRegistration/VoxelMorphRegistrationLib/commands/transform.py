"""`voxelmorph transform describe | invert | compose | convert | jacobian`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .apply import add_convention, read_grids, read_names
from .options import add_series
from .terminal import EXIT_OK

if TYPE_CHECKING:
    from ..images.grid import Grid
    from ..transforms.chain import Chain
    from ..transforms.writing import Sides


def add_transform(commands) -> None:
    parser = commands.add_parser(
        "transform",
        help="describe, invert, compose and convert transforms, and their Jacobian",
        description="What can be done with transforms alone. They are named and listed as for 'voxelmorph apply'.",
    )
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    describe = kinds.add_parser("describe", help="what a file is, its grid, how far it moves, whether it folds")
    describe.add_argument("files", metavar="TRANSFORM", nargs="+", help="each is described by itself")
    describe.add_argument("--json", action="store_true", help="as JSON")
    _add_reference(describe, "image on whose grid to measure (default: the transform's own)")
    describe.set_defaults(run=_describe)
    for name, run, text in (
        ("invert", _invert, "the inverse of one or a chain, and its error"),
        ("compose", _compose, "several as one: a matrix, a field, or a file that holds them all"),
        ("convert", _convert, "the same transform for another program"),
    ):
        kind = kinds.add_parser(name, help=text)
        kind.add_argument("files", metavar="TRANSFORM", nargs="+")
        _add_output(kind)
        _add_reference(kind, "image on whose grid a field is written; fixed image of an FSL or FreeSurfer file")
        kind.set_defaults(run=run)
        if name == "compose":
            kind.add_argument("--composite", action="store_true", help="keep the parts, in one .h5 or .tfm file")
    jacobian = kinds.add_parser("jacobian", help="how much volume changes at each voxel, or in each label")
    jacobian.add_argument("files", metavar="TRANSFORM", nargs="+")
    jacobian.add_argument("-o", "--output", metavar="IMAGE", help="determinant map (of T, from reference to input)")
    jacobian.add_argument("--log", action="store_true", help="its natural logarithm; folded voxels get that of 1e-9")
    jacobian.add_argument("--labels", metavar="IMAGE", help="label map in the reference's space, for --csv")
    jacobian.add_argument("--csv", metavar="FILE", help="a row for each label")
    jacobian.add_argument("--overwrite", action="store_true", help="replace files that are already there")
    _add_reference(jacobian, "image whose grid the map gets (default: that of the labels, or the transform's own)")
    jacobian.set_defaults(run=_jacobian)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="file; the suffix says the format")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is already there")
    parser.add_argument(
        "--to",
        choices=("itk", "ants", "slicer", "greedy", "fsl", "freesurfer"),
        default="itk",
        help="whose conventions: NIfTI fields of itk and slicer carry the displacement intent (RAS), of ants and "
        "greedy plain vectors (LPS); matrices of fsl and freesurfer need --reference and --moving (default: itk)",
    )


def _add_reference(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--reference", metavar="IMAGE", help=text)
    add_convention(parser)
    add_series(parser, "the reference", "the moving image")


def _read(args: argparse.Namespace, names: list[str] | None = None) -> Chain:
    from ..transforms.reading import read_chain

    told: list[str] = []
    chain = read_chain(names or args.files, args.convention, *read_grids(args), told=told)
    for text in told:
        print(f"Warning: {text}", file=sys.stderr)
    return chain


def _sides(args: argparse.Namespace) -> Sides:
    from ..transforms.writing import Sides

    return Sides(*read_grids(args), str(args.reference or "unknown"), str(args.moving or "unknown"))


def _measuring_grid(chain: Chain, reference: Grid | None) -> Grid | None:
    return reference or chain.own_grid or next((part.grid for part in chain.bent), None)


def _describe(args: argparse.Namespace) -> int:
    from ..transforms.facts import measured, parts_facts

    reference, _ = read_grids(args)
    found = []
    for name in args.files:
        chain = _read(args, [name])
        grid = _measuring_grid(chain, reference)
        facts: dict = {"file": name, "parts": parts_facts(chain)}
        if grid is not None:
            facts["measured"] = measured(chain, grid).to_dict()
        found.append(facts)
    print(json.dumps(found, indent=2) if args.json else "\n".join(_told(facts) for facts in found))
    return EXIT_OK


def _told(facts: dict) -> str:
    lines = [facts["file"]]
    for part in facts["parts"] or [{"kind": "identity"}]:
        line = f"  {part['kind']}"
        if "grid" in part:
            line += f", {_grid_words(part['grid'])}, vectors up to {part['largest_mm']:.2f} mm"
        if "matrix" in part:
            scales = ", ".join(f"{scale:.4f}" for scale in part["scales"])
            shift = ", ".join(f"{value:.2f}" for value in part["translation_mm"])
            line += f": turns by {part['rotation_degrees']:.2f} degrees, scales {scales}, shifts by {shift} mm (RAS)"
            line += ", mirrors" if part["mirrored"] else ""
        lines.append(line)
    if "measured" in facts:
        m = facts["measured"]
        low, high = m["determinant"]
        farthest = m["largest_displacement_mm"]
        lines += [
            f"  measured on {_grid_words(m['grid'])}",
            f"  displacement {m['mean_displacement_mm']:.2f} mm in the mean, {farthest:.2f} mm at most",
            f"  folded voxels: {m['folded_voxels']} of {m['voxels']} ({m['folded_voxels_any_corner']} by the stricter "
            f"count); non-diffeomorphic volume {m['non_diffeomorphic_volume_percent']:.5f} %",
            f"  determinant {low:.3f} to {high:.3f}",
        ]
    return "\n".join(lines)


def _grid_words(grid: dict) -> str:
    size = " x ".join(map(str, grid["size"]))
    spacing = " x ".join(f"{value:g}" for value in grid["spacing_mm"])
    return f"{size} voxels of {spacing} mm ({grid['orientation']})"


def _invert(args: argparse.Namespace) -> int:
    from ..transforms.chain import Chain
    from ..transforms.facts import inverse_error
    from ..transforms.parts import Bent
    from ..transforms.writing import grid_of, write_transform
    from ..transforms.written import check_free

    check_free(args.output, args.overwrite, read_names(args.files, args))
    chain = _read(args)
    reference, _ = read_grids(args)
    back = chain.inverse()
    if chain.matrix is None:
        field = back.field_on(reference or grid_of(chain))
        back = Chain((Bent(field),))
    write_transform(back, args.output, args.to, sides=_sides(args), overwrite=args.overwrite)
    if chain.matrix is not None:
        print(f"{args.output}: the inverse matrix, exact")
        return EXIT_OK
    error = inverse_error(chain, field)
    print(
        f"{args.output}: the inverse; T(S(y)) misses y by up to {error.at_voxels_mm:.4f} mm at its voxels, between "
        f"them by {error.between_mean_mm:.4f} mm in the mean and {error.between_max_mm:.4f} mm at most"
    )
    return EXIT_OK


def _compose(args: argparse.Namespace) -> int:
    return _write(args, args.composite)


def _convert(args: argparse.Namespace) -> int:
    if len(args.files) > 1:
        raise InputError("convert takes one transform; several become one with 'voxelmorph transform compose'.")
    # What has several parts keeps them where the format can hold them.
    chain_like = args.output.endswith((".h5", ".tfm")) and not args.reference
    return _write(args, chain_like)


def _write(args: argparse.Namespace, composite: bool) -> int:
    from ..transforms.writing import write_transform
    from ..transforms.written import check_free

    check_free(args.output, args.overwrite, read_names(args.files, args))
    chain = _read(args)
    if composite and args.run is _convert and any(part.backward for part in chain.bent):
        composite = False
    write_transform(
        chain,
        args.output,
        args.to,
        grid=read_grids(args)[0],
        composite=composite,
        sides=_sides(args),
        overwrite=args.overwrite,
    )
    what = "a matrix" if chain.matrix is not None else "a composite" if composite else "one field"
    print(f"{args.output}: {what}, for {args.to}")
    return EXIT_OK


def _jacobian(args: argparse.Namespace) -> int:
    import numpy as np

    from ..images.image import Image
    from ..images.segmentations import read_labels
    from ..transforms.frames import Frames, write_frames
    from ..transforms.written import check_free, whole

    if not args.output and not args.csv:
        raise InputError("Give -o IMAGE for the map, --csv FILE for a table by labels, or both.")
    if bool(args.csv) != bool(args.labels):
        raise InputError("A table by labels needs both --labels IMAGE and --csv FILE.")
    if args.log and not args.output:
        raise InputError("--log is for the map: give -o IMAGE, or leave it out. The table holds the mean logarithm.")
    outputs = [Path(name) for name in (args.output, args.csv) if name]
    for output in outputs:
        check_free(output, args.overwrite, read_names(args.files, args))
    chain = _read(args)
    labels = read_labels(args.labels, "labels").image if args.labels else None
    grid = read_grids(args)[0] or (labels.grid if labels else None) or _measuring_grid(chain, None)
    if grid is None:
        raise InputError("It is unknown on which grid the determinant is to be mapped. Give an image as --reference.")
    if labels is not None and not labels.grid.same_as(grid, 1e-2):
        raise InputError("The labels are on another grid than the reference. Leave --reference out, or resample them.")
    determinant = chain.field_on(grid).jacobian_determinant().array
    lost = ""
    with whole(outputs, args.overwrite) as stages:
        stage = iter(zip(stages, outputs, strict=True))
        if args.output:
            values = np.log(np.maximum(determinant, 1e-9)) if args.log else determinant
            lost = write_frames(Frames.of(Image(values.astype(np.float32), grid)), *next(stage))
        if labels is not None:
            next(stage)[0].write_text(_by_label(labels.array, determinant, grid), encoding="utf-8")
    folded = np.count_nonzero(determinant <= 0)
    print(
        f"determinant {determinant.min():.4f} to {determinant.max():.4f}, mean {determinant.mean():.4f}; {folded} of "
        f"{determinant.size} voxels fold. Written: {', '.join(map(str, outputs))}"
        + (f"\n  Warning: {lost}" if lost else "")
    )
    return EXIT_OK


def _by_label(labels, determinant, grid: Grid) -> str:
    """CSV: of each label but 0 its volume, that of what T makes of it, and how the determinant spreads."""
    import numpy as np

    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    columns = ["label", "voxels", "volume_mm3", "volume_in_input_mm3", "change_percent", "mean", "sd", "min", "max"]
    rows.writerow([*columns, "mean_log", "folded_voxels"])
    voxel = float(abs(np.linalg.det(grid.ijk_to_ras[:3, :3])))
    for label in np.unique(labels[labels != 0]):
        found = determinant[labels == label].astype(np.float64)
        mean = found.mean()
        numbers = [
            found.size * voxel,
            found.sum() * voxel,
            100 * (mean - 1),
            mean,
            found.std(),
            found.min(),
            found.max(),
        ]
        numbers.append(np.log(np.maximum(found, 1e-9)).mean())
        folded = np.count_nonzero(found <= 0)
        rows.writerow([int(label), found.size, *(f"{number:.6g}" for number in numbers), folded])
    return table.getvalue()
