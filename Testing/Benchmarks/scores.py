"""The scores of a displacement field: one piece of code for every method of the comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cases import Pair, foreground

from VoxelMorphRegistrationLib.fields.digital import non_diffeomorphic_percent
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_labels
from VoxelMorphRegistrationLib.registration import evaluation


@dataclass(frozen=True)
class Scores:
    """None where a pair has no labels or points.

    dice, hd95_mm: means over the labels of the fixed map, the first of the pair; the moving map is warped with nearest
    neighbours. dice138: of the labels "138". tre_mm, tre95_mm: mean and 95th percentile of the distances of known
    points. folds: voxels of the fixed foreground with det J <= 0 by central differences, folds_corner: by any of
    eight one-sided ones; folds_volume*: in the whole volume. ndv_percent: the non-diffeomorphic volume of the
    foreground (Liu et al., IJCV 2024). sd_log_j: in the foreground, of central determinants.
    """

    dice: float | None
    dice138: float | None
    hd95_mm: float | None
    tre_mm: float | None
    tre95_mm: float | None
    folds: int
    folds_corner: int
    folds_volume: int
    folds_volume_corner: int
    ndv_percent: float
    sd_log_j: float


def score(pair: Pair, total: DisplacementField) -> Scores:
    """Of the whole transform from fixed to moving positions, sampled on the fixed grid (linear)."""
    total = total.on_grid(pair.fixed.grid)
    region = foreground(pair.fixed)
    determinant, inside = total.volume_change(region)
    corners = int(np.count_nonzero(total.folded_corners()))
    overlaps = {name: _overlap(maps, total, name == next(iter(pair.labels))) for name, maps in pair.labels.items()}
    main = next(iter(overlaps.values()), (None, None))
    errors = None
    if pair.fixed_points is not None:
        moved = total.transform_points(pair.fixed_points)
        errors = evaluation.target_registration_error(moved, pair.moving_points)
    return Scores(
        dice=main[0],
        dice138=overlaps.get("138", (None,))[0],
        hd95_mm=main[1],
        tre_mm=None if errors is None else float(errors.mean()),
        tre95_mm=None if errors is None else float(np.percentile(errors, 95)),
        folds=inside.count,
        folds_corner=inside.any_corner_count,
        folds_volume=int(np.count_nonzero(determinant.array <= 0)),
        folds_volume_corner=corners,
        ndv_percent=non_diffeomorphic_percent(total, region),
        sd_log_j=inside.sd_log,
    )


def _overlap(maps, total: DisplacementField, with_distances: bool) -> tuple[float, float | None]:
    """Mean Dice, and the mean 95 % surface distance in mm, over the labels of the fixed map."""
    fixed, moving = maps
    warped = warp_labels(moving, fixed.grid, total, mode="nearest")
    values = evaluation.label_values(fixed)
    dice = evaluation.mean_dice(evaluation.dice(fixed, warped, values))
    if not with_distances:
        return dice, None
    distances = np.array(list(evaluation.surface_distance95(fixed, warped, values).values()))
    # A structure that vanished has no surface; its Dice is 0 all the same.
    return dice, float(np.nanmean(distances)) if np.isfinite(distances).any() else None
