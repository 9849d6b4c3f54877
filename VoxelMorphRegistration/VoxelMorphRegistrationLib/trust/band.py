"""The band around a structure within which its surface may truly lie, by the expected error there."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..images.grid import SAME_VOXELS
from ..images.image import Image


def band_of(labels: Image, bound: Image) -> Image:
    """A label map of the bands around the surfaces of all labels but 0: voxels whose centre is nearer to a surface than
    the bound in mm is there.

    labels, bound: on one grid; of an ErrorMap the bound. Where bands of two structures meet, a voxel has the label of
    the nearer surface. Where nothing is said of the error, there is no band. Raises InputError on different grids.
    """
    import SimpleITK as sitk

    if not labels.grid.same_as(bound.grid, SAME_VOXELS):
        raise InputError(f"The {labels.name} and the {bound.name} are on different grids. Resample one of them first.")
    array = labels.array
    out = np.zeros_like(array)
    nearest = np.full(array.shape, np.inf, np.float32)
    for label in np.unique(array[array != 0]):
        mask = array == label
        widest = float(bound.array[_grown(mask, 1)].max(initial=0.0))
        margin = np.ceil(2 * widest / labels.grid.spacing[::-1]).astype(int) + 2
        box = tuple(
            slice(max(int(line[0]) - m, 0), int(line[-1]) + m + 1)
            for line, m in zip((np.flatnonzero(mask.any(_others(axis))) for axis in range(3)), margin, strict=True)
        )
        image = sitk.GetImageFromArray(mask[box].astype(np.uint8))
        image.SetSpacing(labels.grid.spacing.tolist())
        # From the outermost voxels' centres; the surface lies half a voxel further out.
        half = 0.5 * float(np.min(labels.grid.spacing[labels.grid.size > 1]))
        signed = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, False, False, True)) - half
        away = np.abs(signed)
        inside = (away <= bound.array[box]) & (bound.array[box] > 0) & (away < nearest[box])
        out[box][inside] = label
        nearest[box][inside] = away[inside]
    return Image(out, labels.grid, f"band of the {labels.name}")


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _grown(mask: np.ndarray, voxels: int) -> np.ndarray:
    grown = mask.copy()
    for axis in range(3):
        for shift in (-voxels, voxels):
            grown |= np.roll(mask, shift, axis)
    return grown
