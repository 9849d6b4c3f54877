"""The picture of a report: asked for from the nodes of a result, drawn by the worker."""

from __future__ import annotations

from slicer.i18n import tr as _

from ..errors import InputError
from ..mrml.applying import stored
from ..mrml.records import report_of
from ..mrml.volumes import image_from_node
from ..registration.report import Report
from ..trust.error_map import ErrorMap
from ..worker.messages import Task


def caption() -> str:
    """What stands above the picture; the texts in it are the worker's, in English, whose fonts are everywhere."""
    return _("Fixed, moving and warped volume, comparison before and after, Jacobian map")


def overview_task(transform, warped_node, jacobian_node, error_node=None) -> Task | None:
    """What the worker is to draw; None where a volume of the result is gone or was changed since."""
    fixed_node = transform.GetNodeReference(transform.GetFixedNodeReferenceRole())
    moving_node = transform.GetNodeReference(transform.GetMovingNodeReferenceRole())
    if any(node is None or node.GetScene() is None for node in (fixed_node, moving_node, warped_node, jacobian_node)):
        return None
    try:
        fixed = image_from_node(fixed_node, "fixed volume")
        moving = image_from_node(moving_node, "moving volume", transform)
        warped = image_from_node(warped_node, "warped volume")
        jacobian = image_from_node(jacobian_node, "Jacobian map")
        bound = None if error_node is None else image_from_node(error_node, "expected error")
        written, known = stored(transform), report_of(transform)
    except InputError:
        # The numbers stand for themselves; what can no longer be drawn is left out.
        return None
    images = (warped, *([] if bound is None else [bound]))
    if not all(image.grid.same_as(fixed.grid) for image in images):
        return None
    report = Report(**{name: value for name, value in known.items() if name in Report.__dataclass_fields__})
    doubt = None
    if bound is not None and report.expected_error:
        doubt = ErrorMap(bound, report.expected_error["effort"])
    return Task(written, "overview", (fixed, moving, warped, jacobian, report, doubt))
