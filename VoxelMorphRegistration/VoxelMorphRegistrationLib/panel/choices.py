"""What the choices of the panel mean: settings, what stands against a start, which volumes and outputs are chosen."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ..errors import VoxelMorphError
from ..mrml.view_state import CHECK_ATTRIBUTE
from ..registration.settings import Settings

INPUT_NODES = (
    "fixedVolume",
    "movingVolume",
    "fixedLabels",
    "movingLabels",
    "fixedPoints",
    "movingPoints",
    "fixedMask",
    "movingMask",
    "initialTransform",
)
OUTPUT_NODES = ("outputTransform", "outputVolume", "outputJacobian", "outputLabels", "outputInverse")


def settings_of(parameters) -> Settings:
    """The choices as settings of the library. Raises SettingsError."""
    return Settings(
        model=parameters.model,
        alignment=parameters.alignment,
        passes=parameters.passes or None,
        refinement=parameters.refinement,
        similarity=parameters.similarity,
        smoothness=round(parameters.smoothness, 6),
        label_weight=parameters.labelWeight,
        landmark_weight=parameters.landmarkWeight,
        device=parameters.device,
        precision=parameters.precision,
        working_spacing_mm=parameters.workingSpacing or None,
        seed=parameters.seed,
        label_interpolation=parameters.labelInterpolation,
        jacobian=parameters.jacobianKind,
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
        "outputTransform": p.outputTransform,
        "outputVolume": p.outputVolume if p.wantVolume else False,
        "outputLabels": p.outputLabels if p.wantLabels and p.movingLabels else False,
        "outputJacobian": p.outputJacobian if p.wantJacobian else False,
        "outputInverse": p.outputInverse if p.wantInverse else False,
        "linear": p.linear,
        "applyToMoving": p.applyToMoving,
    }


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
    found = pair_obstacle(parameters.fixedVolume, parameters.movingVolume)
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
    try:
        settings_of(parameters)
    except VoxelMorphError as error:
        return str(error)
    return ""


def choose_volumes(parameters) -> None:
    """The first two volumes of the scene that are no results, where nothing is chosen."""
    if parameters.fixedVolume or parameters.movingVolume:
        return
    results = [getattr(parameters, name) for name in OUTPUT_NODES]
    volumes = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not node.GetHideFromEditors()
        and not node.GetAttribute(CHECK_ATTRIBUTE)
        and not any(node is result for result in results)
    ]
    if len(volumes) > 1:
        parameters.fixedVolume, parameters.movingVolume = volumes[:2]


def chosen_pair(parameters) -> tuple:
    """IDs of fixed and moving volume, None where none is chosen."""
    return tuple(node.GetID() if node else None for node in (parameters.fixedVolume, parameters.movingVolume))


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


def take_outputs(parameters, outputs) -> None:
    """The nodes of a finished run become the chosen outputs."""
    with slicer.util.NodeModify(parameters):
        parameters.outputTransform = outputs.grid_transform
        for name in ("volume", "jacobian", "labels", "inverse"):
            node = getattr(outputs, name)
            if node is not None:
                setattr(parameters, f"output{name.capitalize()}", node)


def leave_node(parameters, node) -> None:
    """Empty the choices that name a node that goes; a node selector would go on to its next node, output or not."""
    for name in (*INPUT_NODES, *OUTPUT_NODES):
        if getattr(parameters, name) is node:
            setattr(parameters, name, None)
