"""What a run needs, as the panel tells it: the models, the device, torch and its installation, the log."""

from __future__ import annotations

import panel_cases as press
import qt
import worker_cases


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
    assert "picture.pt is no TorchScript model file" in press.told_texts(caplog)


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
    assert "Install the extension 'PyTorch'" in press.told_texts(caplog)
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
    assert "is not in the scene" in press.told_texts(caplog)
    assert widget.ui.registerButton.text == "Register" and widget._register.run is None


def test_log_can_be_copied(panel):
    widget, *_ = panel
    widget._register.log("a line")
    widget.ui.copyLogButton.click()
    assert "a line" in qt.QApplication.clipboard().text()
