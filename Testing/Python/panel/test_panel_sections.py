"""The sections of the panel that follow a registration: check, results, apply."""

from __future__ import annotations

import json

import numpy as np
import pytest

import panel_cases as press
import qt
import slicer
import worker_cases
from VoxelMorphRegistrationLib.mrml import check_views, deformation_views
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.table import results_node
from VoxelMorphRegistrationLib.mrml.transforms import matrix_from_vtk
from VoxelMorphRegistrationLib.mrml.view_state import OUTLINE_ATTRIBUTE
from VoxelMorphRegistrationLib.results.table import rows as results_rows


@pytest.fixture
def done(swift_panel, scene):
    """The panel after a registration with segmentations that found a shift, in two slice views."""
    from mrml_cases import add_segmentation

    widget, fixed_node, moving_node = swift_panel
    colors = press.add_color_legends(scene)
    views = press.add_slice_views(scene)
    for view in views:
        view.SetBackgroundVolumeID(moving_node.GetID())
    parameters = widget._parameterNode
    parameters.fixedLabels = add_segmentation(scene, fixed_node, name="Fixed segments")
    parameters.movingLabels = add_segmentation(scene, moving_node, name="Moving segments")
    press.press_and_wait(widget)
    assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
    yield widget, views
    colors.SetMRMLScene(None)


def layers(views) -> set[tuple]:
    return {(view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()) for view in views}


# --- check -------------------------------------------------------------------------------------------------------


def test_success_shows_fixed_with_warped_and_unfolds_the_check(done, monkeypatch):
    widget, views = done
    parameters = widget._parameterNode
    assert layers(views) == {(parameters.fixedVolume.GetID(), parameters.outputVolume.GetID())}
    assert {view.GetForegroundOpacity() for view in views} == {0.5}
    assert all(view.GetLinkedControl() for view in views)
    assert slicer.app.layoutManager().resets == 1
    widget.ui.showBeforeButton.click()
    assert slicer.app.layoutManager().resets == 1
    for view in views:
        view.SetBackgroundVolumeID(None)
    widget.ui.showBeforeButton.click()
    assert slicer.app.layoutManager().resets == 2
    assert not widget.ui.checkCollapsibleButton.collapsed
    # As when Slicer has no main window.
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None)
    views[0].SetBackgroundVolumeID(None)
    widget.ui.showFadeButton.click()
    assert widget.ui.showFadeButton.checked and widget.ui.linkCheckBox.checked


def test_fade_and_flicker(done):
    widget, views = done
    widget.ui.fadeSlider.value = 0.8
    assert views[0].GetForegroundOpacity() == pytest.approx(0.8)
    widget.ui.flickerButton.click()
    opacities = set()
    worker_cases.spin(lambda: opacities.add(views[0].GetForegroundOpacity()) or opacities == {0.0, 1.0}, 10)
    widget.ui.flickerButton.click()
    assert views[0].GetForegroundOpacity() == pytest.approx(0.8)


