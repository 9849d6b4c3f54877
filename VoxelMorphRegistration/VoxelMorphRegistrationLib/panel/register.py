"""The button Register with what belongs to it: progress, status, log, and the run from its start to its end.

The button is never disabled while it has the focus: the focus would jump to the next widget, and the panel with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import VoxelMorphError
from .colours import ERROR, ink
from .messages import tell, told
from .plain import plain
from .run import NodeRun, stage_title
from .translated import translated
from .trust import trusts

# Seconds without news of a running registration before the panel says so.
QUIET_S = 30.0


class RegisterSection:
    """Drives the widgets around the button.

    start(callbacks) begins a run: a dict of the callbacks that registerAsync takes; raises VoxelMorphError where it
    cannot. obstacle() says in a sentence why it cannot; subject() is what the texts are about: when it changes, what
    is said of the last run goes. hint() is shown where nothing is in the way. has_torch() tells whether PyTorch must be
    installed first. on_preview(image) comes while the result improves, on_finished(outputs) after a run that
    succeeded, on_ended() after any other one.
    """

    def __init__(
        self,
        ui,
        start: Callable[[dict], NodeRun],
        obstacle: Callable[[], str],
        subject: Callable[[], object],
        hint: Callable[[], str],
        has_torch: Callable[[], bool],
        summary: Callable[[Any], str],
        on_preview: Callable[[object], None],
        on_finished: Callable[[object], None],
        on_ended: Callable[[], None],
    ) -> None:
        self._ui, self._start, self._obstacle, self._has_torch = ui, start, obstacle, has_torch
        self._subject, self._hint = subject, hint
        self._summary, self._on_preview = summary, on_preview
        self._on_finished, self._on_ended = on_finished, on_ended
        self.run: NodeRun | None = None
        self.stage = ""
        self._starting = self._cancelling = self._stopping = False
        self._told_of: object = None
        self._stages: set[str] = set()
        self._start_time = self._news_time = 0.0
        self._clock = qt.QTimer()
        self._clock.timeout.connect(self.show_progress)
        ui.registerButton.clicked.connect(self.press)
        ui.stopButton.clicked.connect(self._on_stop)
        ui.stopButton.setVisible(False)
        ui.copyLogButton.clicked.connect(self._on_copy_log)
        self._show_status("", 0)

    def cleanup(self) -> None:
        if self.run is not None:
            self.run.abandon()
            self._end()

    def update(self) -> None:
        """The button says what it does; below it stands why it does nothing, or what to expect."""
        button = self._ui.registerButton
        if self.run is not None or self._starting:
            self._show_hint("")
            if self.run is not None:
                button.text = _("Cancelling") if self._cancelling else _("Cancel")
                button.enabled = True
                button.toolTip = _("Stop the registration; nothing is written")
            return
        obstacle = translated(self._obstacle())
        button.text = _("Register")
        if obstacle:
            # Not to the next widget, as it would by itself.
            button.clearFocus()
        button.enabled = not obstacle
        button.toolTip = plain(obstacle) or _("Deform the moving volume onto the fixed volume (Ctrl+Return)")
        self._show_hint(obstacle or self._hint())
        if self._told_of is not None and self._told_of != self._subject():
            self.forget()

    def _show_hint(self, text: str) -> None:
        self._ui.hintLabel.text = text
        self._ui.hintLabel.setVisible(bool(text))

    def forget(self) -> None:
        """Say nothing of the last run any more: another pair, another result or another scene is shown."""
        self._told_of = None
        if self.run is None:
            self._show_status("", 0)

    def log(self, text: str) -> None:
        self._ui.logText.appendPlainText(text)

    def _on_copy_log(self, *_unused) -> None:
        self._ui.logText.selectAll()
        self._ui.logText.copy()

    # --- a run ---

    def press(self, *_unused) -> None:
        """As by the button: start, or cancel what runs."""
        if self.run is not None:
            if not self._cancelling:
                self._cancelling = True
                self.run.cancel()
                self._ui.statusLabel.text = _("Cancelling")
                self.update()
            return
        if not self._obstacle():
            self.begin(self._start)

    def begin(self, start: Callable[[dict], NodeRun]) -> bool:
        """Start a run by start(callbacks) and drive the widgets for it. Returns whether it began."""
        # Slicer takes clicks while PyTorch is installed.
        if self._starting or self.run is not None:
            return False
        self._ui.logText.clear()
        self._starting = True
        self.forget()
        self.update()
        if not self._has_torch():
            self._show_status(_("PyTorch has to be installed first; this takes minutes"), 0)
        try:
            with told():
                try:
                    self.run = start(self._callbacks())
                except VoxelMorphError as error:
                    self._on_ended()
                    self._show_end(translated(str(error)), 0, failed=True)
                    raise
        finally:
            self._starting = False
            if self.run is not None:
                self.run.trusts = trusts
                self._begin()
            self.update()
        return self.run is not None

    def _callbacks(self) -> dict:
        return {
            "onFinished": self._finished,
            "onError": self._failed,
            "onCancelled": self._cancelled,
            "onProgress": self._progressed,
            "onLog": self.log,
            "onPreview": self._previewed,
        }

    def _begin(self) -> None:
        self.stage, self._stages, self._start_time = "", set(), time.monotonic()
        self._cancelling, self._stopping, self._news_time = False, False, self._start_time
        self._show_status("", 0)
        self.log(_("Registration started"))
        self._set_inputs_enabled(False)
        self._clock.start(500)
        self.show_progress()

    def _previewed(self, image) -> None:
        """There is something to keep: it is shown, and the run can be stopped with it."""
        self._ui.stopButton.setVisible(True)
        self._on_preview(image)

    def _on_stop(self, *_unused) -> None:
        if self.run is not None and not self._stopping:
            self._stopping = True
            self.run.stop_here()
            self.log(_("Stopped here; the result so far is kept"))

    def _set_inputs_enabled(self, enabled: bool) -> None:
        for name in ("inputs", "outputs", "settings"):
            getattr(self._ui, f"{name}CollapsibleButton").enabled = enabled

    def _progressed(self, stage: str, fraction: float, seconds: float) -> None:
        self._news_time = time.monotonic()
        self.stage = stage
        if stage not in self._stages:
            # A model is opened once by the worker and once, for nothing, by the registration.
            self._stages.add(stage)
            self.log(_("{seconds:.1f} s: {stage}").format(seconds=seconds, stage=stage_title(stage)))
        percent = int(100 * self.run.whole(stage, fraction)) if self.run is not None else 0
        self._ui.progressBar.value = max(percent, self._ui.progressBar.value)
        self.show_progress()

    def show_progress(self, *_unused) -> None:
        if self.run is None or self._cancelling:
            return
        now = time.monotonic()
        stage = _("Finishing") if self._stopping else stage_title(self.stage)
        text = _("{stage}, {seconds:.0f} s").format(
            stage=(stage or _("starting")).capitalize(), seconds=now - self._start_time
        )
        if now - self._news_time > QUIET_S:
            text += _(" (no news for {seconds:.0f} s; Cancel ends it)").format(seconds=now - self._news_time)
        self._ui.statusLabel.text = text
        for widget in (self._ui.statusLabel, self._ui.progressBar):
            widget.setVisible(True)

    # --- its end ---

    def _end(self) -> None:
        self.run, self._cancelling = None, False
        self._ui.stopButton.setVisible(False)
        self._clock.stop()
        self._set_inputs_enabled(True)

    def _show_status(self, text: str, percent: int, failed: bool = False) -> None:
        label, bar = self._ui.statusLabel, self._ui.progressBar
        label.styleSheet = f"color: {ink(label, ERROR)}" if failed else ""
        label.text, bar.value = text, percent
        label.setVisible(bool(text))
        bar.setVisible(bool(text) and not failed)

    def _show_end(self, text: str, percent: int, failed: bool = False) -> None:
        self._show_status(text, percent, failed)
        self._told_of = self._subject()
        self.log(text)
        # Another module may be open by now.
        slicer.util.showStatusMessage(f"VoxelMorph: {text}", 8000)

    def _finished(self, outputs) -> None:
        self._end()
        try:
            self._on_finished(outputs)
        finally:
            self._show_end(self._summary(outputs), 100)
        for warning in outputs.report.warnings:
            self.log(_("Warning: {text}").format(text=translated(warning)))

    def _failed(self, error: VoxelMorphError) -> None:
        self._end()
        self._on_ended()
        self._show_end(translated(str(error)), 0, failed=True)
        tell(error)

    def _cancelled(self) -> None:
        self._end()
        self._on_ended()
        self._show_end(_("Cancelled. Nothing was changed."), 0)
