"""A registration of nodes in the worker's process: sent, watched over, written into the scene at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import qt
from slicer.i18n import tr as _

from ..errors import InputError, OutputError, VoxelMorphError
from ..mrml.inputs import Inputs, read_inputs
from ..mrml.targets import Outputs, Targets, check_targets
from ..mrml.transforms import transforms_of
from ..mrml.writer import wanted_fields, write_outputs
from ..registration.settings import Settings
from ..results.written import Product
from ..worker.client import WorkerClient
from ..worker.messages import Job

# Parts of the whole that the stages take, roughly; refinement counts where it is done.
_WEIGHTS = {
    "checking": 3,
    "loading the model": 3,
    "aligning": 30,
    "registering": 25,
    "refining": 60,
    "warping": 8,
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


class NodeRun:
    """One registration. Exactly one of on_finished(outputs), on_error(error) and on_cancelled() is called at its end.

    The callbacks come from the event loop. on_progress(stage, fraction, seconds), on_log(line). It stops by itself
    when the scene is closed (as cancelled) or one of the two volumes is removed (as an error). Raises WorkerError
    when another registration is running.
    """

    def __init__(
        self,
        client: WorkerClient,
        inputs: Inputs,
        targets: Targets,
        settings: Settings,
        *,
        on_finished: Callable,
        on_error: Callable,
        on_cancelled: Callable,
        on_progress: Callable,
        on_log: Callable,
    ) -> None:
        self._client, self._inputs, self._targets, self.settings = client, inputs, targets, settings
        self._on_finished, self._on_error, self._on_cancelled = on_finished, on_error, on_cancelled
        self._reason: VoxelMorphError | None = None
        self._tags: list[int] = []
        self._stopped = False
        client.submit(
            Job(inputs.fixed, inputs.moving, settings, inputs.arguments(), wanted_fields(inputs, targets)),
            on_result=self._prepare,
            on_error=self._fail,
            on_cancelled=self._cancelled,
            on_progress=lambda *values: on_progress(*values),
            on_log=lambda line: on_log(line),
        )
        self._scene = inputs.fixed_node.GetScene()
        self._tags = [
            self._scene.AddObserver(self._scene.StartCloseEvent, lambda *_: self.cancel()),
            self._scene.AddObserver(self._scene.NodeRemovedEvent, lambda *_: self._check_nodes()),
        ]

    def cancel(self) -> None:
        """Stop; on_cancelled is called within a second, unless the run has ended."""
        self._stopped = True
        self._client.cancel()

    def abandon(self) -> None:
        """Stop, and call nothing any more."""
        self._on_finished = self._on_error = self._on_cancelled = lambda *_: None
        self.cancel()

    def _check_nodes(self) -> None:
        for node in (self._inputs.fixed_node, self._inputs.moving_node):
            if self._reason is None and not self._scene.IsNodePresent(node):
                self._reason = InputError(
                    f"'{node.GetName()}' was removed from the scene, so the registration was stopped. "
                    "Nothing was written."
                )
                self.cancel()

    def _end(self) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def _cancelled(self) -> None:
        self._end()
        if self._reason is not None:
            self._on_error(self._reason)
        else:
            self._on_cancelled()

    def _fail(self, error: VoxelMorphError) -> None:
        self._end()
        self._on_error(error)

    def _prepare(self, product: Product) -> None:
        """The transforms, then the nodes, then what follows, in steps of the event loop: none takes long by itself."""
        transforms = transforms_of(product.fields)
        qt.QTimer.singleShot(0, lambda: self._write(product, transforms))

    def _write(self, product: Product, transforms: dict) -> None:
        if self._stopped:
            self._cancelled()
            return
        targets = _present(self._targets, self._scene)
        try:
            outputs = write_outputs(product, self._inputs, targets, transforms)
        except VoxelMorphError as error:
            self._fail(error)
            return
        except Exception as error:
            # Told, so that nobody waits for the end, and then raised for the log.
            text = f"The results could not be written into the scene ({type(error).__name__}: {error})."
            self._fail(OutputError(text))
            raise
        qt.QTimer.singleShot(0, lambda: self._finish(outputs))

    def _finish(self, outputs: Outputs) -> None:
        self._end()
        # Unless the scene was closed in this very moment.
        if self._scene.IsNodePresent(self._inputs.fixed_node):
            self._on_finished(outputs)
        else:
            self._on_cancelled()


def _present(targets: Targets, scene) -> Targets:
    """Targets without the nodes that were removed meanwhile: new ones take their places."""
    names = ("transform", "volume", "labels", "jacobian", "inverse")
    gone: dict[str, Any] = {
        name: None for name in names if (node := getattr(targets, name)) and not scene.IsNodePresent(node)
    }
    return replace(targets, **gone)


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
    outputTransform=None,
    outputVolume=None,
    outputLabels=None,
    outputJacobian=None,
    outputInverse=False,
    linear="inside",
    applyToMoving=False,
) -> tuple[Inputs, Targets]:
    """What is read from the scene and where the results go, by the names that the module's logic takes.

    Nothing is changed. logic: with hasTorch() and ensureTorch(), which installs PyTorch. Raises VoxelMorphError.
    """
    targets = Targets(
        transform=outputTransform,
        volume=outputVolume,
        labels=outputLabels,
        jacobian=outputJacobian,
        inverse=outputInverse,
        linear=linear,
        apply=applyToMoving,
    )
    check_targets(targets, fixedNode, movingNode, fixedLabels, movingLabels, fixedMask, movingMask)

    def read() -> Inputs:
        return read_inputs(
            fixedNode,
            movingNode,
            fixed_labels=fixedLabels,
            moving_labels=movingLabels,
            fixed_points=fixedPoints,
            moving_points=movingPoints,
            fixed_mask=fixedMask,
            moving_mask=movingMask,
            initial_transform=initialTransform,
            replaced=outputTransform or None,
        )

    inputs = read()
    if outputLabels and movingLabels is None:
        raise InputError(_("An output for warped labels is chosen, but no moving labels. Choose these, too."))
    if not logic.hasTorch():
        logic.ensureTorch()
        # The user may have changed the scene during the minutes of the installation.
        inputs = read()
    return inputs, targets
