"""The inputs of a registration, read from the scene."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..errors import InputError
from ..images.grid import check_matrix
from ..images.image import Image
from ..images.landmarks import matched
from ..registration.start import Initial, sampling_start
from .frames import frame_of
from .labels import matching_labels, reading_labels, reading_mask
from .steps import finish
from .transforms import matrix_between
from .volumes import landmarks_from_node, named, parent_to_world, reading_image

if TYPE_CHECKING:
    from .labels import Labels
    from .nodes import Shown, Volume

# Along one direction. The brains of any two of 28 adults differ by at most 1.26 (378 pairs, along R, A and S).
LARGEST_FACTOR = 1.5


@dataclass(frozen=True)
class Inputs:
    """What was read from the scene for one registration, and where it lay then.

    fixed_side, moving_side: the nodes besides the volumes that were given for each side. warnings: sentences for the
    report. frames: {"fixed": "frame 3 of 10 (time 2 s)"} for volumes that show one of a sequence.
    """

    fixed_node: Volume
    moving_node: Volume
    fixed: Image
    moving: Image
    moving_to_world: np.ndarray
    fixed_labels: Labels | None = None
    moving_labels: Labels | None = None
    moving_labels_node: Shown | None = None
    fixed_points: np.ndarray | None = None
    moving_points: np.ndarray | None = None
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    initial_transform: Initial | None = None
    fixed_side: tuple = ()
    moving_side: tuple = ()
    warnings: tuple[str, ...] = ()
    frames: dict[str, str] = field(default_factory=dict)
    further_fixed: tuple[Image, ...] = ()
    further_moving: tuple[Image, ...] = ()

    @property
    def sides(self) -> tuple[Image | tuple[Image, ...], Image | tuple[Image, ...]]:
        """The images of both sides, several where further ones were given."""
        if not self.further_fixed:
            return self.fixed, self.moving
        return (self.fixed, *self.further_fixed), (self.moving, *self.further_moving)

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


def read_inputs(fixed_node, moving_node, **more) -> Inputs:
    """reading_inputs at once."""
    return finish(reading_inputs(fixed_node, moving_node, **more))


def reading_inputs(
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
    further_fixed=(),
    further_moving=(),
    replaced=None,
) -> Generator[None, None, Inputs]:
    """Read the nodes of a registration in steps; optional ones may be None. `replaced` as in image_from_node.

    initial_transform: a transform node that would bring the moving volume, as it lies, to the fixed one, parents of
    its own included; where it bends space, it is sampled over the fixed volume.

    further_fixed, further_moving: more volumes of each side, in the same order, which lie as the first ones do.

    Segmentations are brought onto the grid of their volume (nearest), because their own grid is a side matter.
    """
    _check_volumes(fixed_node, moving_node)
    further_nodes = _further_two(further_fixed, further_moving)
    start: Initial | None = None if initial_transform is None else _initial_matrix(initial_transform, moving_node)
    *points, unpaired = matched(
        *(
            None if node is None else landmarks_from_node(node, f"{side} points")
            for side, node in (("fixed", fixed_points), ("moving", moving_points))
        )
    )
    fixed = yield from reading_image(fixed_node, "fixed volume", replaced)
    if initial_transform is not None and start is None:
        start = yield from sampling_start(_mover_from_world(initial_transform), fixed.grid)
    moving = yield from reading_image(moving_node, "moving volume", replaced)
    labels = []
    for side, node, image in (("fixed", fixed_labels, fixed), ("moving", moving_labels, moving)):
        found = None if node is None else (yield from reading_labels(node, image.grid, f"{side} labels", replaced))
        labels.append(found)
    fixed_table, moving_table = labels
    if fixed_table is not None and moving_table is not None:
        moving_table = yield from matching_labels(fixed_table, moving_table)
    masks = []
    for side, node, image in (("fixed", fixed_mask, fixed), ("moving", moving_mask, moving)):
        masks.append(None if node is None else (yield from reading_mask(node, image.grid, f"{side} mask", replaced)))
    further: dict[str, list[Image]] = {"fixed": [], "moving": []}
    for number, two in enumerate(further_nodes, 2):
        for side, node in zip(further, two, strict=True):
            further[side].append((yield from reading_image(node, f"{side} volume {number}", replaced)))
    # Nodes may have gone between the steps.
    _check_volumes(fixed_node, moving_node)
    frames = {"fixed": frame_of(fixed_node), "moving": frame_of(moving_node)}
    return Inputs(
        fixed_node=fixed_node,
        moving_node=moving_node,
        fixed=fixed,
        moving=moving,
        moving_to_world=parent_to_world(moving_node, moving.name, replaced),
        fixed_labels=fixed_table,
        moving_labels=moving_table,
        moving_labels_node=moving_labels,
        fixed_points=points[0],
        moving_points=points[1],
        fixed_mask=masks[0],
        moving_mask=masks[1],
        initial_transform=start,
        fixed_side=_given(fixed_labels, fixed_points, fixed_mask, *further_fixed),
        moving_side=_given(moving_labels, moving_points, moving_mask, *further_moving),
        warnings=(
            *(_warnings_of_start(initial_transform.GetName(), start) if isinstance(start, np.ndarray) else ()),
            *(text for table in labels if table is not None for text in table.warnings),
            *unpaired,
        ),
        frames={side: text for side, text in frames.items() if text},
        further_fixed=tuple(further["fixed"]),
        further_moving=tuple(further["moving"]),
    )


def _check_volumes(fixed_node, moving_node) -> None:
    named(fixed_node, "fixed volume")
    named(moving_node, "moving volume")
    if fixed_node is moving_node:
        raise InputError(
            f"'{fixed_node.GetName()}' is chosen both as the fixed and as the moving volume. Choose two volumes."
        )
    for node in (fixed_node, moving_node):
        if node.GetScene() is None:
            raise InputError(f"The volume '{node.GetName()}' is not in the scene. Load it, or choose another one.")


def _given(*nodes) -> tuple:
    return tuple(node for node in nodes if node is not None)


def _further_two(fixed_nodes, moving_nodes) -> list[tuple]:
    """The fixed and the moving node of each further pair. Raises InputError."""
    if len(fixed_nodes) != len(moving_nodes):
        raise InputError(
            f"There are {len(fixed_nodes)} further fixed and {len(moving_nodes)} further moving volumes. Choose as "
            "many of each, in the same order."
        )
    found = list(zip(fixed_nodes, moving_nodes, strict=True))
    for number, two in enumerate(found, 2):
        for node, side in zip(two, ("fixed", "moving"), strict=True):
            name = named(node, f"{side} volume {number}")
            if node.GetScene() is None:
                raise InputError(f"The {name} is not in the scene. Load it, or choose another one.")
        if two[0] is two[1]:
            raise InputError(
                f"'{two[0].GetName()}' is chosen both as fixed and as moving volume {number}. Choose two volumes."
            )
    return found


def _initial_matrix(node, moving_node) -> np.ndarray | None:
    """(4, 4), fixed to moving RAS mm, of a transform node that brings the moving volume to the fixed one; None where it
    bends space."""
    name = named(node, "initial transform")
    if not node.IsA("vtkMRMLTransformNode"):
        raise InputError(f"The {name} is no transform. Choose a transform.")
    parent = moving_node.GetParentTransformNode()
    while parent is not None:
        if parent is node:
            raise InputError(
                f"The {name} moves the moving volume already, and counts as it lies. Leave the choice empty."
            )
        parent = parent.GetParentTransformNode()
    if not node.IsTransformToWorldLinear():
        return None
    return np.linalg.inv(check_matrix(matrix_between(node, None), name))


def _mover_from_world(node) -> Callable[[np.ndarray], np.ndarray]:
    """A function that carries points (N, 3) of the world to where a transform node, with its parents, has them from."""
    general = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(general)

    def move(points: np.ndarray) -> np.ndarray:
        start, end = vtk.vtkPoints(), vtk.vtkPoints()
        start.SetDataTypeToDouble()
        end.SetDataTypeToDouble()
        start.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=True))
        general.TransformPoints(start, end)
        return vtk_to_numpy(end.GetData()).copy()

    return move


def _warnings_of_start(name: str, matrix: np.ndarray) -> tuple[str, ...]:
    """What is unusual about an initial transform (4, 4)."""
    factors = 1.0 / np.linalg.svd(matrix[:3, :3], compute_uv=False)[::-1]
    found = []
    if np.linalg.det(matrix[:3, :3]) < 0:
        found.append(
            f"The initial transform '{name}' mirrors: left and right of the moving volume change sides, and the map of "
            "the volume change is negative throughout. Check the transform."
        )
    if max(factors[0], 1 / factors[-1]) > LARGEST_FACTOR:
        found.append(
            f"The initial transform '{name}' scales the moving volume by {factors[-1]:.2g} to {factors[0]:.2g}. Check "
            "that both volumes have the right voxel sizes."
        )
    return tuple(found)
