"""The section 'Apply': nodes put under the transform of a result, or under its inverse, by a tick."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import InputError, VoxelMorphError
from ..mrml import applying
from ..mrml.names import APPLIED_ROLE, INVERSE_ROLE, REPORT_ATTRIBUTE
from ..mrml.view_state import CHECK_ATTRIBUTE
from ..worker.messages import Task
from .messages import tell, told
from .run import shared_client

_CLASSES = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLModelNode")


class ApplySection:
    """Drives the widgets of the section; `update_soon` follows the scene."""

    def __init__(self, ui) -> None:
        self._ui, self._updating = ui, False
        self._parameters: Any = None
        self._text = ui.applyLabel.text
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.update)
        ui.applyList.itemChanged.connect(self._on_ticked)
        ui.hardenButton.clicked.connect(self._on_harden)

    def cleanup(self) -> None:
        self._timer.stop()
        self._parameters = None

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
        for node in self._candidates() if transform is not None else []:
            fixed_side = applying.side_of(transform, node) == "fixed"
            name = _("{name} (inverse)").format(name=node.GetName()) if fixed_side else node.GetName()
            # An item made here would be Python's to delete.
            self._ui.applyList.addItem(name)
            item = self._ui.applyList.item(self._ui.applyList.count - 1)
            item.setData(qt.Qt.UserRole, node.GetID())
            item.setCheckState(qt.Qt.Checked if self._is_applied(transform, node) else qt.Qt.Unchecked)
        self._updating = False

    def _transform(self):
        transform = self._parameters.outputTransform if self._parameters else None
        if transform is None or transform.GetScene() is None:
            return None
        return transform if transform.GetAttribute(REPORT_ATTRIBUTE) else None

    def _candidates(self) -> list:
        """What the user would deform: not the results, which lie on the fixed volume already."""
        parameters = self._parameters
        results = (parameters.outputVolume, parameters.outputJacobian, parameters.outputLabels)
        nodes = [node for name in _CLASSES for node in slicer.util.getNodesByClass(name)]
        return [
            node
            for node in nodes
            if not node.GetHideFromEditors()
            and not node.GetAttribute(CHECK_ATTRIBUTE)
            and not any(node is one for one in results)
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
        if applying.side_of(transform, node) != "fixed":
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
        if nodes and slicer.util.confirmOkCancelDisplay(question.format(names=names)):
            with told(busy=True):
                left = applying.harden(nodes)
                if left:
                    raise InputError(" ".join(left))
            self.update_soon()
