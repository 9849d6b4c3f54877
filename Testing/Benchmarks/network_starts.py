"""What the start from a network saves a refinement: accuracy beside CPU seconds, from nothing and from it.

    python Testing/Benchmarks/network_starts.py --data DIR --cases brain abdomen --seed 5 --csv FILE

Pairs of T1 brains of different people, aligned as they come (mean Dice of 30 structures), and an abdominal CT under
known warps of up to 25 mm (mean distance from the truth). One row for each case, preset and start: what came out,
voxels that fold in the anatomy, CPU seconds of the network's passes and of the refinement, all threads together.
`none` as a start is nothing at all; the preset `off` is the network alone.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from cases import BRAIN_PAIRS, Pair, _abdomen, _brain
from network_limits import append, made

from VoxelMorphRegistrationLib.registration.evaluation import dice, mean_dice
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import REFINEMENTS, Settings

STRUCTURES = "30"


class Stages:
    """A progress callback: the seconds that each stage of a registration took, by `clock`."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._stage, self._since = clock, "", clock()

    def __call__(self, stage: str, _fraction: float) -> None:
        now = self._clock()
        self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now


def started(pair: Pair, start: str, preset: str) -> dict:
    """One registration of an aligned pair; dice or mm is empty where the pair does not have its truth."""
    settings = Settings(model=start, refinement=preset, alignment="none", device="cpu")
    fixed_labels, moving_labels = pair.labels.get(STRUCTURES, (None, None))
    stages = Stages()
    done = register(pair.fixed, pair.moving, settings=settings, progress=stages, moving_labels=moving_labels)
    row: dict = {"dice": "", "mm": ""}
    if fixed_labels is not None and done.warped_labels is not None:
        row["dice"] = round(mean_dice(dice(fixed_labels, done.warped_labels)), 4)
    if pair.fixed_points is not None and pair.moving_points is not None:
        moved = done.field.transform_points(pair.fixed_points) @ done.linear[:3, :3].T + done.linear[:3, 3]
        row["mm"] = round(float(np.linalg.norm(moved - pair.moving_points, axis=1).mean()), 3)
    return row | {
        "folds": done.report.folding["inside"]["count"],
        "network_s": round(stages.seconds["registering"], 1),
        "refinement_s": round(stages.seconds["refining"], 1),
    }


def pairs(data: Path, seed: int, warps: int) -> dict[str, Callable[[], Pair]]:
    """What is registered, by name."""
    brains = {
        f"brain {fixed}<-{moving}": partial(_brain, data / "brain", fixed, moving, (STRUCTURES,))
        for fixed, moving in BRAIN_PAIRS
    }
    names = [f"abdomen {number + 1}" for number in range(warps)]
    return brains | {f"{name}, seed {seed}": partial(_abdomen, data, name, seed) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with brain and abdomen_ct")
    parser.add_argument("--cases", nargs="+", default=["brain", "abdomen"], help="cases whose name holds one of these")
    parser.add_argument("--starts", nargs="+", default=["none", "general-3d", "brain-3d"], help="names, files, or none")
    parser.add_argument("--presets", nargs="+", choices=REFINEMENTS[1:], default=["fast", "default"])
    parser.add_argument("--seed", type=int, default=0, help="of the known warps")
    parser.add_argument("--warps", type=int, default=1, help="known warps of the CT")
    parser.add_argument("--csv", type=Path, required=True, help="rows that are in this file are not made again")
    args = parser.parse_args()
    done = made(args.csv, "case", "preset", "start")
    for case, load in pairs(args.data, args.seed, args.warps).items():
        if not any(text in case for text in args.cases):
            continue
        pair = load()
        for preset in args.presets:
            for start in args.starts:
                key = (case, preset, Path(start).name)
                if key in done or (start, preset) == ("none", "off"):
                    continue
                row = dict(zip(("case", "preset", "start"), key, strict=True)) | started(pair, start, preset)
                append(args.csv, row)
                print(", ".join(f"{value}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
