"""Label maps made into segmentations, and segmentations given up, a step at a time.

A segmentation is built outside the scene and set on its node in one go: naming and colouring segments of a node that
Slicer watches takes seconds for some hundreds of them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

import slicer

from .segments_in import BINARY, SURFACE
from .steps import COPIED_BYTES, slabs
from .transforms import making_image_data, matrix_to_vtk

_GEOMETRY = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()


def building(
    array: np.ndarray, ijk_to_ras: np.ndarray, table: Mapping, like=None, cropped: bool = True
) -> Generator[None, None, Any]:
    """A vtkSegmentation of a label map (K, J, I), its voxels placed by ijk_to_ras (4, 4), in RAS mm of its node.

    table: {value: labels.Label}. Each of its labels becomes a segment, an empty one where no voxel has it; values
    without an entry are left out. like: a vtkSegmentation whose ways to make surfaces are taken over; surfaces are
    made where it has some. cropped: keep only the part that holds something, as Slicer does; it takes longer, and
    surfaces need it.
    """
    start, stop = np.zeros(3, int), np.array(array.shape[::-1])
    boxes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    if cropped:
        boxes = yield from _boxes(array)
        present = [value for value in table if value in boxes]
        stop = np.max([boxes[value][1] for value in present], axis=0) if present else np.ones(3, int)
        start = np.min([boxes[value][0] for value in present], axis=0) if present else start
    data = yield from _labelmap(array, start, stop, ijk_to_ras)
    result = slicer.vtkSegmentation()
    result.SetSourceRepresentationName(BINARY)
    if like is not None:
        result.CopyConversionParameters(like)
    extent = [value for n in array.shape[::-1] for value in (0, n - 1)]
    geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(matrix_to_vtk(ijk_to_ras), extent)
    result.SetConversionParameter(_GEOMETRY, geometry)
    surfaces = like is not None and like.ContainsRepresentation(SURFACE)
    for value, label in sorted(table.items()):
        segment = slicer.vtkSegment()
        if label.segment is not None:
            segment.DeepCopyMetadata(label.segment)
        segment.SetName(label.name)
        segment.SetColor(*label.color)
        segment.AddRepresentation(BINARY, data)
        segment.SetLabelValue(value)
        if surfaces:
            yield
            segment.AddRepresentation(
                SURFACE, (yield from _surface(array, boxes.get(value), value, ijk_to_ras, result))
            )
        result.AddSegment(segment, label.identity or result.GenerateUniqueSegmentID(label.name))
    return result


def releasing(segmentation) -> Generator[None, None, None]:
    """Empty a segmentation that no node shows any more.

    Left to itself, it would clear each segment's voxels from the label map that all share: 7 s for 300 segments of
    a head.
    """
    for n in range(segmentation.GetNumberOfSegments()):
        segmentation.GetNthSegment(n).RemoveAllRepresentations()
        if n % 50 == 0:
            yield


def _labelmap(array, start, stop, ijk_to_ras, value: int | None = None) -> Generator[None, None, Any]:
    """The part of an array between two voxels (i, j, k) as a vtkOrientedImageData; of one value only, if given."""
    part = array[tuple(slice(int(a), int(b)) for a, b in zip(start[::-1], stop[::-1], strict=True))]
    image = yield from making_image_data(part if value is None else (part == value).astype(np.uint8))
    data = slicer.vtkOrientedImageData()
    data.ShallowCopy(image)
    # The extent says which part it is; Slicer's segments lie on the lattice of the whole.
    data.SetExtent(*(int(n) for a, b in zip(start, stop, strict=True) for n in (a, b - 1)))
    data.SetImageToWorldMatrix(matrix_to_vtk(ijk_to_ras))
    return data


def _surface(array, box, value: int, ijk_to_ras, parameters) -> Generator[None, None, Any]:
    """The closed surface of one value, made as a segmentation's conversion parameters say."""
    single, holder = slicer.vtkSegment(), slicer.vtkSegmentation()
    holder.SetSourceRepresentationName(BINARY)
    holder.CopyConversionParameters(parameters)
    start, stop = box if box is not None else (np.zeros(3, int), np.ones(3, int))
    single.AddRepresentation(BINARY, (yield from _labelmap(array, start, stop, ijk_to_ras, value)))
    single.SetLabelValue(1)
    holder.AddSegment(single, "single")
    holder.CreateRepresentation(SURFACE, True)
    return single.GetRepresentation(SURFACE)


def _boxes(array: np.ndarray) -> Generator[None, None, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """{value: (first, past-the-last voxel (i, j, k))} of all values but 0."""
    boxes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for part in slabs(array.shape, array.itemsize, COPIED_BYTES // 8):
        slab = array[part]
        for axis in range(3):
            # Values that occur in each plane across the axis.
            for n, plane in enumerate(np.moveaxis(slab, 2 - axis, 0)):
                at = n + (part.start if axis == 2 else 0)
                for value in values_in(plane):
                    first, last = boxes.setdefault(value, (np.full(3, 2**31 - 1), np.zeros(3, int)))
                    first[axis] = min(first[axis], at)
                    last[axis] = max(last[axis], at + 1)
        yield
    return boxes


def values_in(plane: np.ndarray) -> list[int]:
    """The values of an array of whole numbers that are above 0, ascending."""
    if plane.min(initial=0) >= 0 and plane.max(initial=0) < 2**16:
        return (np.flatnonzero(np.bincount(plane.ravel(), minlength=1)[1:]) + 1).tolist()
    return [value for value in np.unique(plane).tolist() if value > 0]
