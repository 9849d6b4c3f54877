"""What a pin should count beside the images: Improve from results with a known local error, for several weights.

    python Testing/Benchmarks/pin_weight.py --to rows.jsonl [--weights 0.3 1 3] [--seeds 3]

Synthetic pairs of 64^3 voxels of 2 mm with a known warp. The result to improve is the truth with an error of 8 mm
around one place; three pins near it tell the truth, placed with 1 mm of error. Six kinds of images, from such that
correct the error by themselves to such that do not see it. Rows are added to the file, and those there are not made
again; the table is made of all. Errors are in mm: near the place (10 mm), and far from it (more than 40 mm).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "VoxelMorphRegistration")]

import cases  # noqa: E402
import numpy as np  # noqa: E402

from VoxelMorphRegistrationLib.fields.displacement import DisplacementField  # noqa: E402
from VoxelMorphRegistrationLib.images.grid import Grid  # noqa: E402
from VoxelMorphRegistrationLib.images.image import Image  # noqa: E402
from VoxelMorphRegistrationLib.registration.register import register  # noqa: E402
from VoxelMorphRegistrationLib.registration.settings import Settings  # noqa: E402

KINDS = ("texture", "empty", "stripes", "noise", "contrast", "lesion")
WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
SIZE, SPACING_MM = 64, 2.0
ERROR_MM, ERROR_SIGMA_MM, PLACED_MM = 8.0, 12.0, 1.0
NEAR_MM, FAR_MM = 10.0, 40.0


def _texture(rng: np.random.Generator, sigma: float) -> np.ndarray:
    from scipy import ndimage

    found = ndimage.gaussian_filter(rng.normal(size=(SIZE,) * 3), sigma)
    return found / found.std()


def _picture(kind: str, rng: np.random.Generator, grid: Grid, place: np.ndarray) -> np.ndarray:
    """A body of soft structures in a dark surrounding, 0 to about 1000."""
    points = grid.positions()
    away = np.linalg.norm(points - place, axis=-1)
    inner = np.clip((52.0 - np.linalg.norm(points, axis=-1)) / 4.0, 0.0, 1.0)
    inside = 120.0 * _texture(rng, 3.0) + 60.0 * _texture(rng, 1.5)
    if kind == "empty":
        inside = inside * np.clip((away - 22.0) / 6.0, 0.0, 1.0)
    if kind == "stripes":
        # Of 8 mm, as far apart as the result is wrong, within 25 mm of the place.
        stripes = 150.0 * np.sin(2 * np.pi * points[..., 0] / ERROR_MM)
        inside = np.where(away < 25.0, stripes, inside)
    return (inner * (500.0 + inside)).clip(0.0).astype(np.float32)


def make(kind: str, seed: int) -> dict:
    """The arguments of register for Improve, and the truth."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    half = SPACING_MM * (SIZE - 1) / 2
    grid = Grid((SIZE,) * 3, np.diag([SPACING_MM] * 3 + [1.0]) - np.outer([half] * 3 + [0], [0, 0, 0, 1]))
    place = rng.uniform(-15.0, 15.0, 3)
    source = Image(_picture(kind, rng, grid, place), grid, "fixed image")
    positions = grid.positions()
    body = np.linalg.norm(positions, axis=-1) < 48.0
    warp = cases.random_warp(rng, grid, positions[body][::50], 6.0)
    moving = cases.sample_linear(source, grid, warp)
    fixed = source
    if kind == "contrast":
        inverted = 1000.0 * (1 - moving.array / 1000.0).clip(0.0) ** 1.4
        moving = moving.with_array(np.where(moving.array > 50, inverted, 0.0).astype(np.float32))
    elif kind == "noise":
        fixed = source.with_array(source.array + 120.0 * rng.normal(size=source.array.shape).astype(np.float32))
        moving = moving.with_array(moving.array + 120.0 * rng.normal(size=source.array.shape).astype(np.float32))
    elif kind == "lesion":
        # In the moving image only, beside the place.
        away = np.linalg.norm(positions - warp.backward((place + [9.0, 0, 0])[None])[0], axis=-1)
        moving = moving.with_array(np.where(away < 8.0, 950.0, moving.array).astype(np.float32))
    if kind != "contrast":
        moving = cases.changed_intensity(moving, rng)
    direction = np.array([1.0, 0, 0]) if kind == "stripes" else cases._direction(rng, 3)

    def truth(points: np.ndarray) -> np.ndarray:
        return warp.backward(points)

    def wrong(points: np.ndarray) -> np.ndarray:
        away = np.linalg.norm(points - place, axis=-1)
        bump = np.exp(-0.5 * (away / ERROR_SIGMA_MM) ** 2)
        return truth(points) + ERROR_MM * bump[..., None] * direction

    pins = place + np.array([[0.0, 0, 0], [7.0, 0, 0], [0.0, -7.0, 0]])
    placed = truth(pins) + PLACED_MM / np.sqrt(3) * rng.normal(size=(3, 3))
    start = DisplacementField((wrong(positions) - positions).astype(np.float32), grid)
    away = np.linalg.norm(positions - place, axis=-1)
    near = positions[(away < NEAR_MM) & body]
    far = positions[(away > FAR_MM) & body][::23]
    return {
        "pair": (fixed, moving),
        "given": {"fixed_points": pins, "moving_points": placed, "initial_transform": start},
        "truth": truth,
        "wrong": wrong,
        "near": near,
        "far": far,
    }


