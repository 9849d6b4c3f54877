"""Stands in for Slicer's `ctk` module: the few widgets that this extension's panel uses."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets

import qt


@qt.pythonqt_class
class ctkCollapsibleButton(QtWidgets.QGroupBox):  # noqa: N801
    """A titled frame; it does not fold."""

    def _read_text(self) -> str:
        return self.title

    def _write_text(self, value: str) -> None:
        self.title = value

    text = QtCore.Property(str, _read_text, _write_text)


qt.UiLoader.custom["ctkCollapsibleButton"] = ctkCollapsibleButton
