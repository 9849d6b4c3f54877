"""Which nodes belong to a registration: those that its run wrote, and those that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from ..images.grid import Grid
from .names import (
    FRAME_ATTRIBUTE,
    INVERSE_ROLE,
    LINEAR_ROLE,
    PLACES_ATTRIBUTE,
    REPORT_ATTRIBUTE,
    RESULT_ROLES,
    RESULTS_ROLE,
    RUN_ATTRIBUTE,
    SIDE_ROLES,
)
from .records import recorded_matrix
from .volumes import world_grid

if TYPE_CHECKING:
    from .inputs import Inputs
    from .nodes import Node, Placed, Shown, Volume


@dataclass(frozen=True)
class Results:
    """The nodes of one run that are in the scene and were not overwritten since; None for the others.

    grid_transform: the node with the field; transform: the one to put volumes under. fixed_side, moving_side: the
    labels, points and masks that were given.
    """

    run: str = ""
    fixed: Volume | None = None
    moving: Volume | None = None
    transform: Placed | None = None
    grid_transform: Placed | None = None
    volume: Volume | None = None
    labels: Shown | None = None
    jacobian: Volume | None = None
    expected_error: Volume | None = None
    inverse: Placed | None = None
    table: Node | None = None
    fixed_side: tuple = ()
    moving_side: tuple = ()


def mark_results(run: str, grid_node, top, nodes: dict, inputs: Inputs) -> None:
    """Mark the nodes that a run wrote with its text; the transform refers to them, and to what was given.

    nodes: {a key of RESULT_ROLES: node}.
    """
    for node in (grid_node, top, *nodes.values()):
        if node is not None:
            node.SetAttribute(RUN_ATTRIBUTE, run)
            node.SetAttribute(FRAME_ATTRIBUTE, inputs.frames.get("moving"))
    if grid_node is None:
        return
    for kind, role in RESULT_ROLES.items():
        node = nodes.get(kind)
        grid_node.SetNodeReferenceID(role, None if node is None else node.GetID())
    for side, given in (("fixed", inputs.fixed_side), ("moving", inputs.moving_side)):
        grid_node.RemoveNodeReferenceIDs(SIDE_ROLES[side])
        for node in given:
            if node.GetScene() is not None:
                grid_node.AddNodeReferenceID(SIDE_ROLES[side], node.GetID())


def given_nodes(transform_node, side: str) -> tuple:
    """The labels, points and masks that a registration was given for a side, "fixed" or "moving"."""
    role = SIDE_ROLES[side]
    nodes = (transform_node.GetNthNodeReference(role, n) for n in range(transform_node.GetNumberOfNodeReferences(role)))
    return tuple(node for node in nodes if node is not None)


def results_of(transform_node, chosen: Mapping | None = None) -> Results:
    """The nodes of the run that wrote a transform (the node with the field, or its linear part).

    chosen: {a key of RESULT_ROLES: node or None}, outputs that a scene names. They count for transforms of the first
    version of this extension, which marked no runs.
    """
    if transform_node is None or transform_node.GetScene() is None:
        return Results()
    parent = transform_node.GetParentTransformNode()
    grid_node = transform_node
    if parent is not None and parent.GetNodeReference(LINEAR_ROLE) is transform_node:
        grid_node = parent
    if not grid_node.GetAttribute(REPORT_ATTRIBUTE):
        return Results()
    run = grid_node.GetAttribute(RUN_ATTRIBUTE) or ""

    def of_run(node):
        return node if node is not None and (node.GetAttribute(RUN_ATTRIBUTE) or "") == run else None

    found = {kind: of_run(grid_node.GetNodeReference(role)) for kind, role in RESULT_ROLES.items()}
    if not run:
        for kind, node in (chosen or {}).items():
            found[kind] = of_run(node) if node is not None and node.GetScene() is not None else None
    if found["inverse"] is None:
        # One that was computed later.
        found["inverse"] = of_run(grid_node.GetNodeReference(INVERSE_ROLE))
    companion = grid_node.GetNodeReference(LINEAR_ROLE)
    below = companion is not None and companion.GetParentTransformNode() is grid_node
    return Results(
        run=run,
        fixed=grid_node.GetNodeReference(grid_node.GetFixedNodeReferenceRole()),
        moving=grid_node.GetNodeReference(grid_node.GetMovingNodeReferenceRole()),
        transform=companion if below else grid_node,
        grid_transform=grid_node,
        table=of_run(grid_node.GetNodeReference(RESULTS_ROLE)),
        fixed_side=given_nodes(grid_node, "fixed"),
        moving_side=given_nodes(grid_node, "moving"),
        **found,
    )


def moved_since(transform_node) -> list[str]:
    """The sides, "fixed" and "moving", whose volume lies elsewhere, or has another grid, than when it was registered.

    A volume that was put under the registration's own transform, or the fixed one under its inverse, counts as where
    it was before. Empty where the transform does not say where the volumes lay.
    """
    results = results_of(transform_node)
    grid_transform = results.grid_transform
    recorded = grid_transform.GetAttribute(PLACES_ATTRIBUTE) if grid_transform is not None else None
    if grid_transform is None or not recorded:
        return []
    moved = []
    for side, node, own in (
        ("fixed", results.fixed, grid_transform.GetNodeReference(INVERSE_ROLE)),
        ("moving", results.moving, grid_transform),
    ):
        if node is not None and node.GetImageData() is not None:
            shape = node.GetImageData().GetDimensions()[::-1]
            try:
                then = Grid(shape, recorded_matrix(grid_transform, PLACES_ATTRIBUTE, side))
                same = world_grid(node, shape, side, own).same_as(then)
            except InputError:
                # Under a deformation, or nobody knows.
                same = False
            if not same:
                moved.append(side)
    return moved
