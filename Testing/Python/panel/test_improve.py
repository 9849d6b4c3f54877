"""Pins, Improve and Undo with the real worker: an error that the images do not show is put right by pins."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import panel_cases as press

GRID = cases.centred_grid((40, 40, 40), (3.0, 3.0, 3.0))
# Nothing is seen within so many mm of the middle; the truth there is a bump that the images say nothing of.
EMPTY_MM, BUMP_MM, SIGMA_MM = 26.0, np.array([6.0, -3.0, 2.0]), 9.0
PINS = np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, -5.0, 2.0]])


def truth(points: np.ndarray) -> np.ndarray:
    """Fixed to moving positions (N, 3)."""
    away = np.linalg.norm(points, axis=-1)
    return points + np.exp(-0.5 * (away / SIGMA_MM) ** 2)[..., None] * BUMP_MM


def picture() -> np.ndarray:
    """A body with texture, and a hollow of one grey in its middle."""
    points = GRID.positions()
    away = np.linalg.norm(points, axis=-1)
    texture = 300 * np.sin(points[..., 0] / 5) * np.sin(points[..., 1] / 6) * np.sin(points[..., 2] / 4)
    body = 600 + texture * np.clip((away - EMPTY_MM) / 4, 0, 1)
    return (body * np.clip((52 - away) / 3, 0, 1)).astype(np.float32)


@pytest.fixture
def with_error(panel, scene):
    """The panel with a result that is wrong in the hollow, and Slicer's nodes for placing points."""
    widget, *_ = panel
    press.prepare_views(scene)
    parameters = widget._parameterNode
    parameters.fixedVolume = cases.add_volume(picture(), GRID, "With a hollow")
    parameters.movingVolume = cases.add_volume(picture(), GRID, "Another hollow")
    parameters.alignment, parameters.refinement, parameters.device, parameters.model = "none", "fast", "cpu", "none"
    press.press_and_wait(widget)
    return widget


def error_mm(transform, points: np.ndarray) -> float:
    return float(np.linalg.norm(cases.from_world(transform, points) - truth(points), axis=1).mean())


def test_pins_put_a_local_error_right_and_undo_goes_back(with_error, scene):
    widget = with_error
    parameters = widget._parameterNode
    first = parameters.outputTransform
    rng = np.random.default_rng(0)
    near, far = 5 * rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    far *= 42 / np.linalg.norm(far, axis=1, keepdims=True)
    before = error_mm(first, near)
    assert before > 4
    for place in PINS:
        # Where the moving volume's point is seen in the registered one: the result is the identity there.
        press.place_pin(widget, place, truth(place[None])[0])
    widget.ui.improveButton.click()
    press.wait(widget)
    improved = parameters.outputTransform
    assert improved is not first, widget.ui.statusLabel.text
    assert error_mm(improved, near) < 0.4 * before
    # Elsewhere the images still decide.
    assert error_mm(improved, far) < 1.0
    widget.ui.undoButton.click()
    assert parameters.outputTransform is first and not scene.IsNodePresent(improved)
    assert error_mm(parameters.outputTransform, near) == pytest.approx(before)
