"""A registration of nodes in the worker's process: sent, watched over, written into the scene at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from slicer.i18n import tr as _

from ..errors import InputError, UntrustedModelError, VoxelMorphError
from ..mrml.inputs import Inputs, reading_inputs
from ..mrml.pinned import start_from
from ..mrml.results import results_of
from ..mrml.steps import finish
from ..mrml.targets import TARGET_NAMES, Outputs, Targets, check_targets
from ..mrml.transforms import making_transforms
from ..mrml.writer import wanted_fields, writing_outputs
from ..registration.choice import resolved
from ..registration.settings import Settings
from ..results.written import Product
from ..worker.client import WorkerClient
from ..worker.messages import Job, WorkerError
from .callbacks import Callbacks
from .steps import Steps

# Seconds that reading the scene may take at once: what is wrong with small inputs is then raised, not told later.
_AT_ONCE_S = 0.05
# Parts of the whole that the stages take, roughly; refinement counts where it is done.
_WEIGHTS = {
    "checking": 3,
    "loading the model": 3,
    "aligning": 30,
    "registering": 25,
    "refining": 60,
    "warping": 8,
    "estimating the error": 4,
    "inverting": 6,
    "measuring": 20,
    "returning the result": 3,
}
_shared: list[WorkerClient] = []


def shared_client() -> WorkerClient:
    """The worker of this Slicer, for the panel and for scripts; it outlives a reload of the module."""
    if not _shared:
        _shared.append(WorkerClient())
    return _shared[0]


def whole_fraction(stage: str, fraction: float, refined: bool) -> float:
    """How much of a registration is done, 0 to 1, from its stage and the fraction of that."""
    weights = {name: weight for name, weight in _WEIGHTS.items() if refined or name != "refining"}
    if stage not in weights:
        return 0.0
    names = list(weights)
    done = sum(weights[name] for name in names[: names.index(stage)])
    return (done + fraction * weights[stage]) / sum(weights.values())


def stage_title(stage: str) -> str:
    """A stage in the language of Slicer; what stands before a colon is left as it is."""
    titles = {
        "checking": _("checking"),
        "loading the model": _("loading the model"),
        "choosing the model": _("choosing the model"),
        "aligning": _("aligning"),
        "registering": _("registering"),
        "refining": _("refining"),
        "warping": _("warping"),
        "inverting": _("inverting"),
        "measuring": _("measuring"),
        "estimating the error": _("estimating the error"),
        "returning the result": _("returning the result"),
    }
    before, colon, last = stage.rpartition(": ")
    return f"{before}{colon}{titles.get(last, last)}"


def check_idle(client: WorkerClient) -> None:
    """Raise WorkerError when a registration is running."""
    if client.state in ("running", "cancelling"):
        raise WorkerError(_("A registration is running. Wait for its end, or cancel it first."))


class NodeRun:
    """One registration, which ends by one of its callbacks.

    reading: the generator of its inputs. It stops by itself when the scene is closed (as cancelled) or one of the two
    volumes is removed (as an error). Raises WorkerError when another registration is running, and what is found wrong
    with the inputs at once.
    """

    def __init__(
        self,
        client: WorkerClient,
        pair: tuple,
        reading: Generator[None, None, Inputs],
        targets: Targets,
        settings: Settings,
        callbacks: Callbacks,
    ) -> None:
        check_idle(client)
        self.pair, self.settings = pair, settings
        self._client, self._targets = client, targets
        self._inputs: Any = None
        self._tell = callbacks
        self._reason: VoxelMorphError | None = None
        # Asked when the model is a program that is not run unasked; with a yes the job is sent once more.
        self.trusts: Callable[[UntrustedModelError, str], bool] = lambda error, model: False
        self._stopped = False
        self._steps: Any = None
        # "reading", "computing", "writing", then "over".
        self._phase = "reading"
        inputs = _at_once(reading)
        if inputs is None:
            self._steps = Steps(reading, self._submit, self._fail)
        self._scene = pair[0].GetScene()
        self._tags = [
            self._scene.AddObserver(self._scene.StartCloseEvent, lambda *_: self._on_close()),
            self._scene.AddObserver(self._scene.NodeRemovedEvent, lambda *_: self._check_nodes()),
        ]
        if inputs is not None:
            try:
                self._submit(inputs)
            except VoxelMorphError:
                self._end()
                raise

    def whole(self, stage: str, fraction: float) -> float:
        """How much of the whole is done, 0 to 1."""
        return whole_fraction(stage, fraction, resolved(self.settings).refinement != "off")

    def cancel(self) -> None:
        """Stop; on_cancelled is called within a second, unless the results are being written already."""
        if self._phase == "writing" or self._stopped:
            return
        self._stopped = True
        if self._phase == "reading":
            self._steps.stop()
            self._steps = Steps(_nothing(), lambda _: self._cancelled(), self._fail)
        else:
            self._client.cancel()

    def stop_here(self) -> None:
        """End with the result that there is; on_finished is called with it."""
        if self._phase == "computing":
            self._client.stop_here()

    def abandon(self) -> None:
        """Stop, and call nothing any more."""
        self._tell.silence()
        if self._phase == "writing":
            self._steps.stop()
            self._end()
        self.cancel()

    def _submit(self, inputs: Inputs, trusted: bool = False) -> None:
        self._phase, self._inputs = "computing", inputs
        wanted = wanted_fields(inputs, self._targets)
        arguments = {**inputs.arguments(), **({"trust_model": True} if trusted else {})}
        try:
            self._client.submit(
                Job(*inputs.sides, self.settings, arguments, wanted, self._tell.preview is not None),
                on_result=self._write,
                on_error=self._refused,
                on_cancelled=self._cancelled,
                on_progress=lambda *values: self._tell.progress(*values),
                on_log=lambda line: self._tell.log(line),
                on_preview=self._previewed,
            )
        except VoxelMorphError as error:
            if self._steps is None:
                raise
            self._fail(error)

    def _previewed(self, image) -> None:
        if not self._stopped and self._tell.preview is not None:
            self._tell.preview(image)

    def _refused(self, error: VoxelMorphError) -> None:
        """The job failed. Where that was for want of trust, the user is asked, and may cancel or close the scene."""
        trusted = isinstance(error, UntrustedModelError) and self.trusts(error, self.settings.model)
        if self._stopped:
            self._cancelled()
        elif trusted:
            self._submit(self._inputs, trusted=True)
        else:
            self._fail(error)

    def _on_close(self) -> None:
        if self._phase == "writing":
            self._steps.stop()
            self._steps = Steps(_nothing(), lambda _: self._cancelled(), self._fail)
        self.cancel()

    def _check_nodes(self) -> None:
        if self._stopped or self._scene.IsClosing():
            # The scene is being closed, or the user cancelled before: no news to anybody.
            return
        for node in self.pair:
            if self._reason is None and not self._scene.IsNodePresent(node):
                text = _("'{name}' was removed from the scene, so the registration was stopped. Nothing was written.")
                self._reason = InputError(text.format(name=node.GetName()))
                self.cancel()

    def _end(self) -> None:
        self._phase = "over"
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def _cancelled(self) -> None:
        self._end()
        if self._reason is not None:
            self._tell.error(self._reason)
        else:
            self._tell.cancelled()

    def _fail(self, error: VoxelMorphError) -> None:
        self._end()
        self._tell.error(error)

    def _write(self, product: Product) -> None:
        """The transforms, then the nodes, in steps of the event loop: none takes long by itself."""
        self._phase = "writing"
        self._steps = Steps(self._writing(product), self._finish, self._fail)

    def _writing(self, product: Product) -> Generator[None, None, Outputs]:
        transforms = yield from making_transforms(product.fields)
        return (yield from writing_outputs(product, self._inputs, _present(self._targets, self._scene), transforms))

    def _finish(self, outputs: Outputs) -> None:
        self._end()
        if outputs.transform is not None and not self._scene.IsNodePresent(outputs.transform):
            # In the moment between the writing and this one.
            self._tell.error(
                InputError(
                    _(
                        "The transform was removed from the scene as soon as it was written, and the report with it. "
                        "Register again to have both."
                    )
                )
            )
            return
        self._tell.finished(outputs)


def _nothing() -> Generator[None, None, None]:
    yield


def _at_once(reading: Generator[None, None, Inputs]) -> Inputs | None:
    """The inputs where reading them takes no time worth mentioning; None where the rest is to be done in steps."""
    end = time.monotonic() + _AT_ONCE_S
    try:
        while time.monotonic() < end:
            next(reading)
    except StopIteration as result:
        return result.value
    return None


def _present(targets: Targets, scene) -> Targets:
    """Targets without the nodes that were removed meanwhile: new ones take their places."""
    gone: dict[str, Any] = {
        name: None for name in TARGET_NAMES if (node := getattr(targets, name)) and not scene.IsNodePresent(node)
    }
    return replace(targets, **gone)


def several(nodes) -> tuple:
    """As many nodes as were given: a list of them, one alone, or None."""
    return () if nodes is None else tuple(nodes) if isinstance(nodes, (list, tuple)) else (nodes,)


def prepared(
    fixedNode,
    movingNode,
    logic,
    *,
    fixedLabels=None,
    movingLabels=None,
    fixedPoints=None,
    movingPoints=None,
    fixedMask=None,
    movingMask=None,
    initialTransform=None,
    furtherFixed=(),
    furtherMoving=(),
    outputTransform=None,
    outputVolume=None,
    outputLabels=None,
    outputJacobian=None,
    outputInverse=False,
    linear="inside",
    applyToMoving=False,
    startFrom=None,
) -> tuple[Generator[None, None, Inputs], Targets]:
    """What reads the scene and where the results go, by the names that the module's logic takes.

    Nothing is changed. logic: with hasTorch() and ensureTorch(), which installs PyTorch. Raises VoxelMorphError.
    """
    targets = Targets(
        transform=outputTransform,
        volume=outputVolume,
        labels=outputLabels,
        jacobian=outputJacobian,
        # Beside the transform that is written again, its map is, too.
        expected_error=results_of(outputTransform or None).expected_error,
        inverse=outputInverse,
        linear=linear,
        apply=applyToMoving,
    )
    furtherFixed, furtherMoving = several(furtherFixed), several(furtherMoving)
    labels = (fixedLabels, movingLabels, fixedMask, movingMask)
    check_targets(targets, fixedNode, movingNode, *labels, *furtherFixed, *furtherMoving, start=initialTransform)

    if outputLabels and movingLabels is None:
        raise InputError(_("An output for warped labels is chosen, but no moving labels. Choose these, too."))

    def reading() -> Generator[None, None, Inputs]:
        inputs = yield from reading_inputs(
            fixedNode,
            movingNode,
            fixed_labels=fixedLabels,
            moving_labels=movingLabels,
            fixed_points=fixedPoints,
            moving_points=movingPoints,
            fixed_mask=fixedMask,
            moving_mask=movingMask,
            initial_transform=initialTransform,
            further_fixed=furtherFixed,
            further_moving=furtherMoving,
            replaced=outputTransform or startFrom,
        )
        return inputs if startFrom is None else replace(inputs, initial_transform=start_from(startFrom))

    if not logic.hasTorch():
        # What is wrong is found before the minutes of the installation, during which the user may change the scene.
        finish(reading())
        logic.ensureTorch()
    return reading(), targets
