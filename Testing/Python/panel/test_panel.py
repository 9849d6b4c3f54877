"""The panel, driven as by a mouse: its file, choices, the button, a run in the worker, the saved scene."""

from __future__ import annotations

import json
import typing
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import mrml_cases as cases
import panel_cases as press
import qt
import worker_cases
from VoxelMorphRegistrationLib.mrml.names import SETTINGS_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.writer import writing_outputs
from VoxelMorphRegistrationLib.panel.choices import INPUT_NODES, OUTPUT_NODES
from VoxelMorphRegistrationLib.panel.run import whole_fraction
from VoxelMorphRegistrationLib.registration.settings import Settings

UI = Path(__file__).parents[3] / "VoxelMorphRegistration/Resources/UI/VoxelMorphRegistration.ui"
CHOOSERS = (
    "qMRMLNodeComboBox",
    "QComboBox",
    "QCheckBox",
    "QPushButton",
    "ctkSliderWidget",
    "QSpinBox",
    "QDoubleSpinBox",
)


# --- the file --------------------------------------------------------------------------------------------------


def test_panel_file_fits_the_module(module):
    tree = ElementTree.parse(UI)
    selectors = {w.get("name") for w in tree.iter("widget") if w.get("class") == "qMRMLNodeComboBox"}
    connected = {
        c.findtext("receiver") for c in tree.iter("connection") if c.findtext("signal").startswith("mrmlSceneChanged")
    }
    assert selectors == connected
    bound = {p.findtext("string") for p in tree.iter("property") if p.get("name") == "SlicerParameterName"}
    # A combo box can only be bound to a fixed list of choices; that of models is not fixed.
    assert bound == set(typing.get_type_hints(module.VoxelMorphRegistrationParameterNode)) - {"model", "keptTransform"}


def test_every_node_parameter_is_known_as_an_input_or_an_output(module):
    hints = typing.get_type_hints(module.VoxelMorphRegistrationParameterNode, include_extras=True)
    nodes = [name for name, hint in hints.items() if "MRML" in str(hint)]
    assert sorted(nodes) == sorted((*INPUT_NODES, *OUTPUT_NODES))


def test_every_control_says_what_it_does():
    tree = ElementTree.parse(UI)
    silent = [
        w.get("name")
        for w in tree.iter("widget")
        if w.get("class") in CHOOSERS and not any(p.get("name") == "toolTip" for p in w.findall("property"))
    ]
    # The button's tooltip changes with what can be done.
    assert silent == ["registerButton"]


def test_every_setting_of_the_library_can_be_chosen(panel):
    widget, *_ = panel
    widget.ui.passesSpinBox.value = 2
    widget.ui.refinementComboBox.currentText = "fast"
    widget.ui.similarityComboBox.currentText = "mi"
    widget.ui.smoothnessSlider.value = 1.5
    widget.ui.workingSpacingSpinBox.value = 2.5
    widget.ui.precisionComboBox.currentText = "float32"
    widget.ui.seedSpinBox.value = 7
    widget.ui.labelInterpolationComboBox.currentText = "linear"
    widget.ui.jacobianKindComboBox.currentText = "deformable"
    widget.ui.jacobianGridComboBox.currentText = "fixed"
    widget.ui.alignmentComboBox.currentText = "rigid"
    widget.ui.deviceComboBox.currentText = "cpu"
    widget.ui.labelWeightSpinBox.value = 2.0
    widget.ui.landmarkWeightSpinBox.value = 3.0
    assert widget.settings() == Settings(
        passes=2,
        refinement="fast",
        similarity="mi",
        smoothness=1.5,
        working_spacing_mm=2.5,
        precision="float32",
        seed=7,
        label_interpolation="linear",
        jacobian="deformable",
        jacobian_grid="fixed",
        alignment="rigid",
        device="cpu",
        label_weight=2.0,
        landmark_weight=3.0,
    )


def test_defaults_are_those_of_the_library(panel):
    widget, *_ = panel
    assert widget.settings() == Settings()


# --- the button --------------------------------------------------------------------------------------------------


def test_panel_chooses_two_volumes_and_is_ready(panel):
    widget, fixed_node, moving_node = panel
    assert widget.ui.fixedVolumeSelector.currentNode() is fixed_node
    assert widget.ui.movingVolumeSelector.currentNode() is moving_node
    assert widget.ui.registerButton.enabled
    assert not widget.ui.checkCollapsibleButton.enabled


