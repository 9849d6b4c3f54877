"""What worker and library say is shown in the language of Slicer."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

import panel_cases as press
from standin_client import known_report
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.results.table import rows
from VoxelMorphRegistrationLib.results.verdict import verdict

COLLECT = Path(__file__).parents[2] / "Texts/collect_texts.py"
GERMAN = {
    "The {name} is empty: it has no voxels. Load or choose another one.": "{name}: leer, ohne Voxel.",
    "The {name} cannot be placed in space. {error}": "{name} hat keinen Ort. {error}",
    "The images are less similar than before.": "Die Bilder sind einander weniger aehnlich als vorher.",
    "Only {covered} % of the fixed anatomy lies within the moving image.": "Nur {covered} % liegen im bewegten Bild.",
}


def collector():
    spec = importlib.util.spec_from_file_location("collect_texts", COLLECT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def german(slicer_app, monkeypatch):
    """A few sentences have a translation."""
    from VoxelMorphRegistrationLib.panel import translated

    known = set(translated.templates(str))
    assert GERMAN.keys() <= known, GERMAN.keys() - known
    monkeypatch.setattr(translated, "tr", lambda text: GERMAN.get(text, text))
    for one in (translated._translating, translated._patterns):
        one.cache_clear()
    yield translated.translated
    monkeypatch.undo()
    for one in (translated._translating, translated._patterns):
        one.cache_clear()


def test_list_of_sentences_is_that_of_the_code():
    """Run Testing/Texts/collect_texts.py after a change of a sentence."""
    assert collector().main(["--check"]) == 0


def test_text_of_an_error_is_taken_whatever_it_looks_like():
    source = """
def fail(name, count):
    raise InputError(f"{name} has {count:.1f} voxels")
    raise ValueError("caught within")
