"""Where a network alone should not be used: brains that are not what it was trained on.

    python Testing/Benchmarks/network_limits.py --data DIR --methods brain-3d general-3d preview best --csv FILE

Pairs of T1 brains of different people with one thing changed: smaller voxels, thick slices, noise, a cavity, a lesion,
the contrast of a T2. And a real T2 and FLAIR onto another person's T1, where the answer is what the T1 of the same
person, refined, does to the labels. A method is a model alone (name or file), or the quality of a whole registration.
One row for each: mean Dice of 30 structures, voxels that fold in the brain, CPU seconds of the registration.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from cases import BRAIN_PAIRS, Pair, _brain, foreground, generator, read, read_labels

from VoxelMorphRegistrationLib.fields.warp import warp_labels
from VoxelMorphRegistrationLib.images.grid import working_grid
from VoxelMorphRegistrationLib.images.image import Image, resample
from VoxelMorphRegistrationLib.registration.evaluation import dice, mean_dice
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import QUALITIES, Settings

STRUCTURES = "30"
# Radius of cavity and lesion, mm, and where they lie, as a part of the way from the brain's middle to its side.
RADIUS_MM, ASIDE = 15.0, 0.45


@dataclass(frozen=True, eq=False)
class Changed:
    """A pair, its labels on the grids of its images, and where a label may count (None: everywhere)."""

    fixed: Image
    moving: Image
    fixed_labels: Image
    moving_labels: Image
    counts: np.ndarray | None = None
    alignment: str = "none"


def on_voxels(pair: Changed, spacing: tuple[float, float, float], sides: str) -> Changed:
    """The images of `sides` ("both" or "moving") averaged or interpolated to voxels of `spacing` mm along i, j, k."""

    def seen(image: Image, labels: Image) -> tuple[Image, Image]:
        grid = working_grid(image.grid, np.array(spacing))
        return resample(image, grid, smooth=True), warp_labels(labels, grid, mode="nearest")

    fixed = seen(pair.fixed, pair.fixed_labels) if sides == "both" else (pair.fixed, pair.fixed_labels)
    moving = seen(pair.moving, pair.moving_labels)
    return replace(pair, fixed=fixed[0], fixed_labels=fixed[1], moving=moving[0], moving_labels=moving[1])


def noisy(pair: Changed, part: float, rng: np.random.Generator) -> Changed:
    """Gaussian noise in both images, its deviation a part of the range up to the percentile 99.9."""

    def seen(image: Image) -> Image:
        values = image.array.astype(np.float32)
        noise = rng.normal(scale=part * np.percentile(values, 99.9), size=values.shape)
        return image.with_array(np.clip(values + noise, 0, None).astype(np.float32))

    return replace(pair, fixed=seen(pair.fixed), moving=seen(pair.moving))


def with_ball(pair: Changed, value: float) -> Changed:
    """A ball of one value in the fixed image (as a part of the percentile 99), whose labels do not count."""
    grid, brain = pair.fixed.grid, foreground(pair.fixed)
    places = grid.positions()
    middle = places[brain].mean(0)
    right = np.percentile(places[brain][:, 0], 99) - middle[0]
    ball = np.linalg.norm(places - (middle + [ASIDE * right, 0, 0]), axis=-1) < RADIUS_MM
    values = pair.fixed.array.astype(np.float32).copy()
    values[ball] = value * np.percentile(values, 99)
    return replace(pair, fixed=pair.fixed.with_array(values), counts=~ball)


def like_t2(pair: Changed) -> Changed:
    """The moving image turned round within the brain, as fluid is bright in a T2 and white matter dark."""
    values = pair.moving.array.astype(np.float32)
    brain = foreground(pair.moving)
    high = float(np.percentile(values[brain], 99.5))
    turned = np.where(brain, np.clip(1.1 * high - values, 0, None), 0.0)
    return replace(pair, moving=pair.moving.with_array(turned.astype(np.float32)))


def changes(rng: np.random.Generator) -> dict[str, Callable[[Changed], Changed]]:
    """What is tried, by name."""
    return {
        "as they are, 1 mm": lambda pair: pair,
        "voxels of 0.8 mm": lambda pair: on_voxels(pair, (0.8, 0.8, 0.8), "both"),
        "voxels of 0.6 mm": lambda pair: on_voxels(pair, (0.6, 0.6, 0.6), "both"),
        "voxels of 2 mm": lambda pair: on_voxels(pair, (2.0, 2.0, 2.0), "both"),
        "moving slices of 3 mm": lambda pair: on_voxels(pair, (1.0, 3.0, 1.0), "moving"),
        "moving slices of 5 mm": lambda pair: on_voxels(pair, (1.0, 5.0, 1.0), "moving"),
        "noise of 5 %": lambda pair: noisy(pair, 0.05, rng),
        "noise of 10 %": lambda pair: noisy(pair, 0.1, rng),
        "fixed cavity of 30 mm": lambda pair: with_ball(pair, 0.0),
        "fixed bright lesion of 30 mm": lambda pair: with_ball(pair, 1.0),
        "moving turned round like a T2": like_t2,
    }


def real_contrasts(data: Path, name: str) -> dict[str, Callable[[Changed], Changed]]:
    """T2 and FLAIR of a patient <- T1 of another person, whose labels the patient's own T1 has placed."""
    moving = read(data / "brain" / f"{name}_t1.nii.gz", name)
    labels = read_labels(data / "brain" / f"{name}_labels{STRUCTURES}.nii.gz", "labels")

    @cache
    def answer() -> Image:
        t1 = read(data / "multimodal" / "p26_t1.nii.gz", "T1")
        placed = register(t1, moving, settings=Settings(device="cpu"), moving_labels=labels).warped_labels
        assert placed is not None, "labels were given"
        return placed

    def onto(kind: str, _pair: Changed) -> Changed:
        fixed = read(data / "multimodal" / f"p26_{kind}.nii.gz", kind.upper())
        return Changed(fixed, moving, answer(), labels, alignment="affine")

    return {f"real {kind.upper()} <- T1": partial(onto, kind) for kind in ("t2", "flair")}


