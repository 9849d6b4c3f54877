"""Label maps and segmentations do not hide what a check shows, and are filled again afterwards."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from view_cases import GRID, Views, box_labels, flat_volume
from VoxelMorphRegistrationLib.mrml import check_views, display, view_state
from VoxelMorphRegistrationLib.mrml.labels import Label


@pytest.fixture
def views(scene) -> Views:
    return Views(scene)


def drawn_segmentation(scene, name="Drawn", start=5):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    label_map = box_labels("source", start)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, node)
    scene.RemoveNode(label_map)
    node.CreateDefaultDisplayNodes()
    return node


def test_label_layer_is_an_outline_while_a_check_is_shown(scene, views):
    fixed, warped = flat_volume("Fixed", 60), flat_volume("Warped", 180)
    array = np.zeros(GRID.shape, np.uint8)
    array[:, 5:35, 5:35] = 3
    labels = cases.add_volume(array, GRID, "Labels", "vtkMRMLLabelMapVolumeNode")
    display.show_as_labels(labels, {3: Label("Liver", (0.9, 0.2, 0.1))})
    for view in view_state.composite_nodes(scene):
        view.SetBackgroundVolumeID(fixed.GetID())
        view.SetLabelVolumeID(labels.GetID())
        view.SetLabelOpacity(1.0)
    views.fit()
    state = view_state.ViewState.of(scene)
    filled = views.picture()[100, 100]
    assert np.ptp(filled) > 20
    check_views.show_pair(fixed, warped, 1.0)
    # The picture is seen within the label, and the label's border still is.
    assert np.ptp(views.picture()[100, 100]) == 0 and views.middle() == 180
    assert (np.ptp(views.picture(), axis=-1) > 20).any()
    state.restore()
    assert np.array_equal(views.picture()[100, 100], filled)


def test_segments_are_outlines_while_a_check_is_shown(scene, views):
    fixed, warped = flat_volume("Fixed", 60), flat_volume("Warped", 180)
    filled, outlined, hidden = (drawn_segmentation(scene, name) for name in ("Filled", "Outlined", "Hidden"))
    outlined.GetDisplayNode().SetVisibility2DFill(False)
    filled.GetDisplayNode().SetVisibility2DOutline(False)
    hidden.GetDisplayNode().SetVisibility(False)
    state = view_state.ViewState.of(scene)
    check_views.show_pair(fixed, warped)
    later = drawn_segmentation(scene, "Result of a second run")
    check_views.show_pair(fixed, warped)
    for node in (filled, outlined, hidden, later):
        shown = node.GetDisplayNode()
        assert not shown.GetVisibility2DFill() and shown.GetVisibility2DOutline()
    assert not hidden.GetDisplayNode().GetVisibility() and filled.GetDisplayNode().GetVisibility()
    state.restore()
    assert filled.GetDisplayNode().GetVisibility2DFill() and not filled.GetDisplayNode().GetVisibility2DOutline()
    assert not outlined.GetDisplayNode().GetVisibility2DFill()
    assert later.GetDisplayNode().GetVisibility2DFill() and later.GetDisplayNode().GetVisibility()
    assert not hidden.GetDisplayNode().GetVisibility()


def test_outlines_in_one_colour_and_quiet_segments_go_together(scene, views):
    fixed, warped = flat_volume("Fixed", 60), flat_volume("Warped", 180)
    node = drawn_segmentation(scene)
    shown = node.GetDisplayNode()
    state = view_state.ViewState.of(scene)
    for steps in (("outline", "check"), ("check", "outline")):
        for step in steps:
            if step == "outline":
                check_views.show_outlines({"fixed": node})
            else:
                check_views.show_pair(fixed, warped)
        check_views.hide_outlines(scene)
        # The check is still shown.
        assert not shown.GetVisibility2DFill() and shown.GetVisibility2DOutline()
        state.restore()
        assert shown.GetVisibility2DFill()


def test_result_of_an_outlined_source_comes_up_as_the_source_was(scene, views):
    fixed, warped = flat_volume("Fixed", 60), flat_volume("Warped", 180)
    source, result = drawn_segmentation(scene), drawn_segmentation(scene, "Result")
    source.GetDisplayNode().SetOpacity2DFill(0.4)
    check_views.show_pair(fixed, warped)
    check_views.show_outlines({"moving": source})
    display.show_segments_like(result, source)
    shown = result.GetDisplayNode()
    assert shown.GetVisibility2DFill() and abs(shown.GetOpacity2DFill() - 0.4) < 1e-6
    assert not shown.GetAttribute(view_state.OUTLINE_ATTRIBUTE) and not shown.GetAttribute(view_state.CHECK_ATTRIBUTE)