def test_volumes_loaded_later_are_chosen_too(module, slicer_app, scene, worker_client):
    widget = slicer_app.open_panel(module.VoxelMorphRegistrationWidget)
    assert not widget.ui.registerButton.enabled
    fixed_node, moving_node = cases.make_nodes(scene)
    worker_cases.spin(lambda: widget.ui.registerButton.enabled, 5)
    assert widget._parameterNode.fixedVolume is fixed_node
    assert widget._parameterNode.movingVolume is moving_node
    widget.cleanup()


@pytest.mark.parametrize(
    ("fixed", "moving", "reason"),
    [(None, "Moving", "Choose a fixed volume"), ("Fixed", None, "Choose a moving volume"), ("Fixed", "Fixed", "same")],
)
def test_button_says_why_it_is_disabled(panel, fixed, moving, reason):
    widget, *_ = panel
    named = {None: None, "Fixed": panel[1], "Moving": panel[2]}
    widget.ui.fixedVolumeSelector.setCurrentNode(named[fixed])
    widget.ui.movingVolumeSelector.setCurrentNode(named[moving])
    assert not widget.ui.registerButton.enabled
    assert reason in widget.ui.registerButton.toolTip
    widget.ui.fixedVolumeSelector.setCurrentNode(panel[1])
    widget.ui.movingVolumeSelector.setCurrentNode(panel[2])
    assert widget.ui.registerButton.enabled


def test_button_names_choices_that_do_not_fit_together(panel, scene):
    widget, fixed_node, _ = panel
    parameters = widget._parameterNode
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    labels = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segments")
    for changes, reason in (
        ({"model": "none", "refinement": "off"}, "Choose a refinement"),
        ({"model": "/no/such/model.pt"}, "does not exist"),
        ({"fixedPoints": points}, "one volume only"),
        ({"fixedLabels": labels}, "without a moving one"),
        ({"labelWeight": 1.0, "refinement": "fast"}, "none are chosen"),
        ({"labelWeight": 1.0, "refinement": "off", "fixedLabels": labels, "movingLabels": labels}, "is off"),
    ):
        former = {name: getattr(parameters, name) for name in changes}
        for name, value in changes.items():
            setattr(parameters, name, value)
        assert not widget.ui.registerButton.enabled
        assert reason in widget.ui.registerButton.toolTip
        for name, value in former.items():
            setattr(parameters, name, value)
        assert widget.ui.registerButton.enabled


# --- a run -------------------------------------------------------------------------------------------------------


def test_pressing_register_makes_the_nodes_and_a_second_press_updates_them(panel, model_file, scene):
    widget, fixed_node, moving_node = panel
    parameters = widget._parameterNode
    press.choose_quick(widget, model_file)
    widget.ui.refinementComboBox.currentText = "fast"
    widget.ui.registerButton.click()
    assert widget.ui.registerButton.text == "Cancel"
    assert not widget.ui.inputsCollapsibleButton.enabled
    press.wait(widget)
    assert widget.ui.registerButton.text == "Register"
    assert widget.ui.inputsCollapsibleButton.enabled
    assert parameters.outputTransform.GetNodeReference("spatialRegistrationFixed") is fixed_node
    assert parameters.outputVolume.GetName() == "Moving registered"
    assert parameters.outputJacobian is not None
    assert parameters.outputInverse is None
    assert widget.ui.outputTransformSelector.currentNode() is parameters.outputTransform
    settings = json.loads(parameters.outputTransform.GetAttribute(SETTINGS_ATTRIBUTE))
    assert (settings["model"], settings["alignment"], settings["device"]) == (model_file, "none", "cpu")
    assert settings["refinement"] == "fast"
    assert widget.ui.progressBar.value == 100
    assert "folded voxels 0" in widget.ui.statusLabel.text
    assert "registering" in widget.ui.logText.toPlainText()
    count = scene.GetNumberOfNodes()
    press.press_and_wait(widget)
    assert scene.GetNumberOfNodes() == count
    assert moving_node.GetParentTransformNode() is None
    assert qt.stray_attributes(widget.parent) == []


