"""Where the results go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InputError, SettingsError
from ..results.written import INSIDE, SEPARATE
from .names import REPORT_ATTRIBUTE
from .transforms import TRANSFORM_CLASS, is_identity, oriented_grid
from .volumes import named

if TYPE_CHECKING:
    from ..registration.report import Report
    from .nodes import Placed, Target, Volume

LINEAR_CHOICES = (INSIDE, SEPARATE)


@dataclass(frozen=True)
class Targets:
    """Where results go: a node to update, None for a new node, False for none at all.

    expected_error: written where there is a map of it.

    linear: "inside" puts the linear part into the grid transform, "separate" into a linear transform of its own,
    under which the moving volume goes. apply: put the moving volume under the transform. inverse: False by default.
    """

    transform: Target = None
    volume: Target = None
    labels: Any = None
    jacobian: Target = None
    expected_error: Target = None
    inverse: Target = False
    linear: str = INSIDE
    apply: bool = False


@dataclass(frozen=True)
class Outputs:
    """The nodes written (None where none was asked for) and the report of the registration.

    transform: the node to put the moving volume under. grid_transform: the node with the field; the same one when
    the linear part is inside. run: the text that marks all of them (names.RUN_ATTRIBUTE).
    """

    transform: Placed | None = None
    grid_transform: Placed | None = None
    volume: Volume | None = None
    labels: Any = None
    jacobian: Volume | None = None
    expected_error: Volume | None = None
    inverse: Placed | None = None
    report: Report | None = field(default=None, repr=False)
    run: str = ""


TARGET_NAMES = ("transform", "volume", "labels", "jacobian", "expected_error", "inverse")
_KINDS = {
    "transform": "a transform node that is empty or holds a displacement grid",
    "inverse": "a transform node that is empty or holds a displacement grid",
    "volume": "a scalar volume",
    "jacobian": "a scalar volume",
    "expected_error": "a scalar volume",
    "labels": "a label map volume or a segmentation",
}


def _fits(what: str, node) -> bool:
    if what in ("transform", "inverse"):
        # One that was hardened since a registration wrote it is of several parts.
        ours = node.IsA(TRANSFORM_CLASS) and bool(node.GetAttribute(REPORT_ATTRIBUTE))
        return ours or (node.IsA(TRANSFORM_CLASS) and (oriented_grid(node) is not None or is_identity(node)))
    if what == "labels":
        return node.IsA("vtkMRMLLabelMapVolumeNode") or node.IsA("vtkMRMLSegmentationNode")
    return node.GetClassName() == "vtkMRMLScalarVolumeNode"


def check_targets(targets: Targets, *input_nodes, start: Placed | None = None) -> None:
    """Refuse outputs of the wrong kind, that are inputs, or that are chosen twice. start: the initial transform. Raises
    InputError, SettingsError.
    """
    if targets.linear not in LINEAR_CHOICES:
        raise SettingsError(f"'{targets.linear}' is no choice for the linear part. Choose inside or separate.")
    if targets.apply and targets.transform is False:
        raise SettingsError("The transform can only be applied to the moving volume when a transform is written.")
    seen = [node for node in input_nodes if node is not None]
    for what in TARGET_NAMES:
        node = getattr(targets, what)
        if node is None or isinstance(node, bool):
            continue
        named(node, f"output {what}")
        if not _fits(what, node):
            raise InputError(f"The output {what} '{node.GetName()}' must be {_KINDS[what]}. Choose another node.")
        if start is not None and node is start:
            raise InputError(
                f"The output {what} '{node.GetName()}' is also the initial transform, which would be overwritten. "
                f"Choose another output {what}."
            )
        if any(node is other for other in seen):
            raise InputError(
                f"The output {what} '{node.GetName()}' is also an input or another output. Choose another node."
            )
        seen.append(node)
    _refuse_parent_of(targets, input_nodes[0] if input_nodes else None, "fixed volume")
    _refuse_parent_of(targets, start, "initial transform")


def _refuse_parent_of(targets: Targets, node: Placed | None, what: str) -> None:
    """Refuse an output transform that moves an input, whose place in the world would change with it."""
    if node is None:
        return
    parent: Any = node.GetParentTransformNode()
    while parent is not None:
        if any(parent is target for target in (targets.transform, targets.inverse)):
            raise InputError(
                f"The output transform '{parent.GetName()}' moves the {what} '{node.GetName()}'. "
                "Choose another output transform."
            )
        parent = parent.GetParentTransformNode()
