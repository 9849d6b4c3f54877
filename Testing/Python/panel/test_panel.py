"""The panel, driven as by a mouse: choices, the button, a run in the worker with every way it can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import typing
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import mrml_cases as cases
import panel_cases as press
import qt
import slicer
import worker_cases
from conftest import MODULE_FILE
from VoxelMorphRegistrationLib.mrml.names import SETTINGS_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.table import results_node
from VoxelMorphRegistrationLib.panel.choices import INPUT_NODES, OUTPUT_NODES
from VoxelMorphRegistrationLib.panel.run import whole_fraction
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.worker.messages import WorkerError

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


PATHS = [str(MODULE_FILE.parent), str(MODULE_FILE.parents[1] / "Testing/Harness"), str(Path(__file__).parents[1])]
# A program that opens the panel with two volumes in an application of its own.
STARTED_PANEL = f"""
import sys
sys.path[:0] = {PATHS!r}
import slicer
slicer.mrmlScene = slicer.vtkMRMLScene()
import slicer_application, qt, mrml_cases, panel_cases, worker_cases
slicer_application.start()
import VoxelMorphRegistration as module
slicer_application.add_module(module.VoxelMorphRegistration, {str(MODULE_FILE)!r})
mrml_cases.make_nodes(slicer.mrmlScene)
widget = slicer_application.open_panel(module.VoxelMorphRegistrationWidget)
"""


def told_texts(caplog, count: int = 1) -> str:
    """What was shown in message boxes, once they were."""
    worker_cases.spin(lambda: len([r for r in caplog.records if r.levelname == "ERROR"]) >= count, 5)
    return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "ERROR")


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


def test_results_of_another_pair_are_not_overwritten(panel, model_file, scene):
    widget, fixed_node, moving_node = panel
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
    assert "The fixed volume 'Fixed' is empty" in told_texts(caplog)
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
    assert "broken.pt is no TorchScript model file" in told_texts(caplog)
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


def test_unexpected_error_while_writing_ends_the_run(panel, model_file, monkeypatch):
    widget, *_ = panel
    press.choose_quick(widget, model_file)

    def broken(*_unused):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr("VoxelMorphRegistrationLib.panel.run.writing_outputs", broken)
    press.press_and_wait(widget)
    assert "could not be read or written (ZeroDivisionError" in widget.ui.statusLabel.text
    assert "ZeroDivisionError" in qt.slot_errors.pop()
    assert widget.ui.registerButton.enabled


def test_progress_of_the_whole_only_grows():
    stages = ["checking", "loading the model", "aligning", "registering", "warping", "measuring"]
    for refined in (False, True):
        named = [*stages[:4], "refining", *stages[4:]] if refined else stages
        values = [whole_fraction(stage, fraction, refined) for stage in named for fraction in (0.0, 0.5, 1.0)]
        assert values == sorted(values)
        assert values[0] == 0.0 and 0.9 < values[-1] <= 1.0


# --- everything that can come in between ---------------------------------------------------------------------------


def assert_next_run_works(widget, model_file):
    press.choose_quick(widget, model_file)
    widget.ui.refinementComboBox.currentText = "off"
    press.press_and_wait(widget)
    assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
    assert worker_cases.job_folders() == []


def test_cancel_leaves_nothing_and_the_next_run_works(panel, model_file, scene):
    widget, *_ = panel
    press.choose_slow(widget)
    before = cases.scene_state(scene)
    press.press_and_wait_for_progress(widget)
    widget.ui.registerButton.click()
    assert widget.ui.registerButton.text == "Cancelling"
    press.wait(widget)
    assert widget.ui.statusLabel.text == "Cancelled. Nothing was changed."
    assert widget.ui.registerButton.enabled and widget.ui.registerButton.text == "Register"
    assert cases.scene_state(scene) == before
    assert worker_cases.job_folders() == []
    assert_next_run_works(widget, model_file)


def test_killed_worker_is_told_and_the_next_run_works(panel, model_file, worker_client, caplog):
    widget, *_ = panel
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    os.kill(worker_client.pid, signal.SIGKILL)
    press.wait(widget)
    assert "The registration process was ended from outside" in widget.ui.statusLabel.text
    assert "ended from outside" in told_texts(caplog)
    assert_next_run_works(widget, model_file)


def test_scene_closed_during_a_run_stops_it_silently(panel, model_file, scene):
    widget, *_ = panel
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    scene.Clear(0)
    press.wait(widget)
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []
    assert not widget.ui.registerButton.enabled
    cases.make_nodes(scene)
    worker_cases.spin(lambda: widget.ui.registerButton.enabled, 5)
    assert_next_run_works(widget, model_file)


def test_volume_removed_during_a_run_is_told(panel, scene, caplog):
    widget, fixed_node, moving_node = panel
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    scene.RemoveNode(moving_node)
    press.wait(widget)
    assert "'Moving' was removed from the scene, so the registration was stopped" in widget.ui.statusLabel.text
    assert "'Moving' was removed" in told_texts(caplog)
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []


def test_output_removed_during_a_run_is_made_anew(panel, model_file, scene):
    widget, *_ = panel
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    parameters = widget._parameterNode
    old = parameters.outputVolume
    widget.ui.registerButton.click()
    scene.RemoveNode(old)
    press.wait(widget)
    assert parameters.outputVolume is not None and parameters.outputVolume is not old
    assert scene.IsNodePresent(parameters.outputVolume)


@pytest.mark.parametrize("name", ["movingLabels", "fixedLabels", "fixedMask"])
def test_guide_removed_during_a_run_does_not_matter(panel, model_file, scene, name):
    from mrml_cases import add_segmentation

    widget, fixed_node, moving_node = panel
    press.choose_quick(widget, model_file)
    parameters = widget._parameterNode
    parameters.movingLabels = add_segmentation(scene, moving_node, name="Moving segments")
    parameters.fixedLabels = add_segmentation(scene, fixed_node, name="Fixed segments")
    parameters.fixedMask = add_segmentation(scene, fixed_node, name="Mask")
    press.press_and_wait_for_progress(widget)
    scene.RemoveNode(getattr(parameters, name))
    press.wait(widget)
    assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
    assert parameters.outputLabels.GetName() == "Moving segments registered"


@pytest.mark.parametrize("name", ["outputTransform", "outputJacobian", "outputLabels", "outputInverse"])
def test_any_output_removed_during_a_run_is_made_anew(panel, model_file, scene, name):
    from mrml_cases import add_segmentation

    widget, _, moving_node = panel
    press.choose_quick(widget, model_file)
    parameters = widget._parameterNode
    parameters.movingLabels = add_segmentation(scene, moving_node, name="Moving segments")
    parameters.wantInverse = True
    press.press_and_wait(widget)
    old = getattr(parameters, name)
    press.press_and_wait_for_progress(widget)
    scene.RemoveNode(old)
    press.wait(widget)
    assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
    new = getattr(parameters, name)
    assert new is not old and scene.IsNodePresent(new)
    assert sum(node.GetName() == new.GetName() for node in slicer.util.getNodesByClass(new.GetClassName())) == 1


def test_deleted_nodes_leave_empty_choices_and_not_the_next_node(panel, model_file, scene):
    widget, fixed_node, moving_node = panel
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    grid = cases.centred_grid((12, 12, 12), (2.0, 2.0, 2.0))
    other = cases.add_volume(cases.blobs(grid), grid, "Somebody's volume")
    parameters = widget._parameterNode
    for name in ("outputVolume", "outputJacobian", "movingVolume"):
        scene.RemoveNode(getattr(parameters, name))
        assert getattr(parameters, name) is None
        assert getattr(widget.ui, f"{name}Selector").currentNode() is None
    assert scene.IsNodePresent(other)


def test_module_reload_during_a_run_stops_it(panel, module, slicer_app, model_file, scene):
    widget, *_ = panel
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    widget.cleanup()
    again = slicer_app.open_panel(module.VoxelMorphRegistrationWidget)
    worker_cases.spin(lambda: again.logic.worker().state in ("ready", "starting"))
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []
    assert_next_run_works(again, model_file)
    again.cleanup()


def test_reload_button_of_the_developer_builds_a_panel_that_works(panel, module, monkeypatch, model_file):
    monkeypatch.setitem(sys.modules, "VoxelMorphRegistration", module)
    widget, *_ = panel
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    reloaded = slicer.util.reloadScriptedModule("VoxelMorphRegistration")
    again = slicer.modules.VoxelMorphRegistrationWidget
    assert again is not widget and type(again) is reloaded.VoxelMorphRegistrationWidget
    worker_cases.spin(lambda: again.logic.worker().state in ("ready", "starting"))
    assert_next_run_works(again, model_file)
    again.cleanup()


def test_parameter_node_can_change_when_the_panel_is_gone():
    """In a process of its own: a crash is what it looks for."""
    script = (
        STARTED_PANEL
        + """
