"""What Slicer's conventions ask of the panel: Edit properties, themes, a quiet log, and what the card can hold."""

from __future__ import annotations

import pytest

import mrml_cases as cases
import panel_cases as press
import qt
import slicer
import worker_cases
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.panel import colours
from VoxelMorphRegistrationLib.results.verdict import BAD, GOOD, LOOK


@pytest.fixture
def after_a_run(swift_panel, scene):
    """The panel with a result, in slice views."""
    widget, *_ = swift_panel
    press.add_slice_views(scene)
    press.press_and_wait(widget)
    return widget


# --- Edit properties of a result's node ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["outputTransform", "outputVolume", "outputJacobian"])
def test_node_of_a_result_opens_the_module_with_that_result(after_a_run, scene, kind):
    widget = after_a_run
    parameters = widget._parameterNode
    node, transform = getattr(parameters, kind), parameters.outputTransform
    pair = parameters.fixedVolume, parameters.movingVolume
    # Another pair and its result meanwhile.
    parameters.fixedVolume, parameters.movingVolume = cases.make_nodes(scene, "axis aligned")
    press.press_and_wait(widget)
    assert parameters.outputTransform is not transform
    assert widget.nodeEditable(node) > 0.5
    assert widget.setEditedNode(node)
    assert (parameters.fixedVolume, parameters.movingVolume, parameters.outputTransform) == (*pair, transform)
    assert widget.ui.resultsTable.rowCount > 0


def test_other_nodes_are_left_to_other_modules(after_a_run, scene):
    widget = after_a_run
    transform = widget._parameterNode.outputTransform
    for node in (slicer.util.getNode("Fixed"), scene.AddNewNodeByClass("vtkMRMLTransformNode", "Other"), None):
        assert widget.nodeEditable(node) == 0.0
        assert not widget.setEditedNode(node)
    assert widget._parameterNode.outputTransform is transform


# --- themes ------------------------------------------------------------------------------------------------------


def luminance(color: str) -> float:
    """Relative luminance of a colour, WCAG 2.1."""
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("ground", "text"), [("#ffffff", "#000000"), ("#2b2b2b", "#e8e8e8")], ids=["light", "dark"])
def test_texts_can_be_read_on_light_and_on_dark_themes(slicer_app, ground, text):
    label = qt.QLabel()
    palette = label.palette
    palette.setColor(qt.QPalette.Window, qt.QColor(ground))
    palette.setColor(qt.QPalette.WindowText, qt.QColor(text))
    label.setPalette(palette)
    # What the guidelines ask of small texts.
    assert contrast(colours.ink(label, colours.ERROR), ground) >= 4.5
    assert contrast(*colours.head(label)) >= 4.5
    for kind in (GOOD, LOOK, BAD, colours.FORMER):
        sheet = dict(part.split(":") for part in colours.box(label, kind).replace(" ", "").split(";") if part)
        assert contrast(sheet["color"], sheet["background-color"]) >= 4.5
        # Once it has a style sheet of its own, it still follows the theme.
        label.setStyleSheet(colours.box(label, kind))
        assert colours.box(label, kind) == label.styleSheet
        # A box of the theme's kind: not a bright one on dark.
        assert (luminance(sheet["background-color"]) > 0.5) is (luminance(ground) > 0.5)


# --- an error after a result --------------------------------------------------------------------------------------


def test_verdict_of_the_former_result_is_not_read_as_that_of_a_run_that_failed(after_a_run, standin):
    widget = after_a_run
    good, green = widget.ui.verdictLabel.text, widget.ui.verdictLabel.styleSheet
    for _ in range(2):
        standin.failing = [InputError("It does not fit.")]
        press.press_and_wait(widget)
        assert widget.ui.statusLabel.text == "It does not fit."
        assert widget.ui.verdictLabel.text == f"The result of before. {good}"
        # Nor seen as that: it has lost its colour.
        assert widget.ui.verdictLabel.styleSheet == colours.box(widget.ui.verdictLabel, colours.FORMER)
    press.press_and_wait(widget)
    assert widget.ui.verdictLabel.styleSheet == green
    assert not widget.ui.verdictLabel.text.startswith("The result of before")


def test_verdict_of_the_former_result_is_not_read_as_that_of_a_run_that_could_not_begin(after_a_run, monkeypatch):
    """Inputs that do not fit are told before the worker gets anything."""
    widget = after_a_run
    good = widget.ui.verdictLabel.text

    def start(callbacks):
        raise InputError("It does not fit.")

    monkeypatch.setattr(widget._register, "_start", start)
    widget.ui.registerButton.click()
    assert widget.ui.statusLabel.text == "It does not fit."
    assert widget.ui.verdictLabel.text == f"The result of before. {good}"


# --- a quiet log --------------------------------------------------------------------------------------------------


