"""What is accepted: images, labels, landmarks, masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, SettingsError
from ..images.image import Image
from ..images.labels import inside, looks_like_labels, on_image, whole_numbers
from ..images.nodata import filled
from . import evaluation
from .channels import check_kind, check_settings
from .intensity import intensity_window, measured_region
from .warnings import COPIES

if TYPE_CHECKING:
    from .settings import Settings
    from .start import Initial


# What float32 holds with room for sums and squares of it, and how many of its steps the values must cover.
LARGEST_VALUE, SMALLEST_SPREAD, FEWEST_STEPS = 1e37, 1e-30, 64
# Metres or micrometres read as millimetres make a factor of 1000, and one image may show up to five times as much.
ANOTHER_UNIT = 200.0
# Part of the voxels inside a mask from which on it is asked whether it is one: some of an image's may be 0 by chance.
ALL_OF_IT = 0.99


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is registered. Labels, points (N, 3) in RAS mm and masks as in `register`, each None where not given.

    region: (K, J, I) bool on the fixed grid, where folds and similarity are measured: the mask, or the anatomy.
    """

    fixed: Image
    moving: Image
    region: np.ndarray
    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    fixed_points: np.ndarray | None = None
    moving_points: np.ndarray | None = None
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    initial_transform: Initial | None = None
    further: tuple[tuple[Image, Image], ...] = ()


def accepted(
    fixed: Image,
    moving: Image,
    settings: Settings,
    warnings: list[str],
    *,
    fixed_labels: Image | None = None,
    moving_labels: Image | None = None,
    fixed_points: np.ndarray | None = None,
    moving_points: np.ndarray | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    initial_transform: Initial | None = None,
    further: Sequence[tuple[Image, Image]] = (),
) -> Inputs:
    """The inputs, named for messages, or an InputError or SettingsError that says what is wrong with which."""
    if fixed is moving or (fixed.array is moving.array and fixed.grid.same_as(moving.grid)):
        raise InputError("The fixed and the moving image are the same. Choose two different images.")
    for image in (fixed, moving, fixed_labels, moving_labels, fixed_mask, moving_mask):
        if image is not None:
            check_kind(image, "label map or mask")
            warnings.extend(image.told)
    fixed = usable_image(fixed, "fixed image", warnings)
    moving = usable_image(moving, "moving image", warnings)
    _check_pair(fixed, moving)
    if initial_transform is None:
        _check_units(fixed, moving)
    check_settings(further, settings)
    channels = []
    for number, two in enumerate(further, 2):
        one, other = (
            usable_image(image, f"{side} image {number}", warnings)
            for image, side in zip(two, ("fixed", "moving"), strict=True)
        )
        _check_pair(one, fixed)
        _check_pair(fixed, other)
        channels.append((one, other))
    fixed_labels, moving_labels = (
        None if extra is None else whole_numbers(on_image(extra, image, f"{side} labels", f"{side} image"))
        for extra, image, side in ((fixed_labels, fixed, "fixed"), (moving_labels, moving, "moving"))
    )
    masks = [fixed_mask, moving_mask]
    fixed_mask, moving_mask = (
        None if extra is None else _mask(extra, image, side)
        for extra, image, side in ((fixed_mask, fixed, "fixed"), (moving_mask, moving, "moving"))
    )
    _warn_of_kinds(fixed, moving, channels, [fixed_labels, moving_labels], masks, warnings)
    _check_extras(fixed_labels, moving_labels, fixed_points, moving_points)
    _check_guides(settings, fixed_labels, fixed_points)
    return Inputs(
        fixed,
        moving,
        measured_region(fixed, fixed_mask),
        fixed_labels,
        moving_labels,
        fixed_points,
        moving_points,
        fixed_mask,
        moving_mask,
        initial_transform,
        tuple(channels),
    )


def usable_image(image: Image, role: str, warnings: list[str]) -> Image:
    """The image with data in every voxel, and numbers that float32 can tell apart. Raises InputError when it is empty
    or constant, or has none.

    Voxels without data (see images.nodata) become background, and `warnings` says so. The result is named for
    messages: its role and own name.
    """
    if image.name == role or image.name.startswith(f"{role.split()[0]} volume "):
        # Named for its part already, as in "fixed volume 'CT'".
        name = image.name
    else:
        name = f"{role} ({image.name})" if image.name != "image" else role
    if image.array.dtype.kind not in "biuf":
        raise InputError(f"The {name} holds {image.array.dtype} values. Give an image of real numbers.")
    if image.array.dtype.kind == "b":
        # Statistics need numbers.
        image = image.with_array(image.array.astype(np.uint8))
    result = filled(image.renamed(name))
    if result.missing:
        warnings.append(result.sentence())
    array = result.image.array
    lowest, highest = array.min(), array.max()
    if lowest == highest:
        raise InputError(
            f"The {name} is empty: all its voxels {'with data ' if result.missing else ''}have the value "
            f"{lowest:g}. Choose an image with content."
        )
    _check_numbers(result.image, float(lowest), float(highest))
    return result.image


