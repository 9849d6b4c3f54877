"""Label maps and segmentations as outlines while a result is checked, since filled they hide what is to be seen."""

from __future__ import annotations

import json

from .records import recorded_look
from .view_state import (
    CHECK_ATTRIBUTE,
    LOOK,
    OUTLINE_ATTRIBUTE,
    QUIET_ATTRIBUTE,
    composite_nodes,
    nodes_of,
    slice_nodes,
)

_FILL, _OUTLINE = "Visibility2DFill", "Visibility2DOutline"


def quiet_labels(scene) -> None:
    """Show label layers and segmentations of all slice views as outlines; ViewState.restore puts them back."""
    if any(view.GetLabelVolumeID() for view in composite_nodes(scene)):
        for node in slice_nodes(scene):
            node.SetUseLabelOutline(True)
    for node in nodes_of(scene, "vtkMRMLSegmentationNode"):
        shown = node.GetDisplayNode()
        if shown is None or node.GetAttribute(CHECK_ATTRIBUTE) or shown.GetAttribute(QUIET_ATTRIBUTE):
            continue
        outlined = recorded_look(shown, OUTLINE_ATTRIBUTE, LOOK)
        filled = outlined.get(_FILL, shown.GetVisibility2DFill())
        if not filled:
            continue
        former = outlined.get(_OUTLINE, shown.GetVisibility2DOutline())
        editing = shown.StartModify()
        shown.SetAttribute(QUIET_ATTRIBUTE, json.dumps({_FILL: bool(filled), _OUTLINE: bool(former)}))
        if outlined:
            # Outlined in one colour just now: quiet is what it goes back to.
            shown.SetAttribute(OUTLINE_ATTRIBUTE, json.dumps({**outlined, _FILL: False, _OUTLINE: True}))
        else:
            shown.SetVisibility2DFill(False)
            shown.SetVisibility2DOutline(True)
        shown.EndModify(editing)
