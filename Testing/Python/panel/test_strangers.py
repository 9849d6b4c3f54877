"""Files and scenes of strangers in the panel: texts stay texts, damage is told, nothing runs unasked."""

from __future__ import annotations

import json

import pytest

import panel_cases as press
import qt
import slicer
from VoxelMorphRegistrationLib.errors import InputError, UntrustedModelError
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE
from VoxelMorphRegistrationLib.panel import trust
from VoxelMorphRegistrationLib.panel.bound import wrapper_of
from VoxelMorphRegistrationLib.panel.messages import tell
from VoxelMorphRegistrationLib.panel.plain import plain

NAME = '<img src="file:///x.png"><b>good</b>'
SHOWN = "&lt;img src=&quot;file:///x.png&quot;&gt;&lt;b&gt;good&lt;/b&gt;"


def test_texts_that_look_like_html_are_shown_as_they_are():
    assert plain("a & b > c\n'd'") == "a & b > c\n'd'"
    document = qt.QTextDocument()
    document.setHtml(plain(f"{NAME}\n  two & <i>three</i>"))
    assert document.toPlainText() == f"{NAME}\n  two & <i>three</i>"


def test_labels_of_the_panel_show_texts_as_they_are(swift_panel):
    widget, *_ = swift_panel
    labels = {n: w for n, w in vars(widget.ui).items() if getattr(w, "inherits", None) and w.inherits("QLabel")}
    assert len(labels) > 20
    rich = {name for name, label in labels.items() if label.textFormat != qt.Qt.PlainText}
    assert rich == {"verdictLabel", "warningsLabel"}
    # Qt would take one line without tags for plain text, and show what was escaped: &#x27;Liver&#x27;.
    assert {labels[name].textFormat for name in rich} == {qt.Qt.RichText}


def test_names_in_tooltips_boxes_and_warnings_are_escaped(swift_panel, standin, caplog):
    widget, _, moving_node = swift_panel
    moving_node.SetName(NAME)
    standin.changes = {
        "warnings": [f"Of {NAME} too little is seen.", f"And {NAME} is thick."],
        "inputs": {"fixed": "fixed", "moving": NAME},
        "model": {"name": NAME, "file": None},
    }
    press.press_and_wait(widget)
    for label in (widget.ui.verdictLabel, widget.ui.warningsLabel):
        assert SHOWN in label.text and NAME not in label.text
    table = widget.ui.resultsTable
    tips = [
        table.item(row, column).toolTip()
        for row in range(table.rowCount)
        for column in (0, 1)
        if table.item(row, column)
    ]
    assert any(SHOWN in tip for tip in tips) and not any(NAME in tip for tip in tips)
    # Cells are no labels: they show what they get.
    assert any(table.item(row, 1) and table.item(row, 1).text() == NAME for row in range(table.rowCount))
    tell(InputError(f"'{NAME}' is empty."))
    assert SHOWN in press.told_texts(caplog)


def test_a_model_describes_itself_in_plain_text(swift_panel, tmp_path, monkeypatch):
    from small_models import save_centroid_model

    path = save_centroid_model(tmp_path / "strange.pt")
    monkeypatch.setattr(
        "VoxelMorphRegistrationLib.panel.models.ModelList._describe", lambda self, name: f"{NAME}: a network"
    )
    widget, *_ = swift_panel
    widget._models.choose(str(path))
    box = widget.ui.modelComboBox
    assert SHOWN in box.toolTip
    assert SHOWN in box.itemData(box.currentIndex, qt.Qt.ToolTipRole)


@pytest.mark.parametrize("text", ["{", "[]", '{"similarity": 3}', '{"version": "9", "scores": {"a": 1}}'])
def test_a_damaged_report_of_a_scene_is_told_and_the_panel_lives(text, swift_panel, monkeypatch):
    widget, *_ = swift_panel
    press.press_and_wait(widget)
    transform = widget._parameterNode.outputTransform
    whole = transform.GetAttribute(REPORT_ATTRIBUTE)
    transform.SetAttribute(REPORT_ATTRIBUTE, text)
    widget.updateFromParameterNode()
    assert "another version of this extension, or it is damaged" in widget.ui.verdictLabel.text
    assert not widget.ui.resultsCollapsibleButton.enabled
    widget.ui.showBeforeButton.click()
    # Another registration takes its place.
    press.press_and_wait(widget)
    assert "damaged" not in widget.ui.verdictLabel.text
    assert widget.ui.resultsCollapsibleButton.enabled
    assert json.loads(transform.GetAttribute(REPORT_ATTRIBUTE)).keys() == json.loads(whole).keys()


