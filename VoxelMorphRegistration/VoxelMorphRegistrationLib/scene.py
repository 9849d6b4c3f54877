"""Slicer's scene in and out: MRML nodes to images, label maps and points, and a finished registration to nodes.

Only this room, display, check_views, view_state and applying know MRML. Input positions are world RAS mm: linear
parent transforms are included. Nothing in the scene changes before a registration is finished, and `write_outputs` puts
everything back when it fails half way.

The transform that is written maps world-fixed to moving-local positions, T'(x) = P^-1 A (x + u(x)) with P the moving
volume's parent transform at the time it was read. It is meant to *replace* the moving volume's transform.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

import slicer

from . import display, results
from .errors import FieldError, InputError, OutputError, SettingsError
from .field import DisplacementField
from .geometry import Grid, Image, check_matrix
from .written import INSIDE, SEPARATE, Fields, Wanted, fields_of

SETTINGS_ATTRIBUTE = "VoxelMorph.Settings"
REPORT_ATTRIBUTE = "VoxelMorph.Report"
PARENT_ATTRIBUTE = "VoxelMorph.MovingParentToWorld"
LINEAR_ROLE = "VoxelMorph.LinearPart"
INVERSE_ROLE = "VoxelMorph.Inverse"
RESULTS_ROLE = "VoxelMorph.Results"
# On an inverse transform: the way it goes.
DIRECTION_ATTRIBUTE = "VoxelMorph.Direction"
# On a node put under a transform: that transform, and the transform that it was under before.
APPLIED_ROLE = "VoxelMorph.Applied"
FORMER_ROLE = "VoxelMorph.FormerParent"
LINEAR_CHOICES = (INSIDE, SEPARATE)


# --- nodes to images --------------------------------------------------------------------------------------


def image_from_node(node, role: str = "volume", replaced=None) -> Image:
    """The voxels of a scalar volume node where they are in the world: RAS mm, linear parent transforms included.

    role: what messages call it, such as "fixed volume". replaced: an earlier output transform that is about to be
    overwritten; a moving volume that lies under it counts as lying where it was before. Raises InputError.
    """
    name = _named(node, role)
    _refuse_non_volumes(node, name)
    data = node.GetImageData()
    if data is None or data.GetPointData().GetScalars() is None or min(data.GetDimensions()) < 1:
        raise InputError(f"The {name} is empty: it has no voxels. Load or choose another one.")
    components = data.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            f"The {name} has {components} values a voxel (colour, vectors, tensors or time points). "
            "Choose a scalar volume: convert it to grey values, or extract one component or frame."
        )
    shape = data.GetDimensions()[::-1]
    array = np.array(vtk_to_numpy(data.GetPointData().GetScalars())).reshape(shape)
    return Image(array, _world_grid(node, shape, name, replaced), name)


def parent_to_world(node, name: str, replaced=None) -> np.ndarray:
    """(4, 4), the linear transform above a node, in RAS mm. Raises InputError when it is not linear or singular."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if replaced is not None and _is_moved_by(replaced, node):
        recorded = np.array(json.loads(replaced.GetAttribute(PARENT_ATTRIBUTE)))
        if parent in (replaced, replaced.GetNodeReference(LINEAR_ROLE)):
            return recorded
        between = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToParent(between)
        return recorded @ matrix_from_vtk(between)
    if not parent.IsTransformToWorldLinear():
        ours = parent.GetAttribute(PARENT_ATTRIBUTE)
        hint = " (or choose that transform as the output, to replace it)" if ours else ""
        raise InputError(
            f"The {name} is under a non-linear transform ('{parent.GetName()}'). Harden the transform, or take the "
            f"node out of it in the Transforms module{hint}, and try again."
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return check_matrix(matrix_from_vtk(matrix), f"transform '{parent.GetName()}' of the {name}")


def _is_moved_by(transform_node, node) -> bool:
    """Whether a registration or applying.py put the node under this transform, whose record tells where it was."""
    parent = node.GetParentTransformNode()
    if not transform_node.GetAttribute(PARENT_ATTRIBUTE):
        return False
    if node.GetNodeReference(APPLIED_ROLE) is transform_node:
        above = (parent, parent.GetParentTransformNode())
        return any(one in (transform_node, transform_node.GetNodeReference(LINEAR_ROLE)) for one in above)
    is_moving = transform_node.GetNodeReference(transform_node.GetMovingNodeReferenceRole()) is node
    return is_moving and parent in (transform_node, transform_node.GetNodeReference(LINEAR_ROLE))


def points_from_node(node, role: str = "points") -> np.ndarray:
    """World positions (N, 3) in RAS mm of the placed control points of a markups node. Raises InputError."""
    name = _named(node, role)
    if not node.IsA("vtkMRMLMarkupsNode"):
        raise InputError(f"The {name} is no list of points. Choose a markups node.")
    parent = node.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        parent_to_world(node, name)
    placed = [
        node.GetNthControlPointPositionWorld(n)
        for n in range(node.GetNumberOfControlPoints())
        if node.GetNthControlPointPositionStatus(n) == node.PositionDefined
    ]
    if not placed:
        raise InputError(f"The {name} has no placed points. Place some, or leave the choice empty.")
    return np.array([list(position) for position in placed], dtype=np.float64)


def _named(node, role: str) -> str:
    if node is None:
        raise InputError(f"No {role} is chosen. Choose one.")
    return f"{role} '{node.GetName()}'"


def _refuse_non_volumes(node, name: str) -> None:
    if node.IsA("vtkMRMLSequenceNode") or node.IsA("vtkMRMLMultiVolumeNode"):
        raise InputError(f"The {name} is a time series. Choose or extract one of its frames and register that.")
    if node.IsA("vtkMRMLTensorVolumeNode") or not node.IsA("vtkMRMLScalarVolumeNode"):
        kind = node.GetNodeTagName() or node.GetClassName()
        raise InputError(f"The {name} is a {kind} node. Choose a scalar volume.")


def _world_grid(node, shape: tuple[int, ...], name: str, replaced=None) -> Grid:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    try:
        own = Grid(shape, matrix_from_vtk(matrix))
    except InputError as error:
        raise InputError(f"The {name} cannot be placed in space. {error}") from error
    if not own.is_orthogonal:
        raise InputError(
            f"The {name} has sheared axes (not at right angles). Resample it onto a grid with right angles first, "
            "for example with the Resample Scalar/Vector/DWI Volume module."
        )
    return own.transformed(parent_to_world(node, name, replaced))


# --- labels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Label:
    """What a label value means. segment: the vtkSegment it came from, for its terminology, or None."""

    name: str
    color: tuple[float, float, float]
    segment: object = None


@dataclass(frozen=True)
class Labels:
    """A label map in the world with the meaning of its values (0 is background)."""

    image: Image
    table: dict[int, Label]
    from_segments: bool

    def renumbered(self, values: dict[int, int]) -> Labels:
        """The same labels with other values, {old: new}."""
        lookup = np.zeros(max(values, default=0) + 1, np.int32)
        lookup[list(values)] = list(values.values())
        array = lookup[self.image.array]
        return replace(
            self, image=self.image.with_array(array), table={values[old]: label for old, label in self.table.items()}
        )

    def names(self) -> dict[int, str]:
        return {value: label.name for value, label in self.table.items()}


def labels_from_node(node, role: str = "labels", replaced=None) -> Labels:
    """A label map volume or a segmentation on its own geometry, in the world. Raises InputError.

    Values of a label map are kept; segments are numbered 1, 2, ... in their order. Segments must not overlap,
    because a label map holds one label a voxel.
    """
    name = _named(node, role)
    if node.IsA("vtkMRMLSegmentationNode"):
        return _labels_from_segmentation(node, name, replaced)
    if not node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(f"The {name} is no label map. Choose a label map volume or a segmentation.")
    image = image_from_node(node, role, replaced)
    array = image.array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            raise InputError(f"The {name} has values that are no whole numbers, so it is no label map.")
        array = array.astype(np.int32)
    if array.size and array.min() < 0:
        raise InputError(f"The {name} has negative values. Labels must be 0 (background) or more.")
    colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() else None
    table = {int(value): _label_of(colors, int(value)) for value in np.unique(array) if value}
    return Labels(image.with_array(array), table, False)


def _label_of(color_node, value: int) -> Label:
    color, name = [0.5, 0.5, 0.5, 1.0], None
    if color_node is not None and value < color_node.GetNumberOfColors():
        name = color_node.GetColorName(value)
        color_node.GetColor(value, color)
    return Label(name if name and name != "(none)" else f"Label {value}", tuple(color[:3]))


def _labels_from_segmentation(node, name: str, replaced) -> Labels:
    # A copy outside the scene, so that making a label map of surfaces does not change the user's node.
    copy = slicer.vtkMRMLSegmentationNode()
    copy.CopyContent(node, True)
    segmentation = copy.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    if not ids:
        raise InputError(f"The {name} is empty: it has no segments. Draw or import some, or leave the choice empty.")
    if not copy.CreateBinaryLabelmapRepresentation():
        raise InputError(f"The {name} cannot be turned into a binary label map. Do so in the Segmentations module.")
    merged, geometry = _merge(copy, ids, name)
    if segmentation.GetNumberOfLayers() > 1:
        _refuse_overlap(copy, ids, merged, name)
    grid = geometry.transformed(parent_to_world(node, name, replaced))
    table = {}
    for value, segment_id in enumerate(ids, start=1):
        segment = segmentation.GetSegment(segment_id)
        table[value] = Label(segment.GetName(), tuple(segment.GetColor()), segment)
    return Labels(Image(merged, grid, name), table, True)


def _merge(node, ids: list[str], name: str) -> tuple[np.ndarray, Grid]:
    """Segments as one array with values 1, 2, ... and its grid, without the node's parent transform."""
    wanted, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for value, segment_id in enumerate(ids, start=1):
        wanted.InsertNextValue(segment_id)
        values.InsertNextValue(value)
    data = slicer.vtkOrientedImageData()
    extent_mode = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not node.GenerateMergedLabelmapForAllSegments(data, extent_mode, None, wanted, values):
        raise InputError(f"The {name} could not be read: its segments have no common geometry.")
    if min(data.GetDimensions()) < 1:
        raise InputError(f"The {name} is empty: none of its segments has a voxel.")
    matrix = vtk.vtkMatrix4x4()
    data.GetImageToWorldMatrix(matrix)
    whole = matrix_from_vtk(matrix)
    extent = np.array(data.GetExtent())
    shape = data.GetDimensions()[::-1]
    start = Grid((1, 1, 1), whole).to_ras(extent[::2])
    whole[:3, 3] = start
    return vtk_to_numpy(data.GetPointData().GetScalars()).reshape(shape).astype(np.int32), Grid(shape, whole)


def _refuse_overlap(node, ids: list[str], merged: np.ndarray, name: str) -> None:
    for value, segment_id in enumerate(ids, start=1):
        alone, _ = _merge(node, [segment_id], name)
        if np.count_nonzero(alone) != np.count_nonzero(merged == value):
            segment = node.GetSegmentation().GetSegment(segment_id).GetName()
            raise InputError(
                f"The {name} has overlapping segments ('{segment}' shares voxels with another one). Registration "
                "needs one label a voxel: hide or remove the overlap in the Segment Editor, or use a label map."
            )


def matched_labels(fixed: Labels, moving: Labels) -> Labels:
    """The moving labels with the values that the fixed ones use for the same structures.

    Two label maps are matched by value, as they are. As soon as one is a segmentation, whose values mean nothing,
    they are matched by name, whatever the case. Raises InputError when a name is double or no name is shared.
    """
    if not fixed.from_segments and not moving.from_segments:
        return moving
    by_name = _values_by_name(fixed)
    moving_names = _values_by_name(moving)
    shared = by_name.keys() & moving_names.keys()
    if not shared:
        raise InputError(
            f"The {fixed.image.name} and the {moving.image.name} share no name, so it is unknown which structures "
            "belong together. Give the same structures the same names."
        )
    free = max([*fixed.table, *moving.table]) + 1
    values = {}
    for name, old in moving_names.items():
        if name in by_name:
            values[old] = by_name[name]
        else:
            values[old], free = free, free + 1
    return moving.renumbered(values)


def _values_by_name(labels: Labels) -> dict[str, int]:
    result: dict[str, int] = {}
    for value, label in labels.table.items():
        key = label.name.strip().casefold()
        if key in result:
            raise InputError(f"The {labels.image.name} has two structures named '{label.name}'. Rename one of them.")
        result[key] = value
    return result


# --- everything a registration reads ---------------------------------------------------------------------


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
    _named(fixed_node, "fixed volume")
    _named(moving_node, "moving volume")
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


# --- results to nodes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Targets:
    """Where results go: a node to update, None for a new node, False for none at all.

    linear: "inside" puts the linear part into the grid transform, "separate" into a linear transform of its own,
    under which the moving volume goes. apply: put the moving volume under the transform. inverse: False by default.
    """

    transform: object = None
    volume: object = None
    labels: object = None
    jacobian: object = None
    inverse: object = False
    linear: str = INSIDE
    apply: bool = False


@dataclass(frozen=True)
class Outputs:
    """The nodes written (None where none was asked for) and the report of the registration.

    transform: the node to put the moving volume under. grid_transform: the node with the field; the same one when
    the linear part is inside.
    """

    transform: object = None
    grid_transform: object = None
    volume: object = None
    labels: object = None
    jacobian: object = None
    inverse: object = None
    report: object = field(default=None, repr=False)


_CLASSES = {
    "transform": ("vtkMRMLGridTransformNode", "vtkMRMLTransformNode"),
    "inverse": ("vtkMRMLGridTransformNode", "vtkMRMLTransformNode"),
    "volume": ("vtkMRMLScalarVolumeNode",),
    "jacobian": ("vtkMRMLScalarVolumeNode",),
    "labels": ("vtkMRMLLabelMapVolumeNode", "vtkMRMLSegmentationNode"),
}
_KINDS = {
    "transform": "a grid transform",
    "inverse": "a grid transform",
    "volume": "a scalar volume",
    "jacobian": "a scalar volume",
    "labels": "a label map volume or a segmentation",
}


def check_targets(targets: Targets, *input_nodes) -> None:
    """Refuse outputs of the wrong kind, that are inputs, or that are chosen twice. Raises InputError, SettingsError."""
    if targets.linear not in LINEAR_CHOICES:
        raise SettingsError(f"'{targets.linear}' is no choice for the linear part. Choose inside or separate.")
    if targets.apply and targets.transform is False:
        raise SettingsError("The transform can only be applied to the moving volume when a transform is written.")
    seen = [node for node in input_nodes if node is not None]
    for what, classes in _CLASSES.items():
        node = getattr(targets, what)
        if node is None or node is False:
            continue
        if node.GetClassName() not in classes:
            raise InputError(f"The output {what} '{node.GetName()}' must be {_KINDS[what]}. Choose another node.")
        if any(node is other for other in seen):
            raise InputError(
                f"The output {what} '{node.GetName()}' is also an input or another output. Choose another node."
            )
        seen.append(node)
    fixed_node = input_nodes[0] if input_nodes else None
    _refuse_parent_of(targets, fixed_node)


def _refuse_parent_of(targets: Targets, fixed_node) -> None:
    parent = fixed_node.GetParentTransformNode() if fixed_node is not None else None
    while parent is not None:
        if parent is targets.transform or parent is targets.inverse:
            raise InputError(
                f"The output transform '{parent.GetName()}' moves the fixed volume '{fixed_node.GetName()}'. "
                "Choose another output transform."
            )
        parent = parent.GetParentTransformNode()


def write_outputs(
    registration, inputs: Inputs, targets: Targets = Targets(), transforms: dict | None = None
) -> Outputs:
    """Create or update the nodes of a finished registration. On any error the scene is as before.

    registration: a Registration, or a written.Product together with its `transforms` (transforms_of); these are
    computed here, with torch, when None. Raises InputError when a target does not fit, or when the fixed volume was
    moved or removed since it was read.
    """
    check_targets(targets, inputs.fixed_node, inputs.moving_node, inputs.moving_labels_node)
    scene = inputs.fixed_node.GetScene()
    _check_still_there(inputs)
    if targets.labels not in (None, False) and registration.warped_labels is None:
        raise InputError("An output for warped labels is chosen, but no moving labels. Choose the moving labels.")
    wanted = wanted_fields(inputs, targets)
    plan = transforms if transforms is not None else transforms_of(fields_of(registration, wanted))
    existing = [targets.transform, targets.volume, targets.labels, targets.jacobian, targets.inverse]
    with _all_or_nothing(scene, inputs.moving_node, [node for node in existing if node]):
        return _Writer(scene, registration, inputs, targets, wanted.fixed_to_world).write(plan)


def _check_still_there(inputs: Inputs) -> None:
    for node in (inputs.fixed_node, inputs.moving_node):
        if node.GetScene() is None:
            raise InputError(f"'{node.GetName()}' was removed from the scene meanwhile. Nothing was written.")
    data = inputs.fixed_node.GetImageData()
    shape = data.GetDimensions()[::-1] if data is not None else (0, 0, 0)
    if shape != inputs.fixed.grid.shape or not _world_grid(inputs.fixed_node, shape, inputs.fixed.name).same_as(
        inputs.fixed.grid
    ):
        raise InputError(f"The {inputs.fixed.name} was moved or changed meanwhile. Nothing was written; start again.")


def wanted_fields(inputs: Inputs, targets: Targets) -> Wanted:
    """What is to be computed of a registration for these targets."""
    return Wanted(
        fixed=inputs.fixed.grid,
        moving=inputs.moving.grid,
        moving_to_world=inputs.moving_to_world,
        fixed_to_world=parent_to_world(inputs.fixed_node, inputs.fixed.name),
        transform=targets.transform is not False,
        inverse=targets.inverse is not False,
        linear=targets.linear,
    )


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
    data = _image_data(displacement.displacement_ras, components=3)
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
    if earlier is None or not _is_moved_by(earlier, node):
        node.SetNodeReferenceID(FORMER_ROLE, node.GetTransformNodeID())
    node.SetNodeReferenceID(APPLIED_ROLE, transform_node.GetID())
    node.SetAndObserveTransformNodeID((parent or transform_node).GetID())


def mark_as_inverse(inverse_node, transform_node, fixed_to_world: np.ndarray) -> None:
    """Note which transform an inverse belongs to, and what it replaces above nodes of the fixed side."""
    inverse_node.SetAttribute(DIRECTION_ATTRIBUTE, "inverse")
    inverse_node.SetAttribute(PARENT_ATTRIBUTE, json.dumps(np.asarray(fixed_to_world).tolist()))
    if transform_node is not None:
        transform_node.SetNodeReferenceID(INVERSE_ROLE, inverse_node.GetID())


class _Writer:
    """Writes one registration into a scene; used once, inside _all_or_nothing."""

    def __init__(self, scene, registration, inputs: Inputs, targets: Targets, fixed_to_world: np.ndarray) -> None:
        self.scene = scene
        self.fixed_to_world = fixed_to_world
        self.registration = registration
        self.inputs = inputs
        self.targets = targets
        self.moving_name = inputs.moving_node.GetName()

    def write(self, plan: dict) -> Outputs:
        targets, registration = self.targets, self.registration
        grid_node = top = volume = labels = jacobian = inverse = None
        if "grid" in plan:
            grid_node, top = self._write_transform(plan["grid"], plan.get("linear"))
        if "inverse" in plan:
            fixed_name = self.inputs.fixed_node.GetName()
            inverse = self._node(targets.inverse, "vtkMRMLGridTransformNode", f"{fixed_name} to {self.moving_name}")
            self._set_transform(inverse, plan["inverse"], self.inputs.moving_node, self.inputs.fixed_node)
            mark_as_inverse(inverse, grid_node, self.fixed_to_world)
        if targets.volume is not False:
            volume = self._write_warped(registration.warped)
        if targets.labels is not False and registration.warped_labels is not None:
            labels = self._write_labels(registration.warped_labels)
        if targets.jacobian is not False:
            jacobian = self._node(targets.jacobian, "vtkMRMLScalarVolumeNode", f"{self.moving_name} Jacobian")
            self._set_voxels(jacobian, registration.jacobian)
            display.show_as_jacobian(jacobian)
        if targets.apply:
            put_under(self.inputs.moving_node, grid_node, top)
        return Outputs(top, grid_node, volume, labels, jacobian, inverse, registration.report)

    def _node(self, existing, class_name: str, name: str):
        if existing is not None:
            return existing
        node = self.scene.AddNewNodeByClass(class_name, self.scene.GenerateUniqueName(name))
        if node is None:
            raise OutputError(f"The scene did not accept a new {class_name}.")
        return node

    def _write_transform(self, transform, linear: np.ndarray | None):
        inputs = self.inputs
        name = f"{self.moving_name} to {inputs.fixed_node.GetName()}"
        grid_node = self._node(self.targets.transform, "vtkMRMLGridTransformNode", name)
        companion = grid_node.GetNodeReference(LINEAR_ROLE)
        self._set_transform(grid_node, transform, inputs.fixed_node, inputs.moving_node)
        if linear is None:
            if companion is not None:
                # Volumes may still hang below the linear node of an earlier run: there it must do nothing.
                companion.SetAndObserveTransformFromParent(linear_transform(np.eye(4)))
            return grid_node, grid_node
        if companion is None:
            companion = self._node(None, "vtkMRMLLinearTransformNode", f"{grid_node.GetName()} (linear part)")
            grid_node.SetNodeReferenceID(LINEAR_ROLE, companion.GetID())
        self._set_transform(companion, linear_transform(linear), inputs.fixed_node, inputs.moving_node)
        companion.SetAndObserveTransformNodeID(grid_node.GetID())
        return grid_node, companion

    def _set_transform(self, node, transform, fixed_node, moving_node) -> None:
        node.SetAndObserveTransformNodeID(None)
        node.SetAndObserveTransformFromParent(transform)
        node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixed_node.GetID())
        node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), moving_node.GetID())
        report = json.loads(self.registration.report.to_json())
        tables = [labels.names() for labels in (self.inputs.fixed_labels, self.inputs.moving_labels) if labels]
        if tables:
            report["label_names"] = {value: name for names in tables for value, name in names.items()}
        node.SetAttribute(SETTINGS_ATTRIBUTE, json.dumps(report["settings"]))
        node.SetAttribute(REPORT_ATTRIBUTE, json.dumps(report))
        node.SetAttribute(PARENT_ATTRIBUTE, json.dumps(self.inputs.moving_to_world.tolist()))

    def _set_voxels(self, node, image: Image) -> None:
        """Voxels on the fixed volume's own grid, under the fixed volume's parent transform."""
        fixed_node = self.inputs.fixed_node
        if image.grid.shape != self.inputs.fixed.grid.shape:
            raise OutputError(f"The {image.name} is not on the grid of the {self.inputs.fixed.name}.")
        node.SetAndObserveTransformNodeID(fixed_node.GetTransformNodeID())
        node.CopyOrientation(fixed_node)
        data = _image_data(image.array)
        if node.GetDisplayNode() is None:
            # Before there are voxels: a histogram of them for an automatic window takes long, and is not used.
            node.CreateDefaultDisplayNodes()
            if node.GetDisplayNode().IsA("vtkMRMLScalarVolumeDisplayNode"):
                node.GetDisplayNode().AutoWindowLevelOff()
        node.SetAndObserveImageData(data)

    def _write_warped(self, image: Image):
        node = self._node(self.targets.volume, "vtkMRMLScalarVolumeNode", f"{self.moving_name} registered")
        self._set_voxels(node, image)
        display.show_like(node, self.inputs.moving_node)
        return node

    def _write_labels(self, image: Image):
        source = self.inputs.moving_labels
        class_name = "vtkMRMLSegmentationNode" if source.from_segments else "vtkMRMLLabelMapVolumeNode"
        name = f"{self.inputs.moving_labels_node.GetName()} registered"
        node = self._node(self.targets.labels, class_name, name)
        if node.IsA("vtkMRMLSegmentationNode"):
            self._fill_segmentation(node, image, source.table)
        else:
            self._set_voxels(node, image)
            display.show_as_labels(node, source.table, None if source.from_segments else self.inputs.moving_labels_node)
        return node

    def _fill_segmentation(self, node, image: Image, table: dict[int, Label]) -> None:
        fixed_node = self.inputs.fixed_node
        node.SetAndObserveTransformNodeID(fixed_node.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(fixed_node)
        segmentation = node.GetSegmentation()
        segmentation.RemoveAllSegments()
        data = slicer.vtkOrientedImageData()
        data.DeepCopy(_image_data(image.array))
        matrix = vtk.vtkMatrix4x4()
        fixed_node.GetIJKToRASMatrix(matrix)
        data.SetImageToWorldMatrix(matrix)
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        if image.array.any() and not logic.ImportLabelmapToSegmentationNode(data, node, "", ""):
            raise OutputError(f"The warped labels could not be written to the segmentation '{node.GetName()}'.")
        for n in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(n)
            value = segment.GetLabelValue()
            if value in table:
                _describe(segment, table[value], value)
        node.CreateDefaultDisplayNodes()


def _describe(segment, label: Label, value: int) -> None:
    if label.segment is not None:
        segment.DeepCopyMetadata(label.segment)
    segment.SetName(label.name)
    segment.SetColor(*label.color)
    segment.SetLabelValue(value)


@dataclass(frozen=True)
class _Saved:
    """A node with a copy of its content outside the scene and the ids it refers to."""

    node: object
    copy: object
    references: dict[str, str | None]

    @staticmethod
    def of(node) -> _Saved:
        # Bulk data is shared, since writers replace it; segmentations are edited in place, so copied in depth.
        copy = node.CreateNodeInstance()
        copy.CopyContent(node, node.IsA("vtkMRMLSegmentationNode"))
        return _Saved(node, copy, {role: node.GetNodeReferenceID(role) for role in _roles(node)})

    def restore(self) -> None:
        self.node.CopyContent(self.copy, self.node.IsA("vtkMRMLSegmentationNode"))
        for role in _roles(self.node) | set(self.references):
            old = self.references.get(role)
            if self.node.GetNodeReferenceID(role) != old:
                self.node.SetAndObserveNodeReferenceID(role, old)


def _roles(node) -> set[str]:
    return {node.GetNthNodeReferenceRole(n) for n in range(node.GetNumberOfNodeReferenceRoles())}


@contextmanager
def _all_or_nothing(scene, placed, nodes: list) -> Iterator[None]:
    """Undo on any error: nodes added meanwhile are removed, and `placed` and `nodes` are as before, the latter with
    their display nodes, whose copies take long."""
    before = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}
    watched: list = []
    for node in (placed, *nodes):
        companion = node.GetNodeReference(LINEAR_ROLE)
        shown = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
        if node is placed:
            # It is put under another node, and shown as before.
            shown = []
        watched += [n for n in (node, companion, *shown) if n is not None and n not in watched]
    saved = [_Saved.of(node) for node in watched]
    try:
        yield
    except BaseException:
        for one in saved:
            one.restore()
        for node in [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]:
            if node is not None and node.GetID() not in before:
                scene.RemoveNode(node)
        raise