def test_every_way_of_showing_fills_the_views_and_is_marked(done, scene):
    widget, views = done
    parameters = widget._parameterNode
    fixed, warped, moving = parameters.fixedVolume, parameters.outputVolume, parameters.movingVolume
    buttons = {
        "checkerboard": widget.ui.showCheckerboardButton,
        "before": widget.ui.showBeforeButton,
        "jacobian": widget.ui.showJacobianButton,
        "fade": widget.ui.showFadeButton,
    }
    shown = {}
    for name, button in buttons.items():
        button.click()
        shown[name] = layers(views)
        assert [one.checked for one in buttons.values()].count(True) == 1 and button.checked
    drawn = {node.GetName(): node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
    assert shown["checkerboard"] == {(fixed.GetID(), drawn["Checkerboard"])}
    assert shown["before"] == {(warped.GetID(), drawn[f"{moving.GetName()} before"])}
    assert shown["jacobian"] == {(fixed.GetID(), drawn["Jacobian near the anatomy"])}
    assert shown["fade"] == {(fixed.GetID(), warped.GetID())}


def test_range_and_legend_of_the_jacobian(done):
    from VoxelMorphRegistrationLib.mrml import display, jacobian_views

    widget, _ = done
    widget.ui.showJacobianButton.click()
    jacobian = jacobian_views.drawn_map(slicer.mrmlScene)
    assert display.legend_node(jacobian).GetVisibility()
    widget.ui.legendCheckBox.click()
    assert not display.legend_node(jacobian).GetVisibility()
    widget.ui.jacobianRangeSlider.value = 3.0
    shown = jacobian.GetDisplayNode()
    assert shown.GetWindowLevelMax() == pytest.approx(display.jacobian_range(3.0)[1])
    widget.ui.showFadeButton.click()
    assert not display.legend_node(jacobian).GetVisibility()


def drawn_deformation():
    nodes = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    return next((one for one in nodes if one.GetName() == deformation_views.DEFORMATION), None)


def test_deformed_grid_and_arrows(done):
    widget, _ = done
    transform = widget._parameterNode.outputTransform
    widget.ui.deformationComboBox.setCurrentIndex(1)
    assert transform.GetDisplayNode() is None
    shown = drawn_deformation().GetDisplayNode()
    assert shown.GetVisibility2D() and shown.GetVisualizationMode() == shown.VIS_MODE_GRID
    widget.ui.gridSpacingSpinBox.value = 7.0
    assert shown.GetGridSpacingMm() == 7.0
    widget.ui.deformationComboBox.setCurrentIndex(2)
    assert shown.GetVisualizationMode() == shown.VIS_MODE_GLYPH
    widget.ui.deformationComboBox.setCurrentIndex(0)
    assert drawn_deformation() is None
    # Shown or hidden elsewhere.
    deformation_views.show_deformation(transform, widget._parameterNode.fixedVolume, deformation_views.ARROWS)
    widget.updateFromParameterNode()
    assert widget.ui.deformationComboBox.currentIndex == 2
    drawn_deformation().GetDisplayNode().SetVisibility(False)
    widget.updateFromParameterNode()
    assert widget.ui.deformationComboBox.currentIndex == 0


def test_outlines_of_each_side(done):
    widget, _ = done
    parameters = widget._parameterNode
    widget.ui.outlineFixedCheckBox.click()
    widget.ui.outlineWarpedCheckBox.click()
    sides = (parameters.fixedLabels, parameters.movingLabels, parameters.outputLabels)
    assert [bool(node.GetDisplayNode().GetAttribute(OUTLINE_ATTRIBUTE)) for node in sides] == [True, False, True]
    widget.ui.outlineFixedCheckBox.click()
    assert not parameters.fixedLabels.GetDisplayNode().GetAttribute(OUTLINE_ATTRIBUTE)
    widget.ui.restoreViewsButton.click()
    assert all(node.GetDisplayNode().GetVisibility2DFill() for node in sides[:2])


def test_outlines_boxes_carry_the_colours_of_the_lines(panel):
    for side, color in check_views.OUTLINE_COLORS.items():
        box = getattr(panel[0].ui, f"outline{side.capitalize()}CheckBox")
        pixel = box.icon.pixmap(10, 10).toImage().pixelColor(5, 5)
        assert pixel.getRgb()[:3] == pytest.approx([255 * part for part in color], abs=1)


def test_jump_to_the_smallest_determinant(done, scene):
    widget, _ = done
    report = json.loads(widget._parameterNode.outputTransform.GetAttribute(REPORT_ATTRIBUTE))
    widget.ui.worstDeterminantButton.click()
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        to_slice = np.linalg.inv(matrix_from_vtk(node.GetSliceToRAS()))
        assert (to_slice @ [*report["worst_ras"]["determinant"], 1.0])[2] == pytest.approx(0, abs=1e-3)
    assert not widget.ui.worstLandmarkButton.enabled


def test_restore_puts_the_views_back(done, scene):
    widget, views = done
    moving = widget._parameterNode.movingVolume
    widget.ui.showCheckerboardButton.click()
    widget.ui.deformationComboBox.setCurrentIndex(1)
    widget.ui.outlineFixedCheckBox.click()
    widget.ui.worstDeterminantButton.click()
    widget.ui.restoreViewsButton.click()
    assert layers(views) == {(moving.GetID(), None)}
    assert not any(view.GetLinkedControl() for view in views)
    assert not widget.ui.showCheckerboardButton.checked and not widget.ui.outlineFixedCheckBox.checked
    assert widget.ui.deformationComboBox.currentIndex == 0
    assert drawn_deformation() is None
    assert not [node for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode") if "Checker" in node.GetName()]


def test_every_button_works_whatever_node_of_the_result_was_deleted(done, scene, monkeypatch):
    widget, views = done
    ui = widget.ui
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: False)
    names = [*vars(ui)]
    buttons = [name for name in names if type(getattr(ui, name)).__name__ in ("QPushButton", "QCheckBox")]
    left_out = ("registerButton", "addModelButton", "copyLogButton")
    for gone in ("movingLabels", "outputJacobian", "movingVolume", "outputVolume", "outputLabels", "fixedVolume", ""):
        if gone:
            scene.RemoveNode(getattr(widget._parameterNode, gone))
        for name in buttons:
            if name not in left_out and not name.startswith("want"):
                qt.FileDialog.answers, qt.InputDialog.answers = [""], [""]
                getattr(ui, name).click()
        for number in (1, 2, 0):
            ui.deformationComboBox.setCurrentIndex(number)
        for slider, value in ((ui.fadeSlider, 0.3), (ui.jacobianRangeSlider, 2.0), (ui.jacobianRangeSlider, 1.0)):
            slider.value = value
        worker_cases.spin(lambda: widget._register.run is None)
        for row in range(ui.applyList.count):
            qt.InputDialog.answers = [""]
            ui.applyList.item(row).setCheckState(qt.Qt.Checked)
        worker_cases.spin(
            lambda: ui.applyList.enabled and ui.saveReportButton.enabled and not widget._nodesTimer.active
        )
        qt.application.processEvents()
        assert qt.slot_errors == [], gone
    for name in ("outputTransform", "keptTransform"):
        if getattr(widget._parameterNode, name) is not None:
            scene.RemoveNode(getattr(widget._parameterNode, name))
    assert not ui.checkCollapsibleButton.enabled and not ui.applyCollapsibleButton.enabled


@pytest.mark.parametrize("empty", ["fixedVolume", "outputVolume"])
def test_volume_whose_file_is_gone_ends_in_no_exception_whatever_is_pressed(done, empty):
    """A loaded scene comes without it."""
    widget, _ = done
    ui = widget.ui
    ui.restoreViewsButton.click()
    getattr(widget._parameterNode, empty).SetAndObserveImageData(None)
    for button in (ui.flickerButton, ui.showFadeButton, ui.showCheckerboardButton, ui.showBeforeButton):
        button.click()
        ui.restoreViewsButton.click()
    for button in (ui.showJacobianButton, ui.outlineFixedCheckBox, ui.worstDeterminantButton, ui.restoreViewsButton):
        button.click()
    ui.deformationComboBox.setCurrentIndex(1)
    qt.application.processEvents()
    assert qt.slot_errors == []


def test_scene_closed_while_flickering(done, scene):
    widget, _ = done
    widget.ui.flickerButton.click()
    scene.Clear(0)
    assert not widget.ui.flickerButton.checked
    assert not widget.ui.checkCollapsibleButton.enabled


# --- results -----------------------------------------------------------------------------------------------------


def test_table_shows_the_numbers_of_the_report_and_is_a_node_of_the_scene(done):
    widget, _ = done
    transform = widget._parameterNode.outputTransform
    rows = results_rows(json.loads(transform.GetAttribute(REPORT_ATTRIBUTE)))
    table = widget.ui.resultsTable
    assert table.rowCount == len(rows) + len({row.group for row in rows})
    texts = [[item.text() if (item := table.item(row, c)) else "" for c in range(4)] for row in range(table.rowCount)]
    assert (texts[0][0], texts[1]) == (
        rows[0].group,
        ["Correlation", *(rows[0].number(c) for c in ("before", "aligned", "after"))],
    )
    first = next(row for row in rows if row.group == "Similarity")
    assert [first.name, first.number("before"), first.number("aligned"), first.number("after")] in texts
    assert ["Liver"] in [row[:1] for row in texts]
    assert results_node(transform).GetTable().GetNumberOfRows() == len(rows)
    assert not widget.ui.resultsCollapsibleButton.collapsed


def test_warnings_are_shown_with_the_results(done):
    widget, _ = done
    warnings = json.loads(widget._parameterNode.outputTransform.GetAttribute(REPORT_ATTRIBUTE))["warnings"]
    assert warnings == [] and not widget.ui.warningsLabel.visible


@pytest.mark.parametrize(
    ("name", "start"),
    [("report.html", b"<!DOCTYPE html>"), ("report.PDF", b"%PDF-"), ("report of today 1.5", b"<!DOCTYPE html>")],
)
def test_report_is_saved_with_its_picture(done, tmp_path, name, start):
    widget, _ = done
    path = tmp_path / name
    qt.FileDialog.answers = [str(path)]
    widget.ui.saveReportButton.click()
    assert not widget.ui.saveReportButton.enabled
    worker_cases.spin(lambda: widget.ui.saveReportButton.enabled)
    (written,) = tmp_path.glob("report*")
    content = written.read_bytes()
    assert content.startswith(start)
    assert len(content) > 50_000
    if written.suffix == ".html":
        assert b"data:image/png" in content


def test_report_is_saved_without_a_picture_when_the_volumes_are_gone(done, scene, tmp_path):
    widget, _ = done
    scene.RemoveNode(widget._parameterNode.outputVolume)
    path = tmp_path / "report.html"
    qt.FileDialog.answers = [str(path)]
    widget.ui.saveReportButton.click()
    assert b"data:image/png" not in path.read_bytes()
    qt.FileDialog.answers = [""]
    widget.ui.saveReportButton.click()


# --- apply -------------------------------------------------------------------------------------------------------


def item_of(widget, text: str):
    widget._apply.update()
    names = [widget.ui.applyList.item(n).text() for n in range(widget.ui.applyList.count)]
    assert text in names, names
    return widget.ui.applyList.item(names.index(text))


def test_ticking_puts_a_node_under_the_transform_and_back(done):
    widget, _ = done
    parameters = widget._parameterNode
    item_of(widget, "Moving segments").setCheckState(qt.Qt.Checked)
    assert parameters.movingLabels.GetParentTransformNode() is parameters.outputTransform
    assert item_of(widget, "Moving segments").checkState() == qt.Qt.Checked
    item_of(widget, "Moving segments").setCheckState(qt.Qt.Unchecked)
    assert parameters.movingLabels.GetParentTransformNode() is None


def test_nodes_of_the_fixed_side_go_under_the_inverse(done):
    widget, _ = done
    parameters = widget._parameterNode
    item_of(widget, "Fixed segments (inverse)").setCheckState(qt.Qt.Checked)
    assert "inverse" in widget.ui.applyLabel.text.lower() and not widget.ui.applyList.enabled
    worker_cases.spin(lambda: parameters.fixedLabels.GetParentTransformNode(), 30)
    inverse = parameters.fixedLabels.GetParentTransformNode()
    assert inverse.GetName() == "Fixed to Moving"
    assert item_of(widget, "Fixed segments (inverse)").checkState() == qt.Qt.Checked
    assert widget.ui.applyList.enabled


def test_results_themselves_are_not_offered(done):
    widget, _ = done
    widget._apply.update()
    names = {widget.ui.applyList.item(n).text() for n in range(widget.ui.applyList.count)}
    assert names == {"Fixed (inverse)", "Moving", "Fixed segments (inverse)", "Moving segments"}


def test_closing_the_question_for_the_side_puts_a_node_under_nothing(done, scene):
    """Qt answers with the first choice then, as if that had been meant."""
    widget, _ = done
    # Names tell nothing.
    widget._parameterNode.movingVolume.SetName("Fixed")
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    points.AddControlPoint(1.0, 2.0, 3.0)
    worker_cases.spin(lambda: widget.ui.applyList.count == 5, 5)
    qt.InputDialog.answers = [""]
    item_of(widget, "Points").setCheckState(qt.Qt.Checked)
    assert points.GetParentTransformNode() is None
    assert item_of(widget, "Points").checkState() == qt.Qt.Unchecked
    qt.InputDialog.answers = ["Fixed (moving)"]
    item_of(widget, "Points").setCheckState(qt.Qt.Checked)
    assert points.GetParentTransformNode() is widget._parameterNode.outputTransform


def test_hardening_asks_first(done, scene, monkeypatch):
    widget, _ = done
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    points.AddControlPoint(1.0, 2.0, 3.0)
    worker_cases.spin(lambda: widget.ui.applyList.count == 5, 5)
    # Nothing tells on which side points lie that were not given to the registration.
    qt.InputDialog.answers = ["Moving (moving)"]
    item_of(widget, "Points").setCheckState(qt.Qt.Checked)
    widget.ui.hardenButton.click()
    assert points.GetParentTransformNode() is widget._parameterNode.outputTransform
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)
    widget.ui.hardenButton.click()
    assert points.GetParentTransformNode() is None
    assert points.GetNthControlPointPosition(0) != (1.0, 2.0, 3.0)


