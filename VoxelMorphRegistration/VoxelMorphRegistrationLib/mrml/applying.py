"""Putting nodes under a registration's transform, taking them off again, the inverse, and hardening. Knows MRML.

A transform written by writer.py maps world-fixed to moving-local positions: it replaces the parent transform P that
the moving volume had. A node under another parent Q gets P^-1 Q between itself and the transform, so that every node
of the moving side is carried from where it lies in the world. What was above a node is noted on it by node references.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from ..fields.displacement import DisplacementField
from ..images.grid import Grid
from ..results.written import Stored
from .doubtful_points import describe, positions_of, undescribe
from .hierarchy import place_beside
from .names import (
    APPLIED_ROLE,
    DIRECTION_ATTRIBUTE,
    FORMER_ROLE,
    INVERSE_ROLE,
    LINEAR_ROLE,
    PARENT_ATTRIBUTE,
    REPORT_ATTRIBUTE,
    RUN_ATTRIBUTE,
    SETTINGS_ATTRIBUTE,
)
from .records import recorded_matrix
from .results import results_of
from .transforms import (
    TRANSFORM_CLASS,
    grid_transform,
    linear_transform,
    make_grid_linear,
    mark_as_inverse,
    matrix_from_vtk,
    oriented_grid,
    put_under,
)
from .volumes import parent_to_world

# On the linear transform between a node and the transform it was put under.
BETWEEN_ATTRIBUTE = "VoxelMorph.Between"
_SAME = 1e-6
_CHECKED, _TOLERANCE_MM = 100, 0.5


def side_of(transform_node, node) -> str:
    """ "moving" or "fixed": the side of a transform that a node is known to lie on; "" where that cannot be told.

    Known are the registered volumes, the labels, points and masks that the registration was given, its results, which
    lie on the fixed volume, and segmentations drawn on one of these volumes. Nodes of the moving side go under the
    transform, those of the fixed side under its inverse. An inverse transform has the same sides as its transform.
    """
    grid_node, _ = _resolved(transform_node)
    moving = grid_node.GetNodeReference(grid_node.GetMovingNodeReferenceRole())
    fixed = grid_node.GetNodeReference(grid_node.GetFixedNodeReferenceRole())
    if grid_node.GetAttribute(DIRECTION_ATTRIBUTE) == "inverse":
        moving, fixed = fixed, moving
        grid_node = _forward_of(grid_node)
    results = results_of(grid_node)
    given = {"moving": results.moving_side, "fixed": results.fixed_side}
    sides = [side for side, nodes in given.items() if any(node is one for one in nodes)]
    if len(sides) == 1:
        return sides[0]
    drawn_on = None
    if node.IsA("vtkMRMLSegmentationNode"):
        drawn_on = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    on_fixed = (fixed, results.volume, results.labels, results.jacobian, results.expected_error)
    for volumes, side in (((moving,), "moving"), (on_fixed, "fixed")):
        if any(volume is not None and (node is volume or drawn_on is volume) for volume in volumes):
            return side
    return ""


def _forward_of(inverse_node):
    """The transform that a node is the inverse of, or None."""
    scene = inverse_node.GetScene()
    for n in range(scene.GetNumberOfNodesByClass(TRANSFORM_CLASS)):
        node = scene.GetNthNodeByClass(n, TRANSFORM_CLASS)
        if node.GetNodeReference(INVERSE_ROLE) is inverse_node:
            return node
    return None


def apply_transform(transform_node, nodes: Iterable) -> list:
    """Put nodes (volumes, segmentations, markups, models) under a registration's transform, or under its inverse.

    They move from where they lie in the world; what was above them is noted, for take_off. Control points then tell
    the expected error, where the registration has a map of it. Nodes that are under it already stay. Returns the nodes
    that were moved. All or none: raises InputError before anything changes.
    """
    grid_node, top = _resolved(transform_node)
    plan = [(node, _matrix_between(grid_node, top, node)) for node in nodes if not _is_under(grid_node, node)]
    if any(not node.IsA("vtkMRMLVolumeNode") for node, _ in plan):
        _check_inverse(grid_node, top)
    inverse = grid_node.GetAttribute(DIRECTION_ATTRIBUTE) == "inverse"
    forward = _forward_of(grid_node) if inverse else grid_node
    for node, between in plan:
        above, markups = node.GetParentTransformNode(), node.IsA("vtkMRMLMarkupsNode")
        before = positions_of(node) if markups else np.empty((0, 3))
        put_under(node, grid_node, top if between is None else _between(top, between, node))
        _remove_if_unused(above)
        if markups and forward is not None:
            describe(forward, node, before if inverse else positions_of(node))
    return [node for node, _ in plan]


def take_off(nodes: Iterable) -> list:
    """Put nodes back under what was above them before apply_transform. Returns those that were moved.

    A node that was not put there by this library, or was moved elsewhere since, stays where it is. Where the former
    parent transform was deleted meanwhile, the node goes to the world.
    """
    moved = []
    for node in nodes:
        grid_node = node.GetNodeReference(APPLIED_ROLE)
        between = node.GetParentTransformNode()
        # A linear transform of ours may be left where the registration's transform was deleted.
        left = between is not None and bool(between.GetAttribute(BETWEEN_ATTRIBUTE))
        if left or (grid_node is not None and _is_under(grid_node, node)):
            node.SetAndObserveTransformNodeID(node.GetNodeReferenceID(FORMER_ROLE))
            _remove_if_unused(between)
            undescribe([node])
            moved.append(node)
        _forget(node)
    return moved


def applied_nodes(transform_node) -> list:
    """The nodes that are under a transform by apply_transform (or by a registration that was asked to apply it)."""
    grid_node, _ = _resolved(transform_node)
    scene = grid_node.GetScene()
    every = [scene.GetNthNodeByClass(n, "vtkMRMLTransformableNode") for n in range(_count(scene))]
    return [node for node in every if _is_under(grid_node, node)]


def harden(nodes: Iterable) -> list[str]:
    """Write the transforms above nodes into their own positions for good; nothing can be taken off afterwards.

    Volumes and segmentations under a deformation stay as they are: Slicer would resample them onto another grid, and
    cuts off what the transform's grid does not reach (on a test case with a turned parent transform, half of the
    segment's voxels). Returns a sentence for each node that was not hardened.
    """
    left = []
    for node in nodes:
        between = node.GetParentTransformNode()
        if between is None:
            continue
        voxels = node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLSegmentationNode")
        if voxels and not between.IsTransformToWorldLinear():
            left.append(
                f"'{node.GetName()}' is not hardened: Slicer would resample its voxels onto another grid and cut some "
                "off. Use the registered volume or segmentation that the registration writes."
            )
        elif not node.HardenTransform():
            left.append(f"Slicer could not harden the transform on '{node.GetName()}'.")
        else:
            _remove_if_unused(between)
            _forget(node)
    return left


def known_inverse(transform_node):
    """The inverse written by the registration, or an earlier one, while it fits the transform; else None."""
    grid_node, _ = _resolved(transform_node)
    known = grid_node.GetNodeReference(INVERSE_ROLE)
    # Both carry the report of the registration that wrote them.
    current = known is not None and known.GetAttribute(REPORT_ATTRIBUTE) == grid_node.GetAttribute(REPORT_ATTRIBUTE)
    return known if current else None


def inverse_transform_node(transform_node, target=None):
    """The inverse of a registration's transform as a grid transform node, for nodes of the fixed side.

    The one that is known is returned while it fits; else one is computed over the moving volume, with torch, and
    written into `target` (a new node when None). Raises InputError when the node is no transform of a registration or
    its moving volume is gone, FieldError where the field folds.
    """
    transform, moving, fixed_to_world = inverse_job(transform_node)
    known = known_inverse(transform_node)
    if known is not None and target in (None, known):
        return known
    return write_inverse(transform_node, transform.inverse(moving, fixed_to_world), fixed_to_world, target)


def write_inverse(transform_node, field: DisplacementField, fixed_to_world: np.ndarray, target=None):
    """Write a computed inverse into `target` (the inverse that the transform has, or a new node, when None)."""
    grid_node, _ = _resolved(transform_node)
    fixed_node = grid_node.GetNodeReference(grid_node.GetFixedNodeReferenceRole())
    moving_node = grid_node.GetNodeReference(grid_node.GetMovingNodeReferenceRole())
    node = target or grid_node.GetNodeReference(INVERSE_ROLE)
    if node is None:
        fixed_name = fixed_node.GetName() if fixed_node is not None else "fixed"
        scene = grid_node.GetScene()
        name = scene.GenerateUniqueName(f"{fixed_name} to {moving_node.GetName()}")
        node = scene.AddNewNodeByClass(TRANSFORM_CLASS, name)
        place_beside(node, grid_node)
    node.SetAndObserveTransformNodeID(None)
    node.SetAndObserveTransformFromParent(grid_transform(field))
    node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), moving_node.GetID())
    node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), None if fixed_node is None else fixed_node.GetID())
    for attribute in (SETTINGS_ATTRIBUTE, REPORT_ATTRIBUTE, RUN_ATTRIBUTE):
        node.SetAttribute(attribute, grid_node.GetAttribute(attribute))
    mark_as_inverse(node, grid_node, fixed_to_world)
    return node


# --- checks and bookkeeping ------------------------------------------------------------------------------------


def _resolved(transform_node):
    """The node with the field, and the node to put others under (the linear part, where that is separate)."""
    if transform_node is None or not transform_node.IsA("vtkMRMLTransformNode"):
        raise InputError("No transform is chosen. Choose the transform that a registration wrote.")
    parent = transform_node.GetParentTransformNode()
    if parent is not None and parent.GetNodeReference(LINEAR_ROLE) is transform_node:
        return parent, transform_node
    companion = transform_node.GetNodeReference(LINEAR_ROLE)
    if companion is not None and companion.GetParentTransformNode() is transform_node:
        return transform_node, companion
    return transform_node, transform_node


def _is_under(grid_node, node) -> bool:
    """Whether the node was put under this transform, and is still there."""
    if node is None or node.GetNodeReference(APPLIED_ROLE) is not grid_node:
        return False
    _, top = _resolved(grid_node)
    parent = node.GetParentTransformNode()
    if parent is not None and parent.GetAttribute(BETWEEN_ATTRIBUTE):
        parent = parent.GetParentTransformNode()
    return parent is not None and (parent is top or parent is grid_node)


def _matrix_between(grid_node, top, node) -> np.ndarray | None:
    """P^-1 Q for a node, None where that changes nothing. Raises InputError when the node cannot be applied."""
    if node is None or not node.IsA("vtkMRMLTransformableNode"):
        name = "Nothing" if node is None else f"'{node.GetName()}'"
        raise InputError(f"{name} cannot be put under a transform. Choose volumes, segmentations, markups or models.")
    name = f"'{node.GetName()}'"
    above = top
    while above is not None:
        if above is node:
            raise InputError(f"{name} is the transform itself or above it. Choose another node.")
        above = above.GetParentTransformNode()
    if not node.CanApplyNonLinearTransforms():
        raise InputError(f"{name} cannot be deformed. Choose volumes, segmentations, markups or models.")
    inverse = grid_node.GetAttribute(DIRECTION_ATTRIBUTE) == "inverse"
    node_side = side_of(grid_node, node)
    if node_side == ("moving" if inverse else "fixed"):
        here, there = ("moving", "transform") if inverse else ("fixed", "inverse transform")
        raise InputError(f"{name} lies on the {here} side of '{grid_node.GetName()}'. Put it under the {there}.")
    recorded = grid_node.GetAttribute(PARENT_ATTRIBUTE)
    replaced = recorded_matrix(grid_node, PARENT_ATTRIBUTE) if recorded else np.eye(4)
    # A node under another registration's transform goes straight from where it lay before that.
    earlier = node.GetNodeReference(APPLIED_ROLE)
    between = np.linalg.solve(replaced, parent_to_world(node, f"node {name}", earlier))
    return None if np.allclose(between, np.eye(4), atol=_SAME) else between


def _check_inverse(grid_node, top) -> None:
    """Raise InputError where Slicer cannot invert the transform.

    Volumes are resampled through it as it is; points, surfaces and segments need its inverse, which VTK finds by
    Newton steps. They fail when a large rotation (of the alignment or of a parent transform) is folded into the grid.
    """
    to_parent, from_parent = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
    top.GetTransformToNode(grid_node.GetParentTransformNode(), to_parent)
    top.GetTransformFromNode(grid_node.GetParentTransformNode(), from_parent)
    grid = _grid_of(grid_node)
    inner = np.random.default_rng(0).uniform(0.15, 0.85, (_CHECKED, 3)) * (grid.size - 1)
    for point in grid.to_ras(inner):
        back = to_parent.TransformPoint(from_parent.TransformPoint(point))
        if not np.linalg.norm(np.subtract(back, point)) < _TOLERANCE_MM:
            raise InputError(
                f"Slicer cannot carry points, surfaces and segments through '{grid_node.GetName()}': a large rotation "
                "is folded into it. Register again with the linear part as a transform of its own ('separate')."
            )


def _between(top, matrix: np.ndarray, node):
    """A linear transform under `top` with this matrix; one that is there already serves several nodes."""
    scene = top.GetScene()
    for n in range(scene.GetNumberOfNodesByClass(TRANSFORM_CLASS)):
        one = scene.GetNthNodeByClass(n, TRANSFORM_CLASS)
        if one.GetAttribute(BETWEEN_ATTRIBUTE) and one.GetParentTransformNode() is top:
            present = vtk.vtkMatrix4x4()
            one.GetMatrixTransformToParent(present)
            if np.allclose(matrix_from_vtk(present), matrix, atol=_SAME):
                return one
    name = scene.GenerateUniqueName(f"{node.GetName()} (position before)")
    result = scene.AddNewNodeByClass(TRANSFORM_CLASS, name)
    result.SetAttribute(BETWEEN_ATTRIBUTE, "1")
    result.SetAndObserveTransformToParent(linear_transform(matrix))
    result.SetAndObserveTransformNodeID(top.GetID())
    return result


def _remove_if_unused(between) -> None:
    if between is None or not between.GetAttribute(BETWEEN_ATTRIBUTE):
        return
    scene = between.GetScene()
    every = (scene.GetNthNodeByClass(n, "vtkMRMLTransformableNode") for n in range(_count(scene)))
    if not any(node.GetParentTransformNode() is between for node in every):
        scene.RemoveNode(between)


def _count(scene) -> int:
    return scene.GetNumberOfNodesByClass("vtkMRMLTransformableNode")


def _forget(node) -> None:
    node.SetNodeReferenceID(APPLIED_ROLE, None)
    node.SetNodeReferenceID(FORMER_ROLE, None)


# --- the inverse ------------------------------------------------------------------------------------------------


def _oriented_grid(grid_node):
    # One that was loaded from a file is cubic.
    if not grid_node.GetAttribute(PARENT_ATTRIBUTE) or not make_grid_linear(grid_node):
        raise InputError(
            f"'{grid_node.GetName()}' is no transform written by a registration, or it was hardened since. Register "
            "the volumes again."
        )
    return oriented_grid(grid_node)


def _grid_of(grid_node) -> Grid:
    """The grid of the displacements."""
    transform = _oriented_grid(grid_node)
    data = transform.GetDisplacementGrid()
    matrix = np.eye(4)
    directions = transform.GetGridDirectionMatrix()
    if directions is not None:
        matrix = matrix_from_vtk(directions)
    matrix[:3, :3] *= data.GetSpacing()
    matrix[:3, 3] = data.GetOrigin()
    return Grid(data.GetDimensions()[::-1], matrix)


def stored(grid_node) -> Stored:
    """The transform that a registration wrote, as it is in the scene. Raises InputError."""
    transform, grid = _oriented_grid(grid_node), _grid_of(grid_node)
    values = vtk_to_numpy(transform.GetDisplacementGrid().GetPointData().GetScalars()).reshape(*grid.shape, 3)
    field = DisplacementField(values * np.float32(transform.GetDisplacementScale()), grid)
    parent = recorded_matrix(grid_node, PARENT_ATTRIBUTE)
    linear = recorded_matrix(grid_node, REPORT_ATTRIBUTE, "linear")
    companion = grid_node.GetNodeReference(LINEAR_ROLE)
    after = vtk.vtkMatrix4x4()
    if companion is not None:
        companion.GetMatrixTransformFromParent(after)
    # The node and its linear part are M (x + v(x)) = P^-1 A (x + u(x)).
    return Stored(field, np.linalg.solve(linear, parent @ matrix_from_vtk(after)), linear)


def inverse_job(transform_node) -> tuple[Stored, Grid, np.ndarray]:
    """What Stored.inverse needs: (stored, the moving grid, the fixed volume's parent F). Raises InputError."""
    grid_node, _ = _resolved(transform_node)
    if grid_node.GetAttribute(DIRECTION_ATTRIBUTE) == "inverse":
        raise InputError(f"'{grid_node.GetName()}' is an inverse already. Choose the transform it was made from.")
    moving_node = grid_node.GetNodeReference(grid_node.GetMovingNodeReferenceRole())
    fixed_node = grid_node.GetNodeReference(grid_node.GetFixedNodeReferenceRole())
    result = stored(grid_node)
    if moving_node is None or moving_node.GetImageData() is None:
        raise InputError(
            f"The moving volume of '{grid_node.GetName()}' is no longer in the scene; the inverse is made over it. "
            "Load it and register again."
        )
    parent = recorded_matrix(grid_node, PARENT_ATTRIBUTE)
    to_ras = vtk.vtkMatrix4x4()
    moving_node.GetIJKToRASMatrix(to_ras)
    moving = Grid(moving_node.GetImageData().GetDimensions()[::-1], parent @ matrix_from_vtk(to_ras))
    fixed_to_world = np.eye(4)
    if fixed_node is not None:
        fixed_to_world = parent_to_world(fixed_node, f"fixed volume '{fixed_node.GetName()}'")
    return result, moving, fixed_to_world
