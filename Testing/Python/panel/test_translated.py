"""What worker and library say is shown in the language of Slicer."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

import panel_cases as press
from VoxelMorphRegistrationLib.errors import InputError

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
