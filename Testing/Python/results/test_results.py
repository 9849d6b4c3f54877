"""Results in rows and as a page: every number of the report, readable, complete and safe."""

from __future__ import annotations

import base64
import json
import math
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as Picture

from grids import make_grid
from VoxelMorphRegistrationLib.commands.register import summary
from VoxelMorphRegistrationLib.errors import OutputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration import evaluation
from VoxelMorphRegistrationLib.registration.report import Report, headline
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.registration.warnings import little_covered
from VoxelMorphRegistrationLib.results import outputs
from VoxelMorphRegistrationLib.results.html import html_report, write_html_report
from VoxelMorphRegistrationLib.results.table import Row
from VoxelMorphRegistrationLib.results.table import rows as results_rows
from VoxelMorphRegistrationLib.results.verdict import verdict

STAGES = ("before", "aligned", "after")


def staged(*values):
    return dict(zip(STAGES, values, strict=True))


def full_report(**changes) -> Report:
    facts = {
        "similarity": staged({"ncc": 0.5, "mi": 0.2}, {"ncc": 0.6, "mi": 0.3}, {"ncc": 0.9, "mi": math.nan}),
        "folding": {
            "inside": {
                "voxels": 1000,
                "count": 2,
                "percent": 0.2,
                "any_corner_count": 7,
                "any_corner_percent": 0.7,
                "minimum": -0.25,
                "maximum": 3.5,
                "sd_log": 0.31,
            },
            "volume": {"count": 12345, "voxels": 500000},
        },
        "largest_displacement_mm": 9.87,
        "linear": np.eye(4).tolist(),
        "dice": staged(*({"mean": m, "labels": {3: m, 17: m + 0.05}} for m in (0.4, 0.5, 0.8))),
        "hd95_mm": staged(*({"mean": m, "labels": {3: m, 17: math.nan}} for m in (6.0, 4.0, 1.5))),
        "tre_mm": staged(*({"mean": m, "max": 2 * m, "each": [m, 2 * m]} for m in (5.0, 3.0, 1.0))),
        "volume_change_percent": {3: -4.2, 17: 12.5},
        "displacement_mm": {3: {"mean": 2.34, "p95": 5.6}, 17: {"mean": 0.5, "p95": 0.9}},
        "covered_percent": 98.5,
        "seconds": {"registering": 3.2, "total": 4.5},
        "device": "cuda",
        "model": {"name": "general-3d", "file": None},
        "passes": 2,
        "refinement": {"preset": "fast", "steps": [10, 5], "improved": True},
        "working_grid": {"shape_kji": [80, 96, 112]},
        "settings": Settings(seed=4).__dict__,
        "inputs": {"fixed": "Fixed <1>", "moving": "Moving & co"},
        "warnings": ["The deformation folds in 2 voxels."],
    }
    return Report(**{**facts, **changes})


def by_name(rows, group) -> dict:
    return {row.name: row for row in rows if row.group == group}


def numbers(row) -> tuple:
    return row.before, row.aligned, row.after


# --- rows --------------------------------------------------------------------------------------------------------


def test_rows_hold_every_measure_at_every_stage():
    rows = results_rows(full_report(), {3: "Thalamus", 17: "Hippocampus"})
    assert numbers(by_name(rows, "Similarity")["Correlation"]) == (0.5, 0.6, 0.9)
    assert numbers(by_name(rows, "Dice")["Hippocampus"]) == pytest.approx((0.45, 0.55, 0.85))
    assert numbers(by_name(rows, "Surface distance (95 %)")["mean"]) == (6.0, 4.0, 1.5)
    assert numbers(by_name(rows, "Landmark error")["max"]) == (10.0, 6.0, 2.0)
    assert numbers(by_name(rows, "Landmark error")["point 2"]) == (10.0, 6.0, 2.0)
    assert by_name(rows, "Volume change")["Thalamus"].after == -4.2
    assert by_name(rows, "Time")["total"].after == 4.5
    run = by_name(rows, "Run")
    assert (run["model"].text, run["device"].text) == ("general-3d", "cuda")
    assert run["working grid"].text == "112x96x80 voxels"
    assert run["refinement"].text == "fast, 15 steps" and "refined from" not in run
    settings = by_name(rows, "Settings")
    assert set(settings) == set(Settings().__dict__)
    assert settings["seed"].text == "4" and settings["passes"].text == "automatic"


