"""What worker and library say is shown in the language of Slicer."""

from __future__ import annotations

import ast
import html
import importlib.util
import re
from pathlib import Path

import pytest

import panel_cases as press
import qt
import worker_cases
from standin_client import known_report
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.results.html import html_report
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


def forget() -> None:
    """What is looked up once is looked up anew, as after a restart of Slicer."""
    from VoxelMorphRegistrationLib.panel import measures, report_words, translated

    for one in (
        translated._translating,
        translated._patterns,
        measures.groups,
        measures.names,
        measures.gains,
        measures._notes,
        report_words.texts,
    ):
        one.cache_clear()


@pytest.fixture
def german(slicer_app, monkeypatch):
    """A few sentences have a translation, by the context that Slicer's tools give to their file."""
    import slicer.i18n
    from VoxelMorphRegistrationLib.panel import translated

    known = set(translated.templates(str))
    assert GERMAN.keys() <= known, GERMAN.keys() - known
    monkeypatch.setattr(slicer.i18n, "translations", {("panel.texts", text): one for text, one in GERMAN.items()})
    forget()
    yield translated.translated
    monkeypatch.undo()
    forget()


def test_list_of_sentences_is_that_of_the_code():
    """Run Testing/Texts/collect_texts.py after a change of a sentence."""
    assert collector().main(["--check"]) == 0


def test_errors_that_the_panel_raises_itself_are_translated():
    """What collect_texts.py leaves to the panel: no text without _()."""
    silent, collect = [], collector()
    for path in sorted((collect.LIBRARY / "panel").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = collect.raised_text(node)
            if isinstance(text, (ast.JoinedStr, ast.Constant)):
                silent.append(f"{path.name}:{text.lineno}")
    assert silent == []


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
    from VoxelMorphRegistrationLib.panel import measures, pictures, report_words, run

    for module in (measures, pictures, report_words, run):
        monkeypatch.setattr(module, "_", lambda text: f"[{text}]")
    forget()
    yield measures
    monkeypatch.undo()
    forget()


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
        "displacement_mm": {"1": {"mean": 2.0, "p95": 3.0}, "2": {"mean": 1.0, "p95": 4.0}},
        "expected_error": {**expected, "labels": {"1": {"mean": 1.0, "max": 2.0}}},
        "label_names": {"1": "mean", "2": "Correlation"},
        "seconds": {"measuring": 1.0, "total": 2.0},
        "inputs": {**report.inputs, "frames": {"moving": "frame 3 of 10 (time 2.5 s)"}},
        "refinement": {"preset": "fast", "steps": [3], "improved": True, "channels": [channel], "start": "brain-2d"},
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


# --- the page of a report ------------------------------------------------------------------------------------------


def cells_of(page: str) -> list[str]:
    """The texts of a page, one for each element."""
    body = re.sub(r"<(title|pre)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
    body = re.sub("</?b>", "", body)
    return [html.unescape(one).strip() for one in re.split(r"</?[^<>]+>", body) if one.strip()]


def test_page_of_a_report_says_nothing_in_english_that_has_a_translation(everywhere):
    from VoxelMorphRegistrationLib.panel.report_words import report_words

    report = whole_report()
    page = html_report(report, words=report_words())
    settings = {str(value) for value in report["settings"].values()} | set(report["settings"])
    plain = {row.name for row in rows(report) if row.structure} | settings | {"automatic", "mean", "Correlation"}
    left = [one for one in cells_of(page) if "[" not in one and one not in plain and re.search("[A-Za-z]{3}", one)]
    # Names of images, of models and the device; a unit.
    assert set(left) <= {"fixed volume", "moving volume", "general-3d", "brain-2d", "cpu", "nat"}
    for text in (
        "[Registration report]",
        "[Similarity]",
        "[Correlation]",
        "[Structures]",
        "[Dice before]",
        "[Displacement (mm)]",
    ):
        assert text in cells_of(page)
    assert {"[fast, 3 steps]", "[T2 now and T2 then]", "[2x2x2 voxels]", "[voxels]", "[measuring]"} <= set(
        cells_of(page)
    )


def test_saved_report_is_in_the_language_of_the_panel(everywhere, swift_panel, tmp_path):
    widget, *_ = swift_panel
    press.press_and_wait(widget)
    qt.FileDialog.answers = [str(tmp_path / "report.html")]
    widget.ui.saveReportButton.click()
    worker_cases.spin(lambda: widget.ui.saveReportButton.enabled)
    texts = cells_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {"[Registration report]", "[Deformation]", "[folded voxels]"} <= set(texts)
    assert "[Fixed, moving and warped volume, comparison before and after, Jacobian map]" in texts
    assert any(one.startswith("[Good]") for one in texts)
