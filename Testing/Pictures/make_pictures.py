"""Draws the pictures of Resources/Screenshots: the panel in its states, and what its checks show in the slice views.

    python Testing/Pictures/make_pictures.py --ct ct.nii.gz --organs organs.nii.gz --output Resources/Screenshots

The panel is the module's own, driven as a user would through the stand-ins of Testing/Harness; its looks are Qt's, not
exactly Slicer's. The slice views are drawn from Slicer's MRML by Slicer's logics (slice_views.py), without the
application. VTK draws without a screen through EGL.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before Qt starts: two pixels for each point.
os.environ.setdefault("QT_SCALE_FACTOR", "2")
ROOT = Path(__file__).absolute().parents[2]
PARTS = ("VoxelMorphRegistration", "Testing/Harness", "Testing/Python", "Testing/Benchmarks")
sys.path[:0] = [str(ROOT / part) for part in PARTS]

import abdomen  # noqa: E402
import numpy as np  # noqa: E402
import sheets  # noqa: E402
from slice_views import SliceViews  # noqa: E402

import qt  # noqa: E402
import slicer  # noqa: E402
import slicer_application  # noqa: E402
import worker_cases  # noqa: E402
from VoxelMorphRegistrationLib.panel.pictures import overview_task  # noqa: E402

VIEW, PANEL_WIDTH, PATIENCE_S = (440, 400), 500, 1200.0
CORONAL, SAGITTAL = "Green", "Yellow"
FAR_MM, OVERVIEW_WIDTH = 800.0, 1400


# --- the stage ---------------------------------------------------------------------------------------------------


def start_application() -> SliceViews:
    """An empty scene in the stand-in for the application, with slice views."""
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer_application.start()
    views = SliceViews(slicer.mrmlScene, VIEW)
    slicer.app.layoutManager().resetSliceViews = views.fit
    return views


def open_panel():
    import VoxelMorphRegistration as module

    slicer_application.add_module(module.VoxelMorphRegistration, module.__file__)
    widget = slicer_application.open_panel(module.VoxelMorphRegistrationWidget)
    worker_cases.spin(lambda: widget.logic.worker().facts, PATIENCE_S)
    return widget


def choose(widget, nodes: abdomen.Nodes) -> None:
    """What a user would choose for two scans of one person: rigid alignment, refinement, organs to measure by."""
    parameters = widget._parameterNode
    parameters.fixedLabels, parameters.movingLabels = nodes.fixed_organs, nodes.moving_organs
    parameters.fixedPoints, parameters.movingPoints = nodes.fixed_points, nodes.moving_points
    parameters.alignment, parameters.refinement = "rigid", "default"


# --- the panel in its states -------------------------------------------------------------------------------------


def photograph(widget):
    """The panel as it is now, as high as its contents need."""
    parent = widget.parent
    for _ in range(3):
        qt.application.processEvents()
        parent.resize(PANEL_WIDTH, parent.sizeHint().height())
    return sheets.from_pixmap(parent.grab())


def register(widget) -> dict:
    """Press Register and wait for its end. Returns the panel while it runs and when it is done."""
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: widget._register.stage == "refining" and widget.ui.progressBar.value > 60, PATIENCE_S)
    running = photograph(widget)
    worker_cases.spin(lambda: widget._register.run is None, PATIENCE_S)
    return {"running": running, "done": photograph(widget)}


def fail(widget, nodes: abdomen.Nodes):
    """The panel after a registration of volumes that lie far apart."""
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Far away")
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(_shifted(FAR_MM)))
    nodes.moving.SetAndObserveTransformNodeID(parent.GetID())
    widget._parameterNode.alignment = "none"
    for name in ("check", "results"):
        getattr(widget.ui, f"{name}CollapsibleButton").collapsed = True
    widget.ui.logCollapsibleButton.collapsed = False
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: widget._register.run is None, PATIENCE_S)
    return photograph(widget)


def _shifted(distance_mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = distance_mm
    return matrix


# --- the slice views ---------------------------------------------------------------------------------------------


def hide_segmentations() -> None:
    """As by the eyes of the Data module."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        node.GetDisplayNode().SetVisibility(False)


