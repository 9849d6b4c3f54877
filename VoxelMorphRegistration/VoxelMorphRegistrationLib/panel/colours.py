"""Colours of the panel's texts, on light and on dark themes."""

from __future__ import annotations

import qt

from ..results.verdict import BAD, GOOD, LOOK

ERROR, FORMER = "error", "former"
# Ink and background, each for light and for dark themes.
_COLORS = {
    GOOD: (("#1f6632", "#e9f5ec"), ("#a9dfb8", "#1d3b27")),
    LOOK: (("#8a4500", "#fdf0e3"), ("#ffcc99", "#4a3114")),
    BAD: (("#b3261e", "#fbe5e5"), ("#ff9a93", "#4d1f1d")),
    ERROR: (("#c62828", ""), ("#ff9a93", "")),
    # Of an earlier run: neither good nor bad beside the message of this one.
    FORMER: (("#474747", "#e3e3e3"), ("#d0d0d0", "#3d3d3d")),
}


# Of the headings in a table.
_HEADS = (("#1c1c1c", "#dfe6ee"), ("#e3eaf2", "#3a4552"))


def is_dark(widget) -> bool:
    """Whether the theme of the widget's window has light text on dark; a style sheet of its own does not count."""
    palette = widget.window().palette
    return palette.color(qt.QPalette.WindowText).lightness() > palette.color(qt.QPalette.Window).lightness()


def ink(widget, kind: str) -> str:
    """Colour of a text of one kind: GOOD, LOOK, BAD, ERROR or FORMER."""
    return _COLORS[kind][is_dark(widget)][0]


def head(widget) -> tuple[str, str]:
    """Ink and background of a heading in a table."""
    return _HEADS[is_dark(widget)]


def box(widget, kind: str) -> str:
    """Style sheet of a label that stands out as one kind."""
    color, ground = _COLORS[kind][is_dark(widget)]
    return f"background-color: {ground}; color: {color}; padding: 6px; border-radius: 3px;"
