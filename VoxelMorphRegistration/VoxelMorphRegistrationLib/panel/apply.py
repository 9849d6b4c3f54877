"""The section 'Apply': nodes put under the transform of a result, or under its inverse, by a tick."""

from __future__ import annotations

from typing import Any

import vtk

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import VoxelMorphError
from ..mrml import applying
from ..mrml.names import APPLIED_ROLE, INVERSE_ROLE, RUN_ATTRIBUTE
from ..mrml.results import results_of
from ..mrml.view_state import CHECK_ATTRIBUTE
from ..worker.messages import Task
from .messages import tell, told
from .plain import plain
from .run import shared_client
from .shown import shown_result

_CLASSES = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLModelNode")


class ApplySection:
    """Drives the widgets of the section; `update_soon` follows the scene."""

    def __init__(self, ui) -> None:
        self._ui, self._updating = ui, False
        self._parameters: Any = None
        self._text = ui.applyLabel.text
        self._watched: list[tuple] = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.update)
        ui.applyList.itemChanged.connect(self._on_ticked)
        ui.hardenButton.clicked.connect(self._on_harden)

    def cleanup(self) -> None:
        self._timer.stop()
        self._parameters = None
        self._watch([])

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters
        self.update()

    def update_soon(self, *_unused) -> None:
        self._timer.start(100)

    def update(self, *_unused) -> None:
        """List the nodes that can be applied, ticked where they are."""
        transform = self._transform()
        self._ui.applyCollapsibleButton.enabled = transform is not None
        self._updating = True
        self._ui.applyList.clear()
        nodes = self._candidates() if transform is not None else []
        self._watch(nodes)
        for node in nodes:
            fixed_side = applying.side_of(transform, node) == "fixed"
            name = _("{name} (inverse)").format(name=node.GetName()) if fixed_side else node.GetName()
            # An item made here would be Python's to delete.
            self._ui.applyList.addItem(name)
            item = self._ui.applyList.item(self._ui.applyList.count - 1)
            item.setData(qt.Qt.UserRole, node.GetID())
            item.setCheckState(qt.Qt.Checked if self._is_applied(transform, node) else qt.Qt.Unchecked)
        self._updating = False

    def _watch(self, nodes: list) -> None:
        """Follow the names of these nodes and what they are under."""
        for node, tags in self._watched:
            for tag in tags:
                node.RemoveObserver(tag)
        events = (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLTransformableNode.TransformModifiedEvent)
        self._watched = [(node, [node.AddObserver(event, self.update_soon) for event in events]) for node in nodes]

    def _transform(self):
        return shown_result(self._parameters).transform

    def _candidates(self) -> list:
        """What the user would deform: not the results, which lie on the fixed volume already."""
        nodes = [node for name in _CLASSES for node in slicer.util.getNodesByClass(name)]
        return [
            node
            for node in nodes
            if not node.GetHideFromEditors()
            and not node.GetAttribute(CHECK_ATTRIBUTE)
            and not node.GetAttribute(RUN_ATTRIBUTE)
        ]

    @staticmethod
    def _is_applied(transform, node) -> bool:
        under = node.GetNodeReference(APPLIED_ROLE)
        targets = (transform, transform.GetNodeReference(INVERSE_ROLE))
        if under is None or not any(under is one for one in targets):
            return False
        return any(node is one for one in applying.applied_nodes(under))

    def _on_ticked(self, item) -> None:
        transform = self._transform()
        if self._updating or transform is None:
            return
        node = slicer.mrmlScene.GetNodeByID(item.data(qt.Qt.UserRole))
        with told():
            if node is not None and item.checkState() == qt.Qt.Checked:
                self._put_under(transform, node)
            elif node is not None:
                applying.take_off([node])
        self.update_soon()

    def _put_under(self, transform, node) -> None:
        """Under the transform, or under its inverse, which the worker computes where there is none."""
        side = applying.side_of(transform, node) or self._ask_side(transform, node)
        if not side:
            return
        if side == "moving":
            applying.apply_transform(transform, [node])
            return
        inverse = applying.known_inverse(transform)
        if inverse is not None:
            applying.apply_transform(inverse, [node])
            return
        stored, moving, fixed_to_world = applying.inverse_job(transform)

        def write(field) -> None:
            self._set_computing(False)
            with told():
                if all(slicer.mrmlScene.IsNodePresent(one) for one in (transform, node)):
                    inverse = applying.write_inverse(transform, field, fixed_to_world)
                    applying.apply_transform(inverse, [node])
            self.update_soon()

        shared_client().submit(
            Task(stored, "inverse", (moving, fixed_to_world)),
            on_result=write,
            on_error=self._on_failed,
            on_cancelled=lambda: self._set_computing(False),
        )
        self._set_computing(True)

    @staticmethod
    def _ask_side(transform, node) -> str:
        """ "moving" or "fixed", as the user says; "" where the question is cancelled."""
        shown = results_of(transform)
        titles = {"moving": _("{name} (moving)"), "fixed": _("{name} (fixed)")}
        sides = {
            titles[side].format(name=one.GetName()): side
            for side, one in (("moving", shown.moving), ("fixed", shown.fixed))
            if one is not None
        }
        question = _("Nothing tells which volume '{name}' belongs to. It lies on:").format(name=node.GetName())
        # The first choice is none: Qt gives it back when the question is closed, too.
        answer = qt.QInputDialog.getItem(
            slicer.util.mainWindow(), _("Apply to other nodes"), plain(question), ["", *sides], 0, False
        )
        return sides.get(answer if isinstance(answer, str) else answer[0], "")

    def _set_computing(self, computing: bool) -> None:
        self._ui.applyList.enabled = not computing
        self._ui.applyLabel.text = _("Computing the inverse transform") if computing else self._text

    def _on_failed(self, error: VoxelMorphError) -> None:
        self._set_computing(False)
        self.update_soon()
        tell(error)

    def _on_harden(self, *_unused) -> None:
        transform = self._transform()
        nodes = [node for node in self._candidates() if self._is_applied(transform, node)]
        names = ", ".join(node.GetName() for node in nodes)
        question = _("Write the transform into {names} for good? It cannot be taken off afterwards.")
        if nodes and slicer.util.confirmOkCancelDisplay(plain(question.format(names=names))):
            with told(busy=True):
                refused = applying.harden(nodes)
                if refused:
                    slicer.util.infoDisplay(plain("\n\n".join(refused)))
            self.update_soon()
