"""What the logic's functions share: settings as given, callbacks, and waiting for the end of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import Cancelled, SettingsError, VoxelMorphError
from ..mrml.sequences import SequenceOutputs
from ..registration.report import headline
from ..registration.settings import Settings
from .callbacks import Callbacks
from .sequence_run import text_of_end


def settings_with(settings: Any, model: Any = None) -> Settings:
    """Settings as given, or the defaults, with a model's name or file. Raises SettingsError."""
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise SettingsError(
            _("The settings are a {kind}. Give Settings(...), such as Settings(alignment='rigid').").format(
                kind=type(settings).__name__
            )
        )
    if model is not None:
        settings = settings.replace(model=str(model))
    if Path(settings.model).is_file():
        settings = settings.replace(model=str(Path(settings.model).resolve()))
    return settings


def callbacks_of(onFinished, onError, onCancelled, onProgress, onLog, onPreview) -> Callbacks:
    """The callbacks of a run; those that are None do nothing."""
    given = {
        "finished": onFinished,
        "error": onError,
        "cancelled": onCancelled,
        "progress": onProgress,
        "log": onLog,
        "preview": onPreview,
    }
    return Callbacks(**{name: one for name, one in given.items() if one is not None})


def waited_for(start: Callable[..., Any], progress: Callable | None) -> Any:
    """Start a run by start(**callbacks) and return its outputs when it is done; Slicer takes no clicks meanwhile.

    progress(stage, fraction): returning False cancels. Raises what the run ends with.
    """
    ended: list = []
    failed: list[Exception] = []

    def report(stage, fraction, seconds):
        try:
            goOn = progress is None or progress(stage, fraction) is not False
        except Exception as error:
            # Raised once the run has ended; an event handler would only print it.
            failed.append(error)
            goOn = False
        if not goOn:
            run.cancel()

    run = start(
        onFinished=ended.append,
        onError=ended.append,
        onCancelled=lambda: ended.append(Cancelled()),
        onProgress=report,
    )
    try:
        while not ended:
            slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)
            time.sleep(0.002)
    except BaseException:
        # Interrupted from the keyboard.
        run.abandon()
        raise
    if failed:
        raise failed[0]
    if isinstance(ended[0], VoxelMorphError):
        raise ended[0]
    return ended[0]


def summary(outputs) -> str:
    """One line about a finished registration."""
    if isinstance(outputs, SequenceOutputs):
        return text_of_end(outputs)
    report = outputs.report
    name, before, after = headline(report.similarity)
    count, seconds = report.folding["inside"]["count"], report.seconds["total"]
    return _("{name} {before:.3f} -> {after:.3f}, folded voxels {folds}, {seconds:.1f} s on {device}").format(
        name=name, before=before, after=after, folds=count, seconds=seconds, device=report.device
    )
