"""How the panel tells errors and asks questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import VoxelMorphError
from .plain import plain
from .translated import translated


@contextmanager
def told(busy: bool = False) -> Iterator[None]:
    """Errors that are meant for the user are shown as they are; others with their details, and raised.

    busy: with the pointer of waiting.
    """
    if busy:
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
    try:
        with slicer.util.tryWithErrorDisplay(_("This failed unexpectedly.")):
            try:
                yield
            except VoxelMorphError as error:
                tell(error)
    finally:
        if busy:
            slicer.app.restoreOverrideCursor()


def tell(error: VoxelMorphError) -> None:
    """Show an error, once the event that found it is over."""
    text = translated(str(error))
    qt.QTimer.singleShot(0, lambda: slicer.util.errorDisplay(plain(text)))
