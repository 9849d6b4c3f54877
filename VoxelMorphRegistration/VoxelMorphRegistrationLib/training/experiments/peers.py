"""The methods that `experiment runtime` compares, each run in a process of its own and measured from outside."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import InputError, VoxelMorphError

LIBRARY_PARENT = Path(__file__).resolve().parents[3]
GET_SYN = "pip install antspyx"
GET_NIFTYREG = (
    "conda install conda-forge::niftyreg, and put reg_f3d on the PATH or name it with --niftyreg "
    "(reg_transform must lie beside it)"
)


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found for a pair. displacement: (d, *S) in voxels, channel c along array axis c.

    cpu_s, wall_s: of the whole process, user and system time; CPU seconds are NaN on Windows, which does not tell
    them. registration_cpu_s: without the start of the program, where it can be told.
    """

    displacement: np.ndarray
    cpu_s: float
    wall_s: float
    registration_cpu_s: float


class Method(Protocol):
    """One way to register a pair. name: of its row and its file. missing: how to get it, None when it is there."""

    name: str
    title: str
    missing: str | None

    def run(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: Sequence[float]) -> Found:
        """Register two arrays (*S) in [0, 1]. VoxelMorphError when the program fails."""


class OnePair:
    """Methods that one_pair runs in another Python: this project's registration, and SyN."""

    def __init__(self, name: str, title: str, method: str, model: Path | None = None, missing: str | None = None):
        self.name, self.title, self.missing = name, title, missing
        self._method, self._model = method, model

    def run(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: Sequence[float]) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            pair, output = Path(folder) / "pair.npz", Path(folder) / "found.npz"
            np.savez(pair, fixed=fixed, moving=moving, spacing=np.asarray(spacing_mm, np.float64))
            module = f"{__package__}.one_pair"
            command = [sys.executable, "-m", module, self._method, str(pair), str(output)]
            cpu, wall = measured([*command, *([str(self._model)] if self._model else [])], self.title)
            with np.load(output) as file:
                return Found(file["displacement"], cpu, wall, float(file["cpu_s"]))


class NiftyReg:
    """reg_f3d with its default settings (normalised mutual information, three levels)."""

    name, title = "niftyreg", "NiftyReg reg_f3d"

    def __init__(self, program: str | None = None) -> None:
        """program: reg_f3d; that of the PATH when None. InputError when there is no such file."""
        if program is not None and shutil.which(program) is None:
            raise InputError(f"--niftyreg {program} is no program. Give the path of reg_f3d.")
        found = shutil.which(program or "reg_f3d") or ""
        self._register = found
        self._convert = (found and shutil.which("reg_transform", path=str(Path(found).parent))) or ""
        self.missing = None if self._convert else GET_NIFTYREG

    def run(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: Sequence[float]) -> Found:
        import SimpleITK as sitk

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            spacing = np.append(spacing_mm, [1.0])[:3].astype(float)
            for role, array in (("fixed", fixed), ("moving", moving)):
                image = sitk.GetImageFromArray(array.reshape((1, *array.shape)[-3:]).astype(np.float32))
                image.SetSpacing(spacing.tolist())
                sitk.WriteImage(image, str(folder / f"{role}.nii"))
            reference, grid, field = (str(folder / part) for part in ("fixed.nii", "grid.nii", "field.nii"))
            moving_file, warped = (str(folder / part) for part in ("moving.nii", "warped.nii"))
            command = [self._register, "-ref", reference, "-flo", moving_file, "-cpp", grid, "-res", warped, "-voff"]
            cpu, wall = measured(command, self.title)
            measured([self._convert, "-ref", reference, "-disp", grid, field], self.title)
            vectors = sitk.GetArrayFromImage(sitk.ReadImage(field))
        # (*S, d) in mm along i, j(, k); NIfTI's first two axes point the other way than those of SimpleITK.
        count = vectors.shape[-1]
        voxels = vectors.reshape(*fixed.shape, count) * np.array([-1.0, -1.0, 1.0])[:count] / spacing[:count]
        displacement = np.ascontiguousarray(np.moveaxis(voxels, -1, 0)[::-1], np.float32)
        return Found(displacement, cpu, wall, cpu)


def all_methods(model: Path, niftyreg: str | None) -> list[Method]:
    """This project's registration alone and refined, SyN and NiftyReg."""
    no_syn = None if importlib.util.find_spec("ants") else GET_SYN
    return [
        OnePair("network", "network", "off", model),
        OnePair("refined", "network, refined", "fast", model),
        OnePair("syn", "ANTs SyN", "syn", missing=no_syn),
        NiftyReg(niftyreg),
    ]


def measured(command: list[str], title: str) -> tuple[float, float]:
    """Run a program to its end: its CPU seconds and wall seconds. VoxelMorphError, with its last line, if it fails."""
    paths = [str(LIBRARY_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    before, start = os.times(), time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise VoxelMorphError(f"{title} cannot be started: {error.strerror}.") from error
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise VoxelMorphError(f"{title} failed ({done.returncode}): {lines[-1]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return (float("nan") if os.name == "nt" else cpu), wall
