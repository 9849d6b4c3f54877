"""Surfaces and lines (.vtk, .vtp, .stl, .ply, .obj) carried through a chain, through VTK.

Slicer writes into the file whether it is in LPS or RAS ("SPACE=LPS"), and takes a file that does not say it for LPS; so
it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError

SUFFIXES = (".vtk", ".vtp", ".stl", ".ply", ".obj")
_FLIP = np.array([-1.0, -1.0, 1.0])
_SPACE = "SPACE"


def carried(path: str | Path, output: Path, move: Callable[[np.ndarray], np.ndarray], frame: str | None = None) -> str:
    """Write the surface with every point moved to `output`, in its own frame, which is returned.

    move: (N, 3) RAS mm to (N, 3). frame: RAS or LPS, where the file does not say it (LPS when None). Raises InputError
    and OutputError.
    """
    vtk = _vtk()
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    path = Path(path)
    data, said = _read(vtk, path)
    if data.GetNumberOfPoints() == 0:
        raise InputError(f"The surface in {path.name} has no points, or it cannot be read: the file may be damaged.")
    frame = said or frame or "LPS"
    flip = _FLIP if frame == "LPS" else np.ones(3)
    points = vtk_to_numpy(data.GetPoints().GetData()).astype(np.float64)
    moved = move(points * flip) * flip
    array = numpy_to_vtk(moved, deep=True)
    placed = vtk.vtkPoints()
    placed.SetDataTypeToDouble()
    placed.SetData(array)
    result = vtk.vtkPolyData()
    result.DeepCopy(data)
    result.SetPoints(placed)
    if result.GetPointData().GetNormals() is not None or result.GetCellData().GetNormals() is not None:
        result = _with_normals(vtk, result)
    _write(vtk, result, output, frame)
    return frame


def _vtk():
    try:
        import vtk
    except ImportError as error:
        raise InputError(
            'Surfaces need the package vtk. Install it with: pip install "voxelmorph-registration[surfaces]"'
        ) from error
    return vtk


def _with_normals(vtk, data):
    """The normals of the shape as it is now; points, their order and the cells stay."""
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputData(data)
    normals.SplittingOff()
    normals.ConsistencyOff()
    normals.SetComputePointNormals(data.GetPointData().GetNormals() is not None)
    normals.SetComputeCellNormals(data.GetCellData().GetNormals() is not None)
    normals.Update()
    return normals.GetOutput()


def _read(vtk, path: Path):
    """(vtkPolyData, the frame that the file states or None)."""
    if not path.is_file():
        raise InputError(f"The surface cannot be read: there is no file {path}.")
    suffix = path.suffix.lower()
    kinds = {
        ".vtk": vtk.vtkPolyDataReader,
        ".vtp": vtk.vtkXMLPolyDataReader,
        ".stl": vtk.vtkSTLReader,
        ".ply": vtk.vtkPLYReader,
        ".obj": vtk.vtkOBJReader,
    }
    reader = kinds[suffix]()
    reader.SetFileName(str(path))
    # VTK prints what it cannot read, and goes on.
    told: list[str] = []
    for one in (reader, reader.GetExecutive()):
        one.AddObserver("ErrorEvent", lambda *_: told.append("error"))
    if suffix == ".vtk" and not reader.IsFilePolyData():
        raise InputError(f"{path.name} holds no surface or lines (POLYDATA) of VTK.")
    reader.Update()
    if told:
        raise InputError(f"The surface cannot be read from {path}: it is no {suffix} file, or it is damaged.")
    data = reader.GetOutput()
    array = data.GetFieldData().GetAbstractArray(_SPACE)
    said = array.GetValue(0) if array is not None else _stated(path)
    return data, said if said in ("RAS", "LPS") else None


def _stated(path: Path) -> str | None:
    """The frame in the comments at the beginning of a file."""
    with path.open("rb") as file:
        head = file.read(2000).decode("latin-1")
    place = head.find(f"{_SPACE}=")
    return None if place < 0 else head[place + len(_SPACE) + 1 :][:3]


def _write(vtk, data, output: Path, frame: str) -> None:
    suffix = output.suffix.lower()
    text = f"voxelmorph. {_SPACE}={frame}"
    if suffix == ".vtk":
        writer = vtk.vtkPolyDataWriter()
        writer.SetHeader(text)
        writer.SetFileTypeToBinary()
    elif suffix == ".vtp":
        writer = vtk.vtkXMLPolyDataWriter()
        data.GetFieldData().RemoveArray(_SPACE)
        array = vtk.vtkStringArray()
        array.SetName(_SPACE)
        array.InsertNextValue(frame)
        data.GetFieldData().AddArray(array)
    elif suffix == ".stl":
        writer = vtk.vtkSTLWriter()
        writer.SetHeader(text)
        writer.SetFileTypeToBinary()
    elif suffix == ".ply":
        writer = vtk.vtkPLYWriter()
        writer.AddComment(text)
    elif suffix == ".obj":
        writer = vtk.vtkOBJWriter()
    else:
        raise InputError(f"{output.name} is no name for a surface: use {', '.join(SUFFIXES)}.")
    writer.SetInputData(data)
    writer.SetFileName(str(output))
    if not writer.Write() or not output.is_file() or writer.GetErrorCode():
        raise OutputError(f"{output.name} could not be written: check the folder's permissions and the free space.")
    if suffix == ".obj":
        content = output.read_bytes()
        output.write_bytes(f"# {text}\n".encode() + content)
