"""Results of the frames of a sequence: what each is registered with and onto, and where its results are afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from frame_cases import GRID, SHIFTS, add_guide, segmentation
from standin_client import known_report
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml import sequences
from VoxelMorphRegistrationLib.mrml.frames import browser_of, frame_of, results_sequence
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.results import results_of
from VoxelMorphRegistrationLib.mrml.steps import finish
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node
from VoxelMorphRegistrationLib.mrml.writer import write_outputs

PARENT = cases.affine(cases.rotation(20, 10, -30), (5, 6, 7))


def register_frames(nodes, target, numbers):
    """(writer, {frame: known registration}), as the panel does it."""
    writer, made = sequences.SequenceWriter(nodes, target), {}
    for number in numbers:
        nodes.show(number)
        results = nodes.results
        given = nodes.guides.arguments(number)
        labels = {"moving_labels": given["movingLabels"]} if "movingLabels" in given else {}
        read = read_inputs(target, nodes.moving, **labels)
        known = cases.make_registration(read.fixed, read.moving, read.moving_labels.image if labels else None)
        known = replace(known, report=known_report(known.report, number))
        targets = Targets(
            results["transform"],
            results.get("volume", False),
            results["labels"] if "labels" in results and labels else False,
            results.get("jacobian", False),
            inverse=results.get("inverse", False),
        )
        outputs = write_outputs(known, read, targets)
        writer.keep(number, outputs)
        made[number] = known
    return writer, made


def hidden(scene) -> list[str]:
    nodes = (scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes()))
    return [node.GetName() for node in nodes if node.GetHideFromEditors() and node.IsA("vtkMRMLTransformableNode")]


@pytest.fixture
def fixed(scene):
    return cases.make_nodes(scene)[0]


def test_each_frame_has_its_own_results_in_the_browser_of_the_sequence(scene, fixed):
    sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    nodes = sequences.FrameNodes(sequence, proxy, ("volume", "jacobian", "inverse"))
    browser.SetSelectedItemNumber(0)
    writer, made = register_frames(nodes, fixed, (1, 2, 3))
    found = writer.finish({0: "Its voxels have one value."})
    nodes.remove()
    assert hidden(scene) == []
    assert (found.browser, found.moving, found.target) == (browser, proxy, fixed)
    assert (found.kept, found.count, found.failures) == ((1, 2, 3), 4, {0: "Its voxels have one value."})
    assert list(found.sequences) == ["transform", "volume", "jacobian", "inverse"]
    # The frame that was shown has no result: the first one that has is shown.
    assert browser.GetSelectedItemNumber() == 1 and found.report.largest_displacement_mm == 4.0
    for one in found.sequences.values():
        assert (one.GetIndexName(), one.GetIndexUnit(), one.GetNthIndexValue(0)) == ("time", "s", "0.5")
        assert one.GetNumberOfDataNodes() == 3
    names = {kind: one.GetName() for kind, one in found.sequences.items()}
    assert names == {
        "transform": "Breath to Fixed",
        "volume": "Breath registered",
        "jacobian": "Breath Jacobian",
        "inverse": "Fixed to Breath",
    }
    low = GRID.to_ras(np.array([[8.0, 9, 8], [12, 10, 9]]))
    for number in (3, 1, 2):
        browser.SetSelectedItemNumber(number)
        known = made[number]
        np.testing.assert_allclose(slicer.util.arrayFromVolume(found.volume), known.warped.array, atol=1e-4)
        np.testing.assert_allclose(slicer.util.arrayFromVolume(found.jacobian), known.jacobian.array, atol=1e-4)
        carried = cases.from_world(found.transform, low)
        back = cases.from_world(found.inverse, carried)
        np.testing.assert_allclose(back, low, atol=0.1)
    browser.SetSelectedItemNumber(0)
    assert found.volume.GetImageData() is None
    browser.SetSelectedItemNumber(2)
    seen = results_of(found.transform)
    assert (seen.fixed, seen.moving, seen.volume, seen.jacobian, seen.inverse) == (
        fixed,
        proxy,
        found.volume,
        found.jacobian,
        found.inverse,
    )
    back = found.inverse
    assert back.GetNodeReference(back.GetFixedNodeReferenceRole()) is proxy
    assert back.GetNodeReference(back.GetMovingNodeReferenceRole()) is fixed
    rows = [[found.table.GetCellText(n, c) for c in (0, found.table.GetNumberOfColumns() - 1)] for n in range(4)]
    assert rows[0] == ["frame 1 of 4 (time 0 s)", "Its voxels have one value."] and rows[2][1] == ""
    assert found.table.GetName() == "Breath to Fixed frames"


def test_what_is_shown_stays_where_the_frame_shown_has_a_result(scene, fixed):
    sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    browser.SetSelectedItemNumber(2)
    nodes = sequences.FrameNodes(sequence, proxy, ())
    found = register_frames(nodes, fixed, (0, 2))[0].finish({}, apply=True)
    assert browser.GetSelectedItemNumber() == 2 and found.report.largest_displacement_mm == 5.0
    assert proxy.GetParentTransformNode() is found.transform and (found.volume, found.inverse) == (None, None)
    column = found.table.GetNumberOfColumns() - 1
    assert [found.table.GetCellText(n, column) for n in range(4)] == ["", "not registered", "", "not registered"]


def test_a_sequence_without_a_browser_gets_one_at_its_first_result(scene, fixed):
    sequence, *_ = cases.add_sequence(scene, GRID, SHIFTS, browsed=False)
    nodes = sequences.FrameNodes(sequence, None, ("volume",))
    found = register_frames(nodes, fixed, (1, 3))[0].finish({})
    assert browser_of(sequence) == (found.browser, found.moving)
    assert found.browser.GetSelectedItemNumber() == 1 and found.browser.GetMasterSequenceNode() is sequence
    assert found.moving.GetClassName() == "vtkMRMLScalarVolumeNode"
    assert results_sequence(found.volume) is found.sequences["volume"]


def test_labels_of_each_frame_are_kept_apart_and_those_that_lack_them_have_none(scene, fixed):
    sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    organs = add_guide(browser, segmentation, "Organs", (0, 2))
    organs.CreateDefaultDisplayNodes()
    organs.GetDisplayNode().SetOpacity(0.3)
    nodes = sequences.FrameNodes(sequence, proxy, ("volume", "labels"), {"movingLabels": organs})
    assert nodes.results["labels"].GetClassName() == "vtkMRMLSegmentationNode"
    assert not nodes.results["labels"].GetDisplayVisibility()
    writer, made = register_frames(nodes, fixed, (0, 1, 2))
    found = writer.finish({})
    nodes.remove()
    assert found.sequences["labels"].GetNumberOfDataNodes() == 2
    shown = found.labels
    assert shown.GetDisplayVisibility() and shown.GetDisplayNode().GetOpacity() == pytest.approx(0.3)
    for number in (2, 0):
        browser.SetSelectedItemNumber(number)
        exported = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        ids = [shown.GetSegmentation().GetNthSegmentID(n) for n in range(2)]
        slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(shown, ids, exported, fixed)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(exported), made[number].warped_labels.array)
    browser.SetSelectedItemNumber(1)
    assert shown.GetSegmentation().GetNumberOfSegments() == 0
    column = found.table.GetNumberOfColumns() - 1
    assert found.table.GetCellText(1, column) == "The moving segmentation 'Organs' has no such frame."


def test_an_output_that_no_frame_has_is_none(scene, fixed):
    sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    organs = add_guide(browser, segmentation, "Organs", (3,))
    nodes = sequences.FrameNodes(sequence, proxy, ("labels",), {"movingLabels": organs})
    found = register_frames(nodes, fixed, (0, 1))[0].finish({})
    assert found.labels is None and list(found.sequences) == ["transform"]
    assert not any(node.GetName().startswith("Breath segm") for node in slicer.util.getNodesByClass("vtkMRMLNode"))


def test_what_was_kept_goes_without_a_trace(scene, fixed):
    sequence, _browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    before = cases.scene_state(scene)
    nodes = sequences.FrameNodes(sequence, proxy, ("volume", "jacobian"))
    writer, _ = register_frames(nodes, fixed, (0, 1))
    writer.remove()
    nodes.remove()
    kinds = [state[1] for state in cases.scene_state(scene)]
    assert [kind for kind in kinds if "Color" not in kind] == [s[1] for s in before if "Color" not in s[1]]


def test_a_frame_lies_where_the_node_that_shows_it_lies_but_not_under_its_own_result(scene, fixed):
    sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    parent = cases.add_parent(scene, proxy, PARENT)
    nodes = sequences.FrameNodes(sequence, proxy, ("volume",))
    assert nodes.moving.GetParentTransformNode() is parent and not nodes.moving.GetSaveWithScene()
    nodes.show(2)
    assert frame_of(nodes.moving) == "frame 3 of 4 (time 1 s)"
    frame = sequence.GetNthDataNode(2)
    assert nodes.moving.GetImageData() is frame.GetImageData()
    found = register_frames(nodes, fixed, (0, 1, 2, 3))[0].finish({}, apply=True)
    nodes.remove()
    assert proxy.GetParentTransformNode() is found.transform
    again = sequences.FrameNodes(sequence, proxy, ())
    assert again.moving.GetParentTransformNode() is parent
    sequences.check_parent(proxy)
    target = finish(sequences.making_target(sequence, proxy, sequences.MEAN, 0))
    assert target.GetParentTransformNode() is parent


def test_a_transform_that_changes_with_the_frames_is_refused_wherever_it_is_above(scene):
    sequence, browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    sequences.check_parent(None)
    sequences.check_parent(proxy)
    below = cases.add_parent(scene, proxy, PARENT)
    sequences.check_parent(proxy)
    moves = add_guide(browser, lambda number: slicer.vtkMRMLLinearTransformNode(), "Moves")
    below.SetAndObserveTransformNodeID(moves.GetID())
    with pytest.raises(InputError, match="'Breath' is under 'Moves', which changes with the frames"):
        sequences.check_parent(proxy)


@pytest.mark.parametrize("onto", [sequences.FRAME, sequences.MEAN])
def test_the_target_is_a_copy_of_a_frame_or_the_mean(scene, onto):
    sequence, _browser, proxy = cases.add_sequence(scene, GRID, SHIFTS)
    proxy.CreateDefaultDisplayNodes()
    proxy.GetDisplayNode().SetAutoWindowLevel(False)
    proxy.GetDisplayNode().SetWindowLevel(321.0, 123.0)
    node = finish(sequences.making_target(sequence, proxy, onto, 2))
    arrays = [slicer.util.arrayFromVolume(frame) for frame in sequences.volumes_of(sequence)]
    expected = arrays[2] if onto == sequences.FRAME else np.mean(arrays, axis=0)
    found = slicer.util.arrayFromVolume(node)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not np.shares_memory(found, arrays[2])
    assert node.GetName() == ("Breath frame 3" if onto == sequences.FRAME else "Breath mean")
    assert (node.GetDescription() or "") == ("frame 3 of 4 (time 1 s)" if onto == sequences.FRAME else "")
    assert image_from_node(node).grid.same_as(GRID)
    assert (node.GetDisplayNode().GetWindow(), node.GetDisplayNode().GetLevel()) == (321.0, 123.0)
    sequence.GetNthDataNode(2).SetAndObserveImageData(None)
    with pytest.raises(InputError, match="Frame 3 of"):
        finish(sequences.making_target(sequence, proxy, onto, 2))


def test_warnings_are_taken_from_the_report_and_from_its_node(scene):
    read, known = cases.prepared(scene)
    known = replace(known, report=replace(known.report, warnings=["Look at it."]))
    outputs = write_outputs(known, read, Targets(volume=False, jacobian=False))
    assert "Look at it." in outputs.transform.GetAttribute(REPORT_ATTRIBUTE)
    plain = sequences.without_warnings(outputs)
    assert plain.report.warnings == [] and "Look at it." not in outputs.transform.GetAttribute(REPORT_ATTRIBUTE)
    assert plain.report.largest_displacement_mm == known.report.largest_displacement_mm
