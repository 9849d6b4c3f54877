"""What the eye and the hand meet: widths, focus, scrolling, texts that belong to what is shown."""

from __future__ import annotations

import pytest
import vtk
from PySide6 import QtCore
from PySide6.QtTest import QTest

import mrml_cases as cases
import panel_cases as press
import qt
import slicer
import worker_cases
from VoxelMorphRegistrationLib.errors import VoxelMorphError

WIDTHS = (300, 413, 631)


def settle(rounds: int = 5) -> None:
    for _ in range(rounds):
        qt.application.processEvents()


def press_with_the_mouse(widget, button) -> None:
    """A press as by hand: the button takes the focus, and the panel scrolls to where it is."""
    settle()
    widget.parent.area.ensureWidgetVisible(button)
    settle()
    QTest.mouseClick(button, QtCore.Qt.MouseButton.LeftButton)


def is_in_sight(widget, one) -> bool:
    area = widget.parent.area
    view = QtCore.QRect(QtCore.QPoint(0, 0), area.viewport().size)
    return view.contains(QtCore.QRect(one.mapTo(area.viewport(), QtCore.QPoint(0, 0)), one.size))


# --- widths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_panel_takes_the_width_that_it_is_given_before_and_after_a_run(swift_panel, width):
    widget, *_ = swift_panel
    area = widget.parent.area
    area.resize(width, 700)
    settle()
    assert widget.parent.width <= area.viewport().width
    press.press_and_wait(widget)
    settle()
    assert widget.parent.width <= area.viewport().width
    table = widget.ui.resultsTable
    if width > 300:
        columns = sum(table.columnWidth(n) for n in range(table.columnCount))
        assert columns <= table.viewport().width


def missing_pixels(one) -> int:
    """By how much the text of a widget is wider than the room that it has."""
    kind, ink = type(one).__name__, one.fontMetrics()
    if kind in ("QPushButton", "QToolButton", "QCheckBox"):
        return one.minimumSizeHint().width() - one.width
    if kind == "QLabel":
        return 0 if one.wordWrap else one.sizeHint().width() - one.width
    if kind in ("QSpinBox", "QDoubleSpinBox"):
        return ink.horizontalAdvance(one.text) + 4 - one.lineEdit().width
    if kind == "ctkCollapsibleButton":
        return ink.horizontalAdvance(f"\u25be  {one.text}") + 6 - one.width
    # The arrow and the frame of a list of choices. Of nodes, whose names are as long as people make them, none alone.
    choices = range(1 if kind == "qMRMLNodeComboBox" else one.count)
    return max(ink.horizontalAdvance(one.itemText(n)) for n in choices) + 30 - one.width


@pytest.mark.parametrize("width", [300, 420])
def test_no_text_of_the_panel_is_cut(swift_panel, scene, width):
    widget, *_ = swift_panel
    sequence, _browser, proxy = cases.add_sequence(scene, cases.FIXED_GRIDS["axis aligned"], [(0.0, 0, 0)] * 3)
    worker_cases.spin(lambda: not widget._nodesTimer.active)
    widget._parameterNode.movingVolume = proxy
    widget.parent.area.resize(width, 700)
    press.press_and_wait(widget)
    for one in vars(widget.ui).values():
        if type(one).__name__ == "ctkCollapsibleButton":
            one.collapsed = False
    settle()
    kinds = ("QPushButton", "QToolButton", "QCheckBox", "QComboBox", "QSpinBox", "QDoubleSpinBox", "QLabel")
    shown = {
        name: one
        for name, one in vars(widget.ui).items()
        if type(one).__name__ in (*kinds, "ctkCollapsibleButton", "qMRMLNodeComboBox") and one.visible
    }
    assert len(shown) > 60
    # One pixel is the rounding of a style.
    assert {name: missing_pixels(one) for name, one in shown.items() if missing_pixels(one) > 1} == {}
    right = {name for name, one in shown.items() if one.mapTo(widget.parent, QtCore.QPoint(one.width, 0)).x() > width}
    assert right == set()
    table, ink = widget.ui.resultsTable, widget.ui.resultsTable.fontMetrics()
    # Names of settings are those of the console, and have tooltips.
    words = {word for n in range(table.rowCount) for word in table.item(n, 0).text().split() if "_" not in word}
    assert [word for word in words if ink.horizontalAdvance(word) + 8 > table.columnWidth(0)] == []
    assert table.isColumnHidden(2) is (width == 300)