@pytest.mark.parametrize(("start", "told"), [("brain-2d", "brain-2d"), ("nothing", None), (None, None)])
def test_run_tells_the_network_from_whose_field_a_slice_was_refined(start, told):
    facts = {"preset": "default", "steps": [10, 5], "improved": True, "start": start}
    row = by_name(results_rows(full_report(refinement=facts)), "Run").get("refined from")
    assert (row and row.text) == told
    line = f"refinement default{' from brain-2d' if told else ''}, on "
    assert line in summary(full_report(refinement=facts))


def test_local_correlation_comes_before_that_of_all_voxels_where_a_report_has_it():
    """On a CT, a better result raised Dice from .899 to .955 while the correlation fell from .975 to .971."""
    stages = {"before": (0.3, 0.975), "aligned": (0.4, 0.974), "after": (0.8, 0.971)}
    known = {stage: {"local": local, "ncc": ncc, "mi": 0.5} for stage, (local, ncc) in stages.items()}
    rows = results_rows(full_report(similarity=known))
    assert (rows[0].name, numbers(rows[0])) == ("Local correlation", (0.3, 0.4, 0.8))
    assert "Local correlation 0.30 to 0.80" in verdict({**CLEAN, "similarity": known}).reason
    assert headline(known) == ("Local correlation", 0.3, 0.8)
    assert headline(CLEAN["similarity"]) == ("Correlation", 0.2, 0.6)


def test_what_decides_over_trust_comes_first():
    rows = results_rows(full_report())
    groups = list(dict.fromkeys(row.group for row in rows))
    assert groups == [
        "Similarity",
        "Dice",
        "Surface distance (95 %)",
        "Landmark error",
        "Deformation",
        "Volume change",
        "Mean displacement",
        "Time",
        "Run",
        "Settings",
    ]
    assert rows[0].name == "Correlation"
    first = {group: next(row.name for row in rows if row.group == group) for group in groups}
    assert (first["Dice"], first["Landmark error"]) == ("mean", "mean")


def test_rows_hold_both_fold_counts_and_the_range_of_determinants():
    rows = [row for row in results_rows(full_report()) if row.group == "Deformation"]
    found = {(row.name, row.unit): row.after for row in rows}
    assert found["folded voxels", "voxels"] == 2 and found["folded voxels", "%"] == 0.2
    assert found["folded voxels, strict count", "voxels"] == 7 and found["folded voxels, strict count", "%"] == 0.7
    assert found["smallest determinant", ""] == -0.25 and found["largest determinant", ""] == 3.5
    assert found["largest displacement", "mm"] == 9.87


def test_what_was_not_measured_is_empty_and_never_nan():
    rows = results_rows(full_report())
    assert numbers(by_name(rows, "Similarity")["Mutual information"]) == (0.2, 0.3, None)
    assert by_name(rows, "Surface distance (95 %)")["Label 17"].cells()[2:5] == ("", "", "")
    without = dict.fromkeys(("dice", "hd95_mm", "tre_mm", "volume_change_percent", "displacement_mm", "refinement"))
    bare = full_report(**without)
    groups = {row.group for row in results_rows(bare)}
    assert not groups & {"Dice", "Surface distance (95 %)", "Landmark error", "Volume change"}
    assert all("nan" not in cell.split() for row in rows for cell in row.cells())


def test_rows_of_a_report_and_of_its_json_are_the_same():
    report = full_report()
    kept = json.loads(report.to_json())
    assert results_rows(kept) == results_rows(report)
    kept["label_names"] = {"3": "Thalamus"}
    assert by_name(results_rows(kept), "Dice").keys() == {"mean", "Thalamus", "Label 17"}


def test_cells_are_rounded_for_reading():
    row = Row("Time", "total", after=1234.567, unit="s", digits=1)
    assert row.cells() == ("Time", "total", "", "", "1,234.6", "s", "")


# --- volume change ------------------------------------------------------------------------------------------------


def test_volume_change_is_the_mean_determinant_of_each_structure():
    grid = make_grid((6, 6, 6))
    labels, determinant = np.zeros(grid.shape, np.uint8), np.full(grid.shape, 5.0, np.float32)
    labels[:2], labels[4:] = 1, 9
    determinant[0], determinant[1], determinant[4:] = 0.5, 1.0, 2.0
    changes = evaluation.volume_change(Image(labels, grid, "l"), Image(determinant, grid, "d"), factor=1.1)
    assert changes == {1: pytest.approx(100 * (0.75 * 1.1 - 1)), 9: pytest.approx(120)}
    assert evaluation.volume_change(Image(0 * labels, grid, "l"), Image(determinant, grid, "d")) == {}


