"""What the limits of the verdict are set on: good results, results made wrong, and what each measures.

    python Testing/Benchmarks/verdicts.py --data DATA --to rows.jsonl [--factor 2]

Pairs with labels (brains of any two people, an abdomen under known warps) are registered as they come. Each good result
is then made wrong by hand, on the side: a local error of some mm around a structure, and roughness that folds. And the
same pairs are registered from starts that no registration can undo (60 mm away, upside down), and with a part of the
moving image cut off, where the labels of the whole tell what became of the rest. Rows are added to the file, and those
there are not made again; the table is made of all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "VoxelMorphRegistration")]

import cases  # noqa: E402
import numpy as np  # noqa: E402

from VoxelMorphRegistrationLib.errors import VoxelMorphError  # noqa: E402
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField  # noqa: E402
from VoxelMorphRegistrationLib.fields.warp import warp_labels  # noqa: E402
from VoxelMorphRegistrationLib.images.grid import Grid  # noqa: E402
from VoxelMorphRegistrationLib.images.image import Image  # noqa: E402
from VoxelMorphRegistrationLib.registration.evaluation import dice, mean_dice  # noqa: E402
from VoxelMorphRegistrationLib.registration.register import register  # noqa: E402
from VoxelMorphRegistrationLib.registration.settings import Settings  # noqa: E402
from VoxelMorphRegistrationLib.results.verdict import verdict  # noqa: E402

BRAINS = ("1012", "1013", "1014", "1015", "1017", "1018")
ERRORS_MM, ERROR_SIGMA_MM = (4.0, 6.0, 9.0), 10.0
ROUGHNESS_MM, ROUGHNESS_SIGMA_MM = (3.0, 4.0, 5.0, 7.0, 10.0), 4.0
STARTS = {"upside down": None, "60 mm away": 60.0}
PARTS = (0.85, 0.7, 0.55, 0.45, 0.35, 0.25)
# Structures of fewer voxels change their Dice by chance.
FEWEST = 50


def pairs(data: Path, factor: int) -> list[tuple[str, object]]:
    """(name, function that loads it), brains and abdomens by turns."""
    brains = [
        cases.Case(f"brain {a}<-{b}", "brain", lambda a=a, b=b: cases._brain(data / "brain", a, b, ("30",)))
        for a, b in itertools.permutations(BRAINS, 2)
    ]
    # Each brain is the fixed one as often as any other.
    chosen = [*brains[::3], *brains[1::3]][:18]
    chosen[3:3] = cases.abdomen(data, 0, 2)
    return [
        (case.name, cases.shrunk(case, max(factor - 1, 1) if "abdomen" in case.name else factor).load)
        for case in chosen
    ]


def measured(pair: cases.Pair, field: DisplacementField | None, linear=None) -> dict:
    """What became of the labels, by the field and the matrix."""
    fixed, moving = next(iter(pair.labels.values()))
    found = dice(fixed, warp_labels(moving, fixed.grid, field, linear, "nearest"), _labels(fixed))
    return {str(label): round(value, 4) for label, value in found.items()}


def _labels(image: Image) -> list[int]:
    values, counts = np.unique(image.array, return_counts=True)
    return [int(v) for v, n in zip(values, counts, strict=True) if v and n >= FEWEST]


def folds(pair: cases.Pair, field: DisplacementField) -> float:
    """Percent of the labelled voxels that fold."""
    fixed, _ = next(iter(pair.labels.values()))
    return 100.0 * float((field.jacobian_determinant(fixed.grid).array[fixed.array > 0] <= 0).mean())


def with_error(field: DisplacementField, place: np.ndarray, mm: float, rng: np.random.Generator) -> DisplacementField:
    """The field with an error of `mm` at a place, falling off within some 20 mm."""
    away = np.linalg.norm(field.grid.positions() - place, axis=-1)
    way = rng.normal(size=3)
    bump = mm * np.exp(-(away**2) / (2 * ERROR_SIGMA_MM**2))[..., None] * way / np.linalg.norm(way)
    return DisplacementField((field.displacement_ras + bump).astype(np.float32), field.grid)


def roughened(field: DisplacementField, mm: float, rng: np.random.Generator) -> DisplacementField:
    """The field with smooth noise of up to `mm` or so."""
    from scipy import ndimage

    sigma = ROUGHNESS_SIGMA_MM / field.grid.spacing[::-1]
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=field.grid.shape), sigma) for _ in range(3)], -1)
    noise *= mm / (2 * noise.std())
    return DisplacementField((field.displacement_ras + noise).astype(np.float32), field.grid)


def moved(pair: cases.Pair, start: float | None) -> cases.Pair:
    """The moving side so far away (mm), or upside down."""
    matrix, centre = np.eye(4), pair.moving.grid.center_ras
    if start is None:
        matrix[:3, :3] = np.diag([1.0, -1.0, -1.0])
        matrix[:3, 3] = centre - matrix[:3, :3] @ centre
    else:
        matrix[:3, 3] = np.array([0.6, -0.6, 0.53]) * start

    def carried(image: Image) -> Image:
        return Image(image.array, image.grid.transformed(matrix), image.name)

    return replace(
        pair, moving=carried(pair.moving), labels={name: (a, carried(b)) for name, (a, b) in pair.labels.items()}
    )


def cut(image: Image, part: float) -> Image:
    """So much of it, from one end along the longest of its axes."""
    axis = int(np.argmax(np.array(image.array.shape) * image.grid.spacing[::-1]))
    sides = tuple(slice(0, round(n * part)) if a == axis else slice(None) for a, n in enumerate(image.array.shape))
    array = np.ascontiguousarray(image.array[sides])
    return Image(array, Grid(array.shape, image.grid.ijk_to_ras), image.name)


def registered(pair: cases.Pair, labels: bool = True):
    fixed, moving = next(iter(pair.labels.values())) if labels else (None, None)
    settings = Settings(device="cpu", alignment="none")
    return register(pair.fixed, pair.moving, settings=settings, fixed_labels=fixed, moving_labels=moving)


def row_of(found, pair: cases.Pair, base: cases.Pair | None = None) -> dict:
    """base: with the labels to measure by, where those of the pair were cut."""
    plain = json.loads(found.report.to_json())
    told, before = verdict(plain), measured(base or pair, None)
    after = measured(base or pair, found.field, found.linear)
    return {
        **_dice(before, after),
        "mi": [plain["similarity"][stage]["mi"] for stage in ("before", "after")],
        "folds": plain["folding"]["inside"]["percent"],
        "covered": plain["covered_percent"],
        "verdict": [told.level, told.reason],
    }


def _dice(before: dict, after: dict) -> dict:
    return {"before": before, "after": after, "mean": [mean_dice(one) for one in (before, after)]}


def rows(data: Path, factor: int, known: set[str]):
    """Yield (name of the row, its content): of all pairs the good results first, then the others."""
    listed = pairs(data, factor)
    for number, (name, load) in enumerate(listed):
        if f"{name}: good" not in known:
            pair = load()
            found = registered(pair)
            good = row_of(found, pair)
            yield f"{name}: good", {"kind": "good", **good}
            yield from _made_wrong(name, pair, found, good, np.random.default_rng(number))
    for number, (name, load) in enumerate(listed):
        start = [*STARTS][number % len(STARTS)]
        if f"{name}: {start}" not in known:
            other = moved(load(), STARTS[start])
            yield f"{name}: {start}", {"kind": start, **row_of(registered(other), other)}
    for name, load in (listed[0], listed[3]):
        for part in PARTS:
            if f"{name}: cut to {part}" not in known:
                pair = load()
                part_of = replace(pair, moving=cut(pair.moving, part))
                row = row_of(registered(part_of, False), pair, pair)
                yield f"{name}: cut to {part}", {"kind": "cut", "part": part, **row}


def _made_wrong(name: str, pair: cases.Pair, found, good: dict, rng: np.random.Generator):
    fixed, _ = next(iter(pair.labels.values()))
    for mm in ERRORS_MM:
        label = int(rng.choice(_labels(fixed)))
        place = fixed.grid.to_ras(np.argwhere(fixed.array == label).mean(0)[::-1])
        wrong = with_error(found.field, place, mm, rng)
        after = measured(pair, wrong, found.linear)
        yield (
            f"{name}: error of {mm} mm",
            {"kind": "error", "mm": mm, "label": label, **_dice(good["before"], after)},
        )
    for mm in ROUGHNESS_MM:
        wrong = roughened(found.field, mm, rng)
        told = {"kind": "rough", "mm": mm, "folds": folds(pair, wrong), "good": good["mean"][1]}
        yield f"{name}: rough by {mm} mm", {**told, **_dice(good["before"], measured(pair, wrong, found.linear))}


def worst_fall(row: dict) -> float:
    """How much the structure lost that lost most."""
    return max(value - row["after"][label] for label, value in row["before"].items())


def table(found: list[dict]) -> Iterator[str]:
    """What the limits separate, as lines."""
    kinds: dict[str, list[dict]] = {}
    for row in found:
        title = f"{row['kind']} {row['mm']} mm" if "mm" in row else row["kind"]
        kinds.setdefault(title, []).append(row)
    limits = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
    yield f"{'':<20}{'rows':>5}  one structure lost more than  {' '.join(f'{limit:>5}' for limit in limits)}  mean lost"
    for title, rows_of in kinds.items():
        parts = [sum(worst_fall(row) > limit for row in rows_of) / len(rows_of) for limit in limits]
        lost = sum(row["mean"][1] < row["mean"][0] for row in rows_of)
        yield f"{title:<20}{len(rows_of):>5}{'':<31}{' '.join(f'{100 * part:>4.0f}%' for part in parts)}  {lost}"
    for title, key in (("rough", "folds"), ("cut", "covered")):
        for row in sorted((row for row in found if row["kind"] == title), key=lambda row: row[key]):
            before, after = row["mean"]
            good = row.get("good", next((o["mean"][1] for o in found if o["name"] == _good_of(row)), float("nan")))
            dice = f"Dice {before:.3f} to {after:.3f}, whole and smooth {good:.3f}"
            yield f"{row['name']:<34}{key} {row[key]:6.2f} %  {dice}"


def _good_of(row: dict) -> str:
    return row["name"].partition(":")[0] + ": good"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument("--to", type=Path, required=True, help="rows, one JSON object a line")
    parser.add_argument(
        "--factor", type=int, default=2, help="how much larger the brains' voxels are made (default: 2)"
    )
    arguments = parser.parse_args()
    lines = arguments.to.read_text().splitlines() if arguments.to.exists() else []
    known = {json.loads(line)["name"] for line in lines}
    try:
        for name, row in rows(arguments.data, arguments.factor, known):
            with arguments.to.open("a") as file:
                file.write(json.dumps({"name": name, **row}) + "\n")
            print(name, *(f"{value:.3f}" for value in row["mean"]), row.get("verdict", ""), flush=True)
    except (VoxelMorphError, cases.BenchmarkError) as error:
        print(f"verdicts: {error}", file=sys.stderr)
        return 2
    print(*table([json.loads(line) for line in arguments.to.read_text().splitlines()]), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
