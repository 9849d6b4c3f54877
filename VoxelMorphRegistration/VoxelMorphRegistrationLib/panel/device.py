"""What the worker found on this computer: its devices, and how long a registration will take on the chosen one."""

from __future__ import annotations

from collections.abc import Callable

import vtk

from slicer.i18n import tr as _

from ..errors import VoxelMorphError
from ..images.grid import Grid
from ..mrml.sequences import FIXED
from ..mrml.transforms import matrix_from_vtk
from ..networks.model import read_card
from ..networks.shelf import find_model
from ..registration.expected import expected_bytes, expected_seconds, in_words
from .choices import settings_of
from .frames import all_frames
from .further import chosen_rows


class DeviceLine:
    """logic gives hasTorch() and worker(); log(line) tells why there is no worker; on_known() when it is there."""

    def __init__(self, label, logic, log: Callable[[str], None], on_known: Callable[[], None]) -> None:
        self._label, self._logic, self._log, self._on_known = label, logic, log, on_known
        self._parameters = None
        self._problem = ""

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters

    def warm_up(self) -> None:
        """Start the worker, where PyTorch is there for it, so that the first registration need not wait."""
        if self._logic.hasTorch():
            self._problem = ""
            self._logic.worker().start(on_ready=self._on_ready, on_error=self._on_failed)
        self.update()

    def _on_ready(self, *_unused) -> None:
        self.update()
        if self._parameters:
            self._on_known()

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


def expected_text(parameters, facts: dict | None) -> str:
    """How long the chosen pair will take here, for the line under Register; empty while that is not known.

    Where the graphics card has too little memory, it says so, and how long the processor will take.
    """
    if parameters is None or facts is None:
        return ""
    speeds = facts.get("speed", {})
    device = parameters.device
    if device == "auto":
        device = next((one["name"] for one in facts["devices"] if one["name"] in speeds), "")
    sequence, onto = all_frames(parameters)
    volume = parameters.fixedVolume if onto in ("", FIXED) else parameters.movingVolume
    data = volume.GetImageData() if volume else None
    if device not in speeds or data is None:
        return ""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    try:
        settings = settings_of(parameters)
        grid = Grid(data.GetDimensions()[::-1], matrix_from_vtk(matrix))
        named = settings.model not in ("auto", "none")
        card = read_card(find_model(settings.model)) if named else None
        if card is not None and card.dimension != grid.dimension:
            return ""
        free = next((one.get("memory") for one in facts["devices"] if one["name"] == device), None)
        further = len(chosen_rows(parameters))
        needed = expected_bytes(settings, grid, card, further)
        lacking = free is not None and needed > free
        name = "cpu" if lacking else device
        arithmetic = next((one.get("arithmetic") for one in facts["devices"] if one["name"] == name), None)
        seconds = expected_seconds(
            settings, grid, speeds[name], card=card, further=further, arithmetic=arithmetic or "float32"
        )
    except VoxelMorphError:
        # Told elsewhere, as what stands against a start.
        return ""
    count = sequence.GetNumberOfDataNodes() if sequence is not None else 1
    duration = in_words(count * seconds)
    if lacking and free is not None:
        return _(
            "The graphics card has {free:.1f} GB of free memory and about {needed:.1f} GB are needed: it runs on the "
            "processor and takes {duration}. A coarser working spacing or a cropped fixed volume needs less."
        ).format(free=free / 2**30, needed=needed / 2**30, duration=duration)
    if sequence is not None:
        return _("All {count} frames take {duration} on this computer.").format(count=count, duration=duration)
    return _("Takes {duration} on this computer.").format(duration=duration)
