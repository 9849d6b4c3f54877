"""Label maps and segmentations of the scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer

from ..errors import InputError
from ..images.grid import Grid
from ..images.image import Image
from .transforms import matrix_from_vtk
from .volumes import image_from_node, named, parent_to_world


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
    name = named(node, role)
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
