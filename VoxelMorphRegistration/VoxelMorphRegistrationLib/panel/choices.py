"""What the choices of the panel mean: settings, what stands against a start, which volumes and outputs are chosen."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ..errors import VoxelMorphError
from ..mrml.frames import results_sequence
from ..mrml.names import REPORT_ATTRIBUTE, RUN_ATTRIBUTE
from ..mrml.results import results_of
from ..mrml.sequences import FIXED, FRAME, SequenceOutputs
from ..mrml.view_state import CHECK_ATTRIBUTE
from ..registration.settings import Settings
from .frames import all_frames, guides_obstacle
from .further import NODES, channel_weights, further_nodes, further_obstacle

INPUT_NODES = (
    "fixedVolume",
    "movingVolume",
    "fixedLabels",
    "movingLabels",
    "fixedPoints",
    "movingPoints",
    "fixedMask",
    "movingMask",
    *NODES,
    "initialTransform",
    "keptTransform",
)
OUTPUT_NODES = ("outputTransform", "outputVolume", "outputJacobian", "outputLabels", "outputInverse")


def settings_of(parameters) -> Settings:
    """The choices as settings of the library. Raises SettingsError."""
    return Settings(
        quality=parameters.quality,
        model=parameters.model,
        alignment=parameters.alignment,
        passes=parameters.passes or None,
        refinement=parameters.refinement,
        similarity=parameters.similarity,
        smoothness=round(parameters.smoothness, 6),
        label_weight=parameters.labelWeight,
        landmark_weight=parameters.landmarkWeight,
        channel_weights=channel_weights(parameters),
        device=parameters.device,
        precision=parameters.precision,
        working_spacing_mm=parameters.workingSpacing or None,
        seed=parameters.seed,
        label_interpolation=parameters.labelInterpolation,
        jacobian=parameters.jacobianKind,
        expected_error=parameters.expectedError,
        jacobian_grid=parameters.jacobianGrid,
    )


def nodes_of_a_run(parameters) -> dict:
    """The chosen nodes and what to do with them, as registerAsync of the logic takes them."""
    p = parameters
    return {
        "fixedLabels": p.fixedLabels,
        "movingLabels": p.movingLabels,
        "fixedPoints": p.fixedPoints,
        "movingPoints": p.movingPoints,
        "fixedMask": p.fixedMask,
        "movingMask": p.movingMask,
        "initialTransform": p.initialTransform,
        **further_nodes(p),
        "outputTransform": _single(p.outputTransform),
        "outputVolume": _single(p.outputVolume) if p.wantVolume else False,
        "outputLabels": _single(p.outputLabels) if p.wantLabels and p.movingLabels else False,
        "outputJacobian": _single(p.outputJacobian) if p.wantJacobian else False,
        "outputInverse": _single(p.outputInverse) if p.wantInverse else False,
        "linear": p.linear,
        "applyToMoving": p.applyToMoving,
    }


def _single(node):
    """An output to write again; not one that shows a sequence of results: it would be lost with the next frame."""
    return None if results_sequence(node) is not None else node


def pair_obstacle(fixed_node, moving_node) -> str:
    """Why two volumes cannot be registered, in a sentence; empty when nothing is known against it."""
    if fixed_node is None:
        return _("Choose a fixed volume first")
    if moving_node is None:
        return _("Choose a moving volume first")
    if fixed_node is moving_node:
        return _("The fixed and the moving volume are the same; choose two")
    return ""


def obstacle(parameters) -> str:
    """Why the registration cannot start, in a sentence; empty when nothing is known against it."""
    if parameters is None:
        return _("The scene is being closed")
    _sequence, onto = all_frames(parameters)
    if onto in ("", FIXED):
        found = pair_obstacle(parameters.fixedVolume, parameters.movingVolume)
        if found:
            return found
    found = further_obstacle(parameters, onto == FRAME) or (guides_obstacle(parameters) if onto else "")
    if found:
        return found
    if parameters.fixedLabels and not parameters.movingLabels:
        return _("A fixed segmentation is chosen without a moving one; choose both, or the moving one alone")
    if bool(parameters.fixedPoints) != bool(parameters.movingPoints):
        return _("Landmarks are chosen for one volume only; choose fixed and moving landmarks, or none")
    for weight, given, what in (
        (parameters.labelWeight, parameters.fixedLabels, _("segmentations")),
        (parameters.landmarkWeight, parameters.fixedPoints, _("landmarks")),
    ):
        if weight and not given:
            return _("The refinement is to use {what}, but none are chosen").format(what=what)
        if weight and parameters.refinement == "off":
            return _("The {what} have a weight, but the refinement that uses it is off").format(what=what)
    written = [_single(parameters.outputTransform)]
    written += [_single(parameters.outputInverse)] if parameters.wantInverse else []
    if not onto and parameters.initialTransform is not None and parameters.initialTransform in written:
        return _("The initial transform is also an output, which would overwrite it; choose another output transform")
    try:
        settings_of(parameters)
    except VoxelMorphError as error:
        return str(error)
    return ""


def choose_volumes(parameters) -> None:
    """The first two volumes of the scene that are no results, where nothing is chosen."""
    if parameters.fixedVolume or parameters.movingVolume:
        return
    volumes = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not node.GetHideFromEditors()
        and not node.GetAttribute(CHECK_ATTRIBUTE)
        and not node.GetAttribute(RUN_ATTRIBUTE)
    ]
    if len(volumes) > 1:
        parameters.fixedVolume, parameters.movingVolume = volumes[:2]


def chosen_pair(parameters) -> tuple:
    """IDs of fixed and moving volume, None where none is chosen."""
    return tuple(node.GetID() if node else None for node in (parameters.fixedVolume, parameters.movingVolume))


def subject(parameters) -> tuple:
    """What the texts of a run are about: the pair and its result. () while no scene is there."""
    if parameters is None:
        return ()
    transform = parameters.outputTransform
    return (*chosen_pair(parameters), transform.GetID() if transform else None, told_of(transform))


def told_of(transform) -> str | None:
    """What the texts and views of a result are about: its report, or the sequence that it is a frame of."""
    sequence = results_sequence(transform)
    if sequence is not None:
        return sequence.GetID()
    return transform.GetAttribute(REPORT_ATTRIBUTE) if transform is not None else None


def leave_outputs_of_another_pair(parameters) -> None:
    """Two other volumes were chosen: the results of the former ones are not overwritten."""
    transform, pair = parameters.outputTransform, chosen_pair(parameters)
    if not transform or None in pair:
        return
    roles = (transform.GetFixedNodeReferenceRole(), transform.GetMovingNodeReferenceRole())
    written = tuple(transform.GetNodeReferenceID(role) for role in roles)
    if None not in written and written != pair:
        with slicer.util.NodeModify(parameters):
            for name in OUTPUT_NODES:
                setattr(parameters, name, None)


def keep_as_a(parameters) -> None:
    """Keep the present result to compare with; the next run makes nodes of its own."""
    with slicer.util.NodeModify(parameters):
        parameters.keptTransform = parameters.outputTransform
        for name in OUTPUT_NODES:
            setattr(parameters, name, None)


def named_outputs(parameters) -> dict:
    """The outputs by kind: they count as those of a transform of the first version, which does not name its own."""
    kinds = ("volume", "labels", "jacobian", "inverse")
    return {kind: getattr(parameters, f"output{kind.capitalize()}") for kind in kinds}


def kept_of_this_pair(parameters):
    """The transform of the result that was kept for comparison, while its volumes are the chosen ones; else None."""
    kept = parameters.keptTransform
    if kept is None or kept.GetScene() is None or not kept.GetAttribute(REPORT_ATTRIBUTE):
        return None
    roles = (kept.GetFixedNodeReferenceRole(), kept.GetMovingNodeReferenceRole())
    return kept if tuple(kept.GetNodeReferenceID(role) for role in roles) == chosen_pair(parameters) else None


def take_outputs(parameters, outputs) -> None:
    """The nodes of a finished run become the chosen outputs."""
    with slicer.util.NodeModify(parameters):
        if isinstance(outputs, SequenceOutputs):
            parameters.fixedVolume, parameters.movingVolume = outputs.target, outputs.moving
        parameters.outputTransform = outputs.grid_transform
        for name in ("volume", "jacobian", "labels", "inverse"):
            node = getattr(outputs, name)
            if node is not None:
                setattr(parameters, f"output{name.capitalize()}", node)


def open_result(parameters, node) -> bool:
    """Choose the result that a node belongs to, its transform or another one; False where it belongs to none."""
    transform = transform_of(node)
    if transform is None:
        return False
    found = results_of(transform)
    with slicer.util.NodeModify(parameters):
        for name, one in (
            ("fixedVolume", found.fixed),
            ("movingVolume", found.moving),
            ("outputTransform", found.grid_transform),
            ("outputVolume", found.volume),
            ("outputJacobian", found.jacobian),
            ("outputLabels", found.labels),
            ("outputInverse", found.inverse),
        ):
            setattr(parameters, name, one)
    return True


def transform_of(node):
    """The transform of the registration that wrote a node, or None."""
    run = node.GetAttribute(RUN_ATTRIBUTE) if node is not None else None
    if not run:
        return None
    transforms = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    return next(
        (one for one in transforms if one.GetAttribute(RUN_ATTRIBUTE) == run and results_of(one).grid_transform is one),
        None,
    )


def leave_node(parameters, node) -> None:
    """Empty the choices that name a node that goes; a node selector would go on to its next node, output or not."""
    for name in (*INPUT_NODES, *OUTPUT_NODES):
        if getattr(parameters, name) is node:
            setattr(parameters, name, None)
