"""Images as a training holds them: read once, brought onto the working grid, kept small."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..alignment.align import align
from ..errors import InputError, SettingsError
from ..fields.warp import warp_labels
from ..images.files import read_image
from ..images.grid import SAME_VOXELS, Grid, working_grid
from ..images.image import Image, resample
from ..images.landmarks import paired, read_landmarks
from ..networks.card import ModelCard
from ..registration.inputs import usable_image
from ..registration.intensity import intensity_scale, normalised
from .files import Case, ListedPair
from .supervision import Supervision

# Planes of slices, and the anatomical axis across each: right, anterior, superior.
SLICES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True, eq=False)
class Stored:
    """An image on its working grid. image: (n, *S) float16 in [0, 1], n slices, or 1. labels: likewise, integers.

    usable: the slices that show something.
    """

    image: torch.Tensor
    labels: torch.Tensor | None
    usable: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class StoredPair:
    """Two images on one grid. The points are (P, d) in voxels, in the order of the tensor axes, or None."""

    fixed: Stored
    moving: Stored
    fixed_points: torch.Tensor | None = None
    moving_points: torch.Tensor | None = None

    @property
    def slices(self) -> list[int]:
        """Those that show something in both images."""
        return sorted(set(self.fixed.usable) & set(self.moving.usable))


class Reader:
    """Reads images onto their working grids."""

    def __init__(self, section, dimension: int, shape: tuple[int, ...], supervision: Supervision, report) -> None:
        self.section, self.shape, self.supervision, self.report = section, shape, supervision, report
        self.dimension = dimension
        if section.slices and dimension == 3:
            raise SettingsError("images.slices is for training in 2D, but the training's shape has 3 sizes.")
        if len(section.spacing_mm) not in (0, 1, dimension):
            raise SettingsError(f"images.spacing_mm must have 1 or {dimension} numbers for this training's shape.")
        low, high = section.percentiles
        self.card = ModelCard("training", normalization={"method": "percentile", "low": low, "high": high})
        self.first_grid: Grid | None = None
        self.warnings: list[str] = []
        # The fixed image of neighbouring lines of a table is often the same.
        self.read = functools.lru_cache(2)(self._read)

    def subjects(self, cases: list[Case], reference: Case) -> list[Stored]:
        """The images of `cases` on the grid of `reference`, aligned to it."""
        target = self.read(reference.image)
        grid = self._grid(target.grid)
        subjects = []
        common = None
        for case in cases:
            self.report(f"reading {case.name}")
            subjects.append(self._stored(case, grid, self._matrix(target, self.read(case.image))))
            common = set(subjects[-1].usable) if common is None else common & set(subjects[-1].usable)
            if not common:
                raise InputError(
                    f"No slice shows something in {case.image} as well as in the images before it. Choose another "
                    "images.slice_range_mm, or align the images."
                )
        return subjects

    def pairs(self, listed: list[ListedPair]) -> list[StoredPair]:
        """Each pair on the grid of its fixed image; an image that several pairs have in one place is kept once."""
        kept: dict[tuple, Stored] = {}
        result = []
        for number, pair in enumerate(listed, start=1):
            self.report(f"reading pair {number} of {len(listed)}")
            fixed = self.read(pair.fixed.image)
            grid = self._grid(fixed.grid)
            matrices = np.eye(4), self._matrix(fixed, self.read(pair.moving.image))
            stored = []
            for case, matrix in zip((pair.fixed, pair.moving), matrices, strict=True):
                place = np.round(np.concatenate([matrix, grid.ijk_to_ras]), 6)
                key = (case.image, case.labels, grid.shape, place.tobytes())
                if key not in kept:
                    kept[key] = self._stored(case, grid, matrix)
                stored.append(kept[key])
            both = StoredPair(stored[0], stored[1], *self._points(pair, grid, matrices[1]))
            if not both.slices:
                raise InputError(f"{pair.where}: no slice shows something in both images. Align them first.")
            result.append(both)
        return result

    def _read(self, path: Path) -> Image:
        image = read_image(path, str(path))
        wanted = 3 if self.section.slices else self.dimension
        if image.grid.dimension != wanted:
            needed = "volumes, to cut slices from," if self.section.slices else f"{wanted}D images"
            raise InputError(f"{path} is {image.grid.dimension}D, but {needed} are needed here.")
        self.warnings.extend(image.told)
        return usable_image(image, "image", self.warnings)

    def _grid(self, reference: Grid) -> Grid:
        """The working grid of an image: `shape` voxels about its middle; along slices, those of the range."""
        section = self.section
        base = working_grid(reference, None, 1, section.orientation or None)
        across = self._across(base)
        plane = [axis for axis in range(3) if axis != across]
        spacing = base.spacing.copy()
        if section.spacing_mm:
            spacing[plane] = section.spacing_mm
        elif self.first_grid is not None:
            spacing[plane] = self.first_grid.spacing[plane]
        base = working_grid(base, tuple(spacing))
        size, start = base.size.copy(), np.zeros(3, int)
        size[plane] = self.shape[::-1]
        start[plane] = (base.size[plane] - size[plane]) // 2
        if section.slice_range_mm and across is not None:
            rows = _rows_within(base, across, SLICES[section.slices], section.slice_range_mm)
            start[across], size[across] = rows[0], len(rows)
        grid = base.cropped(start, size)
        if self.first_grid is None:
            self.first_grid = grid
        return grid

    def _matrix(self, fixed: Image, moving: Image) -> np.ndarray:
        """(4, 4), fixed to moving RAS mm."""
        # Slices have to be carried onto one plane even without an alignment.
        if moving is fixed or (self.section.align == "none" and self.dimension == 3):
            return np.eye(4)
        found = align(fixed, moving, self.section.align)
        self.warnings.extend(f"{moving.name}: {text}" for text in found.warnings)
        return found.matrix

    def _stored(self, case: Case, grid: Grid, matrix: np.ndarray) -> Stored:
        image = self.read(case.image)
        scale = intensity_scale(image, self.card)
        placed = resample(image, grid, matrix, scale[0], smooth=True)
        if placed.array.min() == placed.array.max():
            raise InputError(
                f"Nothing of {case.image} lies in the working grid of {_sizes(grid)} voxels. Check its position, or "
                "set images.align."
            )
        across = self._across(grid) if self.section.slices else None
        if across is not None:
            values, usable = _normalised_slices(placed, self.card, across)
        else:
            values, usable = self._stack(normalised(placed, scale), grid), (0,)
        labels = None if case.labels is None else self._labels(case, case.labels, image, grid, matrix)
        return Stored(torch.from_numpy(values.astype(np.float16)), labels, usable)

    def _labels(self, case: Case, path: Path, image: Image, grid: Grid, matrix: np.ndarray) -> torch.Tensor:
        """The label map `path` of `case` on the working grid, without the labels that are not in the table."""
        labels = read_image(path, str(path))
        if not labels.grid.same_as(image.grid, SAME_VOXELS):
            raise InputError(
                f"The label map {path} is on another grid than its image {case.image}: {_sizes(labels.grid)} "
                f"against {_sizes(image.grid)} voxels, or another position. Resample it onto the image's grid."
            )
        whole = np.rint(labels.array)
        if not np.array_equal(whole, labels.array):
            raise InputError(f"{path} holds values that are not whole numbers; a label map is needed.")
        known = [structure.label for structure in self.supervision.structures]
        whole = np.where(np.isin(whole, known), whole, 0).astype(np.uint8 if max(known) < 256 else np.int32)
        placed = warp_labels(labels.with_array(whole), grid, None, matrix)
        if not placed.array.any():
            raise InputError(
                f"The label map {path} has none of the {len(known)} structures in the working grid. Check its "
                "labels against the table (supervision.table)."
            )
        return torch.from_numpy(self._stack(placed.array, grid))

    def _points(self, pair: ListedPair, grid: Grid, matrix: np.ndarray) -> list[torch.Tensor]:
        """Corresponding points of both images in the working grid, (P, d) each; none without files."""
        if pair.fixed_points is None or pair.moving_points is None:
            return []
        if self.section.slices:
            raise InputError(f"{pair.where}: landmarks cannot be used with slices of volumes.")
        try:
            fixed, moving, _ = paired(*(read_landmarks(path) for path in (pair.fixed_points, pair.moving_points)))
        except InputError as error:
            raise InputError(f"{pair.where}: {error}") from error
        inverse = np.linalg.inv(matrix)
        moving = moving @ inverse[:3, :3].T + inverse[:3, 3]
        inside = grid.contains(fixed) & grid.contains(moving)
        if not inside.any():
            raise InputError(
                f"{pair.where}: no landmark lies in the working grid in both images. They are read as RAS mm."
            )
        across = self._across(grid)
        axes = [axis for axis in (2, 1, 0) if axis != across]
        return [torch.from_numpy(grid.to_ijk(p[inside])[:, axes].astype(np.float32)) for p in (fixed, moving)]

    def _across(self, grid: Grid) -> int | None:
        return across_axis(grid, self.section.slices)

    def _stack(self, array: np.ndarray, grid: Grid) -> np.ndarray:
        """(K, J, I) as (n, *S): the slices first, or a volume as one."""
        across = self._across(grid)
        return array[None] if across is None else np.ascontiguousarray(np.moveaxis(array, 2 - across, 0))


def across_axis(grid: Grid, slices: str) -> int | None:
    """Which of i, j, k (0 to 2) runs across the slices of a volume, or across a 2D image; None for whole volumes."""
    if slices:
        return int(np.abs(grid.directions[SLICES[slices]]).argmax())
    return grid.across if grid.dimension == 2 else None


def _rows_within(grid: Grid, across: int, anatomical: int, range_mm: tuple[float, ...]) -> np.ndarray:
    """Numbers of the slices whose distance from the middle, along an anatomical axis, lies in the range."""
    count = int(grid.size[across])
    distance = (np.arange(count) - (count - 1) / 2) * grid.spacing[across]
    distance *= np.sign(grid.directions[anatomical, across])
    rows = np.flatnonzero((distance >= range_mm[0] - 1e-6) & (distance <= range_mm[1] + 1e-6))
    if len(rows) == 0:
        raise SettingsError(
            f"No slice lies in images.slice_range_mm = {list(range_mm)}: they reach from {distance.min():g} to "
            f"{distance.max():g} mm."
        )
    return rows


def _normalised_slices(volume: Image, card: ModelCard, across: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Slices (n, *S) in [0, 1], each by its own percentiles as a single slice has it, and which show something."""
    slices = np.ascontiguousarray(np.moveaxis(volume.array, 2 - across, 0))
    usable = tuple(n for n, one in enumerate(slices) if one.min() < one.max())
    result = np.zeros_like(slices)
    size = volume.grid.size.copy()
    size[across] = 1
    for n in usable:
        one = Image(np.expand_dims(slices[n], 2 - across), volume.grid.cropped(np.zeros(3), size))
        result[n] = normalised(one, intensity_scale(one, card)).squeeze(2 - across)
    return result, usable


def _sizes(grid: Grid) -> str:
    return "x".join(map(str, grid.size))
