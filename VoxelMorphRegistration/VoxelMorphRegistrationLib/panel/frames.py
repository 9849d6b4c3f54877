"""The row 'Frames' of the inputs: what is registered where the moving volume shows a sequence, and its results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vtk

import qt

from ..errors import InputError
from ..mrml.frame_guides import SINGLE, check_guides
from ..mrml.frames import browser_of, results_sequence, shown_sequence
from ..mrml.sequences import FIXED, FRAME, MEAN
from .further import further_nodes

ONE_FRAME = "only the frame shown"
# What the list offers, and what it means.
FRAMES = {
    ONE_FRAME: "",
    "all, onto the fixed volume": FIXED,
    "all, onto the frame shown": FRAME,
    "all, onto their mean": MEAN,
}


def sequence_shown_by(parameters) -> Any:
    """The sequence of scalar volumes that the moving volume shows, or None."""
    sequence, _browser = shown_sequence(parameters.movingVolume)
    usable = sequence is not None and sequence.GetNumberOfDataNodes() > 1
    return sequence if usable and sequence.GetDataNodeClassName() == "vtkMRMLScalarVolumeNode" else None


def all_frames(parameters) -> tuple:
    """(sequence, FIXED, FRAME or MEAN) where all frames are to be registered; (None, "") where one volume is."""
    onto = FRAMES.get(parameters.frames, "")
    sequence = sequence_shown_by(parameters) if onto else None
    return (sequence, onto) if sequence is not None else (None, "")


def sequence_arguments(parameters) -> dict:
    """What registerSequenceAsync takes for the choices of the panel, besides the settings."""
    sequence, onto = all_frames(parameters)
    browser, _proxy = browser_of(sequence)
    return {
        "fixedNode": parameters.fixedVolume if onto == FIXED else None,
        "onto": browser.GetSelectedItemNumber() if onto == FRAME else onto,
        **guides_of(parameters),
        "initialTransform": parameters.initialTransform,
        "wantVolume": parameters.wantVolume,
        "wantLabels": parameters.wantLabels,
        "wantJacobian": parameters.wantJacobian,
        "wantInverse": parameters.wantInverse,
        "applyToMoving": parameters.applyToMoving,
    }


def guides_of(parameters) -> dict:
    """What guides or measures besides the volumes, by the names that the logic takes."""
    return {**{name: getattr(parameters, name) for name in SINGLE}, **further_nodes(parameters)}


def guides_obstacle(parameters) -> str:
    """Why the guides do not go with all frames, in a sentence; empty when nothing is known against it."""
    sequence, onto = all_frames(parameters)
    frame = browser_of(sequence)[0].GetSelectedItemNumber() if onto == FRAME else None
    try:
        check_guides(sequence, guides_of(parameters), frame)
    except InputError as error:
        return str(error)
    return ""


class FramesSection:
    """Shows the row where it means something, and tells when a sequence of results shows another frame."""

    def __init__(self, ui, on_frame: Callable[[], None]) -> None:
        self._ui = ui
        self._parameters: Any = None
        self._watched: tuple = ()
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(lambda *_: on_frame() if self._parameters else None)

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters
        self._watch(None)

    def update(self) -> None:
        parameters = self._parameters
        offered = sequence_shown_by(parameters) is not None
        for widget in (self._ui.framesComboBoxLabel, self._ui.framesComboBox):
            widget.setVisible(offered)
        _sequence, onto = all_frames(parameters)
        self._ui.fixedVolumeSelector.enabled = onto in ("", FIXED)
        self._watch(parameters.outputTransform)

    def _watch(self, transform) -> None:
        """Follow which frame of a sequence of results is shown."""
        node = transform if results_sequence(transform) is not None else None
        if self._watched and self._watched[0] is node:
            return
        if self._watched:
            self._watched[0].RemoveObserver(self._watched[1])
        self._watched = ()
        if node is not None:
            self._watched = (node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._timer.start(50)))