def test_outputs_are_written_as_wanted(panel, model_file, scene):
    from mrml_cases import add_segmentation

    widget, fixed_node, moving_node = panel
    parameters = widget._parameterNode
    press.choose_quick(widget, model_file)
    parameters.movingLabels = add_segmentation(scene, moving_node, name="Moving segments")
    widget.ui.wantVolumeCheckBox.checked = False
    widget.ui.wantJacobianCheckBox.checked = False
    widget.ui.wantInverseCheckBox.checked = True
    widget.ui.applyToMovingCheckBox.checked = True
    assert not widget.ui.outputVolumeSelector.enabled
    press.press_and_wait(widget)
    assert parameters.outputVolume is None and parameters.outputJacobian is None
    assert parameters.outputLabels.GetName() == "Moving segments registered"
    assert parameters.outputInverse.GetName() == "Fixed to Moving"
    assert moving_node.GetParentTransformNode() is parameters.outputTransform


def test_results_of_another_pair_are_not_overwritten(swift_panel, model_file, scene):
    widget, fixed_node, moving_node = swift_panel
    parameters = widget._parameterNode
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    first = parameters.outputTransform
    widget.ui.fixedVolumeSelector.setCurrentNode(moving_node)
    widget.ui.movingVolumeSelector.setCurrentNode(fixed_node)
    assert parameters.outputTransform is None and parameters.outputVolume is None
    assert not widget.ui.resultsCollapsibleButton.enabled
    press.press_and_wait(widget)
    assert parameters.outputTransform is not first
    assert scene.IsNodePresent(first)


def test_plain_error_is_shown_and_the_scene_stays(panel, caplog):
    widget, fixed_node, _ = panel
    fixed_node.SetAndObserveImageData(None)
    widget.ui.registerButton.click()
    assert "The fixed volume 'Fixed' is empty" in widget.ui.statusLabel.text
    assert "The fixed volume 'Fixed' is empty" in press.told_texts(caplog)
    assert widget.ui.registerButton.enabled
    assert widget._parameterNode.outputTransform is None


def test_error_in_the_worker_is_shown_and_the_next_run_works(panel, model_file, scene, tmp_path, caplog):
    widget, *_ = panel
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no model")
    press.choose_quick(widget, str(broken))
    before = [node for node in cases.scene_state(scene) if node[1] != "vtkMRMLScriptedModuleNode"]
    press.press_and_wait(widget)
    assert "broken.pt is no TorchScript model file" in widget.ui.statusLabel.text
    assert "broken.pt is no TorchScript model file" in press.told_texts(caplog)
    after = [node for node in cases.scene_state(scene) if node[1] != "vtkMRMLScriptedModuleNode"]
    assert after == before
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    assert widget._parameterNode.outputTransform is not None


def test_unexpected_error_is_not_swallowed(panel, monkeypatch):
    widget, *_ = panel

    def broken(*_unused, **_more):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(widget.logic, "registerAsync", broken)
    widget.ui.registerButton.click()
    assert len(qt.slot_errors) == 1
    assert "ZeroDivisionError" in qt.slot_errors.pop()
    assert widget.ui.registerButton.enabled


def test_unexpected_error_while_writing_ends_the_run(swift_panel, model_file, monkeypatch):
    widget, *_ = swift_panel
    press.choose_quick(widget, model_file)

    def broken(*_unused):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr("VoxelMorphRegistrationLib.panel.run.writing_outputs", broken)
    press.press_and_wait(widget)
    assert "could not be read or written (ZeroDivisionError" in widget.ui.statusLabel.text
    assert "ZeroDivisionError" in qt.slot_errors.pop()
    assert widget.ui.registerButton.enabled


def test_a_transform_that_is_removed_as_it_is_written_leaves_no_stale_result(
    swift_panel, scene, model_file, monkeypatch
):
    widget, *_ = swift_panel
    press.choose_quick(widget, model_file)

    def removed(*given):
        outputs = yield from writing_outputs(*given)
        scene.RemoveNode(outputs.transform)
        return outputs

    monkeypatch.setattr("VoxelMorphRegistrationLib.panel.run.writing_outputs", removed)
    press.press_and_wait(widget)
    assert "was removed from the scene as soon as it was written" in widget.ui.statusLabel.text
    assert widget.ui.progressBar.value < 100
    assert widget.ui.verdictLabel.text == "" and widget.ui.resultsTable.rowCount == 0


def test_progress_of_the_whole_only_grows():
    stages = ["checking", "loading the model", "aligning", "registering", "warping", "measuring"]
    for refined in (False, True):
        named = [*stages[:4], "refining", *stages[4:]] if refined else stages
        values = [whole_fraction(stage, fraction, refined) for stage in named for fraction in (0.0, 0.5, 1.0)]
        assert values == sorted(values)
        assert values[0] == 0.0 and 0.9 < values[-1] <= 1.0


