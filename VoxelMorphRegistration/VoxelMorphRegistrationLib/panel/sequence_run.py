"""All frames of a sequence registered one after the other, as one run: its progress, its end, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import qt
from slicer.i18n import tr as _

from ..errors import AlignmentError, FieldError, InputError, UntrustedModelError, VoxelMorphError
from ..mrml import sequences
from ..mrml.frame_guides import SEVERAL, SINGLE, check_guides
from ..mrml.frames import browser_of
from ..registration.choice import resolved
from ..registration.settings import Settings
from ..worker.client import WorkerClient
from ..worker.messages import WorkerError
from .callbacks import Callbacks
from .run import NodeRun, check_idle, prepared, several
from .steps import Steps
from .translated import translated

# What can be wrong with one frame alone; the others go on.
_OF_A_FRAME = (InputError, AlignmentError, FieldError)


class SequenceRun:
    """As NodeRun, for each frame of a sequence, with SequenceOutputs. Frames that were finished before an error or a
    cancel are kept, and it ends as finished then.

    target: the volume to register onto, or None: frame `number` or the mean (onto), made as a new volume.
    wanted: the kinds of results besides the transform. given: labels, points, masks, further volumes and
    initialTransform, by the names that the module's logic takes (frame_guides). Raises VoxelMorphError when it cannot
    start.
    """

    def __init__(
        self,
        client: WorkerClient,
        logic,
        sequence,
        target,
        onto: str,
        number: int,
        settings: Settings,
        wanted: tuple[str, ...],
        given: dict,
        callbacks: Callbacks,
        *,
        apply: bool,
    ) -> None:
        check_idle(client)
        self.settings, self._client, self._logic, self._given = settings, client, logic, given
        self._sequence, self._onto, self._number, self._apply = sequence, onto, number, apply
        self._tell = callbacks
        self._count = len(sequences.volumes_of(sequence))
        self._scene = sequence.GetScene()
        _browser, self._proxy = browser_of(sequence)
        sequences.check_parent(self._proxy)
        frame = number if onto == sequences.FRAME else None
        check_guides(sequence, given, frame)
        self._own_target = target is None
        self._target = target
        self._run: NodeRun | None = None
        self._failures: dict[int, str] = {}
        self._error: VoxelMorphError | None = None
        self._frame = -1
        self._ending = self._over = False
        self._seconds = 0.0
        # As of NodeRun: whether a stranger's model may run all the same.
        self.trusts: Callable[[UntrustedModelError, str], bool] = lambda error, model: False
        self._nodes = sequences.FrameNodes(sequence, self._proxy, wanted, given, frame)
        self._writer: Any = None
        if not logic.hasTorch():
            try:
                logic.ensureTorch()
            except BaseException:
                self._nodes.remove()
                raise
        self._tag = self._scene.AddObserver(self._scene.StartCloseEvent, lambda *_: self._on_close())
        self._steps = Steps(self._preparing(), self._begin, self._stop_with)

    @property
    def pair(self) -> tuple:
        """The volume registered onto, and the one that shows what moves."""
        return self._target, self._proxy if self._proxy is not None else self._nodes.moving

    def whole(self, stage: str, fraction: float) -> float:
        """How much of all frames is done, 0 to 1."""
        own = self._run.whole(stage.rsplit(": ", 1)[-1], fraction) if self._run is not None else 0.0
        return (max(self._frame, 0) + own) / self._count

    def cancel(self) -> None:
        """Stop; the finished frames are kept."""
        self._ending = True
        if self._run is not None:
            self._run.cancel()
        elif not self._over:
            # Between two frames, or before the first.
            self._steps.stop()
            self._steps = Steps(_nothing(), lambda *_: self._end(), self._stop_with)

    def stop_here(self) -> None:
        """End with this frame as it is."""
        self._ending = True
        if self._run is not None:
            self._run.stop_here()

    def abandon(self) -> None:
        """Stop, keep the finished frames, and call nothing any more."""
        self._tell.silence()
        self._ending = True
        if self._run is not None:
            self._run.abandon()
        self._steps.stop()
        if not self._over:
            self._end()

    # --- the frames ---------------------------------------------------------------------------------------------

    def _preparing(self) -> Generator[None, None, None]:
        if self._own_target:
            self._target = yield from sequences.making_target(self._sequence, self._proxy, self._onto, self._number)
        yield

    def _begin(self, *_unused) -> None:
        self._writer = sequences.SequenceWriter(self._nodes, self._target)
        self._next()

    def _next(self) -> None:
        """Register the next frame, or end."""
        self._run = None
        if self._over:
            return
        self._frame += 1
        if self._ending or self._frame >= self._count:
            self._end()
            return
        try:
            self._check()
            self._nodes.show(self._frame)
            self._run = self._started()
        except _OF_A_FRAME as error:
            self._failed(error)
        except VoxelMorphError as error:
            self._stop_with(error)

    def _started(self) -> NodeRun:
        results, guides = self._nodes.results, self._nodes.guides
        given = guides.arguments(self._frame)
        settings = guides.settings(self.settings, self._frame)
        if self._is_target():
            # Onto itself: a correlation of one cannot be improved, so that nothing moves, and no error is to be found.
            settings = settings.replace(
                alignment="none",
                model="none",
                passes=None,
                refinement="coarse",
                similarity="lncc",
                expected_error="off",
            )
        reading, targets = prepared(
            self._target,
            self._nodes.moving,
            self._logic,
            outputTransform=results["transform"],
            outputVolume=results.get("volume", False),
            outputJacobian=results.get("jacobian", False),
            outputInverse=results.get("inverse", False),
            outputLabels=results["labels"] if "labels" in results and "movingLabels" in given else False,
            initialTransform=self._given.get("initialTransform"),
            **given,
        )
        targets = replace(targets, expected_error=results.get("expected_error", False))
        run = NodeRun(
            self._client,
            (self._target, self._nodes.moving),
            reading,
            targets,
            settings,
            Callbacks(
                self._finished,
                self._failed,
                self._next,
                self._progressed,
                lambda line: self._tell.log(line),
                self._tell.preview,
            ),
        )
        run.trusts = lambda error, model: self.trusts(error, model)
        return run

    def _is_target(self) -> bool:
        return self._onto == sequences.FRAME and self._frame == self._number

    def _check(self) -> None:
        """Raises WorkerError, which ends the whole, where something that all frames need is gone."""
        for node in (self._sequence, self._target, *self._nodes.results.values(), self._nodes.moving):
            if node.GetScene() is None:
                text = _("'{name}' was removed from the scene, so the registration was stopped.")
                raise WorkerError(text.format(name=node.GetName()))
        if self._sequence.GetNumberOfDataNodes() != self._count:
            text = _("Frames of '{name}' came or went, so the registration was stopped.")
            raise WorkerError(text.format(name=self._sequence.GetName()))

    def _progressed(self, stage: str, fraction: float, seconds: float) -> None:
        title = _("Frame {number} of {count}").format(number=self._frame + 1, count=self._count)
        self._tell.progress(f"{title}: {stage}", fraction, self._seconds + seconds)

    def _finished(self, outputs) -> None:
        self._seconds += outputs.report.seconds["total"]
        if self._is_target():
            # That the deformation brought nothing is as it should be.
            outputs = sequences.without_warnings(outputs)
        self._writer.keep(self._frame, outputs)
        lacking = self._nodes.guides.lacking(self._frame)
        for warning in (*([lacking] if lacking else []), *outputs.report.warnings):
            self._tell.log(_("Frame {number}: {text}").format(number=self._frame + 1, text=translated(warning)))
        self._go_on()

    def _go_on(self) -> None:
        """With the next frame, once this event is over: hundreds may fail one after the other."""
        self._run = None
        qt.QTimer.singleShot(0, self._next)

    def _failed(self, error: VoxelMorphError) -> None:
        """Of one frame: it is noted, and the others go on. Anything else ends the whole."""
        gone = any(node.GetScene() is None for node in (self._target, self._nodes.moving))
        if not isinstance(error, _OF_A_FRAME) or gone:
            self._stop_with(error)
            return
        self._failures[self._frame] = str(error)
        self._error = self._error or error
        self._tell.log(_("Frame {number}: {text}").format(number=self._frame + 1, text=translated(str(error))))
        self._go_on()

    # --- the end ------------------------------------------------------------------------------------------------

    def _on_close(self) -> None:
        """The scene is being closed: nothing of it is kept."""
        self._writer = None
        self.cancel()

    def _stop_with(self, error: VoxelMorphError) -> None:
        self._run, self._error, self._ending = None, error, True
        if 0 <= self._frame < self._count:
            self._failures[self._frame] = str(error)
        self._end()

    def _end(self) -> None:
        if self._over:
            return
        self._over, self._run = True, None
        self._scene.RemoveObserver(self._tag)
        kept = self._writer is not None and bool(self._writer.reports)
        if kept and self._sequence.GetScene() is not None and self._target.GetScene() is not None:
            outputs = self._writer.finish(self._failures, self._apply)
            self._nodes.remove()
            self._tell.finished(outputs)
            return
        if not self._scene.IsClosing():
            self._nodes.remove()
            if self._own_target and self._target is not None and self._target.GetScene() is not None:
                self._scene.RemoveNode(self._target)
            if kept:
                self._writer.remove()
        if self._error is not None:
            self._tell.error(self._error)
        else:
            self._tell.cancelled()


def _nothing() -> Generator[None, None, None]:
    yield


def text_of_end(outputs: sequences.SequenceOutputs) -> str:
    """One line about a finished run."""
    text = _("{kept} of {count} frames registered").format(kept=len(outputs.kept), count=outputs.count)
    if outputs.failures:
        number, reason = next(iter(outputs.failures.items()))
        text += _("; frame {number}: {reason}").format(number=number + 1, reason=translated(reason))
    return text


def sequence_run(
    logic,
    sequence,
    fixedNode,
    settings: Settings,
    callbacks: Callbacks,
    *,
    onto=None,
    wantVolume=True,
    wantJacobian=True,
    wantInverse=False,
    applyToMoving=False,
    wantLabels=True,
    **given,
) -> SequenceRun:
    """A run by the names that the module's logic takes. Raises VoxelMorphError."""
    sequences.volumes_of(sequence)
    unknown = given.keys() - {*SINGLE, *SEVERAL, "initialTransform"}
    if unknown:
        raise TypeError(f"registerSequence takes no argument '{min(unknown)}'.")
    given.update({name: several(given.get(name)) for name in SEVERAL})
    wanted = {
        "volume": wantVolume,
        "labels": wantLabels and given.get("movingLabels") is not None,
        "jacobian": wantJacobian,
        "expected_error": resolved(settings).expected_error != "off",
        "inverse": wantInverse,
    }
    target, kind, number = _onto_what(sequence, fixedNode, onto)
    return SequenceRun(
        logic.worker(),
        logic,
        sequence,
        target,
        kind,
        number,
        settings,
        tuple(name for name, one in wanted.items() if one),
        given,
        callbacks,
        apply=applyToMoving,
    )


def _onto_what(sequence, fixedNode, onto) -> tuple[Any, str, int]:
    """(volume or None, kind, number of the frame or -1). onto: None and FIXED name the volume. Raises InputError."""
    if onto in (None, sequences.FIXED):
        if fixedNode is None:
            raise InputError(_("No fixed volume is given. Give one, or onto='mean', or onto= the number of a frame."))
        return fixedNode, sequences.FIXED, -1
    if fixedNode is not None:
        raise InputError(_("A fixed volume is given and onto= as well. Leave one of the two out."))
    if onto == sequences.MEAN:
        return None, sequences.MEAN, -1
    if isinstance(onto, bool) or not isinstance(onto, int):
        raise InputError(_("onto is {value}. Give 'mean' or the number of a frame, from 0.").format(value=repr(onto)))
    last = sequence.GetNumberOfDataNodes() - 1
    if not 0 <= onto <= last:
        text = _("'{name}' has the frames 0 to {last}, and {number} is none of them.")
        raise InputError(text.format(name=sequence.GetName(), last=last, number=onto))
    return None, sequences.FRAME, onto
