"""Long work on the scene driven by the event loop, so that the window stays alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import qt
from slicer.i18n import tr as _

from ..errors import OutputError, VoxelMorphError

# Seconds of steps between two looks at the events: shorter than anybody notices, long enough to lose nothing.
_SLICE_S = 0.02


class Steps:
    """Runs a generator, whose steps are short each. done(returned value) or failed(error) is called at its end.

    failed gets a VoxelMorphError: of the work itself, or one that names what was not expected, which is raised as
    well, for the log. Neither is called after stop().
    """

    def __init__(
        self, generator: Generator[None, None, Any], done: Callable, failed: Callable[[VoxelMorphError], None]
    ) -> None:
        self._generator, self._done, self._failed = generator, done, failed
        self._stopped = False
        qt.QTimer.singleShot(0, self._run)

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._generator.close()

    def _run(self) -> None:
        if self._stopped:
            return
        end = time.monotonic() + _SLICE_S
        try:
            while time.monotonic() < end:
                next(self._generator)
        except StopIteration as result:
            self._stopped = True
            self._done(result.value)
        except VoxelMorphError as error:
            self._stopped = True
            self._failed(error)
        except Exception as error:
            # Told, so that nobody waits for the end.
            self._stopped = True
            text = _("The scene could not be read or written ({name}: {error}).")
            self._failed(OutputError(text.format(name=type(error).__name__, error=error)))
            raise
        else:
            qt.QTimer.singleShot(0, self._run)
