"""Volumes and points of the scene, where the user sees them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer

from ..errors import InputError
from ..images.grid import Grid, check_matrix, check_right_angles
from ..images.image import Image
from ..images.landmarks import Landmarks
from .names import LINEAR_ROLE, PARENT_ATTRIBUTE
from .records import recorded_matrix
from .steps import copying, finish
from .transforms import is_moved_by, matrix_between, matrix_from_vtk


def image_from_node(node, role: str = "volume", replaced=None) -> Image:
    """The voxels of a scalar volume node where they are in the world: RAS mm, linear parent transforms included.

    role: what messages call it, such as "fixed volume". replaced: an earlier output transform that is about to be
    overwritten; a moving volume that lies under it counts as lying where it was before. Raises InputError.
    """
    return finish(reading_image(node, role, replaced))


def has_voxels(node) -> bool:
    """Whether a volume holds any: one of a loaded scene whose file is gone does not."""
    data = node.GetImageData()
    return data is not None and data.GetPointData().GetScalars() is not None


def reading_image(node, role: str = "volume", replaced=None) -> Generator[None, None, Image]:
    """image_from_node in steps."""
    name = named(node, role)
    _refuse_non_volumes(node, name)
    data = node.GetImageData()
    if not has_voxels(node) or min(data.GetDimensions()) < 1:
        raise InputError(f"The {name} is empty: it has no voxels. Load or choose another one.")
    components = data.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            f"The {name} has {components} values a voxel (colour, vectors, tensors or time points). "
            "Choose a scalar volume: convert it to grey values, or extract one component or frame."
        )
    shape = data.GetDimensions()[::-1]
    grid = world_grid(node, shape, name, replaced)
    values = vtk_to_numpy(data.GetPointData().GetScalars()).reshape(shape)
    array = np.empty_like(values)
    yield from copying(values, array)
    return Image(array, grid, name)


def parent_to_world(node, name: str, replaced=None) -> np.ndarray:
    """(4, 4), the linear transform above a node, in RAS mm. Raises InputError when it is not linear or singular."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if replaced is not None and is_moved_by(replaced, node):
        recorded = recorded_matrix(replaced, PARENT_ATTRIBUTE)
        if parent in (replaced, replaced.GetNodeReference(LINEAR_ROLE)):
            return recorded
        return recorded @ matrix_between(parent, parent.GetParentTransformNode())
    if not parent.IsTransformToWorldLinear():
        ours = parent.GetAttribute(PARENT_ATTRIBUTE)
        hint = " (or choose that transform as the output, to replace it)" if ours else ""
        raise InputError(
            f"The {name} is under a non-linear transform ('{parent.GetName()}'). Harden the transform, or take the "
            f"node out of it in the Transforms module{hint}, and try again."
        )
    return check_matrix(matrix_between(parent, None), f"transform '{parent.GetName()}' of the {name}")


def landmarks_from_node(node, role: str = "points") -> Landmarks:
    """The control points of a markups node in the world, RAS mm, with their labels. Raises InputError."""
    name = named(node, role)
    if not node.IsA("vtkMRMLMarkupsNode"):
        raise InputError(f"The {name} is no list of points. Choose a markups node.")
    parent = node.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        parent_to_world(node, name)
    numbers = range(node.GetNumberOfControlPoints())
    points = np.full((len(numbers), 3), np.nan)
    for n in numbers:
        if node.GetNthControlPointPositionStatus(n) == node.PositionDefined:
            points[n] = node.GetNthControlPointPositionWorld(n)
    if not np.isfinite(points).any():
        raise InputError(f"The {name} has no placed points. Place some, or leave the choice empty.")
    return Landmarks(points, tuple(node.GetNthControlPointLabel(n).strip() for n in numbers), name)


def points_from_node(node, role: str = "points") -> np.ndarray:
    """World positions (N, 3) in RAS mm of the placed control points of a markups node. Raises InputError."""
    landmarks = landmarks_from_node(node, role)
    return landmarks.points[landmarks.placed]


def named(node, role: str) -> str:
    """What messages call a node. Raises InputError when it is none."""
    if node is None:
        raise InputError(f"No {role} is chosen. Choose one.")
    if isinstance(node, (str, Path)):
        raise InputError(
            f"The {role} is given as the text '{node}', and a node is needed: slicer.util.getNode('...') finds it by "
            "its name, slicer.util.loadVolume('...') loads a file."
        )
    if not isinstance(node, slicer.vtkMRMLNode):
        raise InputError(
            f"The {role} is a Python object of the kind '{type(node).__name__}'. Give a node of the scene."
        )
    return f"{role} '{node.GetName()}'"


def _refuse_non_volumes(node, name: str) -> None:
    if node.IsA("vtkMRMLSequenceNode") or node.IsA("vtkMRMLMultiVolumeNode"):
        raise InputError(f"The {name} is a time series. Choose or extract one of its frames and register that.")
    if node.IsA("vtkMRMLTensorVolumeNode") or not node.IsA("vtkMRMLScalarVolumeNode"):
        kind = node.GetNodeTagName() or node.GetClassName()
        raise InputError(f"The {name} is a {kind} node. Choose a scalar volume.")


def world_grid(node, shape: tuple[int, ...], name: str, replaced=None) -> Grid:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    try:
        own = Grid(shape, matrix_from_vtk(matrix))
    except InputError as error:
        raise InputError(f"The {name} cannot be placed in space. {error}") from error
    check_right_angles(own, name)
    return own.transformed(parent_to_world(node, name, replaced))
