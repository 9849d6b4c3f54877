"""Linear transforms of FreeSurfer (.lta): from the source (moving) to the destination (fixed), with both geometries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..images.grid import Grid, check_matrix
from .chain import Chain
from .parts import Matrix

_VOXELS, _RAS = 0, 1


def read(path: Path) -> Chain:
    """Of voxels (type 0) or RAS (type 1). Raises InputError."""
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        kind = int(_value(lines, "type"))
        if int(_value(lines, "nxforms")) != 1:
            raise InputError(f"The transform in {path.name} has several matrices; give one with a single one.")
        start = lines.index("1 4 4") + 1
        matrix = np.array([[float(word) for word in line.split()] for line in lines[start : start + 4]])
        if kind == _VOXELS:
            source, target = (_geometry(lines[lines.index(f"{name} volume info") :]) for name in ("src", "dst"))
            matrix = target @ matrix @ np.linalg.inv(source)
        elif kind != _RAS:
            raise InputError(
                f"The transform in {path.name} is of type {kind}; types 0 (voxels) and 1 (RAS) are known here. "
                "Convert it with lta_convert."
            )
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"The transform cannot be read from {path}: it is no .lta file, or it is damaged.") from error
    return Chain.of([Matrix(np.linalg.inv(check_matrix(matrix, f"transform in {path}")))])


def _value(lines: list[str], name: str) -> str:
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip()
    raise ValueError(name)


def _geometry(lines: list[str]) -> np.ndarray:
    """(4, 4), voxels to RAS: directions, voxel sizes, and the position of voxel n/2."""
    size, spacing, center = (np.array(_value(lines, n).split(), float) for n in ("volume", "voxelsize", "cras"))
    axes = np.stack([np.array(_value(lines, f"{axis}ras").split(), float) for axis in "xyz"], 1) * spacing
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = center - axes @ (size / 2)
    return matrix


def text(matrix: np.ndarray, fixed: Grid, moving: Grid, fixed_name: str, moving_name: str) -> str:
    """The file of A (4, 4), fixed to moving RAS mm, of type RAS."""
    rows = "\n".join(" ".join(f"{value:.15e}" for value in row) for row in np.linalg.inv(matrix))
    parts = [
        f"type      = {_RAS} # LINEAR_RAS_TO_RAS",
        "nxforms   = 1",
        "mean      = 0.0000 0.0000 0.0000",
        "sigma     = 1.0000",
        "1 4 4",
        rows,
        *_info("src", moving, moving_name),
        *_info("dst", fixed, fixed_name),
    ]
    return "\n".join(parts) + "\n"


def _info(which: str, grid: Grid, name: str) -> list[str]:
    def line(values) -> str:
        return " ".join(f"{value:.15e}" for value in values)

    return [
        f"{which} volume info",
        "valid = 1  # volume info valid",
        f"filename = {name}",
        f"volume = {' '.join(map(str, grid.size))}",
        f"voxelsize = {line(grid.spacing)}",
        *(f"{axis}ras   = {line(grid.directions[:, n])}" for n, axis in enumerate("xyz")),
        f"cras   = {line(grid.to_ras(grid.size / 2))}",
    ]