def test_table_makes_room_for_its_names_in_a_narrow_panel_and_shows_all_in_a_wide_one(swift_panel):
    widget, *_ = swift_panel
    press.press_and_wait(widget)
    table, area = widget.ui.resultsTable, widget.parent.area
    titles = ("Measure", "Before", "Aligned", "After", "After, A")

    def columns(width: int) -> list[str]:
        area.resize(width, 700)
        settle()
        return [title for n, title in enumerate(titles) if not table.isColumnHidden(n)]

    for width, expected in ((420, titles[:4]), (300, ("Measure", "Before", "After")), (420, titles[:4])):
        assert columns(width) == [*expected]
    widget.ui.keepButton.click()
    press.press_and_wait(widget)
    assert columns(420) == ["Measure", "Before", "After", "After, A"]
    assert columns(300) == ["Measure", "After", "After, A"]


# --- focus ----------------------------------------------------------------------------------------------------------


def test_panel_stays_where_it_is_when_register_and_cancel_are_pressed(swift_panel, standin):
    widget, *_ = swift_panel
    standin.steps = 10_000
    widget.parent.area.resize(413, 400)
    widget.ui.advancedCollapsibleButton.collapsed = False
    button, bar = widget.ui.registerButton, widget.parent.area.verticalScrollBar()
    press_with_the_mouse(widget, button)
    settle()
    place = bar.value
    assert place > 0 and button.hasFocus()
    worker_cases.spin(lambda: widget._register.stage)
    assert is_in_sight(widget, button) and is_in_sight(widget, widget.ui.progressBar)
    QTest.mouseClick(button, QtCore.Qt.MouseButton.LeftButton)
    assert button.hasFocus() and widget.ui.statusLabel.text == "Cancelling"
    press.wait(widget)
    assert button.hasFocus() and is_in_sight(widget, button)


def test_key_registers(swift_panel):
    widget, *_ = swift_panel
    widget.ui.alignmentComboBox.setFocus()
    settle()
    QTest.keyClick(widget.ui.alignmentComboBox, QtCore.Qt.Key.Key_Return, QtCore.Qt.KeyboardModifier.ControlModifier)
    assert widget._register.run is not None
    press.wait(widget)
    assert widget.ui.progressBar.value == 100


def test_tab_leaves_the_table(swift_panel):
    widget, *_ = swift_panel
    press.press_and_wait(widget)
    assert not widget.ui.resultsTable.tabKeyNavigation


# --- texts ----------------------------------------------------------------------------------------------------------


def test_why_register_cannot_be_pressed_is_read_without_a_tooltip(swift_panel):
    widget, fixed_node, _ = swift_panel
    widget.ui.movingVolumeSelector.setCurrentNode(fixed_node)
    assert "are the same" in widget.ui.hintLabel.text and widget.ui.hintLabel.visible


def test_texts_of_a_run_go_with_its_pair(swift_panel):
    widget, fixed_node, moving_node = swift_panel
    press.press_and_wait(widget)
    assert "Correlation 0.500" in widget.ui.statusLabel.text and widget.ui.verdictLabel.visible
    widget.ui.fixedVolumeSelector.setCurrentNode(moving_node)
    widget.ui.movingVolumeSelector.setCurrentNode(fixed_node)
    assert (widget.ui.statusLabel.text, widget.ui.progressBar.value) == ("", 0)
    assert not widget.ui.verdictLabel.visible and not widget.ui.warningsLabel.visible


def test_texts_of_a_run_go_with_its_scene(swift_panel, scene):
    widget, *_ = swift_panel
    press.press_and_wait(widget)
    scene.Clear(0)
    assert (widget.ui.statusLabel.text, widget.ui.progressBar.value) == ("", 0)
    assert not widget.ui.verdictLabel.visible


