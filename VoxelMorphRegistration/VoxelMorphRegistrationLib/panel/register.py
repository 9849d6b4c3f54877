"""The button Register with what belongs to it: progress, status, log, and the run from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from ..errors import VoxelMorphError
from .messages import tell, told
from .run import NodeRun, whole_fraction

# Seconds without news of a running registration before the panel says so.
QUIET_S = 30.0
_FAILED = "color: #c62828"


class RegisterSection:
    """Drives the widgets around the button.

    start(callbacks) begins a run: a dict of the callbacks that registerAsync takes; raises VoxelMorphError where it
    cannot. obstacle() says in a sentence why it cannot. has_torch() tells whether PyTorch must be installed first.
    on_finished(outputs) comes after a run that succeeded, on_ended() after any other one.
    """

    def __init__(
        self,
        ui,
        start: Callable[[dict], NodeRun],
        obstacle: Callable[[], str],
        has_torch: Callable[[], bool],
        summary: Callable[[object], str],
        on_finished: Callable[[object], None],
        on_ended: Callable[[], None],
    ) -> None:
        self._ui, self._start, self._obstacle, self._has_torch = ui, start, obstacle, has_torch
        self._summary, self._on_finished, self._on_ended = summary, on_finished, on_ended
        self.run: NodeRun | None = None
        self.stage = ""
        self._starting, self._shown_obstacle, self._refined = False, "", True
        self._stages: set[str] = set()
        self._start_time = self._news_time = 0.0
        self._clock = qt.QTimer()
        self._clock.timeout.connect(self.show_progress)
        ui.registerButton.clicked.connect(self._on_clicked)
        ui.copyLogButton.clicked.connect(self._on_copy_log)

    def cleanup(self) -> None:
        if self.run is not None:
            self.run.abandon()
            self._end()

    def update(self) -> None:
        """The button says what it does, or why it does nothing."""
        button = self._ui.registerButton
        if self.run is not None:
            button.text, button.enabled = _("Cancel"), True
            button.toolTip = _("Stop the registration; nothing is written")
            return
        if self._starting:
            button.enabled = False
            return
        obstacle = self._obstacle()
        button.text, button.enabled = _("Register"), not obstacle
        button.toolTip = obstacle or _("Deform the moving volume onto the fixed volume")
        # How the last run ended is worth more.
        status = self._ui.statusLabel
        if status.text in ("", self._shown_obstacle):
            status.text = self._shown_obstacle = obstacle

    def log(self, text: str) -> None:
        self._ui.logText.appendPlainText(text)

    def _on_copy_log(self, *_unused) -> None:
        self._ui.logText.selectAll()
        self._ui.logText.copy()

    # --- a run ---

    def _on_clicked(self, *_unused) -> None:
        if self.run is not None:
            self.run.cancel()
            self._ui.registerButton.enabled = False
            self._ui.statusLabel.text = _("Cancelling")
            return
        self._ui.logText.clear()
        # Slicer takes clicks while PyTorch is installed.
        self._starting = True
        self.update()
        if not self._has_torch():
            self._ui.statusLabel.styleSheet = ""
            self._ui.statusLabel.text = _("PyTorch has to be installed first; this takes minutes")
        try:
            with told():
                try:
                    self.run = self._start(self._callbacks())
                except VoxelMorphError as error:
                    self._show_end(str(error), 0, failed=True)
                    raise
        finally:
            self._starting = False
            self.update()
        if self.run is not None:
            self._begin()

    def _callbacks(self) -> dict:
        return {
            "onFinished": self._finished,
            "onError": self._failed,
            "onCancelled": self._cancelled,
            "onProgress": self._progressed,
            "onLog": self.log,
        }

    def _begin(self) -> None:
        self.stage, self._stages, self._start_time = "", set(), time.monotonic()
        self._ui.progressBar.value = 0
        self._news_time = self._start_time
        self._ui.statusLabel.styleSheet = ""
        self.log(_("Registration started"))
        self._set_inputs_enabled(False)
        self._clock.start(500)
        self.show_progress()

    def _set_inputs_enabled(self, enabled: bool) -> None:
        for name in ("inputs", "outputs", "settings"):
            getattr(self._ui, f"{name}CollapsibleButton").enabled = enabled

    def _progressed(self, stage: str, fraction: float, seconds: float) -> None:
        self._news_time = time.monotonic()
        self.stage = stage
        if stage not in self._stages:
            # A model is opened once by the worker and once, for nothing, by the registration.
            self._stages.add(stage)
            self.log(_("{seconds:.1f} s: {stage}").format(seconds=seconds, stage=stage))
        refined = self.run is None or self.run.settings.refinement != "off"
        percent = int(100 * whole_fraction(stage, fraction, refined))
        self._ui.progressBar.value = max(percent, self._ui.progressBar.value)
        self.show_progress()

    def show_progress(self, *_unused) -> None:
        if self.run is None or not self._ui.registerButton.enabled:
            return
        now = time.monotonic()
        text = _("{stage}, {seconds:.0f} s").format(
            stage=(self.stage or _("starting")).capitalize(), seconds=now - self._start_time
        )
        if now - self._news_time > QUIET_S:
            text += _(" (no news for {seconds:.0f} s; Cancel ends it)").format(seconds=now - self._news_time)
        self._ui.statusLabel.text = text

    # --- its end ---

    def _end(self) -> None:
        self.run = None
        self._clock.stop()
        self._set_inputs_enabled(True)

    def _show_end(self, text: str, percent: int, failed: bool = False) -> None:
        self._ui.statusLabel.styleSheet = _FAILED if failed else ""
        self._ui.statusLabel.text = text
        self._ui.progressBar.value = percent
        self.log(text)

    def _finished(self, outputs) -> None:
        self._end()
        self._show_end(self._summary(outputs.report), 100)
        for warning in outputs.report.warnings:
            self.log(_("Warning: {text}").format(text=warning))
        self._on_finished(outputs)

    def _failed(self, error: VoxelMorphError) -> None:
        self._end()
        self._show_end(str(error), 0, failed=True)
        self._on_ended()
        tell(error)

    def _cancelled(self) -> None:
        self._end()
        self._show_end(_("Cancelled. Nothing was changed."), 0)
        self._on_ended()
