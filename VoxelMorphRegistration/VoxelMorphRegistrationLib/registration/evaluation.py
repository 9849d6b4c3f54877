"""How good a registration is: Dice, surface distance, target registration error, similarity, folding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..images.grid import SAME_VOXELS, bounding_box
from ..images.image import Image

if TYPE_CHECKING:
    from ..fields.displacement import DisplacementField

# How far beyond the quartiles values count, in distances between these.
FENCE = 3.0
# Voxels of a structure whose displacement is looked at: the mean is then known to a fiftieth of its spread. And of all
# structures together, which are put in order.
SEEN, SORTED = 2_500, 4_000_000


def label_values(*labels: Image) -> list[int]:
    """All labels but 0 that occur in any of the label maps."""
    found = set().union(*(np.unique(image.array).tolist() for image in labels))
    return sorted(int(value) for value in found if value != 0)


def _same_grid(a: Image, b: Image) -> None:
    if not a.grid.same_as(b.grid, SAME_VOXELS):
        raise InputError(f"The {a.name} and the {b.name} are on different grids. Resample one onto the other first.")


def dice(a: Image, b: Image, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Dice overlap 2|A and B| / (|A| + |B|) per label (Dice 1945) of two label maps on one grid.

    labels: those to measure (all that occur in either when None). A label in neither map gives NaN.
    """
    _same_grid(a, b)
    values = np.array(label_values(a, b) if labels is None else sorted(labels), dtype=np.int64)
    if values.size == 0:
        return {}
    counts = []
    both = a.array[a.array == b.array]
    for array in (a.array, b.array, both):
        found, number = np.unique(array, return_counts=True)
        table = dict(zip(found.tolist(), number.tolist(), strict=True))
        counts.append(np.array([table.get(value, 0) for value in values.tolist()], dtype=np.float64))
    total = counts[0] + counts[1]
    with np.errstate(invalid="ignore"):
        result = np.where(total > 0, 2 * counts[2] / total, np.nan)
    return dict(zip(values.tolist(), result.tolist(), strict=True))