def test_error_stands_alone_without_a_word_that_all_is_well(swift_panel, standin):
    widget, *_ = swift_panel
    standin.failing = [VoxelMorphError("It went wrong.")]
    press.press_and_wait(widget)
    assert widget.ui.statusLabel.text == "It went wrong."
    assert not widget.ui.progressBar.visible
    assert (widget.ui.warningsLabel.text, widget.ui.verdictLabel.text) == ("", "")


def test_text_of_a_run_that_ended_elsewhere_waits_and_is_told_in_the_status_bar(swift_panel, monkeypatch):
    widget, *_ = swift_panel
    told = []
    monkeypatch.setattr(slicer.util, "showStatusMessage", lambda text, *_: told.append(text))
    widget.ui.registerButton.click()
    widget.exit()
    press.wait(widget)
    assert told and "Correlation" in told[0]
    widget.enter()
    assert "Correlation" in widget.ui.statusLabel.text


def test_scene_closed_during_a_run_brings_no_error_box(swift_panel, scene, standin, caplog):
    widget, *_ = swift_panel
    standin.steps = 10_000
    press.press_and_wait_for_progress(widget)
    scene.Clear(0)
    press.wait(widget)
    settle()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("changes", "level", "reason"),
    [
        ({}, "Good", "Correlation 0.50 to 0.90, no folds."),
        ({"warnings": ["Mind the gap."]}, "Look here", "Mind the gap."),
        ({"covered_percent": 20.0}, "Do not use", "Only 20 %"),
    ],
)
def test_the_answer_comes_first(swift_panel, standin, changes, level, reason):
    widget, *_ = swift_panel
    standin.changes = changes
    press.press_and_wait(widget)
    text = widget.ui.verdictLabel.text
    assert text.startswith(f"<b>{level}:</b>") and reason in text
    assert widget.ui.verdictLabel.mapTo(widget.parent, QtCore.QPoint(0, 0)).y() < (
        widget.ui.checkCollapsibleButton.mapTo(widget.parent, QtCore.QPoint(0, 0)).y()
    )


# --- what is remembered ------------------------------------------------------------------------------------------


def test_entering_the_module_again_and_again_leaves_no_observer(swift_panel):
    widget, *_ = swift_panel
    node = widget._parameterNode.parameterNode
    tags = []
    for _ in range(3):
        widget.exit()
        widget.enter()
        tags.append(node.AddObserver("NoEvent", lambda *_: None))
        node.RemoveObserver(tags[-1])
    calls = []
    monitored = widget._parameterNode
    assert widget.logic.getParameterNode() is monitored
    counted = type(monitored)._read_all
    try:
        type(monitored)._read_all = lambda self: (calls.append(1), counted(self))
        node.Modified()
    finally:
        type(monitored)._read_all = counted
    assert len(calls) == 1
    gui = type(monitored)._to_gui
    try:
        type(monitored)._to_gui = lambda self, tag: calls.append(tag)
        calls.clear()
        node.Modified()
    finally:
        type(monitored)._to_gui = gui
    assert len(calls) == 1


def test_presets_in_words_set_the_choices_and_are_named_when_these_are_made(swift_panel):
    widget, *_ = swift_panel
    box = widget.ui.presetComboBox
    assert box.currentText == "Different people (default)"
    box.setCurrentIndex(box.findText("Other contrast"))
    assert (widget.settings().similarity, widget.settings().alignment) == ("mind", "rigid")
    widget.ui.smoothnessSlider.value = 2.0
    assert box.currentText == "(own settings)"
    box.setCurrentIndex(box.findText("Different people (default)"))
    assert (widget.settings().similarity, widget.settings().smoothness) == ("auto", 1.0)


def test_every_preset_is_possible(swift_panel):
    widget, *_ = swift_panel
    box = widget.ui.presetComboBox
    for index in range(1, box.count):
        box.setCurrentIndex(index)
        assert widget.obstacle() == "" and box.currentIndex == index