def measure(kind: str, seed: int, weight: float) -> dict:
    case = make(kind, seed)
    given = case["given"]
    settings = Settings(alignment="none", model="none", refinement="fast", device="cpu", landmark_weight=weight)
    result = register(*case["pair"], settings=settings, **given)
    linear = result.linear

    def errors(points: np.ndarray) -> float:
        moved = result.field.transform_points(points) @ linear[:3, :3].T + linear[:3, 3]
        return float(np.linalg.norm(moved - case["truth"](points), axis=-1).mean())

    def former(points: np.ndarray) -> float:
        return float(np.linalg.norm(case["wrong"](points) - case["truth"](points), axis=-1).mean())

    report = result.report
    pins = report.tre_mm
    return {
        "kind": kind,
        "seed": seed,
        "weight": weight,
        "near": errors(case["near"]),
        "near_before": former(case["near"]),
        "far": errors(case["far"]),
        "pins": None if pins is None else pins["after"]["mean"],
        "folds": report.folding["inside"]["count"],
        "kept": report.checks.get("refinement", {}).get("kept"),
    }


def table(rows: list[dict]) -> str:
    """Means over the seeds: near the place, far from it, of the pins; folded voxels of all."""
    lines = [
        "| kind | weight | near before | near | far | pins | folds | undone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in (*KINDS, "all"):
        for weight in sorted({row["weight"] for row in rows}):
            some = [r for r in rows if r["weight"] == weight and kind in (r["kind"], "all")]
            if some:
                near_before, near, far, pins = (
                    np.mean([r[key] for r in some]) for key in ("near_before", "near", "far", "pins")
                )
                folds, undone = sum(r["folds"] for r in some), sum(not r["kept"] for r in some)
                numbers = " | ".join(f"{one:.2f}" for one in (near_before, near, far, pins))
                lines.append(f"| {kind} | {weight:g} | {numbers} | {folds} | {undone} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="a file of rows, one JSON a line")
    parser.add_argument("--weights", type=float, nargs="+", default=list(WEIGHTS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    rows = [json.loads(line) for line in options.to.read_text().splitlines()] if options.to.exists() else []
    done = {(row["kind"], row["seed"], row["weight"]) for row in rows}
    for seed in range(options.seeds):
        for kind in KINDS:
            for weight in options.weights:
                if (kind, seed, weight) not in done:
                    rows.append(measure(kind, seed, weight))
                    with options.to.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
