"""Matrices in text: RAS mm from fixed to moving (greedy, plain text), and FSL's between scaled voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..images.grid import Grid, check_matrix
from .chain import Chain
from .parts import Matrix


def rows_of_numbers(path: Path) -> np.ndarray | None:
    """The numbers of a small text file with four rows of four; None if it is anything else."""
    if path.stat().st_size > 10_000:
        return None
    try:
        lines = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        rows = [[float(word) for word in line] for line in lines if line and not line[0].startswith("#")]
    except ValueError:
        return None
    return np.array(rows) if len(rows) == 4 and all(len(row) == 4 for row in rows) else None


def text(matrix: np.ndarray) -> str:
    return "".join(" ".join(f"{value:.12g}" for value in row) + "\n" for row in matrix)


def read_fsl(path: Path, fixed: Grid | None, moving: Grid | None) -> Chain:
    """FLIRT's matrix, from moving to fixed: it needs the grids of both images. Raises InputError."""
    rows = rows_of_numbers(path)
    if rows is None:
        raise InputError(f"{path.name} is no matrix of FSL: a text file with four rows of four numbers is due.")
    if fixed is None or moving is None:
        raise InputError(
            f"A matrix of FSL ({path.name}) means something only with both images that it was made for: give the "
            "fixed one (--reference) and the moving one (--moving)."
        )
    matrix = check_matrix(rows, f"transform in {path}")
    to_fixed = fixed.ijk_to_ras @ np.linalg.inv(_fsl_of_voxels(fixed)) @ matrix
    to_fixed = to_fixed @ _fsl_of_voxels(moving) @ moving.ras_to_ijk
    return Chain.of([Matrix(np.linalg.inv(to_fixed))])


def to_fsl(matrix: np.ndarray, fixed: Grid, moving: Grid) -> np.ndarray:
    """FLIRT's matrix of A (4, 4), fixed to moving RAS mm."""
    back = _fsl_of_voxels(fixed) @ fixed.ras_to_ijk @ np.linalg.inv(matrix)
    return back @ moving.ijk_to_ras @ np.linalg.inv(_fsl_of_voxels(moving))


def _fsl_of_voxels(grid: Grid) -> np.ndarray:
    """(4, 4) from voxels to FSL's mm: scaled voxels, the first axis turned round where it leads to the right."""
    scale = np.diag([*grid.spacing, 1.0])
    if np.linalg.det(grid.ijk_to_ras[:3, :3]) > 0:
        turned = np.diag([-1.0, 1.0, 1.0, 1.0])
        turned[0, 3] = grid.size[0] - 1
        scale = scale @ turned
    return scale
