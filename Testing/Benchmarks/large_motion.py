"""Large motion: models beside each other, alone and as the start of a refinement.

    python Testing/Benchmarks/large_motion.py --data DIR --models general-3d own.pt --cases abdomen thorax prostate

Known warps of an abdominal CT (25 mm) and of a thorax, whose inside slides by 30 mm along a smooth wall (a tilted
cylinder: the motion is not continuous there, and its inverse exact); MR to ultrasound of the prostate. One row for each
model and refinement: mean and 95th percentile of the distance from the truth in mm, or Dice, folds of the field and
CPU seconds of the registration. `none` as a model is the refinement from nothing; at the top is where nothing moves.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import (
    POINTS,
    Pair,
    _abdomen,
    _prostate,
    changed_intensity,
    foreground,
    generator,
    read,
    sample_linear,
)

from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings

SLIDE_MM = 30.0


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


LOADERS = {
    "abdomen": _abdomen,
    "thorax": sliding,
    "prostate": lambda data, name, seed: _prostate(data, int(name.split()[-1])),
}


def measured(pair: Pair, model: str, refinement: str, alignment: str, passes: int | None) -> dict:
    maps = next(iter(pair.labels.values()), (None, None)) if pair.fixed_points is None else (None, None)
    settings = Settings(alignment=alignment, refinement=refinement, device="cpu", model=model, passes=passes)
    start = time.process_time()
    done = register(pair.fixed, pair.moving, settings=settings, fixed_labels=maps[0], moving_labels=maps[1])
    row: dict = {"seconds": time.process_time() - start, "folds": done.field.folding().count}
    if pair.fixed_points is not None and pair.moving_points is not None:
        moved = done.field.transform_points(pair.fixed_points) @ done.linear[:3, :3].T + done.linear[:3, 3]
        row["distance"] = np.linalg.norm(moved - pair.moving_points, axis=1)
    else:
        row["dice"] = done.report.dice["mean"]["after"]
    return row


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
            start = ""
            if pair.fixed_points is not None and pair.moving_points is not None:
                apart = np.linalg.norm(pair.fixed_points - pair.moving_points, axis=1)
                start = f"{apart.mean():.2f} mm, 95 % {np.percentile(apart, 95):.2f}"
            print(f"{case} {number}: {start}", flush=True)
            for refinement in args.refinements:
                for model in args.models:
                    if model == "none" and refinement == "off":
                        continue
                    alignment = "centers" if case == "prostate" else "none"
                    row = measured(pair, model, refinement, alignment, args.passes)
                    found = f"Dice {row['dice']:.3f}" if "dice" in row else ""
                    if "distance" in row:
                        found = f"{row['distance'].mean():.2f} mm, 95 % {np.percentile(row['distance'], 95):.2f}"
                    print(
                        f"  {Path(model).name:<16} {refinement:<8} {found}, {row['folds']} folds, "
                        f"{row['seconds']:.1f} CPU s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
