"""Segmentations read onto the grid of their volume, a step at a time.

Read are the binary label maps that segments share, layer by layer, where they lie, so that neither the number of
segments nor the segmentation's own reference geometry matters. Surfaces are filled on the volume's grid, and other
kinds (contours, fractions) turned into label maps there by Slicer, one by one. The user's node is not changed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer

from ..errors import InputError
from ..images.grid import Grid
from .steps import COPIED_BYTES, PLACED_VOXELS, slabs
from .surfaces_in import filling
from .transforms import matrix_from_vtk, matrix_to_vtk

BINARY = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
# Slices of an array, and the numbers of segments there, 0 for none.
_Piece = tuple[tuple[slice, slice, slice], np.ndarray]


@dataclass(frozen=True, eq=False)
class Placed:
    """Segments on a grid. array: (K, J, I), 0 or the number of the segment, 1, 2, ... in the node's order, the later
    one where several lie; ids: their segment IDs; voxels, shared: (segments + 1,) how many voxels each has, and how
    many of these it shares with others."""

    array: np.ndarray
    ids: list[str]
    voxels: np.ndarray
    shared: np.ndarray


@dataclass(frozen=True, eq=False)
class _Layer:
    """One label map. numbers: (values,) from its values to segment numbers; to_local: (4, 4), its voxels to RAS mm."""

    array: np.ndarray
    numbers: np.ndarray
    to_local: np.ndarray


def placing(node, grid: Grid, to_world: np.ndarray, name: str) -> Generator[None, None, Placed]:
    """The segments of a node as one array on a grid in the world, by nearest neighbour. Raises InputError.

    to_world: (4, 4), the transform above the node. name: what messages call the node.
    """
    ids, segments = _segments_of(node, name)
    local_grid = grid.transformed(np.linalg.inv(to_world))
    array: np.ndarray = np.zeros(grid.shape, _kind(len(ids)))
    voxels, shared = np.zeros(len(ids) + 1, np.int64), np.zeros(len(ids) + 1, np.int64)
    yield
    for pieces in _sources(node.GetSegmentation(), segments, local_grid, name):
        for place, numbers in pieces:
            region = array[place]
            voxels += np.bincount(numbers.ravel(), minlength=len(voxels))
            both = (region > 0) & (numbers > 0)
            if both.any():
                for claimed in (region[both], numbers[both]):
                    shared += np.bincount(claimed, minlength=len(shared))
            np.maximum(region, numbers, out=region)
            yield
    voxels[0] = shared[0] = 0
    if not voxels.any():
        raise InputError(
            f"No voxel of the {name} lies inside its volume: it is empty, or elsewhere. Check where it is, or leave "
            "the choice empty."
        )
    return Placed(array, ids, voxels, shared)


def layers_of(node, grid: Grid, to_world: np.ndarray, name: str) -> tuple[list[np.ndarray], list[str]]:
    """The segments of a node, which may overlap, as few arrays like that of Placed, and their IDs. At once."""
    ids, segments = _segments_of(node, name)
    local_grid = grid.transformed(np.linalg.inv(to_world))
    layers: list[np.ndarray] = []
    for pieces in _sources(node.GetSegmentation(), segments, local_grid, name):
        array: np.ndarray = np.zeros(grid.shape, _kind(len(ids)))
        for place, numbers in pieces:
            array[place] = numbers
        for layer in layers:
            if not (layer[array > 0] > 0).any():
                layer += array
                break
        else:
            layers.append(array)
    return layers, ids


def _segments_of(node, name: str) -> tuple[list[str], list]:
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    if not ids:
        raise InputError(f"The {name} is empty: it has no segments. Draw or import some, or leave the choice empty.")
    return ids, [segmentation.GetSegment(one) for one in ids]


def _kind(count: int) -> np.dtype:
    return np.dtype(np.int16 if count < 2**15 else np.int32)


def _sources(segmentation, segments: list, local_grid: Grid, name: str) -> Iterator[Iterator[_Piece]]:
    """For each label map or surface, (place, numbers): which segments are where on the grid, piece by piece.

    Segments of one source share no voxel.
    """
    if segmentation.ContainsRepresentation(BINARY):
        shared: dict[str, list[tuple[int, Any]]] = {}
        for number, segment in enumerate(segments, start=1):
            data = segment.GetRepresentation(BINARY)
            if data is not None:
                shared.setdefault(data.GetAddressAsString("vtkObject"), []).append((number, segment))
        for members in shared.values():
            for layer in _layer_of(members[0][1].GetRepresentation(BINARY), members):
                yield _nearest(layer, local_grid)
    elif segmentation.ContainsRepresentation(SURFACE):
        for number, segment in enumerate(segments, start=1):
            surface = segment.GetRepresentation(SURFACE)
            if surface is not None:
                yield _filled(surface, local_grid, number)
    else:
        convert = _Converter(segmentation, local_grid, name)
        for number, segment in enumerate(segments, start=1):
            single = convert(segment)
            for layer in _layer_of(single.GetRepresentation(BINARY), [(number, single)]) if single is not None else ():
                yield _nearest(layer, local_grid)


def _filled(surface, local_grid: Grid, number: int) -> Iterator[_Piece]:
    for place, inside in filling(surface, local_grid):
        yield place, np.where(inside, np.int32(number), np.int32(0))


def _layer_of(data, members: list[tuple[int, Any]]) -> Iterator[_Layer]:
    scalars = data.GetPointData().GetScalars() if data is not None else None
    if scalars is None or min(data.GetDimensions()) < 1:
        return
    array = vtk_to_numpy(scalars).reshape(data.GetDimensions()[::-1])
    if array.dtype.kind == "f":
        array = array.astype(np.int32)
    matrix = vtk.vtkMatrix4x4()
    data.GetImageToWorldMatrix(matrix)
    to_local = matrix_from_vtk(matrix)
    to_local[:3, 3] = to_local[:3, :3] @ np.array(data.GetExtent()[::2]) + to_local[:3, 3]
    largest = max(max(segment.GetLabelValue() for _, segment in members), 0)
    numbers = np.zeros(largest + 2, np.int32)
    for number, segment in members:
        if segment.GetLabelValue() > 0:
            numbers[segment.GetLabelValue()] = number
    yield _Layer(array, numbers, to_local)


class _Converter:
    """Turns one segment after the other into a label map on the voxels of a grid, as far as the segment reaches."""

    def __init__(self, segmentation, local_grid: Grid, name: str) -> None:
        self._source, self._name = segmentation.GetSourceRepresentationName(), name
        self._segmentation = slicer.vtkSegmentation()
        self._segmentation.SetSourceRepresentationName(self._source)
        self._segmentation.CopyConversionParameters(segmentation)
        # Without a reference geometry Slicer takes voxels of some hundredths of a millimetre.
        self._segmentation.SetConversionParameter(
            slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(), _geometry(local_grid)
        )

    def __call__(self, segment):
        """A vtkSegment with a label map, or None where the segment holds nothing."""
        data = segment.GetRepresentation(self._source)
        if data is None or (data.IsA("vtkPointSet") and not data.GetNumberOfPoints()):
            return None
        single = slicer.vtkSegment()
        single.AddRepresentation(self._source, data)
        self._segmentation.AddSegment(single, "single")
        made = self._segmentation.CreateRepresentation(BINARY, True)
        result = slicer.vtkSegment()
        if made and single.GetRepresentation(BINARY) is not None:
            result.AddRepresentation(BINARY, single.GetRepresentation(BINARY))
            result.SetLabelValue(single.GetLabelValue())
        single.RemoveAllRepresentations()
        self._segmentation.RemoveSegment("single")
        if not made:
            raise InputError(
                f"The {self._name} cannot be turned into a binary label map ('{segment.GetName()}' is of the kind "
                f"'{self._source}'). Do so in the Segmentations module."
            )
        return result if result.GetRepresentation(BINARY) is not None else None


def _geometry(grid: Grid) -> str:
    """A grid as the text that conversions take; with right angles and the same spacing where the grid is sheared."""
    if not grid.is_orthogonal:
        corners = grid.corners()
        matrix = np.diag([*[float(grid.spacing.min())] * 3, 1.0])
        matrix[:3, 3] = corners.min(0)
        size = np.ceil(np.ptp(corners, axis=0) / grid.spacing.min()).astype(int) + 1
        grid = Grid(tuple(size[::-1].tolist()), matrix)
    return slicer.vtkSegmentationConverter.SerializeImageGeometry(
        matrix_to_vtk(grid.ijk_to_ras), [value for n in grid.size.tolist() for value in (0, n - 1)]
    )


def _nearest(layer: _Layer, local_grid: Grid) -> Iterator[_Piece]:
    """(place, numbers): pieces of the grid and the segment numbers there, which are those of the nearest voxel."""
    to_source = np.linalg.inv(layer.to_local) @ local_grid.ijk_to_ras
    size = np.array(layer.array.shape[::-1])
    box = _box(layer, local_grid)
    if box is None:
        return
    start, stop = box
    axes = _separable(to_source[:3, :3])
    shape = tuple((stop - start)[::-1])
    if axes is not None:
        yield from _nearest_along_axes(layer, to_source, axes, start, shape)
        return
    i, j = np.meshgrid(np.arange(start[0], stop[0]), np.arange(start[1], stop[1]), indexing="xy")
    # Half a voxel added here: what follows is cut off, and the nearest voxel is left.
    plane = np.stack([i, j], -1).astype(np.float64) @ to_source[:3, :2].T + to_source[:3, 3] + 0.5
    for part in slabs(shape, 1, PLACED_VOXELS):
        ks = np.arange(start[2] + part.start, start[2] + part.stop)
        index = np.floor(plane[None] + (ks[:, None] * to_source[:3, 2])[:, None, None]).astype(np.int32)
        inside = ((index >= 0) & (index < size)).all(-1)
        numbers = np.zeros(inside.shape, np.int32)
        x, y, z = index[inside].T
        numbers[inside] = _numbers(layer, layer.array[z, y, x])
        yield _place(start, part, shape), numbers


def _nearest_along_axes(layer, to_source, axes, start, shape) -> Iterator[_Piece]:
    """Where each axis of the grid follows one of the label map: an index each, and no position of every voxel."""
    index, kept = [], []
    for axis in range(3):
        steps = np.arange(start[axis], start[axis] + shape[2 - axis])
        source = axes[axis]
        values = np.floor(to_source[source, axis] * steps + to_source[source, 3] + 0.5).astype(np.intp)
        index.append(np.clip(values, 0, layer.array.shape[2 - source] - 1))
        kept.append((values >= 0) & (values < layer.array.shape[2 - source]))
    # Array axes of the layer in the order of the grid's array axes.
    turned = layer.array.transpose([2 - axes[2], 2 - axes[1], 2 - axes[0]])
    for part in slabs(shape, layer.numbers.itemsize, COPIED_BYTES):
        piece = turned[np.ix_(index[2][part], index[1], index[0])]
        numbers = _numbers(layer, piece)
        numbers[~kept[2][part]] = 0
        numbers[:, ~kept[1]] = 0
        numbers[:, :, ~kept[0]] = 0
        yield _place(start, part, shape), numbers


def _place(start: np.ndarray, part: slice, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """Array slices of a piece: planes `part` of a box of `shape` that starts at voxel (i, j, k) `start`."""
    i, j, k = (int(n) for n in start)
    return slice(k + part.start, k + part.stop), slice(j, j + shape[1]), slice(i, i + shape[2])


def _numbers(layer: _Layer, values: np.ndarray) -> np.ndarray:
    """Segment numbers of label values; values that no segment has are 0."""
    last = len(layer.numbers) - 1
    return layer.numbers[np.where((values < 0) | (values > last), last, values)]


def _separable(matrix: np.ndarray) -> list[int] | None:
    """For each column of a (3, 3) matrix the only row that counts, or None where there are several."""
    rows = np.abs(matrix).argmax(0)
    rest = matrix.copy()
    rest[rows, np.arange(3)] = 0
    # Over some thousand voxels this shifts by less than a thousandth of one.
    return rows.tolist() if len(set(rows.tolist())) == 3 and np.abs(rest).max() < 1e-7 else None


def _box(layer: _Layer, local_grid: Grid) -> tuple[np.ndarray, np.ndarray] | None:
    """The part of the grid that a label map can reach: first and past-the-last voxel (i, j, k), or None."""
    corners = local_grid.to_ijk(Grid(layer.array.shape, layer.to_local).corners())
    start = np.clip(np.floor(corners.min(0)), 0, local_grid.size).astype(int)
    stop = np.clip(np.ceil(corners.max(0)) + 1, 0, local_grid.size).astype(int)
    return (start, stop) if (stop > start).all() else None
