"""Correcting a result: pins placed by two clicks, an improvement that they guide, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import panel_cases as press
import qt
import worker_cases


@pytest.fixture
def in_check(swift_panel, scene):
    """The panel after a run, in slice views and with Slicer's nodes for placing points."""
    widget, *_ = swift_panel
    press.prepare_views(scene)
    press.press_and_wait(widget)
    return widget


def test_pin_is_a_pair_of_landmarks_and_the_second_one_is_carried_to_the_moving_volume(in_check, scene):
    widget = in_check
    interaction = scene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    widget.ui.pinButton.click()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert "fixed volume" in widget.ui.pinLabel.text
    widget.ui.pinButton.click()
    assert interaction.GetCurrentInteractionMode() != interaction.Place
    press.place_pin(widget, (1.0, 2.0, 3.0), (4.0, 2.0, 3.0))
    parameters = widget._parameterNode
    found = np.zeros(3)
    parameters.movingPoints.GetNthControlPointPositionWorld(0, found)
    expected = cases.from_world(parameters.outputTransform, np.array([[4.0, 2.0, 3.0]]))[0]
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.linalg.norm(found - (4.0, 2.0, 3.0)) > 0.5
    assert not widget.ui.pinButton.checked and widget.ui.improveButton.enabled
    widget.ui.undoButton.click()
    assert (parameters.fixedPoints.GetNumberOfControlPoints(), parameters.movingPoints.GetNumberOfControlPoints()) == (
        0,
        0,
    )


def test_pin_in_a_volume_that_went_a_moment_ago_does_nothing(in_check, scene):
    widget = in_check
    scene.RemoveNode(widget._parameterNode.outputVolume)
    widget.ui.pinButton.enabled = True
    widget.ui.pinButton.click()
    assert not widget.ui.pinButton.checked and widget._parameterNode.fixedPoints is None


def test_pin_that_is_given_up_leaves_no_half(in_check):
    widget = in_check
    widget.ui.pinButton.click()
    widget._parameterNode.fixedPoints.AddControlPointWorld(1.0, 2.0, 3.0)
    worker_cases.spin(lambda: "registered volume" in widget.ui.pinLabel.text, 5)
    widget.ui.pinButton.click()
    assert widget._parameterNode.fixedPoints.GetNumberOfControlPoints() == 0
    assert widget.ui.pinLabel.text == ""


def test_undo_takes_back_a_half_pin_first_and_never_tears_pairs_apart(in_check):
    widget, (fixed, moving) = in_check, (None, None)
    press.place_pin(widget, (1.0, 2.0, 3.0), (4.0, 2.0, 3.0))
    fixed, moving = widget._parameterNode.fixedPoints, widget._parameterNode.movingPoints
    widget.ui.pinButton.click()
    fixed.AddControlPointWorld(9.0, 9.0, 9.0)
    worker_cases.spin(lambda: "registered volume" in widget.ui.pinLabel.text, 5)
    widget.ui.undoButton.click()
    assert not widget.ui.pinButton.checked
    assert (fixed.GetNumberOfControlPoints(), moving.GetNumberOfControlPoints()) == (1, 1)
    assert tuple(fixed.GetNthControlPointPositionWorld(0)) == (1.0, 2.0, 3.0)
    # Other landmarks than the pin stay.
    for points in (fixed, moving):
        points.AddControlPointWorld(5.0, 5.0, 5.0)
    widget.ui.undoButton.click()
    for points in (fixed, moving):
        assert points.GetNumberOfControlPoints() == 1
        assert tuple(points.GetNthControlPointPositionWorld(0)) == (5.0, 5.0, 5.0)
    assert not widget.ui.undoButton.enabled


@pytest.mark.parametrize("button", ["registerButton", "improveButton"])
def test_run_in_the_midst_of_a_pin_goes_without_its_half(in_check, standin, button):
    widget = in_check
    press.place_pin(widget, (1.0, 2.0, 3.0), (4.0, 2.0, 3.0))
    widget.ui.pinButton.click()
    widget._parameterNode.fixedPoints.AddControlPointWorld(9.0, 9.0, 9.0)
    worker_cases.spin(lambda: "registered volume" in widget.ui.pinLabel.text, 5)
    getattr(widget.ui, button).click()
    press.wait(widget)
    assert widget.ui.progressBar.value == 100, widget.ui.statusLabel.text
    assert len(standin.jobs[-1].keywords["fixed_points"]) == 1
    assert not widget.ui.pinButton.checked


def test_improve_goes_on_from_the_result_with_the_pins_and_undo_goes_back(in_check, standin, scene):
    widget = in_check
    parameters = widget._parameterNode
    first, volume = parameters.outputTransform, parameters.outputVolume
    assert not widget.ui.improveButton.enabled
    press.place_pin(widget, (1.0, 2.0, 3.0), (4.0, 2.0, 3.0))
    widget.ui.improveButton.click()
    press.wait(widget)
    job = standin.jobs[-1]
    assert (job.settings.landmark_weight, job.settings.alignment, job.settings.model) == (1.0, "none", "none")
    points = np.array([[3.0, -2.0, 5.0], [0.0, 4.0, 1.0]])
    start = job.keywords["initial_transform"]
    assert start.transform_points(points) == pytest.approx(cases.from_world(first, points), abs=0.02)
    improved = parameters.outputTransform
    assert improved is not first and scene.IsNodePresent(first)
    widget.ui.undoButton.click()
    assert parameters.outputTransform is first and parameters.outputVolume is volume
    assert not scene.IsNodePresent(improved)
    qt.application.processEvents()
