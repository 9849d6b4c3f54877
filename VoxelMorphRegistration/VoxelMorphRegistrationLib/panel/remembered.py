"""What the panel remembers beyond a scene, in Slicer's application settings: one JSON text for each thing."""

from __future__ import annotations

import json

import qt

_GROUP = "VoxelMorphRegistration"


def recalled(what: str, kind: type = dict):
    """What was kept under a name; an empty one of its kind where there is nothing, or nothing readable."""
    text = qt.QSettings().value(f"{_GROUP}/{what}", "")
    try:
        found = json.loads(text or "null")
    except (ValueError, TypeError):
        found = None
    return found if isinstance(found, kind) else kind()


def remember(what: str, content) -> None:
    qt.QSettings().setValue(f"{_GROUP}/{what}", json.dumps(content))