import gc
node = widget.logic.getParameterNode().parameterNode.GetID()
widget.exit()
widget.cleanup()
slicer.modules.VoxelMorphRegistrationWidget = None
del widget
gc.collect()
slicer.mrmlScene.GetNodeByID(node).SetParameter("model", "none")
slicer.mrmlScene.Clear(0)
print("alive")
"""
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout.split()) == (0, ["alive"]), run.stderr


def test_run_goes_on_while_another_module_is_open(panel, model_file):
    widget, *_ = panel
    press.choose_quick(widget, model_file)
    widget.ui.registerButton.click()
    assert widget.ui.progressBar.value == 0
    widget.exit()
    press.wait(widget)
    told = [line.split(": ")[-1] for line in widget.ui.logText.toPlainText().splitlines()]
    assert told.count("loading the model") == 1
    assert results_node(slicer.util.getNodesByClass("vtkMRMLTransformNode")[0]) is not None
    widget.enter()
    assert widget._parameterNode.outputTransform is not None
    assert widget.ui.resultsTable.rowCount > 10
    assert widget.ui.registerButton.text == "Register"


def test_garbage_from_the_worker_is_told(panel, module, model_file, monkeypatch, tmp_path, caplog):
    widget, *_ = panel
    press.choose_quick(widget, model_file)
    client = press.client_of_program(tmp_path, "print('{\"version\": 99}', flush=True)\nimport time; time.sleep(60)")
    monkeypatch.setattr(module.VoxelMorphRegistrationLogic, "worker", staticmethod(lambda: client))
    press.press_and_wait(widget)
    assert "did not speak as it should: it sent a message of version 99" in widget.ui.statusLabel.text
    assert "did not speak" in told_texts(caplog)
    assert client.state == "off" and worker_cases.job_folders() == []
    monkeypatch.undo()
    assert_next_run_works(widget, model_file)


@pytest.mark.parametrize("patience", ["user cancels", "silence is noticed"])
def test_hanging_worker_can_be_cancelled_and_is_ended_by_itself(panel, module, model_file, monkeypatch, patience):
    from VoxelMorphRegistrationLib.worker.client import WorkerClient

    widget, *_ = panel
    client = WorkerClient(silence_s=60 if patience == "user cancels" else 2)
    monkeypatch.setattr(module.VoxelMorphRegistrationLogic, "worker", staticmethod(lambda: client))
    monkeypatch.setattr("VoxelMorphRegistrationLib.panel.register.QUIET_S", 0.2)
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    pid = client.pid
    os.kill(pid, signal.SIGSTOP)
    if patience == "user cancels":
        worker_cases.spin(lambda: "no news for" in widget.ui.statusLabel.text, 10)
        widget.ui.registerButton.click()
    press.wait(widget)
    expected = {"user cancels": "Cancelled. Nothing was changed.", "silence is noticed": "did not answer for 2 seconds"}
    assert expected[patience] in widget.ui.statusLabel.text
    worker_cases.wait_until_gone(pid)
    assert widget.ui.registerButton.enabled and slicer.util.getNodesByClass("vtkMRMLTransformNode") == []
    client.shutdown()
    monkeypatch.undo()
    assert_next_run_works(widget, model_file)


def test_too_little_memory_is_told_and_the_next_run_works(panel, model_file, tmp_path, caplog):
    from small_models import save_hungry_model

    widget, *_ = panel
    press.choose_quick(widget, str(save_hungry_model(tmp_path / "hungry.pt")))
    press.press_and_wait(widget)
    assert "too little memory for these images" in widget.ui.statusLabel.text
    assert "crop the fixed image" in told_texts(caplog)
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []
    assert_next_run_works(widget, model_file)


def test_slicer_that_quits_during_a_run_leaves_nothing():
    script = (
        STARTED_PANEL
        + """