def mean_dice(per_label: dict[int, float]) -> float:
    """Mean over the labels that occur in at least one of the maps."""
    values = [value for value in per_label.values() if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")


def surface_distance95(a: Image, b: Image, labels: Iterable[int] | None = None) -> dict[int, float]:
    """95 % symmetric surface distance per label in mm: the 95th percentile of the distances from each surface voxel
    of one map to the surface of the other, both directions pooled. NaN where a label is missing in one map.

    Surface voxels are those of the structure with a face neighbour outside it.
    """
    import SimpleITK as sitk

    _same_grid(a, b)
    boxes = [_label_boxes(image.array) for image in (a, b)]
    result = {}
    for label in label_values(a, b) if labels is None else sorted(labels):
        if not all(label in found for found in boxes):
            result[int(label)] = float("nan")
            continue
        box = tuple(
            slice(min(one.start, other.start), max(one.stop, other.stop))
            for one, other in zip(*(found[label] for found in boxes), strict=True)
        )
        surfaces = [_surface(np.pad(image.array[box] == label, 1), a.grid.shape) for image in (a, b)]
        distances = []
        for own, other in (surfaces, surfaces[::-1]):
            image = sitk.GetImageFromArray(other.astype(np.uint8))
            image.SetSpacing(a.grid.spacing.tolist())
            distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
            # The map is negative inside; a surface is one voxel thick, so inside means distance 0.
            distances.append(np.maximum(sitk.GetArrayViewFromImage(distance)[own], 0.0))
        result[int(label)] = float(np.percentile(np.concatenate(distances), 95))
    return result


def _label_boxes(array: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """The bounding box (k, j, i) of every label but 0, found in one pass."""
    import SimpleITK as sitk

    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.ComputePerimeterOff()
    kind = array.dtype if array.dtype.kind in "iu" else np.int64
    statistics.Execute(sitk.GetImageFromArray(np.ascontiguousarray(array, dtype=kind)))
    boxes = {}
    for label in statistics.GetLabels():
        bounds = statistics.GetBoundingBox(label)
        boxes[int(label)] = tuple(slice(bounds[n], bounds[n] + bounds[n + 3]) for n in (2, 1, 0))
    return boxes


def _surface(inner: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels of a mask, padded by one, that have a face neighbour outside; a single slice has none across.

    shape: of the whole image. A structure of a single voxel is its own surface.
    """
    solid = inner.copy()
    for axis in range(3):
        if shape[axis] == 1:
            continue
        for shift in (1, -1):
            solid &= np.roll(inner, shift, axis)
    return inner & ~solid


def volume_change(labels: Image, determinant: Image, factor: float = 1.0) -> dict[int, float]:
    """By how much percent each structure of the fixed image is larger in the moving one, per label.

    The integral of det dT/dx over a structure is the volume of its image under T, so the mean determinant over the
    fixed label is the ratio of the volumes. determinant: on the labels' grid; factor: of the linear part, where
    the map is without it.
    """
    _same_grid(labels, determinant)
    inside = labels.array != 0
    present, index = np.unique(labels.array[inside], return_inverse=True)
    means = factor * np.bincount(index, weights=determinant.array[inside]) / np.bincount(index)
    return {int(value): 100.0 * (float(mean) - 1.0) for value, mean in zip(present, means, strict=True)}


def displacement(labels: Image, field: DisplacementField) -> dict[int, dict[str, float]]:
    """How far a field carries each structure, {label: {"mean": mm, "p95": mm}}; 95 % of it move less than the latter.

    At up to SEEN voxels of each structure, evenly taken.
    """
    values = labels.array.ravel()
    places = np.flatnonzero(values)
    if not places.size:
        return {}
    places = places[:: max(1, places.size // SORTED)]
    order = np.argsort(values[places], kind="stable")
    present, starts = np.unique(values[places][order], return_index=True)
    result = {}
    for value, part in zip(present, np.split(order, starts[1:]), strict=True):
        chosen = places[part[:: max(1, part.size // SEEN)]]
        kji = np.stack(np.unravel_index(chosen, labels.grid.shape), -1)
        lengths = np.linalg.norm(field.at(labels.grid.to_ras(kji[:, ::-1])), axis=1)
        result[int(value)] = {"mean": float(lengths.mean()), "p95": float(np.quantile(lengths, 0.95))}
    return result


def target_registration_error(transformed_ras: np.ndarray, moving_ras: np.ndarray) -> np.ndarray:
    """Distances in mm (N,) between the fixed landmarks carried over by T, and the moving landmarks."""
    a, b = np.asarray(transformed_ras, float), np.asarray(moving_ras, float)
    if any(one.ndim != 2 or one.shape[1] != 3 for one in (a, b)):
        raise InputError(
            f"Landmarks are tables of three numbers a point, RAS in mm; given are arrays of {a.shape} and {b.shape}."
        )
    if a.shape != b.shape:
        raise InputError(
            f"There are {len(a)} fixed and {len(b)} moving landmarks. Give the same number, in the same order."
        )
    return np.linalg.norm(a - b, axis=1)


def similarity(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray, bins: int = 32) -> dict[str, float]:
    """Normalised cross-correlation and mutual information (nats) of two arrays over a mask, where both are finite.

    NCC in [-1, 1] suits one modality; mutual information (Viola and Wells 1997, histogram estimate) suits any. Values
    far from most (metal, contrast medium in a bladder) are cut down to the fences of `_tamed` first.
    """
    mask = mask & np.isfinite(moving) & np.isfinite(fixed)
    a, b = (_tamed(values[mask].astype(np.float64)) for values in (fixed, moving))
    if a.size < 2:
        return {"ncc": 0.0, "mi": 0.0}
    deviation = a.std() * b.std()
    ncc = float(((a - a.mean()) * (b - b.mean())).mean() / deviation) if deviation > 0 else 0.0
    joint, _, _ = np.histogram2d(a, b, bins=bins)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    positive = joint > 0
    return {"ncc": ncc, "mi": float((joint[positive] * np.log(joint[positive] / independent[positive])).sum())}


def local_correlation(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the mask, where both (K, J, I) are finite, of the squared correlation in windows of five voxels a side.

    It sees whether edges lie on edges, in any contrast; a correlation of all voxels sees above all which tissues are
    bright. docs/quality.md says how often each of them puts two results in the right order.
    """
    import torch

    from ..refinement.terms import LocalCorrelation

    mask = mask & np.isfinite(fixed) & np.isfinite(moving)
    if np.count_nonzero(mask) < 2:
        return 0.0
    box = bounding_box(mask)
    fixed, moving, mask = fixed[box], moving[box], mask[box]
    volumes = []
    for values in (fixed, moving):
        low, high = _limits(values[mask].astype(np.float64))
        scaled = np.clip((np.where(mask, values, low).astype(np.float64) - low) / (high - low or 1.0), 0.0, 1.0)
        volumes.append(torch.from_numpy(np.squeeze(scaled.astype(np.float32)))[None])
    # The windows end where the mask does.
    inside = torch.from_numpy(np.squeeze(mask).astype(np.float32))
    return float(LocalCorrelation(volumes[0], radius=2).evaluate(volumes[1], inside, inside, with_slope=False)[0])


def _tamed(values: np.ndarray) -> np.ndarray:
    """Values scaled to [0, 1] between their `_limits`; constant ones to 0."""
    if values.size == 0:
        return values
    low, high = _limits(values)
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The percentiles 0.5 and 99.5 of values, or fences three times the distance between the quartiles beyond these
    (Tukey 1977), whichever are closer.
    """
    low, first, third, high = (float(value) for value in np.percentile(values, [0.5, 25.0, 75.0, 99.5]))
    if third > first:
        low, high = max(low, first - FENCE * (third - first)), min(high, third + FENCE * (third - first))
    return low, high
