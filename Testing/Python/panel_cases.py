"""Pressing through the panel in tests: what a user does and sees."""

from __future__ import annotations

import sys

import slicer
import worker_cases
from VoxelMorphRegistrationLib.worker.client import WorkerClient


def choose_quick(widget, model_file: str) -> None:
    """A registration of a fraction of a second."""
    widget._parameterNode.model = model_file
    widget.ui.alignmentComboBox.currentText = "none"
    widget.ui.refinementComboBox.currentText = "off"
    widget.ui.deviceComboBox.currentText = "cpu"


def choose_slow(widget) -> None:
    """A registration of some seconds that reports progress all the time."""
    choose_quick(widget, "none")
    widget.ui.refinementComboBox.currentText = "accurate"


def press_and_wait(widget) -> None:
    """Press Register and let the event loop run until the button says so again."""
    widget.ui.registerButton.click()
    wait(widget)


def wait(widget) -> None:
    worker_cases.spin(lambda: widget._register.run is None)


def press_and_wait_for_progress(widget) -> None:
    """Press Register and wait until the worker computes."""
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: widget._register.run is None or widget._register.stage)
    assert widget._register.run is not None, widget.ui.statusLabel.text


def told_texts(caplog, count: int = 1) -> str:
    """What was shown in message boxes, once they were."""
    worker_cases.spin(lambda: len([r for r in caplog.records if r.levelname == "ERROR"]) >= count, 5)
    return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "ERROR")


def add_slice_views(scene, count: int = 2) -> list:
    """Slice views as the application has them: a slice node and a composite node each. Returns the latter."""
    views = []
    for name in ("Red", "Green", "Yellow")[:count]:
        for class_name in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
            node = scene.CreateNodeByClass(class_name)
            node.UnRegister(None)
            node.SetSingletonTag(name)
            node.SetLayoutName(name)
            views.append(scene.AddNode(node))
    return views[1::2]


def add_place_nodes(scene) -> None:
    """Slicer's nodes for placing points with the mouse, as the application has them."""
    for name in ("vtkMRMLInteractionNode", "vtkMRMLSelectionNode"):
        if scene.GetFirstNodeByClass(name) is None:
            scene.AddNewNodeByClass(name)


def prepare_views(scene) -> None:
    """Slice views, the application's logic for them, and the nodes for placing points."""
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    add_place_nodes(scene)
    add_slice_views(scene)


def place_pin(widget, fixed, registered) -> None:
    """Two clicks into the views: a point of the fixed volume, and where it is seen in the registered one."""
    widget.ui.pinButton.click()
    widget._parameterNode.fixedPoints.AddControlPointWorld(*fixed)
    worker_cases.spin(lambda: "registered volume" in widget.ui.pinLabel.text, 5)
    widget._parameterNode.movingPoints.AddControlPointWorld(*registered)
    worker_cases.spin(lambda: not widget._pins._waiting, 5)


def add_color_legends(scene):
    """Register the colour legend, as the application does at its start. Returns the logic, to be kept."""
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    colors = slicer.vtkSlicerColorLogic()
    colors.SetMRMLApplicationLogic(application)
    colors.SetMRMLScene(scene)
    return colors


def client_of_program(folder, text: str) -> WorkerClient:
    """A client whose Python is a program of these lines."""
    path = folder / "program"
    path.write_text(f"#!{sys.executable} -u\n{text}\n")
    path.chmod(0o755)
    return WorkerClient(python=str(path))


def choose_landmarks(scene, parameters) -> None:
    """A landmark on each side, chosen as the fixed and the moving ones."""
    for name in ("fixedPoints", "movingPoints"):
        points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        points.AddControlPoint(1.0, 2.0, 3.0)
        setattr(parameters, name, points)