@pytest.mark.parametrize("seen", [10_000, 3])
def test_displacement_of_each_structure_is_its_own(monkeypatch, seen):
    grid = make_grid((6, 6, 6))
    labels, vectors = np.zeros(grid.shape, np.int64), np.zeros((*grid.shape, 3), np.float32)
    labels[:2], labels[4:] = 1, 2**40
    vectors[:2] = (3.0, 0.0, -4.0)
    vectors[5] = (0.0, 2.0, 0.0)
    monkeypatch.setattr(evaluation, "SEEN", seen)
    found = evaluation.displacement(Image(labels, grid, "l"), DisplacementField(vectors, grid))
    assert found[1] == {"mean": pytest.approx(5.0), "p95": pytest.approx(5.0)}
    # Half of it stays where it is.
    assert found[2**40] == {"mean": pytest.approx(1.0, abs=0.5), "p95": pytest.approx(2.0, abs=0.3)}
    assert evaluation.displacement(Image(0 * labels, grid, "l"), DisplacementField(vectors, grid)) == {}


def test_displacement_stands_in_the_table_and_on_the_page_per_structure():
    rows = [row for row in results_rows(full_report()) if row.group == "Mean displacement"]
    assert [(row.structure, row.number("after"), row.unit) for row in rows] == [
        ("Label 3", "2.3", "mm"),
        ("Label 17", "0.5", "mm"),
    ]
    assert rows[0].text == "95 % move less than 5.6 mm"
    assert "Displacement (mm)" in html_report(full_report())


# --- the page -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Texts, pictures and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.texts, self.pictures = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "overview.png"
    Picture.new("RGB", (60, 40), (200, 30, 30)).save(path)
    return path


def test_page_holds_the_results_the_pictures_and_the_settings(tmp_path, picture):
    path = write_html_report(
        tmp_path / "report.html", full_report(), {"Overview": picture, "Again": picture.read_bytes()}, {3: "Thalamus"}
    )
    page = Page(path.read_text(encoding="utf-8"))
    for text in ("Thalamus", "Label 17", "0.800", "-4.2 %", "+12.5 %", "-0.250", "general-3d", "Overview", "9.87"):
        assert any(text in part for part in page.texts), text
    assert any("folds in 2 voxels" in part for part in page.texts)
    assert len(page.pictures) == 2
    kind, data = page.pictures[0].split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == picture.read_bytes()
    settings = next(part for part in page.texts if part.startswith("{"))
    assert Settings.from_json(settings) == Settings(seed=4)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["overview.png", "report.html"]


def test_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert('x')</script>"
    report = full_report(warnings=[evil], inputs={"fixed": evil, "moving": '"<b>'})
    text = html_report(report, names={3: evil}, title=evil)
    page = Page(text)
    assert "script" not in page.open and "<script" not in text
    assert any(evil in part for part in page.texts)


def test_page_begins_with_the_verdict():
    page = html_report(full_report())
    found = verdict(full_report())
    assert page.index(found.title) < page.index("<b>Warning:</b>") < page.index("Similarity")


# --- the verdict --------------------------------------------------------------------------------------------------

CLEAN = {
    "similarity": {stage: {"ncc": value, "mi": value} for stage, value in (("before", 0.2), ("after", 0.6))},
    "folding": {"inside": {"count": 0, "any_corner_count": 0, "percent": 0.0}},
    "warnings": [],
    "covered_percent": 99.0,
}


def of_means(before: float, after: float, labels=None) -> dict:
    stages = (("before", before), ("after", after))
    return {stage: {"mean": mean, "labels": (labels or {}).get(stage, {})} for stage, mean in stages}


