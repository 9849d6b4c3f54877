"""The expected error in the section 'Check': its map with a contour, and the way to the least certain place."""

from __future__ import annotations

from ..mrml import error_map


class DoubtControls:
    """Drives the widgets for the expected error. show: fills the views with a mode; jump: goes to a worst place."""

    MODE = "error"

    def __init__(self, ui, nodes, show, jump, told) -> None:
        self._ui, self._nodes, self._told = ui, nodes, told
        self._shown = False
        ui.showErrorButton.clicked.connect(lambda *_: show(self.MODE))
        ui.leastCertainButton.clicked.connect(lambda *_: jump("expected_error"))
        ui.errorContourSpinBox.valueChanged.connect(self._on_contour)
        ui.errorBandCheckBox.clicked.connect(self._on_band)

    def update(self, result: bool, nodes) -> None:
        """Enable what can be shown of a result."""
        mapped = result and nodes.expected_error is not None
        self._ui.errorContourSpinBox.enabled = mapped
        self._ui.errorBandCheckBox.enabled = mapped and nodes.labels.get("warped") is not None
        self._ui.leastCertainButton.enabled = result and "expected_error" in (nodes.report.get("worst_ras") or {})

    def possible(self, result: bool, nodes) -> bool:
        """Whether there is a map to show."""
        return result and nodes.expected_error is not None

    def show(self, nodes, opacity: float, legend: bool) -> None:
        """The map over the fixed volume."""
        self._shown = True
        contour = round(self._ui.errorContourSpinBox.value, 3)
        error_map.show_error(nodes.fixed, nodes.expected_error, opacity, contour, legend)
        self._show_band(nodes)

    def hide(self, nodes) -> None:
        """Another mode is shown: what belongs to the map alone goes."""
        self._shown = False
        if nodes.expected_error is not None:
            error_map.show_legend(nodes.expected_error, False)
            error_map.hide_contour(nodes.expected_error.GetScene())
            error_map.hide_band(nodes.expected_error.GetScene())

    def show_legend(self, nodes, visible: bool) -> None:
        if self._shown and nodes.expected_error is not None:
            error_map.show_legend(nodes.expected_error, visible)

    def _on_contour(self, *_unused) -> None:
        volume = self._nodes().expected_error
        if self._shown and volume is not None:
            with self._told(busy=True):
                error_map.show_contour(volume, round(self._ui.errorContourSpinBox.value, 3))

    def _on_band(self, *_unused) -> None:
        if self._shown:
            with self._told(busy=True):
                self._show_band(self._nodes())

    def _show_band(self, nodes) -> None:
        error_map.hide_band(nodes.expected_error.GetScene())
        labels = nodes.labels.get("warped")
        if self._ui.errorBandCheckBox.checked and labels is not None:
            error_map.show_band(labels, nodes.expected_error)