def test_own_presets_are_kept_and_can_be_removed(swift_panel, module, slicer_app):
    widget, *_ = swift_panel
    widget.ui.alignmentComboBox.currentText = "mass"
    qt.InputDialog.answers = ["Ours"]
    widget.ui.savePresetButton.click()
    assert widget.ui.presetComboBox.currentText == "Ours" and widget.ui.removePresetButton.enabled
    other = slicer_app.open_panel(module.VoxelMorphRegistrationWidget)
    assert other.ui.presetComboBox.findText("Ours") > 0
    other.cleanup()
    widget.ui.removePresetButton.click()
    assert widget.ui.presetComboBox.findText("Ours") < 0
    assert widget.settings().alignment == "mass"


def test_choices_of_the_last_run_are_there_in_the_next_scene(swift_panel, scene):
    widget, *_ = swift_panel
    widget.ui.alignmentComboBox.currentText = "mass"
    press.press_and_wait(widget)
    scene.Clear(0)
    assert widget.settings().alignment == "mass"


def test_report_is_named_after_its_nodes_in_the_last_folder(swift_panel, tmp_path, monkeypatch):
    widget, _, moving_node = swift_panel
    press.press_and_wait(widget)
    widget._parameterNode.outputTransform.SetName("a/b: c")
    asked = []
    answers = [str(tmp_path / "x.html"), ""]
    monkeypatch.setattr(qt.FileDialog, "getSaveFileName", lambda *given: (asked.append(given[2]), answers.pop(0))[1])
    monkeypatch.setattr(widget._results, "save", lambda path: None)
    widget.ui.saveReportButton.click()
    widget.ui.saveReportButton.click()
    assert asked == ["a_b_ c report.html", str(tmp_path / "a_b_ c report.html")]


# --- quality, expected seconds, previews ---------------------------------------------------------------------------


def test_quality_is_the_first_control_and_the_expected_time_is_told_before_the_run(swift_panel):
    widget, *_ = swift_panel
    ui = widget.ui
    assert ui.settingsFormLayout.itemAt(1).widget() is ui.qualityComboBox
    ui.alignmentComboBox.currentText = "none"
    worker_cases.spin(lambda: ui.hintLabel.text, 5)
    slow = ui.hintLabel.text
    assert slow.startswith("Takes about")
    ui.qualityComboBox.currentText = "preview"
    assert widget.settings().quality == "preview" and ui.hintLabel.text != slow


@pytest.fixture
def in_views(swift_panel, scene):
    """The panel of a long run, with slice views that showed the moving volume: (widget, views)."""
    widget, _, moving_node = swift_panel
    colors = press.add_color_legends(scene)
    views = press.add_slice_views(scene)
    for view in views:
        view.SetBackgroundVolumeID(moving_node.GetID())
    yield widget, views
    colors.SetMRMLScene(None)


def shown(view) -> list[str]:
    nodes = [
        slicer.mrmlScene.GetNodeByID(one or "") for one in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID())
    ]
    return [node.GetName() if node else "" for node in nodes]


def shown_transforms() -> list:
    """The transforms that are drawn in the views, as grid or arrows."""
    nodes = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    return [node for node in nodes if node.GetDisplayNode() and node.GetDisplayNode().GetVisibility()]


def test_preview_is_shown_while_the_result_improves_and_cancel_discards_it(in_views, standin):
    widget, views = in_views
    standin.steps = 10_000
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: widget.ui.stopButton.visible)
    assert shown(views[0]) == ["Fixed", "Preview"]
    widget.ui.registerButton.click()
    press.wait(widget)
    assert shown(views[0]) == ["Moving", ""]
    assert not widget.ui.stopButton.visible
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []
    assert not [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetName() == "Preview"]


def test_stop_here_keeps_what_there_is(in_views, standin):
    widget, views = in_views
    standin.steps = 10_000
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: widget.ui.stopButton.visible)
    widget.ui.stopButton.click()
    press.wait(widget)
    assert widget.ui.progressBar.value == 100 and widget._parameterNode.outputTransform is not None
    assert shown(views[0]) == ["Fixed", "Moving registered"]
    widget.ui.restoreViewsButton.click()
    assert shown(views[0]) == ["Moving", ""]


