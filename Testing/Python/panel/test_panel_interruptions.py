"""Everything that can come in between a press of Register and its result: the next run works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mrml_cases as cases
import panel_cases as press
import slicer
import worker_cases
from rooms import MODULE_FOLDER
from VoxelMorphRegistrationLib.mrml.table import results_node
from VoxelMorphRegistrationLib.worker.messages import WorkerError

MODULE_FILE = MODULE_FOLDER / "VoxelMorphRegistration.py"
PATHS = [str(MODULE_FOLDER), str(MODULE_FOLDER.parent / "Testing/Harness"), str(Path(__file__).parents[1])]
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
    assert "ended from outside" in press.told_texts(caplog)
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
    assert "'Moving' was removed" in press.told_texts(caplog)
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []


def test_output_removed_during_a_run_is_made_anew(swift_panel, model_file, scene):
    widget, *_ = swift_panel
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
def test_guide_removed_during_a_run_does_not_matter(swift_panel, model_file, scene, name):
    from mrml_cases import add_segmentation

    widget, fixed_node, moving_node = swift_panel
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
def test_any_output_removed_during_a_run_is_made_anew(swift_panel, model_file, scene, name):
    from mrml_cases import add_segmentation

    widget, _, moving_node = swift_panel
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


def test_deleted_nodes_leave_empty_choices_and_not_the_next_node(swift_panel, model_file, scene):
    widget, fixed_node, moving_node = swift_panel
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
    assert "did not speak" in press.told_texts(caplog)
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
    assert "crop the fixed image" in press.told_texts(caplog)
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []
    assert_next_run_works(widget, model_file)


def test_a_session_in_an_application_of_its_own(model_file):
    """What only another process can show: no torch in it, no crash, nothing left after it quits during a run."""
    script = (
        STARTED_PANEL
        + f"""
import gc, tempfile
# A registration from the first click to the report.
panel_cases.choose_quick(widget, {model_file!r})
widget.ui.wantInverseCheckBox.checked = True
panel_cases.press_and_wait(widget)
assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
widget._results.save(tempfile.mkdtemp() + "/report.html")
worker_cases.spin(lambda: widget.ui.saveReportButton.enabled)
assert qt.slot_errors == [], qt.slot_errors
assert "torch" not in sys.modules, "torch was imported"
print("registered", flush=True)

# The parameter node can change when the panel is gone.
node = widget.logic.getParameterNode().parameterNode.GetID()
widget.exit()
widget.cleanup()
slicer.modules.VoxelMorphRegistrationWidget = None
del widget
gc.collect()
slicer.mrmlScene.GetNodeByID(node).SetParameter("model", "none")
slicer.mrmlScene.Clear(0)
print("alive", flush=True)

# Slicer quits during a run.
mrml_cases.make_nodes(slicer.mrmlScene)
widget = slicer_application.open_panel(module.VoxelMorphRegistrationWidget)
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
    assert application.returncode == 0, (said, complaints)
    *stages, pid = said.split()
    assert stages == ["registered", "alive"]
    worker_cases.wait_until_gone(int(pid))
    assert worker_cases.folders(application.pid) == []


def test_two_registrations_at_once_are_refused(panel, quick, caplog):
    widget, fixed_node, moving_node = panel
    press.choose_slow(widget)
    press.press_and_wait_for_progress(widget)
    with pytest.raises(WorkerError, match="A registration is running"):
        widget.logic.registerAsync(fixed_node, moving_node, settings=quick)
    widget.ui.registerButton.click()
    press.wait(widget)
