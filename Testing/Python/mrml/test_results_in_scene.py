"""What belongs to a registration: its nodes and no others, its sides, its place in the subject hierarchy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from mrml_cases import add_label_map, add_segmentation, prepared
from VoxelMorphRegistrationLib.mrml import applying
from VoxelMorphRegistrationLib.mrml.frames import frame_of
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE, RUN_ATTRIBUTE, START_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.results import moved_since, results_of
from VoxelMorphRegistrationLib.mrml.table import write_results
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.writer import write_outputs
from VoxelMorphRegistrationLib.results.table import Row


@pytest.mark.parametrize("linear", ["inside", "separate"])
def test_nodes_of_a_run_are_found_from_its_transform(scene, linear):
    fixed_node, moving_node = cases.make_nodes(scene)
    labels = add_label_map(scene, moving_node)
    read = read_inputs(fixed_node, moving_node, moving_labels=labels)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    nodes = write_outputs(registration, read, Targets(linear=linear, inverse=None))
    table = write_results(nodes.grid_transform, [Row("Run", "model", text="none")])
    for transform in {nodes.transform, nodes.grid_transform}:
        found = results_of(transform)
        assert (found.fixed, found.moving) == (fixed_node, moving_node)
        assert (found.transform, found.grid_transform) == (nodes.transform, nodes.grid_transform)
        assert (found.volume, found.labels, found.jacobian) == (nodes.volume, nodes.labels, nodes.jacobian)
        assert (found.inverse, found.table) == (nodes.inverse, table)
        assert (found.fixed_side, found.moving_side) == ((), (labels,))
    written = (nodes.grid_transform, nodes.volume, nodes.labels, nodes.jacobian, nodes.inverse, table)
    assert {node.GetAttribute(RUN_ATTRIBUTE) for node in written} == {nodes.run}
    assert json.loads(nodes.grid_transform.GetAttribute(REPORT_ATTRIBUTE))["run"] == nodes.run
    scene.RemoveNode(nodes.volume)
    assert results_of(nodes.transform).volume is None
    assert results_of(None).transform is None and results_of(moving_node).transform is None


def test_output_that_a_later_run_left_out_is_no_result_of_it(scene):
    read, registration = prepared(scene)
    first = write_outputs(registration, read)
    write_results(first.transform, [Row("Run", "model", text="none")])
    second = write_outputs(registration, read, Targets(first.transform, False, None, first.jacobian))
    assert second.run != first.run
    found = results_of(second.transform)
    assert found.volume is None and found.table is None and found.inverse is None
    assert found.jacobian is first.jacobian
    # And one that another transform's run wrote over is that one's.
    third = write_outputs(registration, read, Targets(None, first.volume, None, first.jacobian))
    assert results_of(second.transform).jacobian is None
    assert results_of(third.transform).jacobian is first.jacobian


def test_inverse_that_is_computed_later_belongs_to_the_run(scene):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read, Targets(volume=False, jacobian=False))
    assert results_of(nodes.transform).inverse is None
    inverse = applying.inverse_transform_node(nodes.transform)
    assert results_of(nodes.transform).inverse is inverse


def test_results_are_found_in_a_scene_that_was_saved(scene, tmp_path):
    read, registration = prepared(scene)
    nodes = write_outputs(registration, read)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit(str(tmp_path / "scene.mrml"))
    other = slicer.vtkMRMLScene()
    other.SetURL(str(tmp_path / "scene.mrml"))
    other.Import()
    found = results_of(other.GetFirstNodeByName(nodes.transform.GetName()))
    assert found.run == nodes.run
    assert found.volume.GetName() == "Moving registered" and found.jacobian.GetName() == "Moving Jacobian"


# --- sides -------------------------------------------------------------------------------------------------------


def test_inputs_and_results_tell_their_side(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    given = {
        "fixed_labels": add_segmentation(scene, fixed_node, name="Fixed segments"),
        "moving_labels": add_label_map(scene, moving_node, "Moving labels"),
        "fixed_mask": add_label_map(scene, fixed_node, "Fixed mask"),
    }
    slicer_names = given["fixed_labels"].GetSegmentation()
    slicer_names.GetNthSegment(0).SetName("Label 3")
    # Nothing on it says what it was drawn on.
    given["fixed_labels"].SetNodeReferenceID(given["fixed_labels"].GetReferenceImageGeometryReferenceRole(), None)
    for side in ("fixed", "moving"):
        given[f"{side}_points"] = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{side} points")
        given[f"{side}_points"].AddControlPoint(1, 2, 3)
    colors = given["moving_labels"].GetDisplayNode().GetColorNode()
    slicer_names.GetNthSegment(0).SetName(colors.GetColorName(3))
    read = read_inputs(fixed_node, moving_node, **given)
    registration = cases.make_registration(read.fixed, read.moving, read.moving_labels.image)
    nodes = write_outputs(registration, read, Targets(inverse=None))
    unknown = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Somewhere")
    drawn_on_result = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn on the result")
    drawn_on_result.SetReferenceImageGeometryParameterFromVolumeNode(nodes.volume)
    for transform in (nodes.transform, nodes.inverse):
        for name, node in given.items():
            assert applying.side_of(transform, node) == name.split("_")[0], name
        assert applying.side_of(transform, fixed_node) == "fixed"
        assert applying.side_of(transform, moving_node) == "moving"
        for node in (nodes.volume, nodes.labels, nodes.jacobian, drawn_on_result):
            assert applying.side_of(transform, node) == "fixed"
        assert applying.side_of(transform, unknown) == ""
    # Another run of the same transform, without them: they are no longer known.
    read = read_inputs(fixed_node, moving_node)
    write_outputs(registration, read, Targets(nodes.transform, labels=False))
    assert applying.side_of(nodes.transform, given["fixed_points"]) == ""


# --- moved since ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_volumes_that_were_moved_after_the_registration_are_named(scene, parents):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", parents)
    read = read_inputs(fixed_node, moving_node)
    nodes = write_outputs(cases.make_registration(read.fixed, read.moving), read)
    assert moved_since(nodes.transform) == []
    applying.apply_transform(nodes.transform, [moving_node])
    assert moved_since(nodes.transform) == []
    applying.take_off([moving_node])
    former = fixed_node.GetTransformNodeID()
    cases.add_parent(scene, fixed_node, cases.affine(shift=(0, 0, 0.5)))
    assert moved_since(nodes.transform) == ["fixed"]
    cases.add_parent(scene, moving_node, cases.affine(cases.rotation(0, 0, 5)))
    assert moved_since(nodes.transform) == ["fixed", "moving"]
    fixed_node.SetAndObserveTransformNodeID(former)
    assert moved_since(nodes.transform) == ["moving"]
    # Under somebody's deformation.
    bend = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Bend")
    bend.SetAndObserveTransformFromParent(nodes.transform.GetTransformFromParent())
    fixed_node.SetAndObserveTransformNodeID(bend.GetID())
    assert moved_since(nodes.transform) == ["fixed", "moving"]
    assert moved_since(bend) == []


def test_start_that_was_given_is_kept_on_the_transform(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    initial = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Initial")
    matrix = cases.affine(cases.rotation(3, 4, 5), (1, 2, 3))
    initial.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    read = read_inputs(fixed_node, moving_node, initial_transform=initial)
    nodes = write_outputs(cases.make_registration(read.fixed, read.moving), read)
    assert np.allclose(json.loads(nodes.transform.GetAttribute(START_ATTRIBUTE)), np.linalg.inv(matrix))
    write_outputs(
        cases.make_registration(read.fixed, read.moving),
        replace(read, initial_transform=None),
        Targets(nodes.transform),
    )
    assert nodes.transform.GetAttribute(START_ATTRIBUTE) is None


# --- subject hierarchy -----------------------------------------------------------------------------------------------


def test_results_lie_in_the_study_of_the_fixed_volume(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    studies = []
    for name, node, modality in (("Doe", fixed_node, "CT"), ("Roe", moving_node, "MR")):
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), name)
        hierarchy.SetItemAttribute(patient, "DICOM.PatientName", name)
        studies.append(hierarchy.CreateStudyItem(patient, f"Study of {name}"))
        hierarchy.SetItemAttribute(studies[-1], "DICOM.StudyDate", "20260101")
        item = hierarchy.CreateItem(studies[-1], node)
        hierarchy.SetItemAttribute(item, "DICOM.Modality", modality)
        hierarchy.SetItemAttribute(item, "DICOM.FrameOfReferenceUID", f"1.2.{len(name)}.{modality}")
        hierarchy.SetItemUID(item, "DICOMInstanceUID", f"{modality}.1 {modality}.2")
    read = read_inputs(fixed_node, moving_node)
    registration = cases.make_registration(read.fixed, read.moving)
    nodes = write_outputs(registration, read, Targets(linear="separate", inverse=None))
    for node in (nodes.transform, nodes.grid_transform, nodes.volume, nodes.jacobian, nodes.inverse):
        item = hierarchy.GetItemByDataNode(node)
        assert hierarchy.GetItemParent(item) == studies[0]
        assert hierarchy.GetAttributeFromItemAncestor(item, "DICOM.PatientName") == "Doe"
        assert hierarchy.GetAttributeFromItemAncestor(item, "DICOM.StudyDate") == "20260101"
        assert hierarchy.GetItemAttribute(item, "DICOM.Modality") == "MR"
        assert hierarchy.GetItemAttribute(item, "DICOM.FrameOfReferenceUID") == "1.2.3.CT"
        assert hierarchy.GetItemAttribute(item, "DICOM.ReferencedInstanceUIDs") == "CT.1 CT.2 MR.1 MR.2"
    table = write_results(nodes.grid_transform, [Row("Run", "model", text="none")])
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(table)) == studies[0]
    # Where the user puts a result, it stays.
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(nodes.volume), studies[1])
    write_outputs(registration, read, Targets(nodes.grid_transform, nodes.volume, None, nodes.jacobian))
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(nodes.volume)) == studies[1]


def test_writing_that_fails_leaves_the_hierarchy_as_it_was(scene, monkeypatch):
    read, registration = prepared(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, read.fixed_node)
    count, nodes = hierarchy.GetNumberOfItems(), scene.GetNumberOfNodes()

    def broken(*_):
        raise RuntimeError("display is broken")

    monkeypatch.setattr("VoxelMorphRegistrationLib.mrml.display.show_as_jacobian", broken)
    with pytest.raises(RuntimeError, match="display is broken"):
        write_outputs(registration, read)
    assert (hierarchy.GetNumberOfItems(), scene.GetNumberOfNodes()) == (count, nodes)


def test_results_without_a_study_stay_in_the_scene(scene):
    read, registration = prepared(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.CreateItem(hierarchy.GetSceneItemID(), read.fixed_node)
    nodes = write_outputs(registration, read)
    item = hierarchy.GetItemByDataNode(nodes.volume)
    assert item == hierarchy.GetInvalidItemID() or hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID()


# --- frames ----------------------------------------------------------------------------------------------------------


def add_sequence(scene, count=3, name="Breathing"):
    """A sequence of volumes, its browser, and the proxy volume that shows one of them."""
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    grid = cases.MOVING_GRID
    for n in range(count):
        frame = cases.add_volume(cases.blobs(grid, n), grid, "frame")
        sequence.SetDataNodeAtValue(frame, str(0.5 * n))
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic.UpdateAllProxyNodes()
    return logic, browser, browser.GetProxyNode(sequence)


def test_result_of_a_frame_says_which_one_it_was(scene):
    logic, browser, proxy = add_sequence(scene)
    browser.SetSelectedItemNumber(1)
    logic.UpdateAllProxyNodes()
    assert frame_of(proxy) == "frame 2 of 3 (time 0.5 s)"
    fixed_node, other = cases.make_nodes(scene)
    assert frame_of(other) == ""
    read = read_inputs(fixed_node, proxy)
    nodes = write_outputs(cases.make_registration(read.fixed, read.moving), read)
    browser.SetSelectedItemNumber(2)
    logic.UpdateAllProxyNodes()
    assert nodes.volume.GetName() == f"{proxy.GetName()} frame 2 registered"
    assert nodes.transform.GetName() == f"{proxy.GetName()} frame 2 to Fixed"
    assert nodes.volume.GetAttribute("VoxelMorph.Frame") == "frame 2 of 3 (time 0.5 s)"
    report = json.loads(nodes.transform.GetAttribute(REPORT_ATTRIBUTE))
    assert report["inputs"]["frames"] == {"moving": "frame 2 of 3 (time 0.5 s)"}


def test_a_proxy_of_no_frame_says_nothing(scene):
    logic, browser, proxy = add_sequence(scene)
    browser.SetSelectedItemNumber(-1)
    assert browser.GetSelectedItemNumber() == -1 and frame_of(proxy) == ""
