"""Transforms between numpy, VTK and the scene."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import create_vtk_array, get_vtk_array_type, vtk_to_numpy

import slicer

from ..errors import FieldError, InputError
from ..fields.displacement import DisplacementField
from ..results.written import Fields
from .names import APPLIED_ROLE, DIRECTION_ATTRIBUTE, FORMER_ROLE, INVERSE_ROLE, LINEAR_ROLE, PARENT_ATTRIBUTE
from .steps import copying, finish

# The class of all transform nodes that this extension makes; what one holds tells its kind. Slicer's classes for
# linear, grid and B-spline transforms are deprecated, and still come with older scenes.
TRANSFORM_CLASS = "vtkMRMLTransformNode"


def is_moved_by(transform_node, node) -> bool:
    """Whether a registration or applying.py put the node under this transform, whose record tells where it was."""
    parent = node.GetParentTransformNode()
    if parent is None or not transform_node.GetAttribute(PARENT_ATTRIBUTE):
        # The user may have taken it out.
        return False
    own = [one for one in (transform_node, transform_node.GetNodeReference(LINEAR_ROLE)) if one is not None]
    if node.GetNodeReference(APPLIED_ROLE) is transform_node:
        return any(above in own for above in (parent, parent.GetParentTransformNode()))
    is_moving = transform_node.GetNodeReference(transform_node.GetMovingNodeReferenceRole()) is node
    return is_moving and parent in own


def transforms_of(fields: Fields) -> dict:
    """The transforms for nodes by name, made before the scene is touched."""
    return finish(making_transforms(fields))


def making_transforms(fields: Fields) -> Generator[None, None, dict]:
    """transforms_of in steps."""
    plan: dict = {}
    if fields.transform is not None:
        plan["grid"] = yield from _making_grid_transform(fields.transform)
        if fields.linear is not None:
            plan["linear"] = fields.linear
    if fields.inverse is not None:
        plan["inverse"] = yield from _making_grid_transform(fields.inverse)
    return plan


def grid_transform(displacement: DisplacementField):
    """A vtkOrientedGridTransform x -> x + u(x): RAS mm vectors as Scalars, linear interpolation."""
    return finish(_making_grid_transform(displacement))


def _making_grid_transform(displacement: DisplacementField) -> Generator[None, None, Any]:
    grid = displacement.grid
    if not grid.is_orthogonal:
        raise FieldError("A transform node needs a field whose grid axes are at right angles.")
    data = yield from making_image_data(displacement.displacement_ras, components=3)
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


def is_linear(node) -> bool:
    """Whether a transform node holds a linear transform (or none), composites included; parents do not count."""
    return bool(node.IsLinear())


def is_identity(node) -> bool:
    """Whether a transform node does nothing, as a new one."""
    try:
        return is_linear(node) and np.allclose(
            matrix_between(node, node.GetParentTransformNode()), np.eye(4), atol=1e-9
        )
    except InputError:
        return False


def oriented_grid(node):
    """The displacement grid that a transform node holds from its parent, a vtkOrientedGridTransform, or None."""
    return node.GetTransformFromParentAs("vtkOrientedGridTransform", False, False)


def make_grids_linear(scene) -> None:
    """Let the displacement grids of registrations in a scene be interpolated as they were computed, linearly.

    Slicer reads grids as cubic, from scenes and files: between the grid's points that moves by up to .1 mm. To be
    called when a scene was loaded. Transforms that this extension did not write are left alone.
    """
    for node in (*_nodes_of(scene, TRANSFORM_CLASS), *_transforms_in_sequences(scene)):
        if node.GetAttribute(PARENT_ATTRIBUTE):
            make_grid_linear(node)


def _nodes_of(scene, class_name: str) -> list:
    return [scene.GetNthNodeByClass(n, class_name) for n in range(scene.GetNumberOfNodesByClass(class_name))]


def _transforms_in_sequences(scene) -> list:
    """Those that a sequence holds; the nodes that show one of them get its content whenever the frame changes."""
    inner = [sequence.GetSequenceScene() for sequence in _nodes_of(scene, "vtkMRMLSequenceNode")]
    return [node for one in inner if one is not None for node in _nodes_of(one, TRANSFORM_CLASS)]


def make_grid_linear(node) -> bool:
    """Interpolate the displacements of a transform node linearly, as ITK and ANTs do. Returns whether it has some."""
    grid = oriented_grid(node)
    if grid is None or grid.GetDisplacementGrid() is None:
        return False
    if grid.GetInterpolationMode() != vtk.VTK_LINEAR_INTERPOLATION:
        grid.SetInterpolationModeToLinear()
        node.TransformModified()
    return True


def matrix_between(source, target) -> np.ndarray:
    """(4, 4), the linear transform from below one transform node to below another; None is the world.

    Slicer's own GetMatrixTransformToWorld gives the identity for a linear transform of several parts, as files of
    other programs hold. Raises InputError when the transform is not linear, as one with NaN in it.
    """
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, general)
    ends = np.array([general.TransformPoint(point) for point in [*np.eye(3).tolist(), [0.0] * 3, [70.0, -90.0, 110.0]]])
    matrix = np.eye(4)
    matrix[:3, :3] = (ends[:3] - ends[3]).T
    matrix[:3, 3] = ends[3]
    expected = matrix[:3, :3] @ [70.0, -90.0, 110.0] + matrix[:3, 3]
    if not np.allclose(expected, ends[4], rtol=1e-6, atol=1e-6):
        name = (source or target).GetName()
        raise InputError(
            f"The transform '{name}', or one above it, is not linear or holds numbers that are not finite. Correct it, "
            "or take its nodes out of it in the Transforms module."
        )
    return matrix


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
    return finish(making_image_data(array, components))


def _whole_kind(array: np.ndarray) -> type:
    """The type that holds whole numbers: of 64 bits, as VTK knows them, only double precision works everywhere."""
    limits = np.iinfo(np.int32)
    small = array.dtype.kind not in "iu" or (array.min() >= limits.min and array.max() <= limits.max)
    return np.int32 if small else np.float64


def making_image_data(array: np.ndarray, components: int = 1) -> Generator[None, None, Any]:
    """image_data in steps."""
    kind = array.dtype
    if kind == np.bool_ or kind == np.float16 or kind.itemsize == 8:
        # Kinds that VTK or other Slicer modules handle badly; labels stay exact, intensities are single precision.
        kind = np.dtype({"b": np.uint8, "f": np.float32}.get(kind.kind, _whole_kind(array)))
    scalars = create_vtk_array(get_vtk_array_type(kind))
    scalars.SetNumberOfComponents(components)
    scalars.SetNumberOfTuples(int(np.prod(array.shape[:3])))
    yield from copying(array, vtk_to_numpy(scalars).reshape(array.shape))
    data = vtk.vtkImageData()
    data.SetDimensions(array.shape[2], array.shape[1], array.shape[0])
    data.GetPointData().SetScalars(scalars)
    return data
