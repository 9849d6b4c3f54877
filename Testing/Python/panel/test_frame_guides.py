"""4D with guides that change with the frames: segmentations, landmarks, masks, further volumes, expected errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mrml_cases as cases
import panel_cases as press
import slicer
import worker_cases
from frame_cases import GRID, POINTS, SHIFTS, add_guide, block, label_map, points, segmentation, t2
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml.frames import results_sequence
from VoxelMorphRegistrationLib.mrml.results import results_of
from VoxelMorphRegistrationLib.panel.frames import FRAMES
from VoxelMorphRegistrationLib.trust.error_map import ErrorMap

ONTO_FIXED, ONTO_FRAME, ONTO_MEAN = [*FRAMES][1:]


@pytest.fixture
def breath(swift_panel, scene):
    """The panel with a sequence of four frames, to be registered onto the fixed volume: (widget, browser)."""
    widget, *_ = swift_panel
    _sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    worker_cases.spin(lambda: not widget._nodesTimer.active)
    widget._parameterNode.movingVolume = proxy
    widget._parameterNode.frames = ONTO_FIXED
    return widget, browser


def leftovers(scene) -> list[str]:
    nodes = (scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes()))
    return [node.GetName() for node in nodes if node.GetHideFromEditors() and node.IsA("vtkMRMLTransformableNode")]


def fixed_segments(name: str = "Segments"):
    return cases.add_segmentation(slicer.mrmlScene, slicer.util.getNode("Fixed"), ("Lung", "Heart"), name)


@pytest.mark.parametrize("make", [segmentation, label_map])
def test_each_frame_is_measured_with_its_own_labels_and_they_are_carried_along(breath, standin, scene, make):
    widget, browser = breath
    parameters = widget._parameterNode
    parameters.movingLabels = add_guide(browser, make, "Organs")
    if make is segmentation:
        parameters.fixedLabels = fixed_segments()
    press.press_and_wait(widget)
    assert widget.ui.statusLabel.text == "4 of 4 frames registered"
    for number, job in enumerate(standin.jobs):
        np.testing.assert_array_equal(job.keywords["moving_labels"].array, block(number))
    shown = parameters.outputLabels
    assert shown.GetClassName() == parameters.movingLabels.GetClassName()
    assert results_sequence(shown).GetNumberOfDataNodes() == 4 and browser.IsProxyNode(shown.GetID())
    for number in (2, 0, 3):
        browser.SetSelectedItemNumber(number)
        job = standin.jobs[number]
        made = cases.make_registration(job.fixed, job.moving, job.keywords["moving_labels"])
        assert made.warped_labels.array.any()
        np.testing.assert_array_equal(array_of(shown), made.warped_labels.array)
    if make is segmentation:
        names = [shown.GetSegmentation().GetNthSegment(n).GetName() for n in range(2)]
        assert names == ["Lung", "Heart"] and shown.GetDisplayVisibility()
    assert results_of(parameters.outputTransform).labels is shown
    assert results_of(parameters.outputTransform).moving_side == (parameters.movingLabels,)
    assert leftovers(scene) == []


def array_of(labels) -> np.ndarray:
    """On the grid of the fixed volume, as Slicer exports it."""
    if labels.IsA("vtkMRMLLabelMapVolumeNode"):
        return slicer.util.arrayFromVolume(labels)
    scene = slicer.mrmlScene
    exported = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    ids = [labels.GetSegmentation().GetNthSegmentID(n) for n in range(labels.GetSegmentation().GetNumberOfSegments())]
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportSegmentsToLabelmapNode(labels, ids, exported, slicer.util.getNode("Fixed"))
    found = slicer.util.arrayFromVolume(exported).copy()
    scene.RemoveNode(exported)
    return found


def test_frames_without_a_guide_go_without_it_and_say_so(breath, standin, scene):
    widget, browser = breath
    parameters = widget._parameterNode
    parameters.fixedLabels = fixed_segments()
    parameters.movingLabels = add_guide(browser, segmentation, "Organs", (0, 2))
    parameters.movingPoints = add_guide(browser, points, "Carina", (1, 2))
    parameters.fixedPoints = scene.AddNode(points(0))
    parameters.labelWeight = 2.0
    press.press_and_wait(widget)
    given = [job.keywords for job in standin.jobs]
    found = [(one["moving_labels"] is not None, one["moving_points"] is not None) for one in given]
    assert found == [(True, False), (False, True), (True, True), (False, False)]
    assert [job.settings.label_weight for job in standin.jobs] == [2.0, 0.0, 2.0, 0.0]
    assert [job.keywords["fixed_points"] is not None for job in standin.jobs] == [False, True, True, False]
    np.testing.assert_allclose(standin.jobs[2].keywords["moving_points"], POINTS + 2)
    assert "moving segmentation 'Organs' and the moving landmarks 'Carina' have no" in widget.ui.logText.toPlainText()
    table = next(n for n in slicer.util.getNodesByClass("vtkMRMLTableNode") if n.GetName().endswith("frames"))
    notes = [table.GetCellText(n, table.GetColumnIndex("Note")) for n in range(4)]
    assert notes[0] == "The moving landmarks 'Carina' has no such frame." and notes[2] == ""
    assert table.GetColumnIndex("Dice after") > 0
    assert results_sequence(parameters.outputLabels).GetNumberOfDataNodes() == 2
    browser.SetSelectedItemNumber(1)
    assert parameters.outputLabels.GetSegmentation().GetNumberOfSegments() == 0


def test_masks_and_further_volumes_follow_the_frames_too(breath, standin, scene):
    widget, browser = breath
    parameters = widget._parameterNode
    parent = cases.add_parent(scene, parameters.movingVolume, cases.affine(cases.rotation(20, 10, -30), (5, 6, 7)))
    for name, make, frames in (("movingMask", label_map, (0, 1, 2, 3)), ("furtherMoving1", t2, (0, 1, 3))):
        node = add_guide(browser, make, name, frames)
        node.SetAndObserveTransformNodeID(parent.GetID())
        setattr(parameters, name, node)
    parameters.furtherFixed1 = cases.add_volume(cases.blobs(GRID, 9), GRID, "T2")
    parameters.furtherWeight1 = 3.0
    press.press_and_wait(widget)
    tilted = GRID.transformed(slicer.util.arrayFromTransformMatrix(parent))
    for number, job in enumerate(standin.jobs):
        np.testing.assert_array_equal(job.keywords["moving_mask"].array, block(number) > 0)
        assert job.keywords["moving_mask"].grid.same_as(tilted)
        if number == 2:
            assert isinstance(job.moving, Image) and job.settings.channel_weights == (1.0,)
            continue
        assert job.settings.channel_weights == (1.0, 3.0) and job.moving[1].grid.same_as(tilted)
        np.testing.assert_allclose(job.moving[1].array, cases.blobs(GRID, 5 + number))
    assert leftovers(scene) == []


def test_onto_a_frame_its_own_guides_are_the_fixed_ones(breath, standin, scene):
    widget, browser = breath
    parameters = widget._parameterNode
    carina = add_guide(browser, points, "Carina")
    t2_node = add_guide(browser, t2, "T2")
    browser.SetSelectedItemNumber(2)
    parameters.fixedPoints = parameters.movingPoints = carina
    parameters.furtherFixed1 = parameters.furtherMoving1 = t2_node
    assert not widget.ui.registerButton.enabled
    parameters.frames = ONTO_FRAME
    assert widget.ui.registerButton.enabled, widget.ui.hintLabel.text
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: len(standin.jobs) == 2)
    # Browsing meanwhile changes what the nodes show, not what is registered.
    browser.SetSelectedItemNumber(0)
    press.wait(widget)
    assert widget.ui.statusLabel.text == "4 of 4 frames registered"
    for number, job in enumerate(standin.jobs):
        np.testing.assert_allclose(job.keywords["fixed_points"], POINTS + 2)
        np.testing.assert_allclose(job.keywords["moving_points"], POINTS + number)
        np.testing.assert_allclose(job.fixed[1].array, cases.blobs(GRID, 7))


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (ONTO_FIXED, "The moving segmentation 'Alone' belongs to one frame"),
        (ONTO_MEAN, "The moving segmentation 'Alone' belongs to one frame"),
    ],
)
def test_a_guide_of_one_frame_is_refused_before_the_run(breath, standin, frames, sentence):
    widget, _browser = breath
    widget._parameterNode.movingLabels = fixed_segments("Alone")
    widget._parameterNode.frames = frames
    assert not widget.ui.registerButton.enabled and sentence in widget.ui.hintLabel.text
    widget._parameterNode.frames = next(iter(FRAMES))
    assert widget.ui.registerButton.enabled


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"onto": "mean", "movingMask": "Alone"}, "The moving mask 'Alone' belongs to one frame"),
        ({"onto": 1, "fixedPoints": "Late"}, "The fixed landmarks 'Late' has nothing for frame 2 of 4"),
        ({"onto": 1, "movingPoints": "Other"}, "an item for none of the frames: the index values of 'Other'"),
    ],
)
def test_console_refuses_guides_that_do_not_go_with_the_frames(breath, module, standin, scene, arguments, sentence):
    _widget, browser = breath
    fixed_segments("Alone")
    add_guide(browser, points, "Carina")
    add_guide(browser, points, "Late", (3,))
    other = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Other")
    other.SetDataNodeAtValue(points(0), "77")
    given = {
        name: slicer.util.getFirstNodeByName(value) if isinstance(value, str) and value != "mean" else value
        for name, value in arguments.items()
    }
    given = {name: {"Other": other}.get(arguments[name], node) for name, node in given.items()}
    before = cases.scene_state(scene)
    sequence = slicer.util.getFirstNodeByClassByName("vtkMRMLSequenceNode", "Breath")
    with pytest.raises(InputError, match=sentence):
        module.VoxelMorphRegistrationLogic().registerSequence(sequence, **given)
    assert cases.scene_state(scene) == before and standin.jobs == []


def test_console_takes_sequences_of_guides_without_a_browser(module, scene, standin):
    cases.make_nodes(scene)
    sequence, *_ = cases.add_sequence(scene, GRID, SHIFTS, browsed=False)
    labels = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Organs")
    for number in range(4):
        labels.SetDataNodeAtValue(label_map(number), f"{0.5 * number:g}")
    logic = module.VoxelMorphRegistrationLogic()
    found = logic.registerSequence(sequence, slicer.util.getNode("Fixed"), movingLabels=labels)
    assert set(found.sequences) == {"transform", "volume", "labels", "jacobian"}
    np.testing.assert_array_equal(standin.jobs[3].keywords["moving_labels"].array, block(3))
    found = logic.registerSequence(sequence, onto="mean", movingLabels=labels, wantLabels=False)
    assert set(found.sequences) == {"transform", "volume", "jacobian"} and found.labels is None
    with pytest.raises(TypeError, match="no argument 'fixedLabel'"):
        logic.registerSequence(sequence, onto="mean", fixedLabel=labels)
    assert leftovers(scene) == []


@pytest.mark.parametrize("frames", [ONTO_FIXED, ONTO_FRAME])
def test_each_frame_gets_its_map_of_the_expected_error_where_one_is_wanted(breath, standin, scene, monkeypatch, frames):
    widget, browser = breath
    parameters = widget._parameterNode
    make, made = cases.make_registration, []

    def with_map(fixed, moving, *others):
        wanted = standin.jobs[-1].settings.expected_error
        made.append(wanted)
        bound = Image(np.full(fixed.grid.shape, float(len(made)), np.float32), fixed.grid)
        return replace(
            make(fixed, moving, *others), expected_error=None if wanted == "off" else ErrorMap(bound, wanted)
        )

    monkeypatch.setattr(cases, "make_registration", with_map)
    parameters.frames, parameters.expectedError = frames, "quick"
    browser.SetSelectedItemNumber(1)
    press.press_and_wait(widget)
    assert made == ["quick", "off" if frames == ONTO_FRAME else "quick", "quick", "quick"]
    # Onto itself no error is to be found.
    assert (results_of(parameters.outputTransform).expected_error is None) == (frames == ONTO_FRAME)
    browser.SetSelectedItemNumber(2)
    found = results_of(parameters.outputTransform).expected_error
    assert results_sequence(found).GetNumberOfDataNodes() == (3 if frames == ONTO_FRAME else 4)
    assert (slicer.util.arrayFromVolume(found) == 3).all() and not found.GetDisplayNode().GetAutoWindowLevel()
    worker_cases.spin(lambda: not widget._frames._timer.active)
    assert widget.ui.showErrorButton.enabled
    assert leftovers(scene) == []
