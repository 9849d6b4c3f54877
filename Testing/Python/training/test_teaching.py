"""The making of a teacher's displacement fields, and a training that learns from them."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import anatomy_cases
from training_cases import TINY
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.fields.files import read_field
from VoxelMorphRegistrationLib.fields.warp import warp_labels
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.registration.evaluation import dice, mean_dice
from VoxelMorphRegistrationLib.training.config import load_config
from VoxelMorphRegistrationLib.training.teaching import make_fields, ordered_pairs

LABELS = (2, 3, 4)
EXTRA = f"""
[supervision]
structures = "list"
labels = {list(LABELS)}

[anatomy]
folder = "maps"
validation = 0
outside = [{anatomy_cases.OUTSIDE}]
spacing_mm = [1.5, 1.5]

[teacher]
folder = "fields"
share = 0.5
"""


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder with three people, whose balls are not where an affine map brings them, and two of the six fields."""
    folder = tmp_path_factory.mktemp("taught")
    config = folder / "tiny.toml"
    config.write_text('source = "anatomy"\n' + TINY.format(shape=[16, 16, 16], steps=2) + EXTRA, encoding="utf-8")
    (folder / "maps").mkdir()
    numbers = np.random.default_rng(4)
    for number in range(3):
        moved = {
            label: (tuple(np.add(centre, 0.0 if label == 5 else numbers.uniform(-2.5, 2.5, 3))), radius)
            for label, (centre, radius) in anatomy_cases.BALLS.items()
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(anatomy_cases, "BALLS", moved)
            anatomy_cases.write_maps(folder / "one", [anatomy_cases.translation([7.0 * number, 0.0, -5.0])])
        (folder / "one" / "map_0.nii.gz").rename(folder / "maps" / f"map_{number}.nii.gz")
    assert main(["teach", str(config), "--output", str(folder / "fields"), "--pairs", "2"]) == 0
    return config


def rows_of(folder):
    with (folder / "fields.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_field_is_a_transform_between_the_maps_as_they_lie(taught):
    folder = taught.parent
    rows = rows_of(folder / "fields")
    assert len(rows) == 2
    for row in rows:
        fixed, moving = (read_image(folder / "maps" / f"{row[side]}.nii.gz") for side in ("fixed", "moving"))
        field = read_field(folder / "fields" / f"{row['fixed']}--{row['moving']}.nii")
        assert np.allclose(field.grid.spacing, 2.0)
        warped = warp_labels(moving, fixed.grid, field, mode="nearest")
        after = mean_dice(dice(fixed, warped, LABELS))
        assert after == pytest.approx(float(row["dice_after"]), abs=0.01)
        assert after > 0.85 and after > float(row["dice_before"]) + 0.1
        assert row["folds"] == "0"


def test_the_making_goes_on_where_it_stopped(taught):
    folder = taught.parent / "fields"
    maps = load_config(taught).label_maps(taught.parent)
    people = maps.training_maps
    assert len(ordered_pairs(people, 0)) == 6
    orders = [[(a.name, b.name) for a, b in ordered_pairs(people, seed)] for seed in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told: list[str] = []
    assert make_fields(maps, folder, 3, load_config(taught).seed, told.append) == 3
    after = {path.name: path.read_bytes() for path in folder.glob("*.nii")}
    assert len(after) == 3 and len(told) == 1 and len(rows_of(folder)) == 3
    assert all(after[name] == data for name, data in before.items() if name.endswith(".nii"))
    # One that was lost is made again, the same.
    lost = next(name for name in before if name.endswith(".nii"))
    (folder / lost).unlink()
    make_fields(maps, folder, 3, load_config(taught).seed, told.append)
    assert (folder / lost).read_bytes() == after[lost]


def test_a_network_trains_with_the_fields(taught, capsys):
    output = taught.parent / "run"
    assert main(["train", str(taught), "--output", str(output), "--device", "cpu"]) == 0
    assert "Step 2 of 2" in capsys.readouterr().out
    with (output / "steps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    # Of different people alone: without the teacher, the displacement is known of no pair.
    assert len(steps) == 2


def test_the_command_is_for_label_maps(tmp_path, capsys):
    config = tmp_path / "shapes.toml"
    config.write_text(TINY.format(shape=[16, 16, 16], steps=2), encoding="utf-8")
    assert main(["teach", str(config), "--output", str(tmp_path / "fields")]) == 1
    assert 'source = "anatomy", not "shapes"' in capsys.readouterr().err
    assert not (tmp_path / "fields").exists()


@pytest.fixture(scope="module")
def taught_slices(taught):
    """The same people, and fields between seven slices of them: the first pair has two."""
    config = taught.parent / "slices.toml"
    extra = EXTRA.replace('folder = "fields"', 'folder = "flat"')
    config.write_text('source = "anatomy"\n' + TINY.format(shape=[16, 16], steps=2) + extra, encoding="utf-8")
    assert main(["teach", str(config), "--output", str(taught.parent / "flat"), "--pairs", "7"]) == 0
    return config


def test_a_field_between_slices_is_a_transform_between_the_maps_as_they_lie(taught_slices):
    folder = taught_slices.parent
    rows = rows_of(folder / "flat")
    assert len({row["file"] for row in rows}) == len(rows) == 7
    assert rows[6]["file"] == rows[0]["file"].replace("--1.nii", "--2.nii")
    gains, planes = [], []
    for row in rows:
        fixed, moving = (read_image(folder / "maps" / f"{row[side]}.nii.gz") for side in ("fixed", "moving"))
        field = read_field(folder / "flat" / row["file"])
        assert field.grid.shape[0] == 1 and np.allclose(field.grid.spacing, 1.0)
        planes.append(field.grid.directions[:, 2])
        cut = warp_labels(fixed, field.grid, mode="nearest")
        warped = warp_labels(moving, field.grid, field, mode="nearest")
        present = sorted(set(LABELS) & set(np.unique(cut.array).tolist()))
        after = mean_dice(dice(cut, warped, present))
        # That of the row is on voxels of half the size.
        assert after == pytest.approx(float(row["dice_after"]), abs=0.05)
        gains.append(float(row["dice_after"]) - float(row["dice_before"]))
        assert row["folds"] == "0"
    assert np.mean(gains) > 0.1
    # Sagittal, coronal and axial ones, a little turned.
    assert {int(np.abs(normal).argmax()) for normal in planes} == {0, 1, 2}
    assert all(0.9 < np.abs(normal).max() < 1.0 for normal in planes)


def test_a_network_of_slices_trains_with_the_fields(taught_slices, capsys):
    output = taught_slices.parent / "flat_run"
    assert main(["train", str(taught_slices), "--output", str(output), "--device", "cpu"]) == 0
    assert "Step 2 of 2" in capsys.readouterr().out
