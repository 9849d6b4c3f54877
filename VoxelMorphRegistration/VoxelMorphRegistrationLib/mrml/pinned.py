"""Points and starts from the transform of an earlier registration. Knows MRML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import vtk

from ..fields.displacement import DisplacementField
from .applying import stored
from .names import LINEAR_ROLE, PARENT_ATTRIBUTE
from .records import recorded_matrix


def carried_to_moving(grid_node, point_ras: Sequence[float]) -> np.ndarray:
    """Where a world point of the fixed volume lies in the world of the moving volume as it was registered, (3,)."""
    companion = grid_node.GetNodeReference(LINEAR_ROLE)
    top = companion if companion is not None and companion.GetParentTransformNode() is grid_node else grid_node
    general = vtk.vtkGeneralTransform()
    top.GetTransformFromWorld(general)
    local = general.TransformPoint([float(one) for one in point_ras])
    # The transform leads to the moving volume's own space; its parent transform at the time leads on.
    parent = recorded_matrix(grid_node, PARENT_ATTRIBUTE)
    return parent[:3, :3] @ local + parent[:3, 3]


def start_from(grid_node) -> DisplacementField:
    """The whole transform of a registration as one displacement, fixed to moving in the world, to go on from.

    Raises InputError where the node was not written by a registration, or was hardened since.
    """
    found = stored(grid_node)
    return found.field.then_linear(found.linear @ found.outer)
