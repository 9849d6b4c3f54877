"""The expected error in files, picture, table and page."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from grids import make_grid, smooth_image
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.results import outputs
from VoxelMorphRegistrationLib.results.colours import doubt_colours, doubt_scale
from VoxelMorphRegistrationLib.results.html import html_report
from VoxelMorphRegistrationLib.results.overview import DOUBT, draw_overview
from VoxelMorphRegistrationLib.results.table import EXPECTED_ERROR, rows
from VoxelMorphRegistrationLib.results.verdict import GOOD, LOOK, verdict
from VoxelMorphRegistrationLib.trust.error_map import ErrorMap

GRID = make_grid((40, 44, 36), spacing=(2.0, 2.0, 2.0))
EXPECTED = {
    "effort": "quick",
    "median": 1.234,
    "p90": 4.5,
    "under_1mm": 40.0,
    "under_2mm": 71.0,
    "under_5mm": 93.0,
    "labels": {"3": {"mean": 1.5, "max": 6.5}},
}


def report() -> Report:
    measure = {"ncc": 0.9, "mi": 0.5}
    inside = {"voxels": 10, "count": 0, "percent": 0.0, "any_corner_count": 0, "minimum": 0.5, "maximum": 2.0}
    return Report(
        similarity={"before": measure, "aligned": measure, "after": measure},
        folding={"inside": inside, "volume": {"count": 0, "voxels": 100}},
        largest_displacement_mm=2.0,
        linear=np.eye(4).tolist(),
        expected_error=EXPECTED,
        seconds={"total": 1.0},
        settings={"alignment": "none", "jacobian": "total", "background": None},
    )


def registered(bound: np.ndarray | None) -> tuple[Registration, Image]:
    image = smooth_image(GRID)
    field = DisplacementField.identity(GRID)
    doubt = None if bound is None else ErrorMap(Image(bound, GRID), "quick")
    jacobian = Image(np.ones(GRID.shape, np.float32), GRID)
    return Registration(field, np.eye(4), image, jacobian, report(), expected_error=doubt), image


def halves() -> np.ndarray:
    """0.6 mm on one side, 8 mm on the other; nothing said of the outermost voxels along j."""
    bound = np.full(GRID.shape, 0.6, np.float32)
    bound[:, :, GRID.shape[2] // 2 :] = 8.0
    bound[:, :4] = 0.0
    return bound


def test_map_is_a_file_of_its_own_and_an_older_one_goes(tmp_path):
    result, image = registered(halves())
    written = outputs.write_registration(result, image, image, tmp_path)
    assert tmp_path / outputs.EXPECTED_ERROR in written
    found = read_image(tmp_path / outputs.EXPECTED_ERROR).array
    np.testing.assert_allclose(found, result.expected_error.bound.array, rtol=1e-3)
    assert json.loads((tmp_path / outputs.REPORT).read_text())["expected_error"]["under_2mm"] == 71.0
    without, _ = registered(None)
    outputs.write_registration(without, image, image, tmp_path, overwrite=True)
    assert not (tmp_path / outputs.EXPECTED_ERROR).exists()


def test_overview_shows_the_map_with_a_line_between_sure_and_unsure():
    result, image = registered(halves())
    drawn = draw_overview(result, image, image)
    panel = drawn.panel("axial", DOUBT).astype(int)
    middle = panel[panel.shape[0] // 2]
    white = np.flatnonzero((middle == 255).all(1))
    assert abs(np.mean(white) - panel.shape[1] / 2) < 0.06 * panel.shape[1]
    red, blue = middle[..., 0], middle[..., 2]
    # On the page the patient's right, where i grows in no case, is on the left.
    sides = [np.mean((red - blue)[part]) for part in (slice(10, 60), slice(-60, -10))]
    assert max(sides) > 20 > -20 > min(sides)
    plain, _ = registered(None)
    assert ("axial", DOUBT) not in draw_overview(plain, image, image).panels


def test_table_and_page_tell_it_by_structure():
    table = [row for row in rows(report(), {3: "liver"}) if row.group == EXPECTED_ERROR]
    told = {row.name: (row.after, row.unit) for row in table}
    assert told["median of the anatomy"] == (1.234, "mm")
    assert told["anatomy under 2 mm"] == (71.0, "%")
    assert told["liver, largest"] == (6.5, "mm")
    page = html_report(report(), names={3: "liver"})
    assert EXPECTED_ERROR in page and "liver, mean" in page


def test_verdict_tells_it_and_asks_for_a_look_where_it_is_large():
    good = verdict(report())
    assert good.level == GOOD and "under 2 mm in 71 % of the anatomy" in good.reason
    unsure = verdict(replace(report(), expected_error={**EXPECTED, "under_5mm": 60.0}))
    assert unsure.level == LOOK and "60 % of the anatomy" in unsure.reason


@pytest.mark.parametrize(("extent", "scale"), [(400.0, 1.0), (60.0, 1.0), (12.0, 0.1), (1.2, 0.01)])
def test_small_animals_have_finer_colours(extent, scale):
    assert doubt_scale(extent) == pytest.approx(scale)
    np.testing.assert_array_equal(doubt_colours(np.array(2.0 * scale), scale), doubt_colours(np.array(2.0)))
