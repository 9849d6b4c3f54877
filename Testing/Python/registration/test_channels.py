"""Several images of each side: each shows a part, the refinement sees all."""

import json

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.batch.pair import Pair
from VoxelMorphRegistrationLib.batch.table import table_of
from VoxelMorphRegistrationLib.errors import InputError, SettingsError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.needs import needed_bytes
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings

# Two balls: the first pair of images shows the one on the left, the second pair that on the right.
LEFT, RIGHT = np.array([-13.0, 0.0, 0.0]), np.array([13.0, 0.0, 0.0])
SHIFTS = {"left": np.array([0.0, 3.0, 0.0]), "right": np.array([0.0, 0.0, -3.0])}
GRID = make_grid((46, 30, 30), (1.2, 1.2, 1.2))
# Others, oblique and coarser.
OTHER = make_grid((40, 32, 30), (1.5, 1.4, 1.5), degrees=(6, -8, 5), left_handed=True)


def balls(grid, left, right) -> Image:
    points = grid.positions()
    values = sum(
        height / (1 + np.exp(1.5 * (np.linalg.norm(points - center, axis=-1) - 7)))
        for center, height in ((LEFT + left[1], left[0]), (RIGHT + right[1], right[0]))
    )
    return Image(np.float32(values), grid)


def two_sides(grid=GRID):
    still = np.zeros(3)
    first = [balls(GRID, (1000, shift), (0, still)) for shift in (still, SHIFTS["left"])]
    second = [balls(grid, (0, still), (300, shift)) for shift in (still, SHIFTS["right"])]
    return (first[0], second[0]), (first[1], second[1])


SETTINGS = Settings(alignment="none", model="none", refinement="fast", similarity="mse", device="cpu")


def moved(result, center):
    around = center + np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    return (result.transform_points(around) - around).mean(0)


@pytest.fixture(scope="module")
def mask():
    return Image(np.ones(GRID.shape, np.uint8), GRID)


@pytest.mark.parametrize("grid", [GRID, OTHER], ids=["one grid", "own grids"])
def test_each_image_brings_its_part(grid, mask):
    fixed, moving = two_sides(grid)
    result = register(fixed, moving, None, SETTINGS, fixed_mask=mask)
    np.testing.assert_allclose(moved(result, LEFT), SHIFTS["left"], atol=0.7)
    np.testing.assert_allclose(moved(result, RIGHT), SHIFTS["right"], atol=0.7)
    # What is carried is the first one.
    assert result.warped.array.max() > 500
    (channel,) = result.report.refinement["channels"]
    assert channel == {"fixed": "fixed image 2", "moving": "moving image 2", "similarity": "mse", "weight": 1.0}


def test_alone_the_first_images_know_nothing_of_the_second_part(mask):
    fixed, moving = two_sides()
    result = register(fixed[0], moving[0], None, SETTINGS, fixed_mask=mask)
    # Smoothness carries some of the left one's way there, and nothing of its own.
    assert abs(moved(result, RIGHT)[2]) < 0.2


def test_weights_and_similarities_are_each_ones_own(mask):
    fixed, moving = two_sides()
    settings = SETTINGS.replace(similarity="auto", channel_weights=(1.0, 2.0), channel_similarities=("mse", "lncc"))
    result = register(fixed, moving, None, settings, fixed_mask=mask)
    (channel,) = result.report.refinement["channels"]
    assert (channel["similarity"], channel["weight"]) == ("lncc", 2.0)
    assert result.report.refinement["similarity"] == "mse"
    # 1.0 mm off along k, where the ball's inside is flat; alone, the first images leave 2.8 mm and more.
    np.testing.assert_allclose(moved(result, RIGHT), SHIFTS["right"], atol=1.3)
    # Settings go through JSON as they are.
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("count", "changes", "error", "message"),
    [
        ((2, 1), {}, InputError, "2 fixed and 1 moving images"),
        ((0, 0), {}, InputError, "0 fixed and 0 moving"),
        ((2, 2), {"channel_weights": (1.0,)}, SettingsError, "channel_weights has 1 entries for 2 images"),
        ((1, 1), {"channel_similarities": ("mse", "mi")}, SettingsError, "has 2 entries for 1 image of"),
        ((2, 2), {"refinement": "off", "model": "general-3d"}, SettingsError, "Further images guide the refinement"),
    ],
)
def test_what_does_not_go_together_is_told(count, changes, error, message):
    fixed, moving = two_sides()
    with pytest.raises(error, match=message):
        register(list(fixed[: count[0]]), list(moving[: count[1]]), None, SETTINGS.replace(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"channel_weights": (0.0, 1.0)}, {"channel_weights": 3}, {"channel_similarities": ("ncc",)}],
)
def test_settings_that_are_none(changes):
    with pytest.raises(SettingsError, match=f"The setting {next(iter(changes))} is"):
        SETTINGS.replace(**changes)


def test_an_empty_further_image_is_named():
    fixed, moving = two_sides()
    flat = fixed[1].with_array(np.zeros(GRID.shape, np.float32))
    with pytest.raises(InputError, match="fixed image 2.* is empty"):
        register((fixed[0], flat), moving, None, SETTINGS)


def test_further_images_take_memory():
    fixed, moving = two_sides()
    one, two = (needed_bytes(fixed[0], moving[0], SETTINGS, "cpu", None, count)["cpu"] for count in (0, 1))
    assert two > 1.2 * one - 250e6 and two > one


def test_the_command_and_tables_take_several(tmp_path, capsys):
    for side, images in zip("fm", two_sides(), strict=True):
        for number, image in enumerate(images, 1):
            write_image(image, tmp_path / f"{side}{number}.nii.gz")
    f1, f2, m1, m2 = (str(tmp_path / f"{name}.nii.gz") for name in ("f1", "f2", "m1", "m2"))
    out = tmp_path / "out"
    options = ["-o", str(out), "--alignment", "none", "--refine", "coarse", "--device", "cpu"]
    given = ["register", "--fixed", f1, f2, "--moving", m1, m2, *options, "--channel-weights", "1", "2"]
    assert main(given) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["refinement"]["channels"][0]["weight"] == 2.0 and report["settings"]["channel_weights"] == [1.0, 2.0]
    for images, message in (
        (["--fixed", f1, f2, "--moving", m1], "2 fixed and 1 moving images"),
        ([f1, m1, "--fixed", f1, "--moving", m1], "Give FIXED and MOVING, or"),
        (["--fixed", f1], "Give FIXED and MOVING, or"),
        ([f1], "Two images are due, FIXED and MOVING in this order; 1 given"),
    ):
        assert main(["register", *images, *options, "--overwrite"]) == 1
        assert message in capsys.readouterr().err
    rows = [{"fixed": f"{f1};{f2}", "moving": [m1, m2], "channel_weights": "1; 2", "channel_similarities": "mse;mi"}]
    (pair,) = table_of([("1", row) for row in rows]).pairs
    assert (pair.files.fixed, pair.files.further_fixed, pair.files.further_moving) == (f1, (f2,), (m2,))
    assert pair.settings.channel_weights == (1.0, 2.0) and pair.settings.channel_similarities == ("mse", "mi")
    assert {path for _, path in pair.files.read_names()} == {f1, f2, m1, m2}
    assert Pair.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair
