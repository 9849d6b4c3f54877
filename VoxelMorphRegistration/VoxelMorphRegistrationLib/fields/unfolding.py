"""Folds smoothed away where they are, and nothing else changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .displacement import DisplacementField
from .folding import folded_voxels

if TYPE_CHECKING:
    import torch

# Part of all voxels up to which folds are looked for voxel by voxel.
MUCH = 0.1
# Deviation in voxels of the smoothing, and how often it is done at most.
SIGMA, ROUNDS = 2.0, 20


def unfolded(flow: torch.Tensor, folded: np.ndarray | None = None) -> torch.Tensor:
    """`flow` (1, d, *S), in its own voxels, with its folds by the any-corner count, if any, smoothed away.

    folded: where they are, as `folded_voxels` gives it, when that is known.
    """
    import torch

    from ..images import sampling
    from ..images.boxes import box_sum

    folded = folded_voxels(flow[0]) if folded is None else folded
    for _ in range(ROUNDS):
        if not folded.any():
            break
        spot = torch.from_numpy(folded.astype(np.float32)).reshape(1, 1, *flow.shape[2:]).to(flow.device)
        sigma = (SIGMA,) * (flow.dim() - 2)
        near = (sampling.gaussian_smooth(spot, sigma) * 20).clamp_max(1.0)
        flow = torch.lerp(flow, sampling.gaussian_smooth(flow, sigma), near)
        # Elsewhere it is as it was: only what changed and its neighbours are looked at again, unless that is much.
        changed = box_sum((near[0] > 0).float(), 1)[0] > 0
        folded = folded_voxels(flow[0], changed if changed.float().mean() < MUCH else None)
    return flow


def without_folds(field: DisplacementField) -> tuple[DisplacementField, int]:
    """The field `unfolded` on its own grid, and how many of its voxels folded. A field without folds is as it was."""
    import torch

    flow = torch.from_numpy(field.to_voxels(in_plane=True))[None]
    folded = folded_voxels(flow[0])
    count = int(np.count_nonzero(folded))
    if not count:
        return field, 0
    return DisplacementField.from_voxels(unfolded(flow, folded)[0].numpy(), field.grid), count
