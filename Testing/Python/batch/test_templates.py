"""Averages of groups: of known shapes the mean shape, whichever it began with and however they lay."""

import json
from pathlib import Path

import numpy as np
import pytest

from grids import make_grid, rotation
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.batch import template
from VoxelMorphRegistrationLib.batch.running import Batch
from VoxelMorphRegistrationLib.errors import InputError, VoxelMorphError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import write_field
from VoxelMorphRegistrationLib.images.files import read_image, write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.settings import Settings

RADIUS = 9.0
ORIGINAL = template._registered


def ellipsoid(grid, matrix) -> Image:
    """A smooth one: that of radius RADIUS, carried by a matrix (4, 4) in RAS mm."""
    there = (grid.positions() - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T
    return Image(np.float32(1000 / (1 + np.exp(np.linalg.norm(there, axis=-1) - RADIUS))), grid)


def width(image: Image, axis: int) -> float:
    """Root mean square extent in mm along an axis of RAS, about the middle."""
    weights = image.array[..., None] - image.array.min()
    places = image.grid.positions()
    middle = (places * weights).sum((0, 1, 2)) / weights.sum()
    return float(np.sqrt((np.square(places - middle) * weights).sum((0, 1, 2)) / weights.sum())[axis])


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Three ellipsoids on unlike grids, turned and shifted, scaled along x by .8, 1.1, 1.4; registration is exact."""
    grids = [make_grid((34, 34, 34), (1.2,) * 3), make_grid((40, 30, 36), (1.2, 1.4, 1.3), degrees=(5, 8, -4))]
    shapes, names = [], []
    for number, (scale, turn) in enumerate(((0.8, (0, 0, 0)), (1.1, (9, -7, 5)), (1.4, (-6, 4, 10)))):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation(turn), (number, -number, 2 * number)
        shapes.append(pose @ np.diag([scale, 1.0, 1.0, 1.0]))
        names.append(str(tmp_path / f"s{number}.nii.gz"))
        write_image(ellipsoid(grids[number % 2], shapes[-1]), names[-1])

    def registered(images, labels, folder, settings, options):
        now = width(read_image(folder / template.TEMPLATE), 0) / width(read_image(names[0]), 0) * 0.8
        back = np.diag([1 / now, 1.0, 1.0, 1.0])
        grid = make_grid((30, 30, 30), (1.6,) * 3)
        for number, shape in enumerate(shapes):
            place = folder / "pairs" / str(number)
            place.mkdir(parents=True)
            matrix = shape @ back
            moved = grid.positions() @ matrix[:3, :3].T + matrix[:3, 3]
            write_field(DisplacementField(np.float32(moved - grid.positions()), grid), place / "transform.h5")
            report = {"similarity": {"after": {"ncc": 0.9}}}
            (place / "report.json").write_text(json.dumps(report))
        return template._Group(tuple(images), tuple(map(str, range(3))), folder)

    monkeypatch.setattr(template, "_registered", registered)
    return names


@pytest.mark.parametrize("start", [0, 2])
def test_the_template_has_the_mean_shape_whichever_it_began_with(group, tmp_path, start):
    result = template.build(group, tmp_path / "out", start=group[start], rounds=2, settings=Settings(), spacing=1.2)
    found = read_image(tmp_path / "out" / "template.nii.gz")
    unit = width(read_image(group[0]), 0) / 0.8
    assert width(found, 0) / unit == pytest.approx(1.1, abs=0.015)
    # The bias was that of the image it began with, and is gone.
    assert result.rounds[0].bias_mm > 1.0 and result.rounds[1].bias_mm < 0.1 and result.bias_mm < 0.1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["rounds"]) == 2 and report["images"] == group


def test_the_expected_error_is_made_once_for_the_template_and_its_map_is_kept(group, tmp_path, monkeypatch):
    made, kept = [], []
    registered, original = template._registered, ORIGINAL

    def seen(images, labels, folder, settings, options):
        made.append(settings.expected_error)
        monkeypatch.setattr(template, "run", lambda *_, keep, **__: kept.append(keep) or Batch(tmp_path, 3, {}, []))
        original(images, labels, folder, settings, options)
        return registered(images, labels, folder, settings, options)

    monkeypatch.setattr(template, "_registered", seen)
    template.build(group, tmp_path / "out", rounds=2, settings=Settings(expected_error="full"))
    assert made == ["off", "off", "full"]
    assert kept == [["transform"], ["transform"], ["transform", "expected_error"]]


def test_voxels_without_data_are_background_in_the_template(group, tmp_path):
    for name in group[1:]:
        image = read_image(name)
        array = image.array.copy()
        array[:4] = np.nan
        write_image(image.with_array(array), name)
    result = template.build(group, tmp_path / "out", rounds=1, settings=Settings())
    found = read_image(tmp_path / "out" / "template.nii.gz")
    assert np.isfinite(found.array).all() and np.ptp(found.array) > 500 and np.isfinite(result.sharpness)


def test_pose_of_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3))
    turn = rotation((20, -30, 40))
    matrix = template.rigid_part(points, points @ turn.T + [1, 2, 3])
    np.testing.assert_allclose(matrix[:3], np.column_stack([turn, [1, 2, 3]]), atol=1e-12)
    # A mirror image is no turn.
    assert np.linalg.det(template.rigid_part(points, points * [-1, 1, 1])[:3, :3]) == pytest.approx(1.0)


def test_labels_are_those_of_most_and_overlap_pairwise():
    grid = make_grid((4, 1, 1))
    maps = [Image(np.array(row, np.int16).reshape(1, 1, 4), grid) for row in ([0, 1, 2, 3], [0, 1, 1, 2], [0, 1, 2, 1])]
    assert template.most_of(maps).array.ravel().tolist() == [0, 1, 2, 1]
    one, two = (np.mean(values) for values in ([2 / 3, 0, 0], [2 / 3, 1, 0]))
    third = np.mean([1 / 2, 0])
    assert template.mean_pairwise_dice(maps) == pytest.approx(np.mean([one, two, third]), abs=0.05)


def test_sharpness_falls_with_blur():
    grid = make_grid((30, 30, 30), (1.5, 1, 1))
    distance = np.linalg.norm(grid.positions(), axis=-1)
    sharp, soft = (Image(np.float32(1 / (1 + np.exp((distance - 9) / width))), grid) for width in (0.5, 2.0))
    assert template.sharpness(sharp) > 1.3 * template.sharpness(soft)


def test_a_group_is_averaged_by_the_command_and_goes_on(tmp_path, inside, capsys):
    grid = make_grid((20, 20, 20), (2, 2, 2))
    names, labels = [], []
    for number, scale in enumerate((0.85, 1.0, 1.15)):
        image = ellipsoid(grid, np.diag([scale, 1.0, 1.0, 1.0]))
        names.append(str(tmp_path / f"s{number}.nii.gz"))
        labels.append(str(tmp_path / f"l{number}.nii.gz"))
        write_image(image, names[-1])
        write_image(image.with_array((image.array > 500).astype(np.uint8)), labels[-1])
    command = ["template", *names, "--labels", *labels, "-o", str(tmp_path / "out"), "--rounds", "1"]
    command += ["--alignment", "none", "--refine", "coarse", "--device", "cpu"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "mean pairwise Dice" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    # As they lie, 0.7.
    assert report["dice"] > 0.85 and report["bias_mm"] < report["rounds"][0]["bias_mm"] / 2
    assert read_image(tmp_path / "out" / "template_labels.nii.gz").array.max() == 1
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("transform.h5")}
    assert len(times) == 6 and main(command) == 0
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("transform.h5")}


def test_what_makes_no_template(tmp_path, inside):
    names = [str(tmp_path / f"{n}.nii.gz") for n in "ab"]
    write_image(ellipsoid(make_grid((12, 12, 12)), np.eye(4)), names[0])
    for images, more, message in (
        (names[:1], {}, "at least two"),
        (names[:1] * 2, {}, "each once"),
        (names, {"labels": ["x"]}, "The number of label maps is 1, and that of images 2"),
        (names, {"rounds": 0}, "0 rounds"),
    ):
        with pytest.raises(InputError, match=message):
            template.build(images, tmp_path / "out", **more)
    for images, more in ((names, {}), (names[:1] + [names[0].replace("a.", "c.")], {"start": names[1]})):
        write_image(ellipsoid(make_grid((12, 12, 12)), np.eye(4)), tmp_path / "c.nii.gz")
        with pytest.raises(InputError, match=r"there is no file .*b\.nii\.gz"):
            template.build(images, tmp_path / "out", **more)
    fractions = Image(np.full((12, 12, 12), 0.5, np.float32), make_grid((12, 12, 12)))
    write_image(fractions, names[1])
    with pytest.raises(InputError, match=r"values of the label map .*a\.nii\.gz are not whole numbers"):
        template.build([names[0], names[0].replace("a.", "c.")], tmp_path / "out", labels=names)
    assert main(["template", *names, "-o", str(tmp_path / "out"), "--jobs", "0"]) == 1
    assert not (tmp_path / "out").exists()
    write_image(Image(np.zeros((12, 12, 12)), make_grid((12, 12, 12))), names[1])
    with pytest.raises(VoxelMorphError, match="1 of 2 images do not go onto the template"):
        template.build(names, tmp_path / "out", settings=Settings(alignment="none", refinement="coarse", device="cpu"))


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        # Several images may have one label map.
        ("a b c", "x y x", ("a b c", "x y x")),
        ("a b a", "x y x", ("a b", "x y")),
        ("a b a", "x x x", ("a b", "x x")),
        ("a b a", "x y", ("a b", "x y")),
        ("a b a", "", ("a b", "")),
        ("a b b", "x x y", "The image b is named twice, with the label maps x and y"),
        ("a b c", "x x", "The number of label maps is 2, and that of images 3"),
    ],
)
def test_each_image_has_the_label_map_in_its_place(tmp_path, monkeypatch, capsys, images, labels, expected):
    seen = []

    def first(*_):
        raise InputError("enough")

    def started(names, *_, labels, **__):
        seen.append((" ".join(names), " ".join(labels)))
        return build(names, tmp_path / "out", labels=labels)

    monkeypatch.chdir(tmp_path)
    for name in "abcxy":
        (tmp_path / name).touch()
    build = template.build
    monkeypatch.setattr(template, "_first", first)
    monkeypatch.setattr(template, "build", started)
    maps = ["--labels", *labels.split()] if labels else []
    assert main(["template", *images.split(), *maps, "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert (seen == [expected] and "enough" in told) if isinstance(expected, tuple) else expected in told


def test_a_template_replaces_none_of_its_inputs(tmp_path):
    names = [str(tmp_path / name) for name in ("template.nii.gz", "b.nii.gz", "template_labels.nii.gz")]
    for name in names:
        write_image(ellipsoid(make_grid((12, 12, 12)), np.eye(4)), name)
    before = [Path(name).read_bytes() for name in names]
    for more in ({}, {"images": names[1:], "start": names[0]}, {"images": names[1:]}):
        with pytest.raises(InputError, match="would be replaced by a result"):
            template.build(**{"images": names[:2], "output": tmp_path, **more})
    assert [Path(name).read_bytes() for name in names] == before


@pytest.mark.parametrize("place", ["rounds/2/template.nii.gz", "pairs/001/warped.nii.gz"])
def test_a_template_begins_with_none_of_its_own_steps(tmp_path, place):
    names = [str(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    step = tmp_path / "out" / place
    step.parent.mkdir(parents=True)
    for name in (*names, step):
        write_image(ellipsoid(make_grid((12, 12, 12)), np.eye(4)), name)
    before = step.read_bytes()
    with pytest.raises(InputError, match="would be replaced by a result"):
        template.build(names, tmp_path / "out", start=str(step))
    assert step.read_bytes() == before