WRONG = ["", "nan", "1e999", "-5", "9" * 5000, "abc", "[]", "<b>1</b>", "None"]


def parameter_errors(capfd) -> str:
    """What observers of a node raised: VTK prints it."""
    return "".join(line for line in capfd.readouterr().err.splitlines() if "Error" in line)


@pytest.mark.parametrize("text", WRONG)
def test_choices_of_another_version_or_a_damaged_scene_give_way_to_the_defaults(text, swift_panel, capfd):
    widget, *_ = swift_panel
    parameters = widget._parameterNode
    node = parameters.parameterNode
    numbers = ("smoothness", "passes", "seed", "jacobianRange", "furtherWeight1", "labelWeight")
    names = ("quality", "refinement", "similarity", "device", "alignment", "frames")
    right = {name: parameters.default(name).value for name in (*numbers, *names)}
    for name in right:
        node.SetParameter(name, text)
    widget.onSceneEndImport(None, None)
    assert {name: getattr(parameters, name) for name in right} == right
    assert widget.settings().smoothness == 1.0 and not widget.obstacle()
    assert not parameter_errors(capfd)


def test_a_stranger_s_choices_are_there_before_the_module_is_opened(module, scene):
    node = slicer.vtkMRMLScriptedModuleNode()
    for name in ("smoothness", "passes", "quality"):
        node.SetParameter(name, "of another version")
    node.SetParameter("seed", "7")
    scene.AddNode(node)
    parameters = wrapper_of(module.VoxelMorphRegistrationParameterNode, node)
    assert (parameters.smoothness, parameters.passes, parameters.quality, parameters.seed) == (1.0, 0, "best", 7)


@pytest.fixture
def untrusted(swift_panel, standin, tmp_path, monkeypatch):
    """The panel with a model that is refused; questions: the texts asked; answers: what is said, in turn."""
    path = tmp_path / "strange.pt"
    path.write_bytes(b"a program")
    error = UntrustedModelError(
        f"{path.name} is a program that uses aten::save. It was not run.{UntrustedModelError.HOW}"
    )
    monkeypatch.setattr(trust, "_trusted", set())
    questions: list[str] = []
    answers: list[bool] = []

    def ask(text, windowTitle=None):
        questions.append(text)
        return answers.pop(0)

    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", ask)
    widget, *_ = swift_panel
    widget._parameterNode.model = str(path)
    return widget, standin, error, questions, answers


def test_a_program_runs_once_the_user_trusts_it(untrusted):
    widget, client, error, questions, answers = untrusted
    client.failing, answers[:] = [error], [True]
    press.press_and_wait(widget)
    assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
    assert [job.keywords.get("trust_model") for job in client.jobs] == [None, True]
    assert "aten::save" in questions[0] and "can read, change and delete your files" in questions[0]
    assert "--trust-model" not in questions[0]
    # Not asked again while the file is the same.
    client.failing = [error]
    press.press_and_wait(widget)
    assert widget.ui.progressBar.value == 100
    assert len(questions) == 1


def test_a_program_does_not_run_against_the_user_s_word(untrusted, caplog):
    widget, client, error, questions, answers = untrusted
    client.failing, answers[:] = [error], [False]
    press.press_and_wait(widget)
    assert len(client.jobs) == 1 and len(questions) == 1
    assert "aten::save" in widget.ui.statusLabel.text
    assert "aten::save" in press.told_texts(caplog)


def test_another_file_of_the_same_name_is_asked_about_again(untrusted):
    from pathlib import Path

    widget, client, error, questions, answers = untrusted
    client.failing, answers[:] = [error, None, error], [True, True]
    press.press_and_wait(widget)
    Path(widget._parameterNode.model).write_bytes(b"another program")
    press.press_and_wait(widget)
    assert len(questions) == 2


def test_closing_the_scene_at_the_question_ends_the_run(untrusted, scene, monkeypatch):
    widget, client, error, _, _ = untrusted

    def close(*_, **__):
        scene.Clear(0)
        return True

    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", close)
    client.failing = [error]
    press.press_and_wait(widget)
    assert len(client.jobs) == 1