def tried(pair: Changed, method: str) -> dict:
    if method in QUALITIES:
        settings = Settings(quality=method, alignment=pair.alignment, device="cpu")
    else:
        settings = Settings(model=method, refinement="off", alignment=pair.alignment, device="cpu")
    start = time.process_time()
    done = register(pair.fixed, pair.moving, settings=settings, moving_labels=pair.moving_labels)
    seconds = time.process_time() - start
    assert done.warped_labels is not None, "labels were given"
    fixed, warped = pair.fixed_labels, done.warped_labels
    if pair.counts is not None:
        fixed, warped = (image.with_array(np.where(pair.counts, image.array, 0)) for image in (fixed, warped))
    return {
        "dice": round(mean_dice(dice(fixed, warped)), 4),
        "folds": done.report.folding["inside"]["count"],
        "cpu_seconds": round(seconds, 1),
    }


def loaded(data: Path, fixed: str, moving: str) -> Changed:
    pair: Pair = _brain(data / "brain", fixed, moving, (STRUCTURES,))
    return Changed(pair.fixed, pair.moving, *pair.labels[STRUCTURES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with brain and multimodal (docs/benchmarks.md)"
    )
    parser.add_argument("--methods", nargs="+", default=["brain-3d", "general-3d", "preview", "best"])
    parser.add_argument("--pairs", type=int, default=2, help=f"of the {len(BRAIN_PAIRS)} pairs of brains")
    parser.add_argument("--only", help="rows whose name holds this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, required=True, help="rows that are in this file are not made again")
    args = parser.parse_args()
    done = made(args.csv, "case", "pair", "method")
    for fixed, moving in BRAIN_PAIRS[: args.pairs]:
        rng = generator(args.seed, f"{fixed} {moving}")
        name, original = f"{fixed}<-{moving}", loaded(args.data, fixed, moving)
        rows = changes(rng) | real_contrasts(args.data, fixed)
        for case, change in rows.items():
            wanted = [method for method in args.methods if (case, name, Path(method).name) not in done]
            if not wanted or (args.only and args.only not in case):
                continue
            pair = change(original)
            for method in wanted:
                row = {"case": case, "pair": name, "method": Path(method).name} | tried(pair, method)
                append(args.csv, row)
                print(", ".join(f"{value}" for value in row.values()), flush=True)


def made(path: Path, *columns: str) -> set[tuple[str, ...]]:
    """The rows that a file already has, by these columns."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[name] for name in columns) for row in csv.DictReader(file)}


def append(path: Path, row: dict) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
