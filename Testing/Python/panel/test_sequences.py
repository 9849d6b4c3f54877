"""4D: all frames of a sequence registered from the panel and the console, and their results as sequences."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import panel_cases as press
import qt
import slicer
import worker_cases
from frame_cases import GRID, SHIFTS
from VoxelMorphRegistrationLib.errors import Cancelled, InputError, VoxelMorphError
from VoxelMorphRegistrationLib.mrml.frames import browser_of, results_sequence
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.results import results_of
from VoxelMorphRegistrationLib.panel.frames import FRAMES

ONTO_FIXED, ONTO_FRAME, ONTO_MEAN = [*FRAMES][1:]


@pytest.fixture
def breath(swift_panel, scene):
    """The panel with a sequence of four frames as its moving volume: (widget, sequence, browser, proxy)."""
    widget, *_ = swift_panel
    sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    worker_cases.spin(lambda: not widget._nodesTimer.active)
    widget._parameterNode.movingVolume = proxy
    return widget, sequence, browser, proxy


def leftovers(scene) -> list[str]:
    """Hidden volumes and transforms."""
    nodes = (scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes()))
    kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLTransformNode")
    return [node.GetName() for node in nodes if node.GetHideFromEditors() and node.GetClassName() in kinds]


def test_row_is_there_for_sequences_only(breath):
    widget, sequence, _browser, proxy = breath
    assert not widget.ui.framesComboBox.isHidden()
    widget._parameterNode.movingVolume = slicer.util.getNode("Moving")
    assert widget.ui.framesComboBox.isHidden()
    widget._parameterNode.movingVolume = proxy
    for frame in range(3):
        sequence.RemoveDataNodeAtValue(f"{0.5 * (frame + 1):g}")
    widget.updateFromParameterNode()
    assert widget.ui.framesComboBox.isHidden()


def test_all_frames_onto_the_fixed_volume_give_sequences_in_one_browser(breath, standin, scene):
    widget, sequence, browser, proxy = breath
    parameters = widget._parameterNode
    parameters.frames, parameters.wantInverse = ONTO_FIXED, True
    seen = []
    forward = widget._register._progressed
    widget._register._progressed = lambda *values: (seen.append(values[0]), forward(*values))
    press.press_and_wait(widget)
    assert widget.ui.statusLabel.text == "4 of 4 frames registered"
    assert {text.split(":")[0] for text in seen} == {f"Frame {n} of 4" for n in (1, 2, 3, 4)}
    fixed = slicer.util.getNode("Fixed")
    shown = (parameters.outputTransform, parameters.outputVolume, parameters.outputJacobian, parameters.outputInverse)
    assert all(browser.IsProxyNode(node.GetID()) for node in shown)
    assert {results_sequence(node).GetNumberOfDataNodes() for node in shown} == {4}
    # Each frame's own result, whichever is looked at.
    for number in (3, 1):
        browser.SetSelectedItemNumber(number)
        job = standin.jobs[number]
        made = cases.make_registration(job.fixed, job.moving)
        assert slicer.util.arrayFromVolume(parameters.outputVolume) == pytest.approx(made.warped.array, abs=1e-4)
        points = fixed_points(fixed)
        carried = made.field.transform_points(points) @ made.linear[:3, :3].T + made.linear[:3, 3]
        assert cases.from_world(parameters.outputTransform, points) == pytest.approx(carried, abs=0.02)
        found = results_of(parameters.outputTransform)
        assert (found.fixed, found.moving, found.volume) == (fixed, proxy, parameters.outputVolume)
        assert f"frame {number + 1} of 4" in parameters.outputTransform.GetAttribute(REPORT_ATTRIBUTE)
    assert leftovers(scene) == []
    table = next(n for n in slicer.util.getNodesByClass("vtkMRMLTableNode") if n.GetName().endswith("frames"))
    assert table.GetTable().GetNumberOfRows() == 4 and sequence.GetNumberOfDataNodes() == 4


def fixed_points(node) -> np.ndarray:
    low = np.zeros(6)
    node.GetRASBounds(low)
    middle = (low[::2] + low[1::2]) / 2
    return middle + np.array([[0.0, 0, 0], [5, -4, 3], [-6, 2, 4]])


def test_browsing_the_results_shows_their_numbers_and_keeps_the_views(breath, standin, scene):
    widget, _sequence, browser, _proxy = breath
    press.add_slice_views(scene)
    widget._parameterNode.frames = ONTO_FIXED
    press.press_and_wait(widget)
    before = widget.ui.showFadeButton.checked
    texts = set()
    for number in range(4):
        browser.SetSelectedItemNumber(number)
        worker_cases.spin(lambda: not widget._frames._timer.active)
        texts.add(table_text(widget))
        # What is said holds for this frame alone.
        assert f"This is the result of frame {number + 1} of 4" in widget.ui.verdictLabel.text
    assert before and widget.ui.showFadeButton.checked
    # The stand-in's reports differ in the largest displacement.
    assert len(texts) == 4


def table_text(widget) -> str:
    table = widget.ui.resultsTable
    items = (table.item(row, column) for row in range(table.rowCount) for column in range(table.columnCount))
    return " ".join(item.text() for item in items if item is not None)


@pytest.mark.parametrize("onto", [ONTO_FRAME, ONTO_MEAN])
def test_frames_onto_one_of_them_or_their_mean(breath, standin, scene, onto):
    widget, sequence, browser, proxy = breath
    parent = cases.add_parent(scene, proxy, cases.affine(cases.rotation(20, 10, -30), (5, 6, 7)))
    browser.SetSelectedItemNumber(2)
    parameters = widget._parameterNode
    parameters.fixedVolume, parameters.frames = None, onto
    assert widget.ui.registerButton.enabled and not widget.ui.fixedVolumeSelector.enabled
    press.press_and_wait(widget)
    target = parameters.fixedVolume
    arrays = [slicer.util.arrayFromVolume(sequence.GetNthDataNode(n)) for n in range(4)]
    expected = arrays[2] if onto == ONTO_FRAME else np.mean(arrays, axis=0)
    assert slicer.util.arrayFromVolume(target) == pytest.approx(expected, abs=1e-3)
    assert target.GetParentTransformNode() is parent
    assert [np.allclose(job.fixed.array, expected, atol=1e-3) for job in standin.jobs] == [True] * 4
    assert standin.jobs[0].moving.grid.same_as(GRID.transformed(parent_matrix(parent)))
    off = [job.settings.refinement == "coarse" and job.settings.model == "none" for job in standin.jobs]
    assert off == [False, False, onto == ONTO_FRAME, False]
    assert parameters.outputVolume.GetParentTransformNode() is parent


def parent_matrix(node) -> np.ndarray:
    return slicer.util.arrayFromTransformMatrix(node)


def test_cancel_keeps_the_finished_frames_and_says_so(breath, standin, scene):
    widget, _sequence, browser, _proxy = breath
    parameters = widget._parameterNode
    parameters.frames = ONTO_FIXED
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: len(standin.jobs) == 3)
    widget.ui.registerButton.click()
    press.wait(widget)
    assert widget.ui.statusLabel.text == "2 of 4 frames registered"
    assert results_sequence(parameters.outputTransform).GetNumberOfDataNodes() == 2
    # A frame without a result shows none, not another frame's.
    browser.SetSelectedItemNumber(3)
    worker_cases.spin(lambda: not widget._frames._timer.active)
    assert parameters.outputVolume.GetImageData() is None
    assert widget.ui.resultsTable.rowCount == 0 and widget.ui.verdictLabel.text == ""
    browser.SetSelectedItemNumber(1)
    worker_cases.spin(lambda: not widget._frames._timer.active)
    assert widget.ui.resultsTable.rowCount > 0
    assert leftovers(scene) == []


def test_cancel_before_the_first_frame_is_finished_leaves_nothing(breath, scene):
    widget, *_ = breath
    widget._parameterNode.frames = ONTO_MEAN
    before = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}
    widget.ui.registerButton.click()
    widget.ui.registerButton.click()
    press.wait(widget)
    assert widget.ui.statusLabel.text == "Cancelled. Nothing was changed."
    assert {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())} == before


def test_frame_that_fails_is_told_and_the_others_go_on(breath, standin):
    widget, *_ = breath
    widget._parameterNode.frames = ONTO_FIXED
    standin.failing = [None, InputError("Its voxels have one value.")]
    press.press_and_wait(widget)
    assert widget.ui.statusLabel.text == "3 of 4 frames registered; frame 2: Its voxels have one value."
    standin.failing = [None, VoxelMorphError("The worker died.")]
    press.press_and_wait(widget)
    assert widget.ui.statusLabel.text == "1 of 4 frames registered; frame 2: The worker died."


def test_many_frames_that_fail_end_with_one_error(swift_panel, scene, standin, module):
    sequence, *_ = cases.add_sequence(scene, GRID, [(0.0, 0.0, 0.0)] * 60, browsed=False)
    for n in range(60):
        sequence.GetNthDataNode(n).SetAndObserveImageData(None)
    with pytest.raises(InputError, match="is empty"):
        module.VoxelMorphRegistrationLogic().registerSequence(sequence, slicer.util.getNode("Fixed"))
    assert leftovers(scene) == [] and standin.jobs == []


@pytest.mark.parametrize("gone", ["scene", "fixed", "sequence"])
def test_what_is_removed_during_a_run_ends_it(breath, standin, scene, gone):
    widget, sequence, *_ = breath
    widget._parameterNode.frames = ONTO_FIXED
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: len(standin.jobs) == 2)
    if gone == "scene":
        scene.Clear(0)
    else:
        scene.RemoveNode(sequence if gone == "sequence" else slicer.util.getNode("Fixed"))
    press.wait(widget)
    qt.application.processEvents()
    assert leftovers(scene) == []
    expected = {"scene": "", "fixed": "removed", "sequence": "removed"}[gone]
    assert expected in widget.ui.statusLabel.text
    assert len(standin.jobs) == 2


def test_single_run_after_it_does_not_write_into_the_sequences(breath, standin):
    widget, *_ = breath
    parameters = widget._parameterNode
    parameters.frames = ONTO_FIXED
    press.press_and_wait(widget)
    transform = parameters.outputTransform
    parameters.frames = next(iter(FRAMES))
    press.press_and_wait(widget)
    assert parameters.outputTransform is not transform and results_sequence(parameters.outputTransform) is None


def test_result_of_a_frame_is_improved_apart(breath, standin, scene):
    """Pins and 4D: the frame shown is improved into a result of its own."""
    widget, *_ = breath
    parameters = widget._parameterNode
    parameters.frames = ONTO_FIXED
    press.press_and_wait(widget)
    former = parameters.outputTransform
    press.choose_landmarks(scene, parameters)
    widget.ui.improveButton.click()
    press.wait(widget)
    assert len(slicer.util.getNodesByClass("vtkMRMLTransformNode")) == 2
    assert len(standin.jobs) == 5 and parameters.outputTransform is not former
    widget.ui.undoButton.click()
    assert parameters.outputTransform is former


# --- the console ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("browsed", [True, False])
def test_console_registers_a_sequence_with_or_without_a_browser(module, scene, standin, browsed):
    cases.make_nodes(scene)
    sequence, *_ = cases.add_sequence(scene, GRID, SHIFTS, browsed=browsed)
    told = []
    logic = module.VoxelMorphRegistrationLogic()
    result = logic.registerSequence(
        sequence, onto=1, wantJacobian=False, applyToMoving=True, progress=lambda *values: told.append(values)
    )
    assert result.kept == (0, 1, 2, 3) and set(result.sequences) == {"transform", "volume"}
    assert browser_of(sequence) == (result.browser, result.moving)
    assert result.moving.GetParentTransformNode() is result.transform
    assert result.target.GetName() == "Breath frame 2" and told
    with pytest.raises(Cancelled):
        logic.registerSequence(sequence, onto=1, progress=lambda *_: False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "No fixed volume"),
        ({"onto": 4}, "frames 0 to 3"),
        ({"onto": "median"}, "onto is 'median'"),
        ({"onto": True}, "onto is True"),
        ({"fixedNode": "Fixed", "onto": "mean"}, "Leave one of the two out"),
    ],
)
def test_console_refuses_what_it_cannot_do(module, scene, standin, arguments, sentence):
    cases.make_nodes(scene)
    sequence, *_ = cases.add_sequence(scene, GRID, SHIFTS)
    before = cases.scene_state(scene)
    with pytest.raises(InputError, match=sentence):
        module.VoxelMorphRegistrationLogic().registerSequence(sequence, **arguments)
    assert cases.scene_state(scene) == before


def test_mean_of_frames_on_other_grids_is_refused(module, scene, standin):
    sequence, *_ = cases.add_sequence(scene, GRID, SHIFTS)
    sequence.GetNthDataNode(2).SetSpacing(1, 1, 1)
    with pytest.raises(InputError, match="Frame 3 of 'Breath' has another grid"):
        module.VoxelMorphRegistrationLogic().registerSequence(sequence, onto="mean")
    with pytest.raises(InputError, match="no sequence"):
        module.VoxelMorphRegistrationLogic().registerSequence(slicer.util.getNode("Breath browser"), onto="mean")


def test_frames_under_a_transform_that_changes_with_them_are_refused(module, scene, standin):
    _sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    moves = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Moves")
    moves.SetDataNodeAtValue(slicer.vtkMRMLTransformNode(), "0")
    browser.AddSynchronizedSequenceNode(moves)
    parent = browser.GetProxyNode(moves) or browser.AddProxyNode(slicer.vtkMRMLTransformNode(), moves, True)
    proxy.SetAndObserveTransformNodeID(parent.GetID())
    with pytest.raises(InputError, match="changes with the frames"):
        module.VoxelMorphRegistrationLogic().registerSequence(_sequence, onto="mean")
