"""Label maps and segmentations of the scene."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..images.grid import Grid
from ..images.image import Image
from ..images.labels import inside, whole_numbers
from .segments_in import Placed, placing
from .steps import COPIED_BYTES, finish, slabs
from .volumes import named, parent_to_world, reading_image

# Of a segment's voxels, those shared with others. Surfaces that Slicer makes of 229 structures of two brains and an
# abdomen, filled again on their grids, share 2 % (median) to 11 % (smallest structures) with their neighbours;
# structures that were drawn one over the other share all of the smaller one.
SMALL_OVERLAP = 0.2


@dataclass(frozen=True)
class Label:
    """What a label value means. segment, identity: the vtkSegment it came from, for its terminology, and its ID."""

    name: str
    color: tuple[float, float, float]
    segment: Any = None
    identity: str = ""


@dataclass(frozen=True)
class Labels:
    """A label map in the world with the meaning of its values (0 is background)."""

    image: Image
    table: dict[int, Label]
    from_segments: bool
    warnings: tuple[str, ...] = ()

    def renumbering(self, values: dict[int, int]) -> Generator[None, None, Labels]:
        """The same labels with other values, {old: new}; in steps."""
        old = np.array(sorted({0, *values}))
        new = np.array([values.get(value, 0) for value in old.tolist()])
        array = np.empty(self.image.grid.shape, np.int32 if abs(new).max() < 2**31 else np.int64)
        for part in slabs(array.shape, array.itemsize, COPIED_BYTES // 4):
            array[part] = new[np.minimum(np.searchsorted(old, self.image.array[part]), len(old) - 1)]
            yield
        table = {values[value]: label for value, label in self.table.items()}
        return replace(self, image=self.image.with_array(array), table=table)

    def names(self) -> dict[int, str]:
        return {value: label.name for value, label in self.table.items()}


def labels_from_node(node, grid: Grid, role: str = "labels", replaced=None) -> Labels:
    """reading_labels at once."""
    return finish(reading_labels(node, grid, role, replaced))


def reading_labels(node, grid: Grid, role: str = "labels", replaced=None) -> Generator[None, None, Labels]:
    """A label map volume on its own grid, or a segmentation on `grid`, that of its volume, in the world.

    Values of a label map are kept; segments are numbered 1, 2, ... in their order, whether they are shown or not.
    A voxel holds one label: where segments share a few voxels, the later one gets them and `warnings` says so.
    Raises InputError where they share many, and for what is no label map.
    """
    name = named(node, role)
    if node.IsA("vtkMRMLSegmentationNode"):
        placed = yield from placing(node, grid, parent_to_world(node, name, replaced), name)
        segments = [node.GetSegmentation().GetSegment(one) for one in placed.ids]
        warnings = _check_overlap(placed, segments, name)
        table = {
            value: Label(segment.GetName(), tuple(segment.GetColor()), segment, placed.ids[value - 1])
            for value, segment in enumerate(segments, start=1)
        }
        return Labels(Image(placed.array, grid, name), table, True, warnings)
    if not node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(f"The {name} is no label map. Choose a label map volume or a segmentation.")
    image = yield from reading_image(node, role, replaced)
    array = whole_numbers(image).array
    yield
    colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() else None
    values = yield from _different(array)
    table = {value: _label_of(colors, value) for value in values if value}
    return Labels(image.with_array(array), table, False)


def reading_mask(node, grid: Grid, role: str = "mask", replaced=None) -> Generator[None, None, Image]:
    """Where a label map volume (on its own grid) is not 0, whatever its values, or any segment lies (on `grid`).

    Segments may overlap. Raises InputError.
    """
    name = named(node, role)
    if node.IsA("vtkMRMLSegmentationNode"):
        placed = yield from placing(node, grid, parent_to_world(node, name, replaced), name)
        return Image(placed.array != 0, grid, name)
    if not node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(f"The {name} is no label map. Choose a label map volume or a segmentation.")
    image = yield from reading_image(node, role, replaced)
    return inside(image)


def _different(array: np.ndarray) -> Generator[None, None, list[int]]:
    """The values of an array, ascending."""
    values: set[int] = set()
    for part in slabs(array.shape, array.dtype.itemsize, COPIED_BYTES // 4):
        values.update(np.unique(array[part]).tolist())
        yield
    return sorted(values)


def _label_of(color_node, value: int) -> Label:
    color, name = [0.5, 0.5, 0.5, 1.0], ""
    if color_node is not None and 0 <= value < color_node.GetNumberOfColors():
        name = color_node.GetColorName(value)
        color_node.GetColor(value, color)
    return Label(name if name and name != "(none)" else f"Label {value}", (color[0], color[1], color[2]))


def _check_overlap(placed: Placed, segments: list, name: str) -> tuple[str, ...]:
    """A sentence where segments share a few voxels. Raises InputError where one shares more than SMALL_OVERLAP."""
    parts = placed.shared / np.maximum(placed.voxels, 1)
    if not parts.any():
        return ()
    worst = int(parts.argmax())
    segment = segments[worst - 1].GetName()
    if parts[worst] > SMALL_OVERLAP:
        raise InputError(
            f"The {name} has overlapping segments ('{segment}' shares {min(parts[worst], 1):.0%} of its voxels with "
            "others). Registration needs one label a voxel: remove the overlap in the Segment Editor, or export the "
            "structures that you need into a segmentation of their own."
        )
    return (
        f"Segments of the {name} share voxels ('{segment}' {parts[worst]:.1%} of its own): these count as part of the "
        "later segment only.",
    )


def matching_labels(fixed: Labels, moving: Labels) -> Generator[None, None, Labels]:
    """In steps: the moving labels with the values that the fixed ones use for the same structures.

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
    return (yield from moving.renumbering(values))


def _values_by_name(labels: Labels) -> dict[str, int]:
    result: dict[str, int] = {}
    for value, label in labels.table.items():
        key = label.name.strip().casefold()
        if key in result:
            raise InputError(f"The {labels.image.name} has two structures named '{label.name}'. Rename one of them.")
        result[key] = value
    return result
