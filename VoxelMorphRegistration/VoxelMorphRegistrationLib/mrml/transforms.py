"""Transforms between numpy, VTK and the scene."""

from __future__ import annotations

import json

import numpy as np
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk

import slicer

from ..errors import FieldError
from ..fields.displacement import DisplacementField
from ..results.written import Fields
from .names import APPLIED_ROLE, DIRECTION_ATTRIBUTE, FORMER_ROLE, INVERSE_ROLE, LINEAR_ROLE, PARENT_ATTRIBUTE


def is_moved_by(transform_node, node) -> bool:
    """Whether a registration or applying.py put the node under this transform, whose record tells where it was."""
    parent = node.GetParentTransformNode()
    if not transform_node.GetAttribute(PARENT_ATTRIBUTE):
        return False
    if node.GetNodeReference(APPLIED_ROLE) is transform_node:
        above = (parent, parent.GetParentTransformNode())
        return any(one in (transform_node, transform_node.GetNodeReference(LINEAR_ROLE)) for one in above)
    is_moving = transform_node.GetNodeReference(transform_node.GetMovingNodeReferenceRole()) is node
    return is_moving and parent in (transform_node, transform_node.GetNodeReference(LINEAR_ROLE))


def transforms_of(fields: Fields) -> dict:
    """The transforms for nodes by name, made before the scene is touched."""
    plan = {}
    if fields.transform is not None:
        plan["grid"] = grid_transform(fields.transform)
        if fields.linear is not None:
            plan["linear"] = fields.linear
    if fields.inverse is not None:
        plan["inverse"] = grid_transform(fields.inverse)
    return plan


def grid_transform(displacement: DisplacementField):
    """A vtkOrientedGridTransform x -> x + u(x): RAS mm vectors as Scalars, linear interpolation."""
    grid = displacement.grid
    if not grid.is_orthogonal:
        raise FieldError("A transform node needs a field whose grid axes are at right angles.")
    data = image_data(displacement.displacement_ras, components=3)
    data.SetSpacing(*grid.spacing)
    data.SetOrigin(*grid.ijk_to_ras[:3, 3])
    directions = np.eye(4)
    directions[:3, :3] = grid.directions
    result = slicer.vtkOrientedGridTransform()
    result.SetDisplacementGridData(data)
    result.SetGridDirectionMatrix(matrix_to_vtk(directions))
    result.SetInterpolationModeToLinear()
    return result


def put_under(node, transform_node, parent=None) -> None:
    """Put a node under `parent` (the transform itself when None), and note on it where it was before."""
    earlier = node.GetNodeReference(APPLIED_ROLE)
    if earlier is None or not is_moved_by(earlier, node):
        node.SetNodeReferenceID(FORMER_ROLE, node.GetTransformNodeID())
    node.SetNodeReferenceID(APPLIED_ROLE, transform_node.GetID())
    node.SetAndObserveTransformNodeID((parent or transform_node).GetID())


def mark_as_inverse(inverse_node, transform_node, fixed_to_world: np.ndarray) -> None:
    """Note which transform an inverse belongs to, and what it replaces above nodes of the fixed side."""
    inverse_node.SetAttribute(DIRECTION_ATTRIBUTE, "inverse")
    inverse_node.SetAttribute(PARENT_ATTRIBUTE, json.dumps(np.asarray(fixed_to_world).tolist()))
    if transform_node is not None:
        transform_node.SetNodeReferenceID(INVERSE_ROLE, inverse_node.GetID())


def matrix_from_vtk(matrix) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_to_vtk(matrix: np.ndarray):
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel())
    return result


def linear_transform(matrix: np.ndarray):
    result = vtk.vtkTransform()
    result.SetMatrix(matrix_to_vtk(matrix))
    return result


def image_data(array: np.ndarray, components: int = 1):
    """A vtkImageData with spacing 1 and origin 0 that owns a copy of (K, J, I) or (K, J, I, components)."""
    if array.dtype == np.bool_ or array.dtype == np.float16 or array.dtype.itemsize == 8:
        # Kinds that VTK or other Slicer modules handle badly; labels stay exact, intensities are single precision.
        array = array.astype({"b": np.uint8, "f": np.float32}.get(array.dtype.kind, np.int32))
    flat = np.ascontiguousarray(array).reshape((-1, components) if components > 1 else -1)
    data = vtk.vtkImageData()
    data.SetDimensions(array.shape[2], array.shape[1], array.shape[0])
    data.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True, array_type=get_vtk_array_type(array.dtype)))
    return data
