"""Texts of strangers (names of nodes and files, descriptions of models) as they are, where Qt would take HTML for such.

Labels, tooltips and message boxes show a text as HTML when it looks like it: a name could change what the panel says,
or bring a picture from elsewhere.
"""

from __future__ import annotations

from html import escape

import qt

# Their HTML is written here, from escaped parts.
_WRITTEN_HERE = ("verdictLabel", "warningsLabel")


def plain(text: str) -> str:
    """The text for a tooltip, a message box or a question, which cannot be told that it is plain."""
    if "<" not in text:
        return text
    return f'<p style="white-space: pre-wrap">{escape(text)}</p>'


def with_plain_texts(ui):
    """The panel's widgets by their names; the labels among them show their texts as they are, or as the HTML that is
    written here."""
    for name, widget in vars(ui).items():
        if getattr(widget, "inherits", None) and widget.inherits("QLabel"):
            # Left to itself, Qt takes a text without tags for plain and shows what was escaped in it.
            widget.setTextFormat(qt.Qt.RichText if name in _WRITTEN_HERE else qt.Qt.PlainText)
    return ui