def test_putting_views_back_logs_no_error(after_a_run, scene, capfd):
    """Display nodes that went with their volume were touched again: 'Invalid scene given'."""
    widget = after_a_run
    ui, parameters = widget.ui, widget._parameterNode
    colors = press.add_color_legends(scene)
    parameters.fixedLabels = cases.add_label_map(scene, parameters.fixedVolume)
    capfd.readouterr()
    for button in (ui.showCheckerboardButton, ui.showJacobianButton, ui.showBeforeButton):
        button.click()
        ui.restoreViewsButton.click()
    ui.outlineFixedCheckBox.click()
    ui.outlineFixedCheckBox.click()
    ui.deformationComboBox.setCurrentIndex(1)
    ui.restoreViewsButton.click()
    qt.application.processEvents()
    assert "ERR|" not in capfd.readouterr().err
    colors.SetMRMLScene(None)


# --- one window ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("similarity", "shared"), [("lncc", True), ("mind", False)])
def test_volumes_of_two_contrasts_keep_their_windows_even_with_like_grey_levels(
    swift_panel, standin, similarity, shared
):
    widget, fixed, _ = swift_panel
    fixed.GetDisplayNode().AutoWindowLevelOff()
    fixed.GetDisplayNode().SetWindowLevel(1234.0, 567.0)
    facts = {"similarity": similarity, "preset": "fast", "steps": [3], "improved": True}
    standin.changes = {"refinement": facts}
    press.press_and_wait(widget)
    window = widget._parameterNode.outputVolume.GetDisplayNode().GetWindow()
    assert (window == 1234.0) is shared


# --- the graphics card's memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fits", [True, False])
def test_card_that_is_too_small_is_told_before_the_run(swift_panel, standin, monkeypatch, fits):
    widget, *_ = swift_panel
    free = 80 * 2**30 if fits else 2**20
    card = {"name": "cuda", "text": "CUDA: a card", "memory": free}
    facts = {**standin.facts, "devices": [card, *standin.facts["devices"]], "speed": {"cuda": 0.01, "cpu": 2.0}}
    monkeypatch.setattr(standin, "facts", facts)
    widget.updateFromParameterNode()
    worker_cases.spin(lambda: widget.ui.hintLabel.text, 5)
    hint = widget.ui.hintLabel.text
    assert hint.startswith("Takes about" if fits else "The graphics card has 0.0 GB of free memory and about")
    if not fits:
        quick, slow = hint, None
        widget.ui.deviceComboBox.currentText = "cpu"
        slow = widget.ui.hintLabel.text
        # The seconds are the processor's.
        assert slow.removeprefix("Takes ").split(" on ")[0] in quick


def test_all_frames_of_a_sequence_take_as_many_times_as_long(swift_panel, scene):
    widget, *_ = swift_panel
    sequence, _browser, proxy = cases.add_sequence(scene, cases.FIXED_GRIDS["axis aligned"], [(0.0, 0, 0)] * 3)
    worker_cases.spin(lambda: not widget._nodesTimer.active)
    widget._parameterNode.movingVolume = proxy
    widget._parameterNode.frames = "all, onto their mean"
    assert widget.ui.hintLabel.text.startswith(f"All {sequence.GetNumberOfDataNodes()} frames take about")


# --- transforms of Slicer's older classes ----------------------------------------------------------------------------


def test_linear_transforms_as_slicer_makes_and_loads_them_are_offered_as_a_start(swift_panel, standin, scene):
    """Until Slicer drops them, its Transforms module and its readers make nodes of derived classes."""
    widget, _, moving_node = swift_panel
    linear = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "By hand")
    linear.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(cases.affine(shift=(3.0, 0.0, 0.0))))
    widget.ui.initialTransformSelector.setCurrentNode(linear)
    assert widget._parameterNode.initialTransform is linear
    # No place for a deformation.
    widget.ui.outputTransformSelector.setCurrentNode(linear)
    assert widget._parameterNode.outputTransform is None
    press.press_and_wait(widget)
    assert standin.jobs[-1].keywords["initial_transform"][:3, 3] == pytest.approx((-3.0, 0.0, 0.0))


def test_a_start_that_would_be_overwritten_keeps_the_button_off_and_is_told(swift_panel, scene):
    widget, *_ = swift_panel
    start = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Start")
    widget.ui.initialTransformSelector.setCurrentNode(start)
    assert widget.ui.registerButton.enabled
    widget.ui.outputTransformSelector.setCurrentNode(start)
    assert not widget.ui.registerButton.enabled
    assert widget.ui.hintLabel.text.startswith("The initial transform is also an output")
    widget.ui.outputTransformSelector.setCurrentNode(None)
    assert widget.ui.registerButton.enabled


def test_transform_of_the_first_version_is_shown_as_the_output_and_written_again(swift_panel, scene):
    widget, *_ = swift_panel
    old = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Moving to Fixed")
    widget.ui.outputTransformSelector.setCurrentNode(old)
    assert widget._parameterNode.outputTransform is old
    press.press_and_wait(widget)
    assert widget._parameterNode.outputTransform is old
    assert widget.ui.outputTransformSelector.currentNode() is old