def outline(ui, *sides: str) -> None:
    """Tick the outlines of these sides, and no others."""
    boxes = {"fixed": ui.outlineFixedCheckBox, "moving": ui.outlineMovingCheckBox, "warped": ui.outlineWarpedCheckBox}
    for side, box in boxes.items():
        if box.checked != (side in sides):
            box.click()


def story(widget, views: SliceViews):
    """The result at a glance: outlines of the fixed organs over fixed, moving and warped volume; volume change."""
    ui, columns = widget.ui, {}
    ui.showFadeButton.click()
    views.fit()
    ui.fadeSlider.setValue(0.0)
    outline(ui, "fixed")
    columns["Fixed"] = _planes(views)
    ui.showBeforeButton.click()
    columns["Moving"] = _planes(views)
    ui.fadeSlider.setValue(0.0)
    columns["Registered"] = _planes(views)
    outline(ui)
    ui.showJacobianButton.click()
    columns["Volume change"] = _planes(views)
    return sheets.table(list(zip(*columns.values(), strict=True)), list(columns))


def _planes(views: SliceViews) -> list[np.ndarray]:
    return [views.draw(name) for name in (CORONAL, SAGITTAL)]


def checks(widget, views: SliceViews):
    """What the buttons of the section 'Check' show."""
    ui, shown = widget.ui, {}
    ui.showFadeButton.click()
    shown["Fade"] = views.draw(CORONAL)
    ui.showCheckerboardButton.click()
    shown["Checkerboard"] = views.draw(CORONAL)
    ui.showJacobianButton.click()
    shown["Jacobian"] = views.draw(CORONAL)
    ui.showFadeButton.click()
    ui.fadeSlider.setValue(0.0)
    for number, name in ((1, "Deformation: grid"), (2, "Deformation: arrows")):
        ui.deformationComboBox.setCurrentIndex(number)
        shown[name] = views.draw(CORONAL)
    ui.deformationComboBox.setCurrentIndex(0)
    outline(ui, "fixed", "moving", "warped")
    shown["Outlines"] = views.draw(CORONAL)
    outline(ui)
    ui.restoreViewsButton.click()
    return sheets.tiles(shown, 3)


def overview(widget):
    """The picture of the report, drawn by the worker."""
    parameters, drawn = widget._parameterNode, []
    task = overview_task(parameters.outputTransform, parameters.outputVolume, parameters.outputJacobian)
    widget.logic.worker().submit(task, on_result=drawn.append, on_error=drawn.append, on_cancelled=drawn.clear)
    worker_cases.spin(lambda: drawn, PATIENCE_S)
    return sheets.shrunk(sheets.from_png(drawn[0].tobytes()), OVERVIEW_WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, required=True, help="CT of an abdomen")
    parser.add_argument("--organs", type=Path, required=True, help="its organs, numbered as TotalSegmentator does")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="write these pictures alone, as panel-error")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    def save(name: str, draw) -> None:
        if not options.only or name in options.only:
            sheets.save(draw(), options.output / f"{name}.png")

    views = start_application()
    widget = open_panel()
    save("panel-empty", lambda: photograph(widget))
    nodes = abdomen.add_pair(slicer.mrmlScene, abdomen.make_pair(options.ct, options.organs))
    worker_cases.spin(lambda: widget._parameterNode.fixedVolume is not None)
    choose(widget, nodes)
    widget.ui.guidesCollapsibleButton.collapsed = False
    save("panel-ready", lambda: photograph(widget))
    widget.ui.guidesCollapsibleButton.collapsed = True
    for state, picture in register(widget).items():
        save(f"panel-{state}", lambda picture=picture: picture)
    hide_segmentations()
    save("registration", lambda: story(widget, views))
    save("checks", lambda: checks(widget, views))
    save("overview", lambda: overview(widget))
    save("panel-error", lambda: fail(widget, nodes))
    widget.logic.worker().shutdown()
    assert qt.slot_errors == [], qt.slot_errors


if __name__ == "__main__":
    main()
