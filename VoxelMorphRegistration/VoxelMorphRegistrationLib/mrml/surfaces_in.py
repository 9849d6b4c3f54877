"""Closed surfaces filled on a voxel grid, some planes at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from ..images.grid import Grid

# VTK goes through all triangles that it is given for each plane, so a step gets few of both.
_WORK = 200_000
_PLANES = 16
_NOTHING = (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), bool)


def filling(surface, grid: Grid) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray]]:
    """(place, inside): boxes of the grid and which of their voxels have their centre within a closed surface.

    surface: a vtkPolyData in the frame of the grid, RAS mm. Parts outside the grid are left out.
    """
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputData(surface)
    triangles.PassVertsOff()
    triangles.PassLinesOff()
    triangles.Update()
    mesh = triangles.GetOutput()
    if not mesh.GetNumberOfPolys():
        return
    yield _NOTHING
    points = grid.to_ijk(vtk_to_numpy(mesh.GetPoints().GetData()))
    cells = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    heights = points[:, 2][cells]
    low, high = heights.min(1), heights.max(1)
    start = np.clip(np.floor(points.min(0)), 0, grid.size).astype(int)
    stop = np.clip(np.ceil(points.max(0)) + 1, 0, grid.size).astype(int)
    if (stop <= start).any():
        return
    yield _NOTHING
    first = int(start[2])
    while first < stop[2]:
        near = int(np.count_nonzero((high >= first - 1) & (low <= first + _PLANES)))
        past = min(first + int(np.clip(_WORK // max(near, 1), 1, _PLANES)), int(stop[2]))
        kept = cells[(high >= first - 1) & (low <= past)]
        box = (int(start[0]), int(stop[0]), int(start[1]), int(stop[1]), first, past)
        yield (slice(first, past), slice(*box[2:4]), slice(*box[:2])), _inside(points, kept, box)
        first = past


def _inside(points: np.ndarray, cells: np.ndarray, box: tuple[int, ...]) -> np.ndarray:
    """Which voxels of a box, (i start, i stop, j start, ...), lie within triangles, whose points are in voxels."""
    shape = (box[5] - box[4], box[3] - box[2], box[1] - box[0])
    if not len(cells):
        return np.zeros(shape, bool)
    used, index = np.unique(cells, return_inverse=True)
    coordinates, polys, mesh = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
    coordinates.SetData(numpy_to_vtk(np.ascontiguousarray(points[used]), deep=True))
    polys.SetData(3, numpy_to_vtkIdTypeArray(index.astype(np.int64).ravel(), deep=True))
    mesh.SetPoints(coordinates)
    mesh.SetPolys(polys)
    stencil = vtk.vtkPolyDataToImageStencil()
    stencil.SetInputData(mesh)
    stencil.SetOutputSpacing(1, 1, 1)
    stencil.SetOutputOrigin(0, 0, 0)
    stencil.SetOutputWholeExtent(box[0], box[1] - 1, box[2], box[3] - 1, box[4], box[5] - 1)
    image = vtk.vtkImageStencilToImage()
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetOutputScalarTypeToUnsignedChar()
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.Update()
    return vtk_to_numpy(image.GetOutput().GetPointData().GetScalars()).reshape(shape) != 0
