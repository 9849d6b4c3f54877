"""The line below the choice of a device: what the worker found there. The worker is warmed up with it."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _


class DeviceLine:
    """logic gives hasTorch() and worker(); log(line) tells why there is no worker."""

    def __init__(self, label, logic, log: Callable[[str], None]) -> None:
        self._label, self._logic, self._log = label, logic, log
        self._parameters = None
        self._problem = ""

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters

    def warm_up(self) -> None:
        """Start the worker, where PyTorch is there for it, so that the first registration need not wait."""
        if self._logic.hasTorch():
            self._problem = ""
            self._logic.worker().start(on_ready=self.update, on_error=self._on_failed)
        self.update()

    def _on_failed(self, error) -> None:
        """Not in the user's way: the same error is told when Register is pressed."""
        self._problem = str(error)
        self._log(str(error))
        self.update()

    def update(self, *_unused) -> None:
        """What the worker found for the chosen device."""
        if not self._parameters:
            return
        facts = self._logic.worker().facts
        if not self._logic.hasTorch():
            text = _("PyTorch is not installed yet")
        elif facts is None:
            text = _("not available; the log says why") if self._problem else _("looking for devices")
        else:
            chosen = self._parameters.device
            known = [one["text"] for one in facts["devices"] if chosen in ("auto", one["name"])]
            text = known[0] if known else _("not found on this computer")
        self._label.text = text
