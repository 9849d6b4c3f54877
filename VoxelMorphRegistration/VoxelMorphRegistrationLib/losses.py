"""Training losses, one signature: loss(prediction, target) -> scalar tensor, smaller is better.

Tensors are (N, C, *S), 2D or 3D. Displacements and velocities are (N, d, *S) in voxels of their own grid, channel c
along tensor axis c; their gradients are per voxel of that grid, so they have no unit.
"""

from __future__ import annotations

import torch


def mean_squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared intensity difference (Balakrishnan et al., TMI 2019, eq. 4)."""
    return (prediction - target).square().mean()


def local_ncc(prediction: torch.Tensor, target: torch.Tensor, window: int = 9, epsilon: float = 1e-5) -> torch.Tensor:
    """1 - mean squared local correlation in windows of `window` voxels a side (Balakrishnan et al. 2019, eq. 5).

    Windows are cut at the border (their means are over the voxels inside). Where both images are flat the
    correlation counts as 0.
    """
    mean_p, mean_t = _box_mean(prediction, window), _box_mean(target, window)
    # Variances from centred values: E[x^2] - E[x]^2 loses float32 digits on bright, flat regions.
    centre_p, centre_t = prediction.mean(), target.mean()
    p, t = prediction - centre_p, target - centre_t
    mean_p, mean_t = mean_p - centre_p, mean_t - centre_t
    cross = _box_mean(p * t, window) - mean_p * mean_t
    variance_p = (_box_mean(p * p, window) - mean_p * mean_p).clamp_min(0)
    variance_t = (_box_mean(t * t, window) - mean_t * mean_t).clamp_min(0)
    return 1.0 - (cross * cross / (variance_p * variance_t + epsilon)).mean()


def _box_mean(volume: torch.Tensor, window: int) -> torch.Tensor:
    """Mean over a centred box of odd `window`, axis by axis by cumulative sums, cut at the border. (N, C, *S)."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"The window must be an odd number of voxels, not {window}.")
    radius = window // 2
    for axis in range(2, volume.dim()):
        size = volume.shape[axis]
        zero = torch.zeros_like(volume.narrow(axis, 0, 1))
        total = torch.cat([zero, volume.cumsum(axis)], axis)
        position = torch.arange(size, device=volume.device)
        start, stop = (position - radius).clamp_min(0), (position + radius + 1).clamp_max(size)
        view = [1] * volume.dim()
        view[axis] = size
        count = (stop - start).to(volume.dtype).reshape(view)
        volume = (total.index_select(axis, stop) - total.index_select(axis, start)) / count
    return volume


def soft_dice(prediction: torch.Tensor, target: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """1 - mean soft Dice over samples and channels (Balakrishnan et al. 2019, eq. 8; soft form of Milletari 2016).

    Channels are label probabilities in [0, 1], one structure each. Channels empty in both are left out.
    """
    axes = tuple(range(2, prediction.dim()))
    overlap = 2.0 * (prediction * target).sum(axes)
    total = prediction.square().sum(axes) + target.square().sum(axes)
    present = (total > epsilon).to(prediction.dtype)
    return 1.0 - (overlap / total.clamp_min(epsilon) * present).sum() / present.sum().clamp_min(1.0)


def squared_gradient(prediction: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over voxels of |grad u|^2 by forward differences (Balakrishnan et al. 2019, eqs. 6 and 7).

    The sum over the d x d derivatives, meaned over the voxels. With a `target`, that of the difference of both.
    """
    u = prediction if target is None else prediction - target
    total = u.new_zeros(())
    for axis in range(2, u.dim()):
        if u.shape[axis] > 1:
            total = total + u.diff(dim=axis).square().sum(1).mean()
    return total


def displacement_error(
    prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared length of the difference of two displacements, in squared voxels; the error of known warps.

    `weight` (N, 1, *S) says where it counts.
    """
    squared = (prediction - target).square().sum(1, keepdim=True)
    if weight is None:
        return squared.mean()
    return (squared * weight).sum() / weight.sum().clamp_min(1e-5)


def landmark_distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of corresponding points, both (..., d)."""
    return (prediction - target).square().sum(-1).mean()
