"""Tiny labelled slices, and the experiments run on them."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path

import numpy as np

from grids import make_grid
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.training import curves

PNG = b"\x89PNG\r\n\x1a\n"
CONFIG = """
name = "tiny"
shape = [32, 32]
steps = 2
source = "images"
log_every = 1
[network]
encoder = [4, 4]
decoder = [4, 4, 4]
symmetric = false
[images]
label_names = "*_seg.nii.gz"
image_names = "*_t1.nii.gz"
validation_share = 0.3
[supervision]
table = "structures.csv"
[optimiser]
warm_steps = 0
decay_steps = 0
[validation]
pairs = 2
every = 2
"""


def write_cases(folder: Path, depth: int) -> None:
    """Six images and label maps with `depth` equal slices each."""
    grid = make_grid((32, 32, depth), (2.0, 2.0, 2.0))
    j, i = np.mgrid[:32, :32]
    for number in range(6):
        distance = np.hypot(i - 14 - number % 3, j - 16 + number % 2)
        labels = np.where(distance < 5, 1, np.where(distance < 10, np.where(i < 15, 2, 3), 0)).astype(np.uint8)
        labels = np.repeat(labels[None], depth, 0)
        image = np.array([0.0, 100.0, 60.0, 60.0], np.float32)[labels]
        write_image(Image(image, grid), folder / f"s{number}_t1.nii.gz")
        write_image(Image(labels, grid), folder / f"s{number}_seg.nii.gz")


plotted: set[str] = set()


def save_once(figure, path: Path) -> None:
    if path.name not in plotted:
        plotted.add(path.name)
        curves.save_figure(figure, path)


def run(data: Path, name: str, *options: str) -> int:
    """One experiment into the folder `out`."""
    base = data.parent
    common = ["--data", str(data), "--config", str(base / "tiny.toml"), "-o", str(base / "out"), "--device", "cpu"]
    return main(["experiment", name, *common, *options])


def table(data: Path, name: str) -> list[dict[str, str]]:
    with (data.parent / "out" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(rows: list[dict[str, str]], *columns: str) -> list[float]:
    return [float(row[column]) for row in rows for column in columns]


def options_of(folder: Path, **changes) -> Namespace:
    """Of `voxelmorph experiment`, for its configuration."""
    names = "data config images labels structures slices spacing steps pairs seed"
    values = dict.fromkeys(names.split()) | {"data": str(folder), "config": str(folder.parent / "tiny.toml")}
    return Namespace(**(values | changes))
