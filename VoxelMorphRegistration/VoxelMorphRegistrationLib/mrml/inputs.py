"""The inputs of a registration, read from the scene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import vtk

from ..errors import InputError
from ..images.grid import Grid, check_matrix
from ..images.image import Image
from .labels import labels_from_node, matched_labels
from .transforms import matrix_from_vtk
from .volumes import image_from_node, named, parent_to_world, points_from_node

if TYPE_CHECKING:
    from .labels import Labels


@dataclass(frozen=True)
class Inputs:
    """What was read from the scene for one registration, and where it lay then."""

    fixed_node: object
    moving_node: object
    fixed: Image
    moving: Image
    moving_to_world: np.ndarray
    fixed_labels: Labels | None = None
    moving_labels: Labels | None = None
    moving_labels_node: object = None
    fixed_points: np.ndarray | None = None
    moving_points: np.ndarray | None = None
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    initial_transform: np.ndarray | None = None

    def arguments(self) -> dict:
        """The keyword arguments of registration.register."""
        return {
            "fixed_labels": self.fixed_labels.image if self.fixed_labels else None,
            "moving_labels": self.moving_labels.image if self.moving_labels else None,
            "fixed_points": self.fixed_points,
            "moving_points": self.moving_points,
            "fixed_mask": self.fixed_mask,
            "moving_mask": self.moving_mask,
            "initial_transform": self.initial_transform,
        }


def read_inputs(
    fixed_node,
    moving_node,
    *,
    fixed_labels=None,
    moving_labels=None,
    fixed_points=None,
    moving_points=None,
    fixed_mask=None,
    moving_mask=None,
    initial_transform=None,
    replaced=None,
) -> Inputs:
    """Read the nodes of a registration; optional ones may be None. `replaced` as in image_from_node.

    initial_transform: a linear transform node that would bring the moving volume, as it lies, to the fixed one.

    Segmentations are brought onto the grid of their volume (nearest), because their own grid is a side matter.
    """
    named(fixed_node, "fixed volume")
    named(moving_node, "moving volume")
    if fixed_node is moving_node:
        raise InputError(
            f"'{fixed_node.GetName()}' is chosen both as the fixed and as the moving volume. Choose two volumes."
        )
    for node in (fixed_node, moving_node):
        if node.GetScene() is None:
            raise InputError(f"The volume '{node.GetName()}' is not in the scene. Load it, or choose another one.")
    fixed = image_from_node(fixed_node, "fixed volume", replaced)
    moving = image_from_node(moving_node, "moving volume", replaced)
    fixed_table = _labels_on(fixed_labels, "fixed labels", fixed.grid, replaced)
    moving_table = _labels_on(moving_labels, "moving labels", moving.grid, replaced)
    if fixed_table is not None and moving_table is not None:
        moving_table = matched_labels(fixed_table, moving_table)
    return Inputs(
        fixed_node=fixed_node,
        moving_node=moving_node,
        fixed=fixed,
        moving=moving,
        moving_to_world=parent_to_world(moving_node, moving.name, replaced),
        fixed_labels=fixed_table,
        moving_labels=moving_table,
        moving_labels_node=moving_labels,
        fixed_points=None if fixed_points is None else points_from_node(fixed_points, "fixed points"),
        moving_points=None if moving_points is None else points_from_node(moving_points, "moving points"),
        fixed_mask=_mask_on(fixed_mask, "fixed mask", fixed.grid, replaced),
        moving_mask=_mask_on(moving_mask, "moving mask", moving.grid, replaced),
        initial_transform=None if initial_transform is None else _initial_matrix(initial_transform, moving_node),
    )


def _mask_on(node, role: str, grid: Grid, replaced) -> Image | None:
    """Where the labels of a node are not 0."""
    labels = _labels_on(node, role, grid, replaced)
    return None if labels is None else labels.image.with_array(labels.image.array != 0)


def _initial_matrix(node, moving_node) -> np.ndarray:
    """(4, 4), fixed to moving RAS mm, of a transform node that brings the moving volume to the fixed one."""
    name = f"initial transform '{node.GetName()}'"
    if not node.IsA("vtkMRMLTransformNode") or not node.IsTransformToWorldLinear():
        raise InputError(f"The {name} is not linear. Choose a linear transform.")
    parent = moving_node.GetParentTransformNode()
    while parent is not None:
        if parent is node:
            raise InputError(
                f"The {name} moves the moving volume already, and counts as it lies. Leave the choice empty."
            )
        parent = parent.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToWorld(matrix)
    return np.linalg.inv(check_matrix(matrix_from_vtk(matrix), name))


def _labels_on(node, role: str, grid: Grid, replaced) -> Labels | None:
    if node is None:
        return None
    labels = labels_from_node(node, role, replaced)
    if labels.from_segments and not labels.image.grid.same_as(grid):
        labels = replace(labels, image=_nearest(labels.image, grid))
    return labels


def _nearest(labels: Image, grid: Grid) -> Image:
    """Labels on another grid by nearest neighbour, background 0 outside."""
    to_source = labels.grid.ras_to_ijk @ grid.ijk_to_ras
    out = np.zeros(grid.shape, labels.array.dtype)
    j, i = np.meshgrid(np.arange(grid.shape[1]), np.arange(grid.shape[2]), indexing="ij")
    for k in range(grid.shape[0]):
        ijk = np.stack([i, j, np.full_like(i, k)], -1) @ to_source[:3, :3].T + to_source[:3, 3]
        index = np.floor(ijk + 0.5).astype(np.intp)
        inside = ((index >= 0) & (index < labels.grid.size)).all(-1)
        x, y, z = index[inside].T
        out[k][inside] = labels.array[z, y, x]
    return Image(out, grid, labels.name)
