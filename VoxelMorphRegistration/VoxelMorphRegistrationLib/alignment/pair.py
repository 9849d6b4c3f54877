"""The two images reduced and in one frame."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import InputError
from ..images.grid import Grid
from ..images.image import Image
from ..images.nodata import filled
from .motion import about, rotation_matrices
from .reduced import reduced, usable_voxels, work_spacing
from .samples import Samples

# Points at which similarity is measured and their grey levels: to judge a result, and in the coarse search.
SAMPLES, BINS = 40_000, 32
COARSE_PART, COARSE_SAMPLES, COARSE_BINS = 0.08, 3_000, 20
LARGEST_TILT_DEGREES = 5.0
# Of the reduced copies' spacing: units of the frame. Of a head, a unit is a millimetre.
UNITS = 3.0


@dataclass(frozen=True)
class _Verdict:
    """How well a map fits: similarity as in Alignment, and overlap as a part of the smaller field of view."""

    similarity: float
    overlap: float


@dataclass(frozen=True, eq=False)
class Pair:
    """Both images reduced and in one frame, so that every map sought below goes from the frame to itself.

    frame: (4, 4), frame to fixed RAS; its unit is a third of the reduced copies' spacing, so that nothing depends on
    how large the voxels are (of a head it is 1 mm). after: (4, 4) in RAS, follows the map sought. fixed, moving: on
    grids with right angles in the frame, values 0 to 1, NaN where unknown. mask: (K, J, I) bool, where fixed is
    compared. fixed_center, moving_center: of the fields of view, in the frame. spacing: of the reduced copies, in
    units of the frame. sample_coarsely: makes the samples for the coarse search.
    In 2D the frame's third axis is the common normal, and every position in both images has 0 there.
    """

    frame: np.ndarray
    after: np.ndarray
    fixed_center: np.ndarray
    moving_center: np.ndarray
    fixed: Image
    moving: Image
    mask: np.ndarray
    spacing: float
    samples: Samples
    sample_coarsely: Callable[[], Samples]

    @staticmethod
    def of(fixed: Image, moving: Image, start: np.ndarray, mask: Image | None, seed: int) -> Pair:
        if fixed.grid.dimension == 2:
            fixed, moving = _squared(fixed), _squared(moving)
            start = start @ _onto_plane(fixed, moving, start)
        shown = moving.grid.transformed(np.linalg.inv(start))
        # Images are reduced, never made finer.
        used = fixed.grid.size > 1
        own = float(np.prod(fixed.grid.spacing[used])) ** (1 / int(used.sum()))
        frame = _frame(fixed.grid, max(work_spacing(fixed.grid, shown, 1.0), own) / UNITS)
        fixed_grid = fixed.grid.transformed(np.linalg.inv(frame))
        # The moving image as the start shows it in the fixed space.
        moving_grid = moving.grid.transformed(np.linalg.inv(start @ frame))
        originals = [
            Image(filled(image).image.array, grid, image.name)
            for image, grid in ((fixed, fixed_grid), (moving, moving_grid))
        ]

        def at_scale(part: float, count: int, bins: int) -> tuple[Image, Image, np.ndarray, float, Samples]:
            spacing = work_spacing(fixed_grid, moving_grid, part)
            # Two different lattices: on equal ones, both images blur alike wherever voxels meet voxels.
            small = [reduced(image, spacing * f) for image, f in zip(originals, (1.0, 0.9), strict=True)]
            usable = usable_voxels(small[0], mask, frame)
            return small[0], small[1], usable, spacing, Samples.of(small[0], usable, small[1], count, bins, seed)

        return Pair(
            frame,
            start,
            fixed_grid.center_ras,
            moving_grid.center_ras,
            *at_scale(1.0, SAMPLES, BINS),
            lambda: at_scale(COARSE_PART, COARSE_SAMPLES, COARSE_BINS)[-1],
        )

    @cached_property
    def coarse_samples(self) -> Samples:
        """For the coarse search."""
        return self.sample_coarsely()

    @property
    def dimension(self) -> int:
        return self.fixed.grid.dimension

    def to_ras(self, found: np.ndarray) -> np.ndarray:
        """A map in the frame as one from fixed RAS to moving RAS."""
        return self.after @ self.frame @ found @ np.linalg.inv(self.frame)

    def judge(self, found: np.ndarray) -> _Verdict:
        similarity, overlap = self.samples.score(found[None])
        return _Verdict(float(similarity[0]), float(overlap[0]))


def _frame(grid: Grid, unit: float) -> np.ndarray:
    """Frame to RAS: origin at the grid's centre; axes as RAS, for a slice the in-plane axes and the normal; `unit` mm
    long.
    """
    frame = np.eye(4)
    frame[:3, 3] = grid.center_ras
    if grid.dimension == 2:
        flat = grid.across
        first, second = (axis for axis in range(3) if axis != flat)
        normal = grid.directions[:, flat]
        along = grid.directions[:, first]
        across = np.cross(normal, along)
        across *= np.sign(across @ grid.directions[:, second])
        frame[:3, :3] = np.stack([along, across, normal], 1)
    frame[:3, :3] *= unit
    return frame


def _squared(image: Image) -> Image:
    """A slice whose flat axis is made the normal of its plane; its voxels stay where they are."""
    grid = image.grid
    flat = grid.across
    matrix = grid.ijk_to_ras.copy()
    first, second = (grid.directions[:, axis] for axis in range(3) if axis != flat)
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    matrix[:3, flat] = normal * np.sign(normal @ matrix[:3, flat]) * grid.spacing[flat]
    return Image(image.array, Grid(grid.shape, matrix), image.name)


def _onto_plane(fixed: Image, moving: Image, start: np.ndarray) -> np.ndarray:
    """(4, 4) in fixed RAS: the smallest motion that carries the fixed plane onto the moving one, seen through start."""
    shown = _squared(Image(moving.array, moving.grid.transformed(np.linalg.inv(start)), moving.name)).grid
    center = fixed.grid.center_ras
    normal = fixed.grid.directions[:, fixed.grid.across]
    target = shown.directions[:, shown.across]
    target = target * (1.0 if target @ normal >= 0 else -1.0)
    tilt = math.degrees(math.acos(min(1.0, float(target @ normal))))
    if tilt > LARGEST_TILT_DEGREES:
        raise InputError(
            f"The {fixed.name} and the {moving.name} are single slices that are not parallel: their planes differ by "
            f"{tilt:.0f} degrees. Give slices of the same plane, or an initial transform that makes them parallel."
        )
    # The cross product has the length of the sine; at such small angles arcsin cannot be ambiguous.
    axis = np.cross(normal, target)
    sine = float(np.linalg.norm(axis))
    motion = about(rotation_matrices(axis * (math.asin(min(1.0, sine)) / sine if sine > 0 else 1.0)), center, center)
    motion[:3, 3] += ((shown.center_ras - center) @ target) * target
    return motion


def check_contrast(pair: Pair) -> None:
    for image in (pair.fixed, pair.moving):
        if np.nanmax(image.array) <= np.nanmin(image.array):
            raise InputError(
                f"The {image.name} is constant: there is nothing to align. "
                "Check that it is the right image, or choose the alignment 'none' or 'centers'."
            )