# --- the scene -----------------------------------------------------------------------------------------------------


def test_choices_are_kept_in_the_scene(panel, module):
    widget, _, moving_node = panel
    widget.ui.alignmentComboBox.currentText = "rigid"
    widget.ui.linearComboBox.currentText = "separate"
    widget.ui.applyToMovingCheckBox.checked = True
    again = module.VoxelMorphRegistrationLogic().getParameterNode()
    assert (again.alignment, again.linear, again.applyToMoving) == ("rigid", "separate", True)
    assert again.movingVolume is moving_node
    again.model = "/some/where/own model.pt"
    assert widget.ui.modelComboBox.currentText == "own model"
    assert "/some/where/own model.pt" in widget.ui.modelComboBox.toolTip


def test_choices_survive_leaving_the_module_and_coming_back(panel):
    widget, fixed_node, moving_node = panel
    names = ("alignment", "refinement", "similarity", "precision", "labelInterpolation", "jacobianKind", "jacobianGrid")
    for name in (*names, "linear"):
        box = getattr(widget.ui, f"{name}ComboBox")
        box.setCurrentIndex(box.count - 1)
    widget.ui.fixedVolumeSelector.setCurrentNode(moving_node)
    widget.ui.movingVolumeSelector.setCurrentNode(fixed_node)
    widget.ui.smoothnessSlider.value = 2.5
    chosen = widget.settings()
    for _ in range(3):
        widget.exit()
        # The panel of a module that is not open drives nothing.
        widget.ui.seedSpinBox.value += 1
        widget.enter()
        assert widget.settings() == chosen
        assert (widget._parameterNode.fixedVolume, widget._parameterNode.movingVolume) == (moving_node, fixed_node)
        assert widget.ui.alignmentComboBox.currentText == chosen.alignment


def test_saved_scene_brings_choices_and_results_back(panel, model_file, scene, tmp_path):
    widget, *_ = panel
    press.choose_quick(widget, model_file)
    widget.ui.passesSpinBox.value = 2
    press.press_and_wait(widget)
    rows = widget.ui.resultsTable.rowCount
    path = str(tmp_path / "scene.mrml")
    scene.SetURL(path)
    scene.Commit(path)
    # What was chosen last would come back in the empty scene.
    qt.Settings.values.clear()
    scene.Clear(0)
    assert widget.ui.passesSpinBox.value == 0
    assert widget.ui.resultsTable.rowCount == 0
    scene.SetURL(path)
    scene.Import()
    worker_cases.spin(lambda: widget.ui.resultsTable.rowCount == rows, 10)
    assert widget.ui.passesSpinBox.value == 2
    assert widget.ui.modelComboBox.itemData(widget.ui.modelComboBox.currentIndex) == model_file
    assert widget.ui.outputTransformSelector.currentNode().GetName() == "Moving to Fixed"
    assert widget.ui.checkCollapsibleButton.enabled


def test_panel_survives_leaving_it_and_closing_the_scene(panel, scene):
    widget, *_ = panel
    widget.exit()
    widget.ui.modelComboBox.setCurrentIndex(0)
    widget.enter()
    scene.Clear(0)
    assert not widget.ui.registerButton.enabled
    assert widget._parameterNode.fixedVolume is None


def test_results_are_not_chosen_as_inputs_when_both_volumes_are_removed(swift_panel, model_file, scene):
    widget, fixed_node, moving_node = swift_panel
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    warped = widget._parameterNode.outputVolume
    scene.RemoveNode(fixed_node)
    scene.RemoveNode(moving_node)
    worker_cases.spin(lambda: not widget._nodesTimer.active, 5)
    assert not widget.ui.checkCollapsibleButton.enabled
    parameters = widget._parameterNode
    assert parameters.fixedVolume is None and parameters.movingVolume is None
    assert parameters.outputVolume is warped


def test_removed_nodes_leave_the_choices(swift_panel, model_file, scene):
    widget, fixed_node, _ = swift_panel
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    scene.RemoveNode(widget._parameterNode.outputTransform)
    scene.RemoveNode(fixed_node)
    worker_cases.spin(lambda: not widget.ui.resultsCollapsibleButton.enabled, 5)
    assert not widget.ui.checkCollapsibleButton.enabled
    assert "Choose a fixed volume" in widget.ui.registerButton.toolTip
