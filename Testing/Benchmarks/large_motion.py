"""Large motion: models beside each other, alone and as the start of a refinement.

    python Testing/Benchmarks/large_motion.py --data DIR --models general-3d own.pt --cases abdomen thorax --numbers 1 2

Known warps of an abdominal CT (25 mm), of a knee that is drawn from its label map (15 mm), and of a thorax, whose
inside slides by 30 mm along a smooth wall (a tilted cylinder: the motion is not continuous there, and its inverse
exact); MR to ultrasound of the prostate, cut to it and its centres aligned. One row for each model and refinement: mean
and 95th percentile of the distance from the truth in mm, or Dice, folds of the field and CPU seconds of the
registration. `none` as a model is the refinement from nothing; at the top is where nothing moves.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cases import (
    POINTS,
    Pair,
    _abdomen,
    _prostate,
    changed_intensity,
    foreground,
    generator,
    known_pair,
    read,
    read_labels,
    sample_linear,
)

from VoxelMorphRegistrationLib.alignment.align import align
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_labels
from VoxelMorphRegistrationLib.images.grid import working_grid
from VoxelMorphRegistrationLib.images.image import Image, resample
from VoxelMorphRegistrationLib.registration.evaluation import dice, label_values, mean_dice
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.training.shapes import ShapeRecipe, Source, finish_image

SLIDE_MM, KNEE_MM = 30.0, 15.0


@dataclass(frozen=True)
class Slide:
    """What lies within `radius` mm of an axis through `centre` moves along it, by `step` (3,) mm; nothing else does."""

    centre: np.ndarray
    step: np.ndarray
    radius: float

    def forward(self, points: np.ndarray) -> np.ndarray:
        return points + self._inside(points) * self.step

    def backward(self, points: np.ndarray) -> np.ndarray:
        return points - self._inside(points) * self.step

    def _inside(self, points: np.ndarray) -> np.ndarray:
        along = self.step / np.linalg.norm(self.step)
        away = points - self.centre
        across = away - (away @ along)[..., None] * along
        return (np.linalg.norm(across, axis=-1) < self.radius)[..., None]


def sliding(data: Path, name: str, seed: int) -> Pair:
    """The thorax, its inside slid and its grey values changed. The points lie off the wall by 3 mm."""
    image = read(data / "bodies" / "ct_thorax_heart.nii.gz", "CT")
    rng = generator(seed, name)
    along = np.array([*rng.normal(0, 0.1, 2), 1.0])
    slide = Slide(image.grid.center_ras, SLIDE_MM * along / np.linalg.norm(along), 55.0)
    voxels = np.argwhere(foreground(image))
    points = image.grid.to_ras(voxels[rng.choice(len(voxels), 4 * POINTS, replace=False)][:, ::-1])
    near = [Slide(slide.centre, slide.step, radius)._inside(points)[:, 0] for radius in (52.0, 58.0)]
    truth = slide.backward(points)
    kept = np.flatnonzero((near[0] == near[1]) & image.grid.contains(truth))[:POINTS]
    moving = changed_intensity(sample_linear(image, image.grid, slide), rng)
    return Pair(image, moving, {}, points[kept], truth[kept])


def drawn(labels: Image, rng: np.random.Generator) -> Image:
    """An image of a label map on its grid: a grey value for each label, texture, blur, noise; one value outside."""
    source = Source(torch.device("cpu"), rng)
    names, index = np.unique(labels.array, return_inverse=True)
    values = source.uniform(len(names))[torch.from_numpy(index.reshape(labels.array.shape))][None, None]
    outside = torch.from_numpy(labels.array == 0)[None, None]
    return Image(finish_image(ShapeRecipe(), values, outside, source)[0, 0].numpy(), labels.grid, labels.name)


def knee(data: Path, name: str, seed: int) -> Pair:
    """A knee of voxels of 1 mm, under a known warp."""
    whole = read_labels(data / "bodies" / "spl_knee.nrrd", "knee")
    labels = warp_labels(whole, working_grid(whole.grid, (1.0, 1.0, 1.0)), mode="nearest")
    rng = generator(seed, name)
    image = drawn(labels, rng)
    return known_pair(image, image, labels, rng, KNEE_MM)


LOADERS = {
    "abdomen": _abdomen,
    "thorax": sliding,
    "knee": knee,
    "prostate": lambda data, name, _seed: _prostate(data, int(name.split()[-1])),
}


def cut(pair: Pair) -> tuple[Image, np.ndarray]:
    """The moving image on the fixed grid, its centre aligned, and that alignment, as compare.py has prostates."""
    matrix = align(pair.fixed, pair.moving, "centers").matrix
    return resample(pair.moving, pair.fixed.grid, matrix, float(pair.moving.array.min())), matrix


def measured(pair: Pair, model: str, refinement: str, passes: int | None) -> dict:
    known = pair.fixed_points is not None
    moving, matrix = (pair.moving, np.eye(4)) if known else cut(pair)
    settings = Settings(alignment="none", refinement=refinement, device="cpu", model=model, passes=passes)
    start = time.process_time()
    done = register(pair.fixed, moving, settings=settings)
    seconds = time.process_time() - start
    total = done.total_field(pair.fixed.grid).then_linear(matrix)
    return {"seconds": seconds, "folds": done.field.folding().count} | left(pair, total)


def left(pair: Pair, total: DisplacementField) -> dict:
    """The distance (N,) from known points in mm, or the mean Dice of the first labels."""
    if pair.fixed_points is not None and pair.moving_points is not None:
        return {"distance": np.linalg.norm(total.transform_points(pair.fixed_points) - pair.moving_points, axis=1)}
    fixed, moving = next(iter(pair.labels.values()))
    warped = warp_labels(moving, fixed.grid, total, mode="nearest")
    return {"dice": mean_dice(dice(fixed, warped, label_values(fixed)))}


def told(row: dict) -> str:
    if "dice" in row:
        return f"Dice {row['dice']:.3f}"
    return f"{row['distance'].mean():.2f} mm, 95 % {np.percentile(row['distance'], 95):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with abdomen_ct, bodies and prostate_mr_us")
    parser.add_argument("--models", nargs="+", default=["none", "general-3d"], help="names, files, or none")
    parser.add_argument("--cases", nargs="+", choices=tuple(LOADERS), default=list(LOADERS))
    parser.add_argument("--numbers", nargs="+", type=int, default=[1])
    parser.add_argument("--refinements", nargs="+", default=["off", "default"])
    parser.add_argument("--passes", type=int, help="of the models; their own when not given")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for case in args.cases:
        for number in args.numbers:
            pair = LOADERS[case](args.data, f"{case} {number}", args.seed)
            still = DisplacementField.identity(pair.fixed.grid)
            if pair.fixed_points is None:
                still = still.then_linear(cut(pair)[1])
            print(f"{case} {number}: {told(left(pair, still))}", flush=True)
            for refinement in args.refinements:
                for model in args.models:
                    if model == "none" and refinement == "off":
                        continue
                    row = measured(pair, model, refinement, args.passes)
                    print(
                        f"  {Path(model).name:<16} {refinement:<8} {told(row)}, {row['folds']} folds, "
                        f"{row['seconds']:.1f} CPU s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
