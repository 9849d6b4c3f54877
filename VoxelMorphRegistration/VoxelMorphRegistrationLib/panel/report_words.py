"""The page of a report in the language of Slicer."""

from __future__ import annotations

from functools import lru_cache

from slicer.i18n import tr as _

from ..results.html import Words
from .measures import group_title, names, row_note, row_title, verdict_texts
from .translated import translated


@lru_cache(maxsize=1)
def texts() -> dict[str, str]:
    """The fixed texts of a page, besides the headings and names of the panel's table."""
    return {
        "Registration report": _("Registration report"),
        "<b>{moving}</b> (moving) onto <b>{fixed}</b> (fixed)": _(
            "<b>{moving}</b> (moving) onto <b>{fixed}</b> (fixed)"
        ),
        "Model {model} on {device}, {seconds} s.": _("Model {model} on {device}, {seconds} s."),
        "Model {model} on {device}.": _("Model {model} on {device}."),
        "VoxelMorph {version}, report of {date}.": _("VoxelMorph {version}, report of {date}."),
        "Warning:": _("Warning:"),
        "Settings as JSON": _("Settings as JSON"),
        "Measure": _("Measure"),
        "Before": _("Before"),
        "Aligned": _("Aligned"),
        "After": _("After"),
        "Unit": _("Unit"),
        "Note": _("Note"),
        "Value": _("Value"),
        "voxels": _("voxels"),
        "Structures": _("Structures"),
        "Structure": _("Structure"),
        "Dice before": _("Dice before"),
        "Dice after": _("Dice after"),
        "HD95 before (mm)": _("HD95 before (mm)"),
        "HD95 after (mm)": _("HD95 after (mm)"),
        "Displacement (mm)": _("Displacement (mm)"),
        "HD95: 95 % symmetric surface distance. Volume change: how much larger the structure is in the moving image "
        "than in the fixed one, from the Jacobian determinant. Displacement: the mean of the structure, without the "
        "linear alignment.": _(
            "HD95: 95 % symmetric surface distance. Volume change: how much larger the structure is in the moving "
            "image than in the fixed one, from the Jacobian determinant. Displacement: the mean of the structure, "
            "without the linear alignment."
        ),
    }


def _text(english: str) -> str:
    return texts().get(english) or names().get(english) or group_title(english)


def report_words() -> Words:
    """How a page of a report says things."""
    return Words(text=_text, name=row_title, note=row_note, sentence=translated, verdict=verdict_texts)
