"""A template of some people beside that of antspyx at equal rounds: overlap of labels in it, sharpness, seconds.

    python Testing/Benchmarks/template.py --data DIR --ids 1012 1013 1014 1015 1017 1018 --folder OUT --spacing 2

DIR holds `1012_t1.nii.gz`, `1012_labels30.nii.gz` and so on. Labels are carried into each template by its own program's
transforms, nearest neighbour, and compared pairwise; before: as the images lie, on the first one's grid. Our part goes
on where it ended; --peer adds antspyx' build_template (SyN, its usual settings).
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "VoxelMorphRegistration"))

from VoxelMorphRegistrationLib import Settings, read_image  # noqa: E402
from VoxelMorphRegistrationLib.batch.template import build, mean_pairwise_dice, sharpness  # noqa: E402
from VoxelMorphRegistrationLib.fields.warp import warp_labels  # noqa: E402
from VoxelMorphRegistrationLib.images.files import from_sitk  # noqa: E402


def ours(images: list[str], labels: list[str], args) -> str:
    start = time.monotonic()
    settings = Settings(refinement=args.refine)
    result = build(
        images, args.folder, labels=labels, spacing=args.spacing, rounds=args.rounds, settings=settings, jobs=args.jobs
    )
    bias = ", ".join(f"{one.bias_mm:.3f}" for one in result.rounds)
    seconds = time.monotonic() - start
    return (
        f"| VoxelMorph, {args.refine} | {result.dice:.4f} | {result.sharpness:.4f} | {seconds:.0f} |\n\n"
        f"bias of the rounds in mm: {bias}; of the template: {result.bias_mm:.3f}"
    )


def theirs(images: list[str], labels: list[str], args) -> str:
    """With one thread, as ITK is told by the environment."""
    import ants
    import SimpleITK as sitk

    start = time.monotonic()
    people = [ants.resample_image(ants.image_read(name), (args.spacing,) * 3, interp_type=0) for name in images]
    template = ants.build_template(image_list=people, iterations=args.rounds, type_of_transform="SyN")
    seconds = time.monotonic() - start
    maps = []
    for person, name in zip(people, labels, strict=True):
        found = ants.registration(template, person, "SyN")
        moved = ants.apply_transforms(template, ants.image_read(name), found["fwdtransforms"], "nearestNeighbor")
        path = args.folder / "ants_labels.nii.gz"
        ants.image_write(moved.clone("unsigned int"), str(path))
        maps.append(from_sitk(sitk.ReadImage(str(path))))
    ants.image_write(template, str(args.folder / "ants_template.nii.gz"))
    found = read_image(args.folder / "ants_template.nii.gz")
    return f"| antspyx, SyN | {mean_pairwise_dice(maps):.4f} | {sharpness(found):.4f} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ids", nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--refine", default="fast")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--peer", action="store_true", help="antspyx as well")
    args = parser.parse_args()
    images, labels = (
        [str((args.data / f"{one}_{what}.nii.gz").resolve()) for one in args.ids] for what in ("t1", "labels30")
    )
    maps = [read_image(name) for name in labels]
    maps = [maps[0], *(warp_labels(one, maps[0].grid) for one in maps[1:])]
    print("| template | mean pairwise Dice | sharpness | wall s |\n|---|---|---|---|")
    first = np.mean([sharpness(read_image(name)) for name in images])
    print(
        f"| before ({len(list(combinations(maps, 2)))} pairs) | {mean_pairwise_dice(maps):.4f} | {first:.4f} | |",
        flush=True,
    )
    print(ours(images, labels, args), flush=True)
    if args.peer:
        print(theirs(images, labels, args), flush=True)


if __name__ == "__main__":
    main()