panel_cases.choose_slow(widget)
panel_cases.press_and_wait_for_progress(widget)
print(widget.logic.worker().pid, flush=True)
qt.QTimer.singleShot(0, qt.application.quit)
qt.application.exec()
assert qt.slot_errors == [], qt.slot_errors
assert widget.ui.statusLabel.text == "Cancelled. Nothing was changed.", widget.ui.statusLabel.text
"""
    )
    application = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said, complaints = application.communicate(timeout=120)
    assert application.returncode == 0, complaints
    worker_cases.wait_until_gone(int(said))
    assert worker_cases.folders(application.pid) == []


def test_two_registrations_at_once_are_refused(panel, quick, caplog):
    widget, fixed_node, moving_node = panel
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    with pytest.raises(WorkerError, match="A registration is running"):
        widget.logic.registerAsync(fixed_node, moving_node, settings=quick)
    widget.ui.registerButton.click()
    press.wait(widget)


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
    for name in ("alignment", "refinement", "similarity", "precision", "labelInterpolation", "jacobianKind", "linear"):
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


def test_results_are_not_chosen_as_inputs_when_both_volumes_are_removed(panel, model_file, scene):
    widget, fixed_node, moving_node = panel
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


def test_removed_nodes_leave_the_choices(panel, model_file, scene):
    widget, fixed_node, _ = panel
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    scene.RemoveNode(widget._parameterNode.outputTransform)
    scene.RemoveNode(fixed_node)
    worker_cases.spin(lambda: not widget.ui.resultsCollapsibleButton.enabled, 5)
    assert not widget.ui.checkCollapsibleButton.enabled
    assert "Choose a fixed volume" in widget.ui.registerButton.toolTip


# --- models, device, log ---------------------------------------------------------------------------------------------


def test_model_file_can_be_added(panel, model_file):
    widget, *_ = panel
    qt.FileDialog.answers = [model_file]
    widget.ui.addModelButton.click()
    assert widget._parameterNode.model == model_file
    assert widget.ui.modelComboBox.currentText == "shift"
    qt.FileDialog.answers = [""]
    widget.ui.addModelButton.click()
    assert widget._parameterNode.model == model_file


def test_file_that_is_no_model_is_refused(panel, tmp_path, caplog):
    widget, *_ = panel
    path = tmp_path / "picture.pt"
    path.write_bytes(b"nothing")
    qt.FileDialog.answers = [str(path)]
    widget.ui.addModelButton.click()
    assert widget._parameterNode.model == "auto"
    assert "picture.pt is no TorchScript model file" in told_texts(caplog)


def test_models_are_described(panel):
    widget, *_ = panel
    box = widget.ui.modelComboBox
    assert box.itemData(box.findText("auto"), qt.Qt.ToolTipRole).startswith("No network where")
    box.setCurrentIndex(box.findText("none"))
    assert widget._parameterNode.model == "none"
    assert "refinement alone" in box.toolTip


def test_device_line_says_what_was_found(panel, worker_client):
    widget, *_ = panel
    worker_cases.spin(lambda: worker_client.facts)
    worker_cases.spin(lambda: "looking" not in widget.ui.deviceLabel.text, 5)
    widget.ui.deviceComboBox.currentText = "cpu"
    assert widget.ui.deviceLabel.text.startswith("CPU, ")
    widget.ui.deviceComboBox.currentText = "mps"
    assert widget.ui.deviceLabel.text in ("not found on this computer", "Apple GPU (mps)")


def test_worker_that_does_not_start_is_no_obstacle_to_opening_the_panel(
    module, slicer_app, scene, monkeypatch, tmp_path
):
    from VoxelMorphRegistrationLib.worker.client import WorkerClient

    client = WorkerClient(python=str(tmp_path / "no such program"))
    monkeypatch.setattr(module.VoxelMorphRegistrationLogic, "worker", staticmethod(lambda: client))
    widget = slicer_app.open_panel(module.VoxelMorphRegistrationWidget)
    worker_cases.spin(lambda: "not available" in widget.ui.deviceLabel.text, 10)
    assert "could not be started" in widget.ui.logText.toPlainText()
    widget.cleanup()
    client.shutdown()


def test_missing_torch_is_asked_for_when_register_is_pressed(panel, model_file, monkeypatch, caplog):
    widget, *_ = panel
    press.choose_quick(widget, model_file)
    monkeypatch.setattr(widget.logic, "hasTorch", lambda: False)
    widget.updateFromParameterNode()
    assert widget.ui.deviceLabel.text == "PyTorch is not installed yet"
    assert widget.ui.registerButton.enabled
    widget.ui.registerButton.click()
    assert "Install the extension 'PyTorch'" in told_texts(caplog)
    assert widget.ui.registerButton.text == "Register"


def test_clicks_during_the_installation_of_torch_start_nothing_twice(panel, model_file, monkeypatch):
    widget, *_ = panel
    press.choose_quick(widget, model_file)
    calls, states = [], []

    def install():
        calls.append(1)
        # Slicer handles events while pip runs.
        widget.updateFromParameterNode()
        states.append((widget.ui.registerButton.enabled, widget.ui.statusLabel.text))
        widget.ui.registerButton.click()
        monkeypatch.undo()

    monkeypatch.setattr(widget.logic, "hasTorch", lambda: False)
    monkeypatch.setattr(widget.logic, "ensureTorch", install)
    press.press_and_wait(widget)
    assert (calls, states) == ([1], [(True, "PyTorch has to be installed first; this takes minutes")])
    assert widget._parameterNode.outputTransform is not None


def test_volume_removed_during_the_installation_of_torch_is_told(panel, scene, model_file, monkeypatch, caplog):
    widget, fixed_node, _ = panel
    press.choose_quick(widget, model_file)
    monkeypatch.setattr(widget.logic, "hasTorch", lambda: False)
    monkeypatch.setattr(widget.logic, "ensureTorch", lambda: scene.RemoveNode(fixed_node))
    widget.ui.registerButton.click()
    assert "is not in the scene" in told_texts(caplog)
    assert widget.ui.registerButton.text == "Register" and widget._register.run is None


def test_log_can_be_copied(panel):
    widget, *_ = panel
    widget._register.log("a line")
    widget.ui.copyLogButton.click()
    assert "a line" in qt.QApplication.clipboard().text()
