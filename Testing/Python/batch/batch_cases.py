"""Tiny images and the pairs of a batch, done in some hundredths of a second."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from VoxelMorphRegistrationLib.batch.pair import Pair
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.files import PairFiles
from VoxelMorphRegistrationLib.registration.settings import Settings

SIZE = 12


def blob(shift: float) -> Image:
    grid = Grid((SIZE,) * 3, np.eye(4))
    places = np.indices(grid.shape) - (SIZE - 1) / 2
    places[1] -= shift
    values = 1000 * np.exp(-np.square(places).sum(0) / (SIZE / 4) ** 2)
    return Image(np.rint(values).astype(np.int16), grid)


def write_blobs(folder: Path, count: int) -> list[str]:
    """Files of `count` images, each a little different, and of the one that they go onto: that comes first."""
    names = [str(folder / "fixed.nii.gz")]
    write_image(blob(0.0), Path(names[0]))
    for number in range(count):
        names.append(str(folder / f"m{number:02}.nii.gz"))
        write_image(blob(0.5 + number / (2 * count)), Path(names[-1]))
    return names


def quick(model: Path | str) -> Settings:
    return Settings(model=str(model), alignment="none", refinement="off", device="cpu")


def pairs_of(names: list[str], settings: Settings) -> list[Pair]:
    return [Pair(Path(name).name[:3], PairFiles(names[0], name), settings) for name in names[1:]]


def write_table(path: Path, rows: list[dict]) -> Path:
    head = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, head)
        writer.writeheader()
        writer.writerows(rows)
    return path


def whole(root: Path, kept: set[str]) -> dict[str, bool]:
    """Of each pair's folder, whether it holds just what it must."""
    wanted = {*kept, "report.json", "job.json", "thumbnail.jpg"}
    return {folder.name: {one.name for one in folder.iterdir()} == wanted for folder in (root / "pairs").iterdir()}


def run_inside(pairs, places, told, *, jobs, threads, retry, trust_model, tick):
    """As batch.running.run_here, without processes."""
    from VoxelMorphRegistrationLib.batch import engine, job

    for pair in pairs:
        told(engine.standing(pair, places, retry) or job.do(pair, places, trust_model=trust_model))
        tick()
