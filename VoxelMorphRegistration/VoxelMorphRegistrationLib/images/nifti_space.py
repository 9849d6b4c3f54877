"""Where the voxels of a NIfTI file are: its two statements of position, and which one is used.

A header may place the voxels twice: by the sform (any matrix) and by the qform (voxel sizes and a rotation). The sform
is used where it is stated, as FSL, SPM and nibabel do, unless it is no grid with right angles and the qform is; with
neither, there are voxel sizes alone, and axes and origin are those that ITK and 3D Slicer take. What contradicts the
choice by more than rounding is told. Source: the NIfTI-1 standard (nifti1.h, methods 1 to 3), R. Cox et al. 2004.
"""

from __future__ import annotations

import numpy as np

from .grid import Grid

# Millimetres of a unit of xyzt_units & 7; other codes say nothing, and millimetres are meant.
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}
# Corners this far apart, in voxels, are no rounding. Of 110 public files whose header says it twice, 94 agree to 1e-5,
# and 16 of one hand (a sform a little off right angles, 256^3) to .116.
_ROUNDING_VOXELS = 0.25
# Parts of a voxel by which the positions of a written file may be off unsaid.
_LOST_VOXELS = 0.01
# Largest sum of squares of a quaternion that is only rounded; beyond it the numbers are something else.
_LARGEST_QUATERNION = 1.01


def matrix_of_header(header: np.void, size_ijk: tuple[int, ...], label: str) -> tuple[np.ndarray, list[str]]:
    """(4, 4), voxels (i, j, k) to RAS mm, and what is to be told about it.

    header: a record of nifti.HEADER_1 or HEADER_2, whose Analyze variant has both codes 0. Raises ValueError, with the
    end of a sentence, when the header holds no usable position.
    """
    told: list[str] = []
    sizes = _voxel_sizes(header, size_ijk, label, told)
    unit = int(header["xyzt_units"]) & 7
    scale = _MILLIMETRES.get(unit, 1.0)
    sform = _sform(header) if header["sform_code"] > 0 else None
    qform = _qform(header, sizes) if header["qform_code"] > 0 else None
    usable = sform is not None and _is_grid(sform)
    if header["sform_code"] > 0 and not usable and qform is not None:
        why = "is no matrix of a grid" if sform is None else "has axes that are not at right angles"
        told.append(f"The sform in the header of the {label} {why}; the qform was used.")
        return _scaled(qform, scale), told
    if sform is not None:
        told += _contradictions(sform, qform, sizes, header, size_ijk, label, scale)
        return _scaled(sform, scale), told
    if qform is not None:
        return _scaled(qform, scale), told
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        raise ValueError("the matrix in its header is not finite or singular")
    told.append(
        f"The {label} does not state where it lies (the sform and qform codes of its header are 0): its voxel sizes "
        "alone were used, with the axes that 3D Slicer takes then. Left and right, front and back may be exchanged."
    )
    return _scaled(np.diag([-sizes[0], -sizes[1], sizes[2], 1.0]), scale), told


def unit_told(header: np.void, label: str) -> list[str]:
    """A sentence when the header's unit makes voxels that no scanner has, and the unit is the likely mistake."""
    unit = int(header["xyzt_units"]) & 7
    largest = float(np.abs(header["pixdim"][1:4]).max()) * _MILLIMETRES.get(unit, 1.0)
    if unit in _UNIT_NAMES and (largest > 100.0 or largest < 1e-5):
        return [
            f"The header of the {label} gives its voxel size in {_UNIT_NAMES[unit]}, which makes {largest:g} mm. "
            "Correct the unit in the header if that is wrong."
        ]
    return []


def _scaled(matrix: np.ndarray, scale: float) -> np.ndarray:
    result = matrix.copy()
    result[:3] *= scale
    return result


def _voxel_sizes(header: np.void, size_ijk, label: str, told: list[str]) -> np.ndarray:
    """pixdim 1 to 3, always positive; an axis of one voxel may lack its size."""
    sizes = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64))
    known = np.isfinite(sizes) & (sizes > 0)
    for axis in np.flatnonzero(~known):
        sizes[axis] = sizes[known].mean() if known.any() else 1.0
        if size_ijk[axis] > 1 and header["sform_code"] <= 0:
            told.append(
                f"The header of the {label} gives no voxel size along its axis {'ijk'[axis]}; {sizes[axis]:g} was used."
            )
    return sizes


def _sform(header: np.void) -> np.ndarray | None:
    matrix = np.eye(4)
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        matrix[row] = header[name]
    if not np.isfinite(matrix).all():
        return None
    columns = np.linalg.norm(matrix[:3, :3], axis=0)
    if columns.min() <= 0 or abs(np.linalg.det(matrix[:3, :3] / columns)) < 1e-6:
        return None
    return matrix


