"""The expected error on the whole road: asked for by the settings, told in report and files, sent by the worker."""

from __future__ import annotations

import json

import numpy as np
import pytest

from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.files import read_image, write_image
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.registration.expected import expected_seconds
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.trust.error_map import error_map
from VoxelMorphRegistrationLib.trust.quantities import _least_and_largest
from VoxelMorphRegistrationLib.worker.messages import pack, unpack

GRID = Grid((1, 70, 64), np.diag([1.5, 1.5, 1.5, 1.0]))
QUICK = Settings(alignment="none", refinement="coarse", expected_error="quick", device="cpu")


def textured(shift: float = 0.0, grid: Grid = GRID) -> Image:
    """Waves in a disc (or ball) on black."""
    k, j, i = np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij")
    i = i - shift
    values = 500 + 200 * np.sin(i / 2.7 + 0.3 * k) * np.cos(j / 3.1) + 100 * np.sin((i + j + k) / 7)
    middle = [(n - 1) / 2 for n in grid.shape]
    away = sum(((x - m) / (0.42 * n)) ** 2 for x, m, n in zip((k, j, i), middle, grid.shape, strict=True) if n > 1)
    noise = np.random.default_rng(int(10 * shift)).normal(scale=4, size=values.shape)
    return Image(np.where(away < 1, values + noise, 0).astype(np.float32), grid)


@pytest.fixture(scope="module")
def result():
    fixed = textured()
    labels = Image((fixed.array > 0).astype(np.uint8) * 4, GRID)
    return register(fixed, textured(1.5), settings=QUICK, moving_labels=labels)


def test_report_and_result_hold_the_map(result):
    told = result.report.expected_error
    assert told["effort"] == "quick" and 0 <= told["under_1mm"] <= told["under_2mm"] <= told["under_5mm"] <= 100
    assert set(told["labels"]) == {4}
    bound = result.expected_error.bound
    assert bound.grid.same_as(GRID)
    i, j, k = np.rint(GRID.to_ijk(result.report.worst_ras["expected_error"])).astype(int)
    assert bound.array[k, j, i] == bound.array[textured().array > 75].max()
    assert "estimating the error" in result.report.seconds
    assert bound.array[0, 0, 0] == 0


def test_it_is_made_on_demand_only():
    found = register(textured(), textured(1.5), settings=QUICK.replace(expected_error="auto"))
    assert found.expected_error is None and found.report.expected_error is None
    assert "expected_error" not in found.report.worst_ras


def test_worker_sends_the_map(result):
    arrays: dict = {}
    packed = json.loads(json.dumps(pack(result.expected_error, arrays, "reply")))
    again = unpack(packed, lambda name: arrays[name])
    np.testing.assert_array_equal(again.bound.array, result.expected_error.bound.array)
    assert again.effort == "quick"


def test_command_writes_the_map_and_tells_it(tmp_path, capsys):
    for name, image in (("f", textured()), ("m", textured(1.5))):
        write_image(image, tmp_path / f"{name}.nii.gz")
    settings = tmp_path / "settings.json"
    settings.write_text(QUICK.to_json())
    names = [str(tmp_path / "f.nii.gz"), str(tmp_path / "m.nii.gz")]
    assert main(["register", *names, "-o", str(tmp_path / "out"), "--settings", str(settings), "--expected-error"]) == 0
    assert "expected error (full), with 90 % under 1 mm" in capsys.readouterr().out
    bound = read_image(tmp_path / "out" / "expected_error.nii.gz").array
    told = json.loads((tmp_path / "out" / "report.json").read_text())["expected_error"]
    assert told["effort"] == "full"
    assert np.median(bound[bound > 0]) == pytest.approx(told["median"], rel=0.2)


def test_volumes_have_a_map_too():
    grid = Grid((30, 32, 34), np.diag([2.0, 2.0, 2.0, 1.0]))
    fixed, moving = textured(grid=grid), textured(0.5, grid)
    mask = fixed.array > 0
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1 / 800),) * 2, mask)
    found = error_map(pair, DisplacementField.identity(grid), "lncc", mask, "quick").bound.array
    assert np.isfinite(found).all() and (found[14:18, 14:18, 14:18] > 0).all() and found[0, 0, 0] == 0


def test_least_and_largest_change_of_an_image_along_any_direction():
    """Against numpy's own eigenvalues of the tensor at a place, which a constant image of slopes has everywhere."""
    slopes = np.random.default_rng(0).normal(size=3)
    place = np.stack(np.meshgrid(*(np.arange(20.0),) * 3, indexing="ij"), -1)
    least, largest = _least_and_largest((place @ slopes).astype(np.float32), 1.5)
    assert largest[10, 10, 10] == pytest.approx(slopes @ slopes, rel=1e-4)
    assert least[10, 10, 10] == pytest.approx(0.0, abs=1e-4)
    # Slopes along two axes in turn: the third changes nothing, the two share it.
    waves = np.sin(place[..., 0]) + np.sin(1.0 + place[..., 1])
    tensor_least, tensor_largest = _least_and_largest(waves.astype(np.float32), 4.0)
    assert tensor_least[10, 10, 10] == pytest.approx(0.0, abs=1e-3)
    assert 0.2 < tensor_largest[10, 10, 10] < 0.6


def test_expected_seconds_count_it():
    without, quick, full = (
        expected_seconds(Settings(expected_error=effort), GRID, 1.0) for effort in ("off", "quick", "full")
    )
    assert without < quick < full
