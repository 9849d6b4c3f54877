"""Stands in for Slicer's `ctk` module: the few widgets that this extension's panel uses."""

from __future__ import annotations

import qt
from PySide6 import QtWidgets


@qt.pythonqt_class
class ctkCollapsibleButton(QtWidgets.QGroupBox):  # noqa: N801
    """A titled frame; `collapsed` hides its content."""

    @property
    def text(self) -> str:
        return self.title

    @text.setter
    def text(self, value: str) -> None:
        self.title = value


qt.UiLoader.custom["ctkCollapsibleButton"] = ctkCollapsibleButton
