"""The expected error in the panel: shown with a line and a band, and where it is largest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mrml_cases
import panel_cases as press
import slicer
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml import display, error_map
from VoxelMorphRegistrationLib.mrml.results import results_of
from VoxelMorphRegistrationLib.mrml.transforms import matrix_from_vtk
from VoxelMorphRegistrationLib.mrml.view_state import CHECK_ATTRIBUTE
from VoxelMorphRegistrationLib.trust.error_map import ErrorMap

WORST = [3.0, -2.0, 1.0]


@pytest.fixture
def done(swift_panel, scene, standin, monkeypatch):
    """The panel after a registration with a map of the expected error, in two slice views."""
    make = mrml_cases.make_registration

    def with_map(fixed, moving, *others):
        values = np.full(fixed.grid.shape, 1.0, np.float32)
        values[:, :, : fixed.grid.shape[2] // 2] = 3.0
        found = ErrorMap(Image(values, fixed.grid), "quick")
        return replace(make(fixed, moving, *others), expected_error=found)

    monkeypatch.setattr(mrml_cases, "make_registration", with_map)
    standin.changes = {"worst_ras": {"determinant": [1.0, 2.0, 3.0], "expected_error": WORST}}
    widget, _, moving_node = swift_panel
    colors = press.add_color_legends(scene)
    views = press.add_slice_views(scene)
    widget._parameterNode.movingLabels = mrml_cases.add_segmentation(scene, moving_node, name="Moving segments")
    press.press_and_wait(widget)
    yield widget, views
    colors.SetMRMLScene(None)


def checks(scene, what: str) -> list:
    return [
        n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if n.GetAttribute(CHECK_ATTRIBUTE) == what
    ]


def test_map_is_shown_over_the_fixed_volume_and_leaves_nothing(done, scene):
    widget, views = done
    node = results_of(widget._parameterNode.outputTransform).expected_error
    widget.ui.showErrorButton.click()
    assert {view.GetForegroundVolumeID() for view in views} == {node.GetID()}
    assert widget.ui.showErrorButton.checked and not widget.ui.showFadeButton.checked
    assert display.legend_node(node).GetVisibility()
    assert len(checks(scene, error_map.CONTOUR)) == 1
    widget.ui.errorContourSpinBox.value = 0
    assert not checks(scene, error_map.CONTOUR)
    widget.ui.errorContourSpinBox.value = 2
    assert len(checks(scene, error_map.CONTOUR)) == 1
    widget.ui.legendCheckBox.click()
    assert not display.legend_node(node).GetVisibility()
    widget.ui.errorBandCheckBox.click()
    assert len(checks(scene, error_map.BAND)) == 1
    widget.ui.showFadeButton.click()
    assert not checks(scene, error_map.CONTOUR) and not checks(scene, error_map.BAND)
    # Nothing of the map is shown: the line must not come back by itself.
    widget.ui.errorContourSpinBox.value = 1
    assert not checks(scene, error_map.CONTOUR)


def test_least_certain_place_is_jumped_to(done):
    widget, _ = done
    assert widget.ui.leastCertainButton.enabled
    widget.ui.leastCertainButton.click()
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        to_slice = np.linalg.inv(matrix_from_vtk(node.GetSliceToRAS()))
        assert (to_slice @ [*WORST, 1.0])[2] == pytest.approx(0, abs=1e-3)


def test_map_is_written_again_into_its_node_and_without_one_nothing_can_be_shown(done, scene, monkeypatch):
    widget, _ = done
    first = results_of(widget._parameterNode.outputTransform).expected_error
    press.press_and_wait(widget)
    assert results_of(widget._parameterNode.outputTransform).expected_error is first
    scene.RemoveNode(first)
    widget._check.update()
    assert not widget.ui.showErrorButton.enabled and not widget.ui.errorBandCheckBox.enabled
