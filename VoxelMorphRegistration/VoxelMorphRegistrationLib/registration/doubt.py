"""The expected error as the pipeline asks for it, and what the report says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .intensity import measured_region

if TYPE_CHECKING:
    from ..fields.displacement import DisplacementField
    from ..images.image import Image
    from ..refinement.pair import Pair
    from ..trust.error_map import ErrorMap
    from .inputs import Inputs
    from .progress import Run
    from .settings import Settings

# Of the bound: the shares of the anatomy under these are told.
LIMITS_MM = (1, 2, 5)


def error_map_of(
    inputs: Inputs,
    pair: Pair,
    field: DisplacementField,
    similarity: str | None,
    device: str,
    settings: Settings,
    run: Run,
) -> ErrorMap | None:
    """The map that the settings ask for; None where the images are too small for one, which is a warning.

    similarity: what the refinement compared, None without one.
    """
    from ..refinement.choice import choose_similarity
    from ..refinement.pair import region_grid
    from ..trust.error_map import SMALLEST_SIZE, error_map, large_enough

    if not large_enough(region_grid(inputs.fixed.grid, inputs.region)):
        run.warnings.append(
            f"No expected error was computed: the anatomy has fewer than {SMALLEST_SIZE} voxels along an axis."
        )
        return None
    if similarity is None:
        similarity = settings.similarity if settings.similarity != "auto" else choose_similarity(pair, field)[0]
    region = measured_region(inputs.moving, inputs.moving_mask)
    device = "cpu" if device == "mps" else device
    return error_map(pair, field, similarity, region, settings.expected_error, device=device, progress=run.report)


def summary(found: ErrorMap, region: np.ndarray, segments: Image | None) -> tuple[dict, list[float]]:
    """What the report says of the bound, and where it is largest, in fixed RAS mm.

    region: (K, J, I), the anatomy. segments: labels on the fixed grid, for the bound of each structure.
    """
    bound = found.bound
    inside = found.known & region
    if not inside.any():
        inside = found.known if found.known.any() else np.ones(bound.grid.shape, bool)
    values = bound.array[inside]
    told = {
        "effort": found.effort,
        "median": float(np.median(values)),
        "p90": float(np.percentile(values, 90.0)),
        **{f"under_{limit}mm": 100.0 * float(np.mean(values < limit)) for limit in LIMITS_MM},
    }
    if segments is not None:
        told["labels"] = _of_labels(bound.array, segments.array)
    kji = np.unravel_index(int(np.where(inside, bound.array, -1.0).argmax()), bound.grid.shape)
    return told, bound.grid.to_ras(np.array(kji[::-1])).tolist()


def _of_labels(bound: np.ndarray, labels: np.ndarray) -> dict[int, dict[str, float]]:
    """Mean and largest bound in mm of each label but 0, where something is said."""
    chosen = (labels != 0) & (bound > 0)
    present, index = np.unique(labels[chosen], return_inverse=True)
    values = bound[chosen].astype(np.float64)
    largest = np.zeros(len(present))
    np.maximum.at(largest, index, values)
    means = np.bincount(index, weights=values) / np.bincount(index) if len(present) else largest
    return {
        int(label): {"mean": float(mean), "max": float(most)}
        for label, mean, most in zip(present, means, largest, strict=True)
    }