def _check_numbers(image: Image, lowest: float, highest: float) -> None:
    """Raise InputError where the values are too large or too small for float32, or too alike for its digits."""
    low, high = intensity_window(image, 0.5, 99.5)
    with np.errstate(over="ignore", invalid="ignore"):
        step = float(np.spacing(np.float32(max(abs(low), abs(high)))))
    if high - low < FEWEST_STEPS * step:
        raise InputError(
            f"The {image.name} holds values that differ by {high - low:g} only, around {low:g}: more digits than "
            f"single precision has. Subtract about {low:g} from them."
        )
    if max(abs(lowest), abs(highest)) > LARGEST_VALUE or high - low < SMALLEST_SPREAD:
        raise InputError(
            f"The {image.name} holds values from {lowest:g} to {highest:g}, which single precision cannot hold. "
            "Multiply them by a number that brings them to between 1 and 1000."
        )


def _check_pair(fixed: Image, moving: Image) -> None:
    if fixed.grid.dimension != moving.grid.dimension:
        raise InputError(
            f"The fixed image is {fixed.grid.dimension}D and the moving image {moving.grid.dimension}D. "
            + " ".join(["Give two slices or two volumes.", *(fixed if fixed.grid.dimension == 2 else moving).told])
        )
    for image, role in ((fixed, "fixed"), (moving, "moving")):
        thin = sum(n < 4 for n in image.grid.shape)
        if thin > (1 if image.grid.dimension == 2 else 0):
            raise InputError(
                f"The {role} image has {'x'.join(map(str, image.grid.size))} voxels; along every axis at least 4 are "
                "needed (or a single one for a 2D image)."
            )


def _check_units(fixed: Image, moving: Image) -> None:
    """Raise InputError where one image is so much larger than the other that its lengths must have another unit."""
    wide = [float((image.grid.size * image.grid.spacing).max()) for image in (fixed, moving)]
    if max(wide) > ANOTHER_UNIT * min(wide):
        raise InputError(
            f"The {fixed.name} is {wide[0]:.3g} mm wide and the {moving.name} {wide[1]:.3g} mm: the voxel size of one "
            "has the wrong unit, such as metres. Correct it in the file, or give an initial transform if it is right."
        )


def _warn_of_kinds(
    fixed: Image,
    moving: Image,
    further: list[tuple[Image, Image]],
    labels: list[Image | None],
    masks: list[Image | None],
    warnings: list[str],
) -> None:
    """Tell of one image that was given twice, of a label map as the one image, and of an image as labels or mask."""
    if fixed.grid.same_as(moving.grid) and np.array_equal(fixed.array, moving.array):
        warnings.append(COPIES)
    for pair in ((fixed, moving), *further):
        looks = [looks_like_labels(image.array) for image in pair]
        for image, own, other in zip(pair, looks, looks[::-1], strict=True):
            if own and other is False:
                warnings.append(
                    f"The {image.name} looks like a label map, and the other image does not. Give two images."
                )
    for extra, side in zip(labels, ("fixed", "moving"), strict=True):
        if extra is not None and looks_like_labels(extra.array) is False:
            warnings.append(
                f"The {side} labels look like an image: their numbers change from voxel to voxel. Give a label map."
            )
    for extra, side in zip(masks, ("fixed", "moving"), strict=True):
        # Soft edges are no image, and an image without its background is a mask.
        if extra is not None and inside(extra).array.mean() > ALL_OF_IT and looks_like_labels(extra.array) is False:
            warnings.append(
                f"The {side} mask looks like an image, and all that is not 0 counts as inside: it leaves nothing out. "
                "Give a mask."
            )


def _check_guides(settings: Settings, fixed_labels, fixed_points) -> None:
    for weight, given, what in (
        (settings.label_weight, fixed_labels, "label"),
        (settings.landmark_weight, fixed_points, "landmark"),
    ):
        if weight and settings.refinement == "off":
            raise SettingsError(f"The setting {what}_weight guides the refinement, which is off. Choose a refinement.")
        if weight and given is None:
            raise SettingsError(f"The setting {what}_weight is {weight:g}, but there are no fixed and moving {what}s.")


def _mask(mask: Image, image: Image, side: str) -> Image:
    """Where a mask counts, bool on the grid of its image."""
    result = inside(on_image(mask, image, f"{side} mask", f"{side} image"))
    if not result.array.any():
        raise InputError(f"The {side} mask is empty. Mark the region that counts, or leave the mask out.")
    return result


def _check_extras(fixed_labels, moving_labels, fixed_points, moving_points) -> None:
    if fixed_labels is not None and moving_labels is None:
        raise InputError("Fixed labels were given without moving labels. Give both, or moving labels alone.")
    if (fixed_points is None) != (moving_points is None):
        raise InputError("Landmarks were given for one image only. Give fixed and moving landmarks, or none.")
    if fixed_points is not None:
        evaluation.target_registration_error(fixed_points, moving_points)