def _qform(header: np.void, sizes: np.ndarray) -> np.ndarray | None:
    """Method 2 of the standard: a unit quaternion, voxel sizes, and qfac (pixdim 0), -1 for a mirrored third axis."""
    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    offset = [float(header[f"qoffset_{name}"]) for name in "xyz"]
    square = b * b + c * c + d * d
    if not np.isfinite([square, *offset]).all() or square > _LARGEST_QUATERNION:
        return None
    a = np.sqrt(max(1.0 - square, 0.0))
    a, b, c, d = np.array([a, b, c, d]) / np.sqrt(a * a + square)
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * sizes * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
    matrix[:3, 3] = offset
    return matrix


def _is_grid(matrix: np.ndarray) -> bool:
    return Grid((1, 1, 1), matrix).is_orthogonal


def _contradictions(sform, qform, sizes, header, size_ijk, label: str, scale: float) -> list[str]:
    """What the rest of the header says against the sform."""
    columns = np.linalg.norm(sform[:3, :3], axis=0)
    shape = tuple(int(n) for n in size_ijk[::-1])
    found = Grid(shape, sform).corners()
    if qform is not None:
        apart = np.linalg.norm(found - Grid(shape, qform).corners(), axis=1).max()
        if apart > _ROUNDING_VOXELS * columns.min():
            return [
                f"The header of the {label} places it twice, up to {apart * scale:.3g} mm apart: the sform (code "
                f"{int(header['sform_code'])}) was used, not the qform (code {int(header['qform_code'])}), which other "
                "programs, 3D Slicer among them, may take. Correct the header if the sform is wrong."
            ]
        return []
    stated = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64))
    compared = np.isfinite(stated) & (stated > 0) & (np.array(size_ijk) > 1)
    longer = np.abs(columns - sizes) * np.array(size_ijk)
    if (longer > _ROUNDING_VOXELS * columns)[compared].any():
        return [
            f"The header of the {label} gives two voxel sizes: {_times(columns * scale)} mm by the sform, which was "
            f"used, and {_times(sizes * scale)} mm by pixdim, which other programs, 3D Slicer among them, may take. "
            "Correct the header if the sform is wrong."
        ]
    return []


def _times(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def set_header_matrix(header: np.void | np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """State a matrix with right angles (RAS mm) as the sform, the qform and the voxel sizes of a header, code 1."""
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(ijk_to_ras[:3, :3] / spacing)
    turn = u @ vt
    # The sform states the same as the qform, whose axes are at right angles.
    straight = turn * spacing
    for row, name in enumerate("xyz"):
        header[f"srow_{name}"] = [*straight[row], ijk_to_ras[row, 3]]
        header[f"qoffset_{name}"] = ijk_to_ras[row, 3]
    hand = 1.0 if np.linalg.det(turn) > 0 else -1.0
    for name, value in zip("bcd", _quaternion(turn * [1, 1, hand]), strict=True):
        header[f"quatern_{name}"] = value
    header["pixdim"][:4] = [hand, *spacing]
    header["sform_code"] = header["qform_code"] = 1
    header["xyzt_units"] = 2


def lost_places(grid: Grid) -> str:
    """What is to be said of a NIfTI-1 file on a grid so far from the origin that seven digits do not place its voxels.

    Empty where they do.
    """
    kept = Grid(grid.shape, grid.ijk_to_ras.astype(np.float32).astype(np.float64))
    lost = np.linalg.norm(kept.corners() - grid.corners(), axis=1).max()
    if lost <= _LOST_VOXELS * grid.spacing.min():
        return ""
    return (
        f"The images lie so far from the origin that NIfTI, which keeps seven digits of a position, holds it to "
        f"{lost:.2g} mm only."
    )


def _quaternion(turn: np.ndarray) -> np.ndarray:
    """b, c, d of the unit quaternion (a, b, c, d), a >= 0, of a rotation (3, 3).

    The products of its parts are sums of elements of the matrix; the largest part gives the rest without loss.
    """
    trace = np.trace(turn)
    squares = np.array([1 + trace, *(1 + 2 * np.diag(turn) - trace)])
    largest = int(squares.argmax())
    minus = [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
    products = np.diag(squares)
    products[0, 1:] = products[1:, 0] = minus
    for one, other in ((0, 1), (0, 2), (1, 2)):
        products[1 + one, 1 + other] = products[1 + other, 1 + one] = turn[one, other] + turn[other, one]
    parts = products[largest] / np.linalg.norm(products[largest])
    return parts[1:] if parts[0] >= 0 else -parts[1:]
