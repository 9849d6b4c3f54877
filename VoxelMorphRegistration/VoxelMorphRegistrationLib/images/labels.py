"""Label maps and masks: whole numbers kept exact, and brought onto the voxels of the image that they belong to.

One rule for files and the scene: inside a mask is what is not 0 (negative and fractional values too; NaN is outside).
"""

from __future__ import annotations

import itertools

import numpy as np

from ..errors import InputError
from .grid import SAME_VOXELS, Grid
from .image import Image, lattice_copy

# Whole numbers up to here are exact as double precision, in which VTK and most programs carry them.
LARGEST_LABEL = 2**53
# Of neighbouring voxels outside of the background this part has the same number: 0.79 and more in label maps of brains
# (30 to 157 labels on 1 and 3 mm), abdomen, knee and lesions; 0.31 at most in images of whole numbers (T1, T2, FLAIR,
# CT, 8-bit ultrasound), 20 of both.
PATCHY, GRAINY = 0.6, 0.45
# Voxels looked at, evenly spread slices of the volume; and pairs without which nothing is said.
LOOKED_AT, FEWEST_PAIRS = 1_000_000, 200


def whole_numbers(labels: Image) -> Image:
    """The labels as integers, whichever type they were stored in. Raises InputError for values that are no labels."""
    array = labels.array
    if array.dtype.kind == "b":
        return labels.with_array(array.astype(np.uint8))
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            raise InputError(f"The values of the {labels.name} are not whole numbers; give a label map.")
    elif array.dtype.itemsize < 8:
        return labels
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if max(-low, high) > LARGEST_LABEL:
        raise InputError(
            f"The {labels.name} holds the label {high if high > -low else low}. Labels must lie within 2^53 around 0, "
            "beyond which programs mix neighbouring numbers up. Renumber them."
        )
    small = np.iinfo(np.int32).min <= low and high <= np.iinfo(np.int32).max
    return labels.with_array(array.astype(np.int32 if small else np.int64))


def looks_like_labels(array: np.ndarray) -> bool | None:
    """Whether whole numbers lie in patches, as label maps have them (True), or change from voxel to voxel, as in images
    (False). None where that is not clear. array: (K, J, I), or any other number of axes.
    """
    if array.dtype.kind not in "iuf":
        return None
    if array.ndim > 2:
        array = array[:: max(1, array.size // LOOKED_AT)]
    if array.dtype.kind == "f" and not (array == np.rint(array)).all():
        return False if np.isfinite(array).all() else None
    values, counts = np.unique(array, return_counts=True)
    shown = array != values[counts.argmax()] if counts.size else array != 0
    pairs = same = 0
    for axis in range(max(0, array.ndim - 2), array.ndim):
        one, other = (np.moveaxis(part, axis, 0) for part in (array, shown))
        both = other[1:] & other[:-1]
        pairs += int(both.sum())
        same += int((both & (one[1:] == one[:-1])).sum())
    if pairs < FEWEST_PAIRS:
        return None
    return True if same >= PATCHY * pairs else False if same < GRAINY * pairs else None


def inside(mask: Image) -> Image:
    """Where a mask counts: (K, J, I) bool."""
    array = mask.array
    return mask.with_array((array != 0) & ~np.isnan(array) if array.dtype.kind == "f" else array != 0)


def on_image(extra: Image, image: Image, what: str, whose: str) -> Image:
    """Labels or a mask on the grid of `image`: as they are, or from a smaller box of the same voxels, with 0 around it.

    what, whose: names for messages. Raises InputError for any other grid.
    """
    if extra.grid.same_as(image.grid, SAME_VOXELS):
        return extra
    to_extra = _lattice_map(extra.grid, image.grid)
    if to_extra is None:
        raise InputError(
            f"The voxels of the {what} ({extra.name}) are on another grid than the {whose}: "
            f"{_sizes(extra.grid)} against {_sizes(image.grid)} voxels, or another position. "
            "Resample them onto the image's grid."
        )
    array = lattice_copy(extra.array, to_extra, image.grid.shape, 0, extra.array.dtype)
    return Image(array, image.grid, extra.name, extra.told)


def _sizes(grid: Grid) -> str:
    return " x ".join(map(str, grid.size))


def _lattice_map(inner: Grid, outer: Grid) -> np.ndarray | None:
    """The integer map (4, 4) of voxels of `outer` to those of `inner`, where these are a box of the same voxels.

    None where voxels differ by more than SAME_VOXELS, or where the box reaches out of `outer`.
    """
    to_outer = outer.ras_to_ijk @ inner.ijk_to_ras
    whole = np.rint(to_outer)
    if (np.abs(whole[:3, :3]).sum(0) != 1).any() or (np.abs(whole[:3, :3]).sum(1) != 1).any():
        return None
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in inner.size))])
    exact, rounded = (corners @ matrix.T for matrix in (to_outer, whole))
    if np.abs(exact - rounded).max() > SAME_VOXELS:
        return None
    if rounded[:, :3].min() < 0 or (rounded[:, :3] > outer.size - 1).any():
        return None
    return np.rint(np.linalg.inv(whole)).astype(int)