def test_views_are_put_back_when_another_pair_is_chosen(in_views):
    widget, views = in_views
    press.press_and_wait(widget)
    widget.ui.deformationComboBox.setCurrentIndex(1)
    drawn = shown_transforms()
    assert len(drawn) == 1
    widget.ui.showCheckerboardButton.click()
    fixed_node, moving_node = widget._parameterNode.fixedVolume, widget._parameterNode.movingVolume
    widget.ui.fixedVolumeSelector.setCurrentNode(moving_node)
    widget.ui.movingVolumeSelector.setCurrentNode(fixed_node)
    assert shown(views[0]) == ["Moving", ""]
    assert shown_transforms() == []
    assert not widget.ui.restoreViewsButton.enabled


def test_views_are_put_back_and_flicker_ends_when_the_warped_volume_goes(in_views, scene):
    widget, views = in_views
    press.press_and_wait(widget)
    widget.ui.flickerButton.click()
    scene.RemoveNode(widget._parameterNode.outputVolume)
    worker_cases.spin(lambda: not widget.ui.flickerButton.checked, 5)
    assert not widget._check._timer.active
    assert shown(views[0]) == ["Moving", ""]


def test_dict_of_settings_is_refused_in_a_sentence(swift_panel):
    widget, fixed_node, moving_node = swift_panel
    with pytest.raises(VoxelMorphError, match=r"The settings are a dict. Give Settings"):
        widget.logic.registerAsync(fixed_node, moving_node, settings={"alignment": "rigid"})


# --- two results beside each other -----------------------------------------------------------------------------------


def test_result_is_kept_as_a_and_compared_with_the_next_one(in_views):
    widget, views = in_views
    press.press_and_wait(widget)
    first = widget._parameterNode.outputTransform
    assert not widget.ui.compareButton.enabled
    widget.ui.keepButton.click()
    # It is still what is shown.
    assert widget.ui.verdictLabel.visible and not widget.ui.keepButton.enabled
    press.press_and_wait(widget)
    assert widget._parameterNode.outputTransform is not first
    table = widget.ui.resultsTable
    assert not table.isColumnHidden(4)
    rows = {table.item(n, 0).text(): n for n in range(table.rowCount)}
    number = rows["largest displacement (mm)"]
    assert [table.item(number, column).text() for column in (3, 4)] == ["5.00", "4.00"]
    widget.ui.compareButton.click()
    assert shown(views[0]) == ["Moving registered", "Moving registered_1"]


def test_panel_says_when_a_volume_was_moved_since_the_registration(in_views, scene):
    widget, _ = in_views
    press.press_and_wait(widget)
    assert not widget.ui.movedLabel.visible
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Shift")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 5.0)
    parent.SetMatrixTransformToParent(matrix)
    widget._parameterNode.movingVolume.SetAndObserveTransformNodeID(parent.GetID())
    worker_cases.spin(lambda: widget.ui.movedLabel.visible, 5)
    assert "moving volume" in widget.ui.movedLabel.text
    widget._parameterNode.movingVolume.SetAndObserveTransformNodeID(None)
    worker_cases.spin(lambda: not widget.ui.movedLabel.visible, 5)


def test_output_that_is_no_longer_wanted_is_not_shown_with_the_new_numbers(in_views):
    widget, views = in_views
    press.press_and_wait(widget)
    assert widget.ui.showFadeButton.enabled
    widget.ui.wantVolumeCheckBox.checked = False
    press.press_and_wait(widget)
    assert not widget.ui.showFadeButton.enabled
    assert "Moving registered" not in shown(views[0])


def test_list_of_nodes_follows_a_renaming(swift_panel):
    widget, _, moving_node = swift_panel
    press.press_and_wait(widget)
    names = [widget.ui.applyList.item(n).text() for n in range(widget.ui.applyList.count)]
    assert names == ["Fixed (inverse)", "Moving"]
    moving_node.SetName("Renamed")
    worker_cases.spin(lambda: widget.ui.applyList.item(1).text() == "Renamed", 5)