def test_printed_report_tears_nothing_and_leaves_no_page_half_empty(done):
    from VoxelMorphRegistrationLib.panel.results import _laid_out
    from VoxelMorphRegistrationLib.panel.shown import shown_result
    from VoxelMorphRegistrationLib.results.html import html_report

    width, height = 760.0, 1080.0
    pixmap = qt.QPixmap(630, 500)
    pixmap.fill(qt.QColor("#336699"))
    buffer = qt.QBuffer()
    buffer.open(qt.QIODevice.WriteOnly)
    pixmap.save(buffer, "PNG")
    widget, _ = done
    page = html_report(
        shown_result(widget._parameterNode).report, {"The picture": bytes(buffer.data().data())}, on_paper=True
    )
    device = qt.QImage(760, 1080, qt.QImage.Format_RGB32)
    document = _laid_out(page, device, width, height)
    layout, pages, heading, block = document.documentLayout(), {}, None, document.begin()
    while block.isValid():
        place = layout.blockBoundingRect(block)
        first, last = int(place.top() // height), int((place.bottom() - 1) // height)
        if block.text() == "The picture":
            heading = first
        if "\ufffc" in block.text():
            assert first == last == heading
        pages[first] = max(pages.get(first, 0.0), place.bottom() - first * height)
        block = block.next()
    assert heading == document.pageCount() - 1 > 0
    assert all(pages[number] > 0.6 * height for number in range(heading - 1))
