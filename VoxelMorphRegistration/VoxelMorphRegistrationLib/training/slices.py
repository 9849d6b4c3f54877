"""Slices of two label maps at one place, and where in such a slice the grid of a training step lies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..fields.warp import warp_labels
from ..images.grid import Grid, bounding_box, rotation
from ..images.image import Image
from .anatomy import AnatomySection, AnatomySource, LabelMap, grid_of_box, placement
from .shapes import Source

# Labels are cut at voxels finer than the images that are drawn from them, so that these have partial volume.
CUT_MM = 0.5
# Two slices show enough of the organ when both have this part of the area that its box has across the plane.
LEAST_SEEN, TRIES = 0.3, 100


def slices_between(
    maps: AnatomySource,
    organs: tuple[Image, Image],
    people: tuple[LabelMap, LabelMap],
    source: Source,
    margin_mm: float,
) -> tuple[Image, Image]:
    """Label indices of a plane through the fixed organ, and of the moving one after the affine map between both: on
    one grid of a single layer in RAS mm of the fixed map, with a margin around what is seen.

    organs: label indices of both, each in RAS mm of its own map. The plane is one of maps.section.planes, somewhere in
    the organ and a little turned, as `source` has it; both show a structure that is trained with. Raises InputError
    where no plane does.
    """
    fixed, moving = people
    affine = moving.to_own @ np.linalg.inv(fixed.to_own)
    low, high = maps.box
    structures = [number for number, label in enumerate(maps.names) if label in maps.supervision.observed]
    for _ in range(TRIES):
        to_common = placement(replace(maps.section, spacing_mm=(1.0, 1.0)), maps.box, (2, 2), source)
        to_common = np.concatenate([to_common, [[0, 0, 0, 1]]])
        grid = _plane(
            fixed.to_own @ to_common, fixed.to_own @ [*(low + high) / 2, 1], float(np.linalg.norm(high - low))
        )
        seen = [
            warp_labels(organ, grid, None, matrix, mode="nearest")
            for organ, matrix in zip(organs, (np.eye(4), affine), strict=True)
        ]
        across = int(np.abs(to_common[:3, 2]).argmax())
        enough = LEAST_SEEN * math.prod(np.delete(high - low, across)) / CUT_MM**2
        shown = min(int(np.count_nonzero(image.array)) for image in seen)
        if shown >= enough and all(np.isin(image.array, structures).any() for image in seen):
            break
    else:
        raise InputError(f"No slice shows the organ and its structures in both {fixed.name} and {moving.name}.")
    margin = math.ceil(margin_mm / CUT_MM)
    either = np.pad((seen[0].array > 0) | (seen[1].array > 0), [(0, 0), (margin, margin), (margin, margin)])
    _, rows, columns = bounding_box(either)
    box = (
        slice(0, 1),
        slice(rows.start - margin, rows.stop + margin),
        slice(columns.start - margin, columns.stop + margin),
    )
    padded = grid.cropped((-margin, -margin, 0), either.shape[::-1])
    arrays = [np.pad(image.array, [(0, 0), (margin, margin), (margin, margin)])[box] for image in seen]
    first, second = (
        Image(np.ascontiguousarray(array), grid_of_box(padded, box), image.name)
        for array, image in zip(arrays, seen, strict=True)
    )
    return first, second


def _plane(to_own: np.ndarray, centre: np.ndarray, extent_mm: float) -> Grid:
    """A square of one layer in the plane of the first two columns of `to_own` (4, 4), middle nearest to `centre`."""
    axes = _right_angled(to_own)
    normal = axes[:, 2]
    middle = centre[:3] - normal * (normal @ (centre[:3] - to_own[:3, 3]))
    count = math.ceil(extent_mm / CUT_MM)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * [CUT_MM, CUT_MM, 1.0]
    matrix[:3, 3] = middle - matrix[:3, :2] @ np.full(2, (count - 1) / 2)
    return Grid((1, count, count), matrix)


def _right_angled(matrix: np.ndarray) -> np.ndarray:
    """(3, 3): unit vectors in the plane of the first two columns of a matrix (4, 4), the first along the first column,
    and the plane's normal.
    """
    first = matrix[:3, 0] / np.linalg.norm(matrix[:3, 0])
    second = matrix[:3, 1] - first * (first @ matrix[:3, 1])
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], 1)


def placement_within(
    section: AnatomySection, to_common: np.ndarray, size: tuple[int, int], shape: tuple[int, ...], source: Source
) -> np.ndarray:
    """(3, 4): voxels of a 2D step's grid (i, j, out of plane) to the common space, somewhere in a slice.

    to_common: (4, 4), voxels (i, j, k) of the slice to the common space; size: its voxels along i and j.
    """
    spacing = source.within(section.spacing_mm)
    axes = _right_angled(to_common)
    extent = np.linalg.norm(to_common[:3, :2], axis=0) * size
    mirrored = [-1.0 if section.flip and source.chance(0.5) else 1.0 for _ in range(2)]
    order = [1, 0] if source.chance(0.5) else [0, 1]
    turn = rotation(np.array([0.0, 0.0, np.deg2rad(section.rotation) * source.numbers.uniform(-1, 1)]))
    linear = axes @ turn
    linear[:, :2] = spacing * (linear[:, :2] * mirrored)[:, order]
    # As for a step of its own: within the slice where the grid is smaller, around it where it is larger.
    seen = spacing * np.array(shape[::-1])[order]
    reach = np.maximum((extent - seen) / 2, 5.0)
    middle = to_common[:3, :2] @ ((np.array(size) - 1) / 2) + to_common[:3, 3]
    centre = middle + axes[:, :2] @ (source.numbers.uniform(-1, 1, 2) * reach)
    return np.concatenate([linear, (centre - linear[:, :2] @ ((np.array(shape[::-1]) - 1) / 2))[:, None]], 1)
