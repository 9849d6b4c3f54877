"""Voxels without data: NaN, infinite, or filled with a value far from all others, as scanners and tools leave them.

There is one notion of them: they are found once, where images come in, and take a value as dark as the image's own
background. So everything that follows (windows, foreground, alignment, network, refinement, measures, pictures) sees
background there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import InputError
from .image import Image

# Values are looked at in about this many voxels, evenly spread.
LOOKED_AT = 1_000_000
# A negative value is padding when it lies this many times the spread of the others (between their percentiles `OTHERS`)
# below them. Backgrounds of stripped brains, with any offset, come to 1.0 at most.
FAR, OTHERS = 2.0, (5.0, 95.0)
# Half of it is enough where nothing else is negative (all but a percent of the others lie above -LOW of their spread)
# and the image's own background, a fifth of the others, is still there: tools that resample fill magnetic resonance,
# too, with the -1000 or -1024 of air in a CT.
ALONE_FAR, LOW, LOWEST, GROUND_PART = 0.5, 0.05, 1.0, 0.2
# A value that exceeds the others this many times is none of the image's, however few voxels have it.
ABSURD = 1e6
# Computed tomography in Hounsfield units: nothing is darker than air, at -1000; scanners and tools fill with -1500 to
# -32768 what they did not see. Air is noisy, so that single voxels reach below -1100.
HU_BELOW_AIR, HU_AIR, HU_HIGHEST = -1024.5, -1100.0, 5000.0
# Or with 0, the value of water, which has no corner of a volume, nor this part of it, where there is as much air.
HU_NEAR_AIR, WATER_PART = -900.0, 0.05
# Negative padding in numbers without a sign: from here on.
WRAPPED = 32767
# Padding fills more voxels than noise has at one value; a second one behind it, a clear part of the image.
FEWEST, SMALLEST_PART, SECOND_PART = 8, 1e-4, 1e-3
# The darkest value that the image really has, in percent of its voxels with data. Where hardly any voxels beside those
# without data are near it (this part of the spread, in this part of them), the image was cut out of its background:
# that is then assumed to be this part of the spread darker.
DARKEST, NEAR, NEAR_PART, DARKER = 0.05, 0.1, 0.1, 0.25
# Lossy compression and interpolation leave a filling within this part of its value, in this part of the image at least.
NOISE, NOISY_PART = 0.01, 0.01
# Different fillings in one image, the most looked for.
FILLINGS = 4


@dataclass(frozen=True, eq=False)
class Filled:
    """An image with data everywhere.

    image: `value` where there were none, and marked as complete. missing: how many voxels. kinds: what
    they held, such as "NaN" or "-3024". known: (K, J, I), where there were data (None: everywhere).
    """

    image: Image
    missing: int = 0
    kinds: tuple[str, ...] = ()
    value: float = 0.0
    known: np.ndarray | None = field(default=None, repr=False)

    def sentence(self) -> str:
        """What to tell of it; "" where nothing was missing."""
        if not self.missing:
            return ""
        return (
            f"The {self.image.name} has no data in {self.missing} of its {self.image.array.size} voxels "
            f"({', '.join(self.kinds)}); they count as background ({self.value:g})."
        )


def filled(image: Image) -> Filled:
    """The image with background in its voxels without data. Raises InputError where it has none with data."""
    if image.complete:
        return Filled(image)
    array = image.array
    known, kinds = None, []
    if array.dtype.kind == "f" and not (known := np.isfinite(array)).all():
        kinds = [kind for kind, found in (("NaN", np.isnan), ("infinite", np.isinf)) if found(array).any()]
    else:
        known = None
    for _ in range(FILLINGS):
        padding = _padding(array, known)
        if padding is None:
            break
        kinds += [f"{value:g}" for value in padding[0]]
        known = ~padding[1] if known is None else known & ~padding[1]
    water = _water(array)
    if water is not None:
        kinds.append("0")
        known = ~water if known is None else known & ~water
    if known is None:
        return Filled(replace(image, complete=True))
    if not known.any():
        raise InputError(
            f"The {image.name} has no usable values: all of its {array.size} voxels are without data "
            f"({', '.join(kinds)}). Check how it was made."
        )
    value = _background(array, known)
    missing = array.size - int(np.count_nonzero(known))
    whole = replace(image, array=np.where(known, array, value), complete=True)
    return Filled(whole, missing, tuple(kinds), float(value), known)


def looked_through(image: Image) -> Image:
    """The image, marked as complete where it is: whoever asks next does not look at all of it again."""
    if image.array.dtype.kind not in "iuf":
        return image
    try:
        found = filled(image)
    except InputError:
        # Told where it is to be used, by its role.
        return image
    return image if found.missing else found.image


def _padding(array: np.ndarray, known: np.ndarray | None) -> tuple[list[float], np.ndarray] | None:
    """Values that fill voxels without data, and the voxels (K, J, I) with them, or beyond what the image can have; None
    if there are none."""
    values = array.ravel() if known is None else array[known]
    if values.size == 0:
        return None
    # In order: each question is one of places in it.
    few = np.sort(_few(values)).astype(np.float64)
    for sign, extreme in ((1, float(values.min())), (-1, float(values.max()))):
        tried: list[float] = []
        while len(tried) < FILLINGS:
            tried.append(extreme)
            rest = few[np.searchsorted(few, extreme, "right") :] if sign > 0 else few[: np.searchsorted(few, extreme)]
            if len(rest) < 2 and len(tried) == 1:
                # Hardly anything else, or only in voxels that were not looked at.
                rest = np.sort(values[values != extreme].astype(np.float64))
            if len(rest) < 2:
                break
            with np.errstate(over="ignore"):
                border = _border(array, int(np.count_nonzero(values == extreme)), extreme, rest)
                if border is None and sign > 0 and len(tried) == 1:
                    noisy = int(np.searchsorted(few, extreme + NOISE * abs(extreme), "right"))
                    part = noisy / len(few)
                    if NOISY_PART <= part < 1:
                        border = _border(array, round(part * values.size), extreme, few[noisy:])
                        tried = tried if border is None else [float(np.median(few[:noisy]))]
            if border is not None:
                return tried, array <= border if sign > 0 else array >= border
            # Behind one filling, another may lie.
            extreme = float(rest.min() if sign > 0 else rest.max())
            if np.count_nonzero(rest == extreme) < max(FEWEST, SECOND_PART * len(few)):
                break
    return None


def _border(array: np.ndarray, count: int, extreme: float, rest: np.ndarray) -> float | None:
    """The value beyond which voxels have no data, because the extreme one is padding; None where it is not.

    count: how many voxels have it. rest: the other values, in order.
    """
    first, last = (_percentile(rest, percent) for percent in OTHERS)
    if _seldom(rest, abs(extreme) / ABSURD):
        usual = np.abs(rest[rest != 0])
        if len(usual) and abs(extreme) > ABSURD * (scale := float(np.percentile(usual, 99.0))):
            return float(np.copysign(ABSURD * scale, extreme))
    spread = last - first
    if count < max(FEWEST, SMALLEST_PART * array.size) or spread <= 0:
        return None
    if extreme < HU_BELOW_AIR and first >= HU_AIR and last <= HU_HIGHEST and first - extreme > 0.25 * spread:
        return max(HU_AIR, extreme)
    if extreme < 0 and first - extreme > FAR * spread:
        return first - FAR * spread
    if extreme < 0 and first - extreme > ALONE_FAR * spread and count >= SECOND_PART * array.size:
        low = _percentile(rest, LOWEST)
        if low >= -LOW * spread and np.mean(rest < low + 2 * LOW * spread) > GROUND_PART:
            return low - 2 * LOW * spread
    if extreme >= WRAPPED and extreme - last > FAR * spread and _in_corners(array, extreme):
        return last + FAR * spread
    return None


def _percentile(values: np.ndarray, percent: float) -> float:
    """As of np.percentile, of values in order."""
    place = (len(values) - 1) * percent / 100
    low = int(place)
    a, b = values[low], values[min(low + 1, len(values) - 1)]
    return float(a + (b - a) * (place - low))


def _seldom(values: np.ndarray, size: float) -> bool:
    """Whether hardly any of the values, in order, are so far from 0: two in a hundred at most, or two of few."""
    far = len(values) - np.searchsorted(values, size) + np.searchsorted(values, -size, "right")
    return far < 0.02 * len(values) + 2


def _water(array: np.ndarray) -> np.ndarray | None:
    """The voxels (K, J, I) of a CT that a tool filled with 0 beyond what the scanner saw; None if there are none.

    Single voxels of tissue that happens to have this value stay.
    """
    if array.dtype.kind not in "if" or not _in_corners(array, 0):
        return None
    values = _few(array)
    rest = values[values != 0].astype(np.float64)
    if not len(rest) or len(values) - len(rest) < WATER_PART * len(values):
        return None
    if np.mean(rest < HU_NEAR_AIR) < WATER_PART:
        return None
    if np.percentile(rest, LOWEST) < HU_AIR or np.percentile(rest, OTHERS[1]) > HU_HIGHEST:
        return None
    zero = array == 0
    found = _shrunk(zero)
    for _ in range(max(array.shape)):
        more = zero & ~_shrunk(~found)
        if np.count_nonzero(more) == np.count_nonzero(found):
            break
        found = more
    return found


def _in_corners(array: np.ndarray, value: float) -> bool:
    """Whether all corners of the volume have this value."""
    corners = array[np.ix_(*((0, -1) for _ in range(array.ndim)))]
    return bool((corners == value).all())


def _background(array: np.ndarray, known: np.ndarray) -> np.generic:
    """The value of the image's background, in its own type."""
    values = _few(array[known])
    darkest = np.percentile(values, DARKEST, method="lower")
    first, last = np.percentile(values.astype(np.float64), OTHERS)
    beside = known & ~_shrunk(known)
    if np.mean(array[beside] <= darkest + NEAR * (last - first)) >= NEAR_PART:
        return darkest.astype(array.dtype)
    lower = float(darkest) - DARKER * (last - first)
    if array.dtype.kind in "iu":
        lower = max(round(lower), np.iinfo(array.dtype).min)
    return array.dtype.type(lower)


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """A mask without its voxels that have a face neighbour outside; the border of the volume is no outside."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        here, there = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        here[1:] &= there[:-1]
        here[:-1] &= there[1:]
    return inner


def _few(values: np.ndarray) -> np.ndarray:
    values = values.ravel()
    return values[:: max(1, values.size // LOOKED_AT)]
