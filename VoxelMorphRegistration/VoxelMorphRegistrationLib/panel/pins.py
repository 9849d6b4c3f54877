"""Correcting a result where it is wrong: pins, an improvement that they guide, and the way back.

A pin is a pair of landmarks: a point in the fixed volume, and the same point of the moving one. The user clicks both in
the slice views, the second in the registered volume, where the error is seen; the result's transform carries it to the
moving volume. Pins are the landmarks among the panel's inputs, made when there are none, so that they are seen, moved,
saved and removed as any others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..mrml import check_views
from ..mrml.pinned import carried_to_moving
from ..registration.settings import Settings
from .choices import OUTPUT_NODES, open_result
from .messages import told
from .shown import shown_result

# How much pins count beside the images. Of 0.3, 1, 3, 10 and 30 the best for 18 results with an error of 6.5 mm around
# three pins, from images that show the error to such that do not (Testing/Benchmarks/pin_weight.py): it left 1.1, 1.0,
# 1.6, 2.1 and 2.1 mm there, 3.4 mm without pins, and no folds with any.
PIN_WEIGHT = 1.0
# The same for segmentations on both sides. Not measured; they are compared over whole structures, as the images are.
LABEL_WEIGHT = 1.0


class PinSection:
    """Drives the widgets. improve(settings, start) begins a run that goes on from a transform, with new nodes."""

    def __init__(self, ui, improve: Callable[[Settings, object], bool], settings: Callable[[], Settings]) -> None:
        self._ui, self._improve, self._settings = ui, improve, settings
        self._parameters: Any = None
        self._waiting: tuple = ()
        # The ID of the fixed point of a pin that was begun.
        self._half = ""
        # What Undo takes back: ("pin", IDs of its two points), or ("result", ID of the former transform, ID of the
        # improved one).
        self._done: list[tuple] = []
        self._improving: str = ""
        ui.pinButton.clicked.connect(self._on_pin)
        ui.improveButton.clicked.connect(self._on_improve)
        ui.undoButton.clicked.connect(self._on_undo)

    def set_parameters(self, parameters) -> None:
        if parameters is None:
            self._stop()
        self._parameters = parameters
        if parameters is not None and not self._waiting:
            # A scene that was saved in the midst of a pin comes back with clicks that place one.
            _leave_placing(parameters.fixedPoints, parameters.movingPoints)

    def forget(self) -> None:
        """The scene is being closed."""
        self._stop()
        self._done, self._improving = [], ""

    def update(self) -> None:
        possible = self._possible()
        if not possible:
            self._stop()
        self._ui.pinButton.enabled = possible
        self._ui.improveButton.enabled = possible and self._guides()
        self._done = [one for one in self._done if one[0] == "pin" or slicer.mrmlScene.GetNodeByID(one[1]) is not None]
        self._enable_undo()

    def leave(self) -> None:
        """A run begins: a pin that was begun would be half a pair."""
        self._stop()

    def _enable_undo(self) -> None:
        self._ui.undoButton.enabled = bool(self._done) or bool(self._waiting)

    def _possible(self) -> bool:
        """Whether there is a result to pin points in."""
        shown = shown_result(self._parameters)
        return None not in (shown.transform, shown.fixed, shown.moving, shown.warped)

    def _guides(self) -> bool:
        """Whether there is something that an improvement can follow."""
        p = self._parameters
        pairs = all(one is not None and one.GetNumberOfControlPoints() for one in (p.fixedPoints, p.movingPoints))
        return pairs or (p.fixedLabels is not None and p.movingLabels is not None)

    # --- a pin -------------------------------------------------------------------------------------------------

    def _on_pin(self, *_unused) -> None:
        # Nodes may have gone a moment ago, before the panel has followed.
        if not self._ui.pinButton.checked or not self._possible():
            self._stop()
            return
        with told():
            for name, title in (("fixedPoints", _("Pins, fixed")), ("movingPoints", _("Pins, moving"))):
                if getattr(self._parameters, name) is None:
                    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", title)
                    setattr(self._parameters, name, node)
        self._ui.pinButton.checked = True
        self._wait_for_fixed()

    def _wait_for_fixed(self) -> None:
        shown = shown_result(self._parameters)
        check_views.show_pair(shown.fixed, shown.warped, 0.0)
        self._wait_for(self._parameters.fixedPoints, self._on_fixed, _("Click the point in the fixed volume."))

    def _on_fixed(self) -> None:
        points = self._parameters.fixedPoints
        self._half = points.GetNthControlPointID(points.GetNumberOfControlPoints() - 1)
        check_views.fade(slicer.mrmlScene, 1.0)
        text = _("Now click the same point in the registered volume.")
        qt.QTimer.singleShot(0, lambda: self._wait_for(self._parameters.movingPoints, self._on_moving, text))

    def _on_moving(self) -> None:
        points = self._parameters.movingPoints
        number, place = points.GetNumberOfControlPoints() - 1, [0.0, 0.0, 0.0]
        points.GetNthControlPointPositionWorld(number, place)
        transform = shown_result(self._parameters).transform
        with told():
            points.SetNthControlPointPositionWorld(number, *carried_to_moving(transform, place))
        self._waiting_over()
        self._done.append(("pin", self._half, points.GetNthControlPointID(number)))
        check_views.fade(slicer.mrmlScene, 0.5)
        self._ui.pinButton.checked = False
        self._tell(_("{count} pins. Improve refines the result with them.").format(count=number + 1))
        self.update()

    def _wait_for(self, points, done: Callable[[], None], text: str) -> None:
        """Let the user place one point of a markups node, then go on."""
        self._waiting_over()
        if self._parameters is None or points is None:
            return
        event = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent
        self._waiting = (points, points.AddObserver(event, lambda *_: done()))
        _place_points_of(points)
        self._tell(text)
        self._enable_undo()

    def _waiting_over(self) -> None:
        if self._waiting:
            points, tag = self._waiting
            points.RemoveObserver(tag)
            self._waiting = ()
            _place_points_of(None)

    def _stop(self) -> None:
        """Leave a pin that was begun; its first point goes."""
        begun = self._waiting[0] if self._waiting else None
        self._waiting_over()
        parameters = self._parameters
        if begun is not None and parameters is not None and begun is parameters.movingPoints and parameters.fixedPoints:
            _remove_point(parameters.fixedPoints, self._half)
        self._ui.pinButton.checked = False
        self._tell("")
        self._enable_undo()

    def _tell(self, text: str) -> None:
        self._ui.pinLabel.text = text
        self._ui.pinLabel.setVisible(bool(text))

    # --- improving, and the way back ---------------------------------------------------------------------------

    def _on_improve(self, *_unused) -> None:
        self._stop()
        parameters, former = self._parameters, shown_result(self._parameters).transform
        labels = parameters.fixedLabels is not None and parameters.movingLabels is not None
        pins = parameters.fixedPoints is not None and parameters.fixedPoints.GetNumberOfControlPoints() > 0
        settings = self._settings().replace(
            alignment="none",
            model="none",
            refinement="fast",
            landmark_weight=PIN_WEIGHT if pins else 0.0,
            label_weight=LABEL_WEIGHT if labels else 0.0,
        )
        if self._improve(settings, former):
            self._improving = former.GetID()
            self._tell("")

    def finished(self, outputs) -> None:
        """A run has ended with a result; where it was an improvement, it can be undone."""
        if self._improving and outputs.grid_transform is not None:
            self._done.append(("result", self._improving, outputs.grid_transform.GetID()))
        self._improving = ""

    def ended(self) -> None:
        """A run has ended without a result."""
        self._improving = ""

    def _on_undo(self, *_unused) -> None:
        if self._waiting:
            # A pin that was begun: its half goes before whole ones do.
            self._stop()
            self.update()
            return
        if not self._done:
            return
        last = self._done.pop()
        with told():
            if last[0] == "pin":
                for name, point in zip(("fixedPoints", "movingPoints"), last[1:], strict=True):
                    _remove_point(getattr(self._parameters, name), point)
            else:
                self._back_to(*(slicer.mrmlScene.GetNodeByID(one) for one in last[1:]))
        self.update()

    def _back_to(self, former, improved) -> None:
        if former is None:
            return
        gone = []
        if improved is not None and self._parameters.outputTransform is improved:
            gone = [getattr(self._parameters, name) for name in OUTPUT_NODES]
        open_result(self._parameters, former)
        kept = [getattr(self._parameters, name) for name in OUTPUT_NODES]
        for node in gone:
            if node is not None and not any(node is one for one in kept):
                slicer.mrmlScene.RemoveNode(node)


def _remove_point(points, identity: str) -> None:
    """Remove a control point, where it is still there."""
    index = points.GetNthControlPointIndexByID(identity) if points is not None else -1
    if index >= 0:
        points.RemoveNthControlPoint(index)


def _leave_placing(*points) -> None:
    """Clicks are the usual ones again, where they would place points of these nodes."""
    interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    if interaction is None or selection is None or interaction.GetCurrentInteractionMode() != interaction.Place:
        return
    if selection.GetActivePlaceNodeID() in [one.GetID() for one in points if one is not None]:
        interaction.SwitchToViewTransformMode()


def _place_points_of(points) -> None:
    """The next click in a view places a point of this node; None for the usual clicks."""
    interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    if interaction is None or selection is None:
        return
    if points is None:
        interaction.SwitchToViewTransformMode()
        return
    selection.SetReferenceActivePlaceNodeClassName(points.GetClassName())
    selection.SetActivePlaceNodeID(points.GetID())
    interaction.SwitchToSinglePlaceMode()