"""
    tree = ast.parse(source)
    collect = collector()
    texts = [collect.raised_text(node) for node in ast.walk(tree)]
    assert [collect.template_of(text)[0] for text in texts if text is not None] == ["{name} has {count} voxels"]
    assert len(collect.collected()) > 250


@pytest.mark.parametrize(
    ("english", "expected"),
    [
        (
            "The fixed volume 'A' is empty: it has no voxels. Load or choose another one.",
            "fixed volume 'A': leer, ohne Voxel.",
        ),
        ("Only 12 % of the fixed anatomy lies within the moving image.", "Nur 12 % liegen im bewegten Bild."),
        # One sentence within another, and two in a row.
        (
            "The moving volume 'B' cannot be placed in space. The images are less similar than before.",
            "moving volume 'B' hat keinen Ort. Die Bilder sind einander weniger aehnlich als vorher.",
        ),
        (
            "The images are less similar than before. Only 3 % of the fixed anatomy lies within the moving image.",
            "Die Bilder sind einander weniger aehnlich als vorher. Nur 3 % liegen im bewegten Bild.",
        ),
        ("Something that nobody wrote down.", "Something that nobody wrote down."),
        ("", ""),
    ],
)
def test_sentences_are_translated_with_their_values(german, english, expected):
    assert german(english) == expected


def test_panel_shows_errors_warnings_and_the_verdict_translated(german, swift_panel, standin):
    widget, *_ = swift_panel
    standin.failing = [InputError("The fixed volume 'A' is empty: it has no voxels. Load or choose another one.")]
    press.press_and_wait(widget)
    assert widget.ui.statusLabel.text == "fixed volume 'A': leer, ohne Voxel."
    standin.changes = {
        "covered_percent": 12.0,
        "warnings": ["The images are less similar than before."],
    }
    press.press_and_wait(widget)
    assert "Nur 12 % liegen im bewegten Bild." in widget.ui.verdictLabel.text
    assert "weniger aehnlich" in widget.ui.warningsLabel.text
    assert "weniger aehnlich" in widget.ui.logText.toPlainText()


@pytest.fixture
def everywhere(slicer_app, monkeypatch):
    """All that is translated stands in brackets."""
    from VoxelMorphRegistrationLib.panel import measures, run

    for module in (measures, run):
        monkeypatch.setattr(module, "_", lambda text: f"[{text}]")
    return measures


def whole_report() -> dict:
    """With every measure, and structures that are called like measures."""
    staged = {stage: {"mean": 1.0, "max": 2.0, "each": [1.0], "labels": {"1": 1.0}} for stage in ("before", "after")}
    report = known_report(
        Report({"before": {}, "after": {}}, {}, 3.0, [], settings=dict(vars(Settings()))), 1, labels=(1, 2)
    )
    similar = {stage: {"local": 0.5, "ncc": 0.5, "mi": 0.5} for stage in ("before", "aligned", "after")}
    expected = {"median": 1.0, "p90": 2.0, "under_1mm": 50.0, "under_2mm": 80.0, "under_5mm": 99.0}
    channel = {"fixed": "T2 now", "moving": "T2 then"}
    return {
        **report.to_dict(),
        "similarity": similar,
        "dice": {stage: {"mean": 0.5, "labels": {"1": 0.5, "2": 0.6}} for stage in similar},
        "hd95_mm": {stage: {"mean": 0.5, "labels": {"1": 0.5, "2": 0.6}} for stage in similar},
        "tre_mm": {**staged, "aligned": staged["after"]},
        "volume_change_percent": {"1": 2.0, "2": -1.0},
        "expected_error": {**expected, "labels": {"1": {"mean": 1.0, "max": 2.0}}},
        "label_names": {"1": "mean", "2": "Correlation"},
        "seconds": {"measuring": 1.0, "total": 2.0},
        "refinement": {"preset": "fast", "steps": [3], "improved": True, "channels": [channel]},
        "working_grid": {"shape_kji": [2, 2, 2]},
        "passes": 1,
        "model": {"name": "general-3d"},
    }


def test_names_of_measures_are_translated_and_those_of_structures_and_settings_are_not(everywhere):
    found = {row: everywhere.row_title(row) for row in rows(whole_report())}
    assert {everywhere.group_title(row.group)[0] for row in found} == {"["}
    for row, title in found.items():
        if row.group == "Settings":
            assert title == row.name
        elif row.structure and row.group != "Expected error (90 %)":
            assert title == row.structure
        elif row.structure:
            assert title in ("[mean, mean]", "[mean, largest]")
        else:
            assert title.startswith("["), row
    assert {row.group for row in found} == set(everywhere.groups())
    assert {"[mean]", "mean", "Correlation", "[Correlation]", "[point 1]", "[measuring]"} <= set(found.values())


def test_what_speaks_for_a_result_is_translated(everywhere):
    report = {**whole_report(), "warnings": [], "expected_error": {"under_2mm": 80.0, "under_5mm": 99.0}}
    found = verdict(report)
    assert everywhere.gains_text(found.gains) == (
        "[Landmark error 1.0 to 1.0 mm], [Dice 0.50 to 0.50], [no folds], "
        "[error expected under 2 mm in 80 % of the anatomy]."
    )
    assert found.reason == everywhere.gains_text(found.gains).replace("[", "").replace("]", "") + (
        " Compare the views all the same."
    )
    better = {"before": {"local": 0.5}, "after": {"local": 0.75}}
    few = verdict({**report, "dice": None, "tre_mm": None, "expected_error": None, "similarity": better})
    assert everywhere.gains_text(few.gains) == "[[Local correlation] 0.50 to 0.75], [no folds]."
    assert {gain.template for gain in (*found.gains, *few.gains)} <= set(everywhere.gains())
    assert everywhere.level_title("Do not use") == "[Do not use]"


def test_table_of_the_panel_shows_them(everywhere, swift_panel):
    widget, *_ = swift_panel
    press.press_and_wait(widget)
    table = widget.ui.resultsTable
    texts = [table.item(row, 0).text() for row in range(table.rowCount)]
    assert {"[Similarity]", "[Correlation]", "[folded voxels]", "[largest displacement] (mm)"} <= set(texts)
    assert "[Good]" in widget.ui.verdictLabel.text and "[no folds]" in widget.ui.verdictLabel.text