@pytest.mark.parametrize(
    ("changes", "level", "reason"),
    [
        ({}, "good", "Correlation 0.20 to 0.60, no folds."),
        ({"dice": of_means(0.7, 0.8)}, "good", "Dice 0.70 to 0.80, no folds."),
        ({"warnings": ["Odd."]}, "look", "Odd."),
        ({"folding": {"inside": {"count": 12, "percent": 0.1}}}, "look", "folds in 12 voxels"),
        ({"dice": of_means(0.7, 0.8, {"before": {"3": 0.9}, "after": {"3": 0.7}})}, "look", "'Label 3' overlaps less"),
        ({"dice": of_means(0.8, 0.7)}, "bad", "overlap less than before (Dice 0.80 to 0.70)"),
        # A little of one structure is lost in good results, too; of the mean it is not.
        ({"dice": of_means(0.7, 0.8, {"before": {"3": 0.9}, "after": {"3": 0.86}})}, "good", "Dice 0.70 to 0.80"),
        ({"dice": of_means(0.74, 0.7)}, "bad", "overlap less than before (Dice 0.74 to 0.70)"),
        ({"dice": of_means(0.07, 0.09)}, "bad", "hardly overlap (Dice 0.07 to 0.09)"),
        ({"tre_mm": of_means(2.0, 3.0)}, "bad", "further apart than before (2.0 to 3.0 mm)"),
        ({"folding": {"inside": {"count": 9999, "percent": 4.0}}}, "bad", "folds in 4.0 %"),
        ({"covered_percent": 20.0, "warnings": [little_covered(20.0)]}, "bad", "Only 20 %"),
        ({"covered_percent": 60.0, "warnings": [little_covered(60.0)]}, "look", "Only 60 %"),
        # Two crops of one image, surely aligned: no warning.
        ({"covered_percent": 40.0}, "look", "Only 40 % of the fixed anatomy lies within the moving image: the rest"),
        ({"similarity": {"before": {"mi": 0.6}, "after": {"mi": 0.2}}}, "bad", "less similar"),
    ],
)
def test_verdict_names_the_first_reason_of_the_worst_kind(changes, level, reason):
    found = verdict({**CLEAN, **changes})
    assert found.level == level and reason in found.reason


def test_existing_report_is_only_replaced_when_asked(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="already a file"):
        write_html_report(path, full_report())
    assert path.read_text() == "mine"
    write_html_report(path, full_report(), overwrite=True)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_failure_leaves_no_file(tmp_path, picture, monkeypatch):
    for pictures, message in (
        ({"Gone": tmp_path / "gone.png"}, "cannot be read"),
        ({"Text": b"no picture"}, "neither PNG nor JPEG"),
    ):
        with pytest.raises(OutputError, match=message):
            write_html_report(tmp_path / "report.html", full_report(), pictures)
    with pytest.raises(OutputError, match="could not be written"):
        write_html_report(tmp_path / "no folder" / "report.html", full_report())

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        write_html_report(tmp_path / "report.html", full_report())
    assert [p.name for p in tmp_path.iterdir()] == ["overview.png"]


def test_files_are_rounded_below_a_thousandth_of_a_voxel_and_keep_signs():
    grid = make_grid((12, 11, 10), (0.5, 0.5, 2.0))
    rng = np.random.default_rng(3)
    field = DisplacementField(rng.normal(0, 3, (*grid.shape, 3)).astype(np.float32), grid)
    assert 0 < np.abs(outputs.rounded_field(field).displacement_ras - field.displacement_ras).max() < 0.5e-3 * 0.5
    values = np.concatenate([rng.normal(1, 0.5, 998), [1e-6, -1e-6]]).astype(np.float32).reshape(10, 10, 10)
    image = Image(values, make_grid((10, 10, 10)))
    found = outputs.rounded_map(image).array
    assert np.abs(found / values - 1).max() < 3e-4
    np.testing.assert_array_equal(np.sign(found), np.sign(values))


@pytest.mark.parametrize(("kind", "expected"), [(np.int16, np.int16), (np.uint8, np.float32), (np.float64, np.float32)])
def test_a_warped_ct_stays_in_whole_numbers(kind, expected):
    grid = make_grid((4, 4, 4))
    moving = Image(np.arange(64).reshape(4, 4, 4).astype(kind), grid)
    warped = Image(np.linspace(-4e4, 4e4, 64, dtype=np.float32).reshape(4, 4, 4), grid)
    found = outputs._as_read(warped, moving).array
    assert found.dtype == expected
    if expected == np.int16:
        np.testing.assert_array_equal(found, np.clip(np.rint(warped.array), -32768, 32767))


@pytest.mark.parametrize("far", [False, True])
def test_files_that_cannot_hold_their_places_name_one_that_can(far):
    grid = make_grid((8, 8, 8), center=(1e7 + 0.3 if far else 5.0, 0, 0))
    field = DisplacementField(np.zeros((8, 8, 8, 3), np.float32), grid)
    image = Image(np.ones((8, 8, 8), np.float32), grid)
    told = outputs.with_doubts_of_files(Registration(field, np.eye(4), image, image, full_report(), None))
    added = [text for text in told.report.warnings if "far from the origin" in text]
    assert len(added) == far
    if far:
        assert "transform.h5 is exact" in added[0] and ".nrrd" in added[0]
        # Said once, however often it is asked.
        assert outputs.with_doubts_of_files(told).report.warnings == told.report.warnings