# --- the results table -----------------------------------------------------------------------------------


def write_results(transform_node, rows: Sequence[results.Row], name: str = ""):
    """A table node with the rows of a report: text columns, and numbers for before, aligned and after.

    The transform's own table is used again, found through a node reference. Numbers that were not measured are NaN.
    """
    scene = transform_node.GetScene()
    table = vtk.vtkTable()
    for column, heading in results.COLUMNS.items():
        array = vtk.vtkDoubleArray() if column in results.NUMBERS else vtk.vtkStringArray()
        array.SetName(heading)
        for row in rows:
            value = getattr(row, column)
            array.InsertNextValue(np.nan if value is None else value)
        table.AddColumn(array)
    node = results_node(transform_node)
    if node is None:
        title = scene.GenerateUniqueName(name or f"{transform_node.GetName()} results")
        node = scene.AddNewNodeByClass("vtkMRMLTableNode", title)
        transform_node.SetNodeReferenceID(RESULTS_ROLE, node.GetID())
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    return node


def results_node(transform_node):
    """The table of a transform's results, or None."""
    return transform_node.GetNodeReference(RESULTS_ROLE)


# --- VTK helpers -----------------------------------------------------------------------------------------


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


def _image_data(array: np.ndarray, components: int = 1):
    """A vtkImageData with spacing 1 and origin 0 that owns a copy of (K, J, I) or (K, J, I, components)."""
    if array.dtype == np.bool_ or array.dtype == np.float16 or array.dtype.itemsize == 8:
        # Kinds that VTK or other Slicer modules handle badly; labels stay exact, intensities are single precision.
        array = array.astype({"b": np.uint8, "f": np.float32}.get(array.dtype.kind, np.int32))
    flat = np.ascontiguousarray(array).reshape((-1, components) if components > 1 else -1)
    data = vtk.vtkImageData()
    data.SetDimensions(array.shape[2], array.shape[1], array.shape[0])
    data.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True, array_type=get_vtk_array_type(array.dtype)))
    return data
