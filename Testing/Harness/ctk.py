"""Stands in for Slicer's `ctk` module: the few widgets that this extension's panel uses.

They have the properties and signals of the real ones and their rough looks, not their exact sizes.
"""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets

import qt

# The parts of a slider widget are plain Qt objects that must have PythonQt's manners, too.
for part in (QtWidgets.QSlider, QtWidgets.QDoubleSpinBox):
    qt.pythonqt_class(part)
_HEAD = 24
_UNLIMITED = 16777215


@qt.pythonqt_class
class ctkCollapsibleButton(QtWidgets.QWidget):
    """A section with a head that folds it; its children are shown or hidden with it."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setContentsMargins(4, _HEAD, 4, 2)
        # As the real one: what it holds decides how narrow a panel can be, unless the .ui file says otherwise.
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)

    def _read_text(self) -> str:
        return self._text

    def _write_text(self, value: str) -> None:
        self._text = value
        self.update()

    def _read_collapsed(self) -> bool:
        return self._collapsed

    def _write_collapsed(self, value: bool) -> None:
        changed, self._collapsed = value != self._collapsed, value
        # Children are clipped; a real one hides them.
        self.setMaximumHeight(_HEAD if value else _UNLIMITED)
        self.setMinimumHeight(_HEAD if value else 0)
        self.update()
        if changed:
            self.contentsCollapsed.emit(value)

    text = QtCore.Property(str, _read_text, _write_text)
    collapsed = QtCore.Property(bool, _read_collapsed, _write_collapsed)

    def setCollapsed(self, value: bool) -> None:
        self.collapsed = value

    def mousePressEvent(self, event) -> None:
        if event.position().y() < _HEAD:
            self.collapsed = not self._collapsed

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        palette = self.palette
        head = QtCore.QRect(0, 1, self.width, _HEAD - 3)
        painter.fillRect(head, palette.color(QtGui.QPalette.ColorRole.Button).darker(112))
        ink = QtGui.QPalette.ColorGroup.Normal if self.isEnabled() else QtGui.QPalette.ColorGroup.Disabled
        painter.setPen(palette.color(ink, QtGui.QPalette.ColorRole.ButtonText))
        arrow = "\u25b8" if self._collapsed else "\u25be"
        painter.drawText(
            head.adjusted(6, 0, 0, 0),
            QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.AlignmentFlag.AlignLeft,
            f"{arrow}  {self._text}",
        )
        painter.end()


@qt.pythonqt_class
class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box for one number. As in ctk, the value is kept within the range and rounded."""

    valueChanged = QtCore.Signal(float)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._slider.setRange(0, 1000)
        self._box = QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._on_box)
        self._slider.valueChanged.connect(self._on_slider)

    def _on_box(self) -> None:
        value, low, high = self._box.value, self._box.minimum, self._box.maximum
        self._slider.blockSignals(True)
        self._slider.setValue(round(1000 * (value - low) / max(high - low, 1e-9)))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _on_slider(self, position: int) -> None:
        low, high = self._box.minimum, self._box.maximum
        self._box.setValue(low + (high - low) * position / 1000)

    def _forwarded(name: str, kind: type):
        return QtCore.Property(
            kind, lambda self: getattr(self._box, name), lambda self, value: setattr(self._box, name, value)
        )

    value = _forwarded("value", float)
    minimum = _forwarded("minimum", float)
    maximum = _forwarded("maximum", float)
    singleStep = _forwarded("singleStep", float)
    pageStep = QtCore.Property(float, lambda self: 0.0, lambda self, value: None)
    decimals = _forwarded("decimals", int)
    suffix = _forwarded("suffix", str)

    def setValue(self, value: float) -> None:
        self._box.setValue(value)


qt.UiLoader.custom.update({cls.__name__: cls for cls in (ctkCollapsibleButton, ctkSliderWidget)})
