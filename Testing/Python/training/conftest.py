"""Fixtures of several tests of the training."""

from __future__ import annotations

import numpy as np
import pytest

from experiment_cases import CONFIG, save_once, write_cases
from grids import make_grid
from image_cases import GRID, labelled, write_points
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.training import curves
from VoxelMorphRegistrationLib.training.experiments import plots


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """The curves of the trainings are left out: drawing them takes longer than these trainings."""
    monkeypatch.setattr(curves, "write_curves", lambda folder: None)


@pytest.fixture
def folder(tmp_path):
    """Six images with label maps on one grid."""
    grid = make_grid(**GRID)
    for number in range(6):
        image, labels = labelled(grid, number)
        write_image(image, tmp_path / f"s{number}_t1.nii.gz")
        write_image(labels, tmp_path / f"s{number}_seg.nii.gz")
    return tmp_path


@pytest.fixture
def landmark_pairs(tmp_path):
    """A table of four pairs of spots; the fixed and the moving images lie on unlike grids."""
    fixed_grid = make_grid(**GRID)
    moving_grid = make_grid((22, 24, 26), (1.1, 1.0, 1.3), degrees=(-5, 10, 0), center=(1.0, 2.0, -1.0))
    lines = ["fixed,moving,fixed_points,moving_points"]
    generator = np.random.default_rng(0)
    for number in range(4):
        names = []
        for side, grid in (("fixed", fixed_grid), ("moving", moving_grid)):
            ras = fixed_grid.center_ras + generator.uniform(-5, 5, 3)
            array = 100 * np.exp(-((grid.positions() - ras) ** 2).sum(-1) / (2 * 2.5**2))
            write_image(Image(array.astype(np.float32), grid), tmp_path / f"{side}{number}.nii.gz")
            # The second point lies outside of everything, in one of the images only.
            write_points(tmp_path / f"{side}{number}.csv", [ras, ras if side == "fixed" else ras + 500])
            names.append(f"{side}{number}")
        lines.append(",".join([f"{n}.nii.gz" for n in names] + [f"{n}.csv" for n in names]))
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six slices of 32x32 voxels with a disc in a ring, another centre in each, and a configuration for them.

    The plot of each experiment is drawn once, whichever test runs it first.
    """
    monkeypatch.setattr(plots, "save_figure", save_once)
    folder = tmp_path / "data"
    folder.mkdir()
    write_cases(folder, 1)
    text = "label,name,group\n1,core,inner\n2,left ring,outer\n3,right ring,outer\n"
    (tmp_path / "structures.csv").write_text(text, encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(CONFIG, encoding="utf-8")
    return folder
