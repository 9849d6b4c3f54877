"""Training losses, one signature: loss(prediction, target) -> scalar tensor, smaller is better.

Tensors are (N, C, *S), 2D or 3D. Displacements and velocities are (N, d, *S) in voxels of their own grid, channel c
along tensor axis c; their gradients are per voxel of that grid, so they have no unit. The penalties of a displacement
take a target, too, and then measure the difference. Every loss is differentiable in its first argument; those of
images in both.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from ..images import sampling
from ..images.boxes import box_sum


def mean_squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared intensity difference (Balakrishnan et al., TMI 2019, eq. 4)."""
    return (prediction - target).square().mean()


def local_ncc(prediction: torch.Tensor, target: torch.Tensor, window: int = 9, epsilon: float = 1e-5) -> torch.Tensor:
    """1 - mean squared local correlation in windows of `window` voxels a side (Balakrishnan et al. 2019, eq. 5).

    Windows are cut at the border (their means are over the voxels inside). Where both images are flat the
    correlation counts as 0.
    """
    _, _, variance_p, variance_t, covariance = _local_moments(prediction, target, window)
    return 1.0 - (covariance.square() / (variance_p * variance_t + epsilon)).mean()


def structural_similarity(
    prediction: torch.Tensor, target: torch.Tensor, window: int = 7, stabilisers: tuple[float, float] = (0.01, 0.03)
) -> torch.Tensor:
    """1 - mean SSIM of images in [0, 1] (Wang et al., IEEE TIP 13(4), 2004, eq. 13), in uniform windows.

    Windows have `window` voxels a side and are cut at the border. `stabilisers`: K1 and K2 of that paper. Flat and
    equal parts, such as a black background, count as fully similar.
    """
    mean_p, mean_t, variance_p, variance_t, covariance = _local_moments(prediction, target, window)
    c1, c2 = (k * k for k in stabilisers)
    brightness = (2.0 * mean_p * mean_t + c1) / (mean_p.square() + mean_t.square() + c1)
    structure = (2.0 * covariance + c2) / (variance_p + variance_t + c2)
    return 1.0 - (brightness * structure).mean()


def _local_moments(prediction: torch.Tensor, target: torch.Tensor, window: int) -> tuple[torch.Tensor, ...]:
    """Means of both images, their variances and their covariance in the window around each voxel, (N, C, *S) each."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"The window must be an odd number of voxels, not {window}.")
    # Variances from centred values: E[x^2] - E[x]^2 loses float32 digits on bright, flat regions.
    centre_p, centre_t = prediction.detach().mean(), target.detach().mean()
    p, t = prediction - centre_p, target - centre_t
    inverse_count = 1.0 / box_sum(torch.ones_like(target[0, :1]), window // 2)
    mean_p, square_p, product = _box_means([p, p * p, p * t], inverse_count, window)
    # The target's own moments apart: they need no gradient while training.
    mean_t, square_t = _box_means([t, t * t], inverse_count, window)
    variance_p = (square_p - mean_p * mean_p).clamp_min(0)
    variance_t = (square_t - mean_t * mean_t).clamp_min(0)
    return mean_p + centre_p, mean_t + centre_t, variance_p, variance_t, product - mean_p * mean_t


def _box_means(volumes: list[torch.Tensor], inverse_count: torch.Tensor, window: int) -> list[torch.Tensor]:
    """The mean of each of some (N, C, *S) in the windows, which are cut at the border."""
    n, c, *shape = volumes[0].shape
    sums = _BoxSum.apply(torch.cat(volumes).reshape(-1, *shape), window)
    return [mean.reshape(n, c, *shape) for mean in (sums * inverse_count).split(n * c)]


class _BoxSum(torch.autograd.Function):
    """Sums over boxes of an odd `window` of volumes (V, *S), cut at the border.

    Voxel q lies in the box of p when p lies in that of q, so the derivative is the same sum of what comes back.
    """

    @staticmethod
    def forward(ctx, volumes: torch.Tensor, window: int) -> torch.Tensor:
        ctx.window = window
        return _box_sums(volumes, window)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _box_sums(gradient.contiguous(), ctx.window), None


def _box_sums(volumes: torch.Tensor, window: int) -> torch.Tensor:
    # One after the other on a CPU, whose cache then holds what is summed.
    parts = volumes.split(1) if volumes.device.type == "cpu" else (volumes,)
    return torch.cat([box_sum(part, window // 2) for part in parts])


def soft_dice(
    prediction: torch.Tensor,
    target: torch.Tensor,
    channels: Sequence[int] | None = None,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    """1 - mean soft Dice over samples and channels (Balakrishnan et al. 2019, eq. 8; soft form of Milletari 2016).

    Channels are label probabilities in [0, 1], one structure each; `channels` are those that count (all when None).
    Structures empty in both are left out; without any structure the loss is 1.
    """
    if channels is not None:
        chosen = torch.as_tensor(list(channels), dtype=torch.long, device=prediction.device)
        prediction, target = prediction.index_select(1, chosen), target.index_select(1, chosen)
    axes = tuple(range(2, prediction.dim()))
    overlap = 2.0 * (prediction * target).sum(axes)
    total = prediction.square().sum(axes) + target.square().sum(axes)
    present = (total > epsilon).to(prediction.dtype)
    return 1.0 - (overlap / total.clamp_min(epsilon) * present).sum() / present.sum().clamp_min(1.0)


def squared_gradient(prediction: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over voxels of |grad u|^2 by forward differences (Balakrishnan et al. 2019, eqs. 6 and 7).

    The sum over the d x d derivatives, meaned over the voxels.
    """
    u = prediction if target is None else prediction - target
    total = u.new_zeros(())
    for axis in range(2, u.dim()):
        if u.shape[axis] > 1:
            total = total + u.diff(dim=axis).square().sum(1).mean()
    return total


def bending_energy(prediction: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over voxels of the squared second derivatives of a displacement or velocity, mixed ones twice.

    The thin-plate energy of Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 18(8),
    1999, by differences; zero for every affine map. Each derivative is meaned over the voxels where it exists.
    """
    u = prediction if target is None else prediction - target
    total = u.new_zeros(())
    for a, b in itertools.combinations_with_replacement(range(2, u.dim()), 2):
        if u.shape[a] > (2 if a == b else 1) and u.shape[b] > 1:
            total = total + (1.0 if a == b else 2.0) * u.diff(dim=a).diff(dim=b).square().sum(1).mean()
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


def landmark_distance(
    prediction: torch.Tensor, fixed_points: torch.Tensor, moving_points: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Mean squared distance of x + u(x) at the fixed points from the moving points (VoxelMorph++, Heinrich and
    Hansen, WBIR 2022), in squared voxels of the points' grid.

    prediction: u (N, d, *S). fixed_points, moving_points: (N, P, d), in the order of the tensor axes, in voxels of
    a grid `scale` times finer than that of u: 1 for the same grid, 2 for points of the images and a displacement at
    half resolution, whose voxel p covers the image voxels 2p and 2p + 1.
    """
    moved = fixed_points + scale * displacement_at(prediction, (fixed_points + 0.5) / scale - 0.5)
    return (moved - moving_points).square().sum(-1).mean()


def displacement_at(displacement: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Displacement (N, d, *S) interpolated at points (N, P, d) in its voxels, tensor axis order; (N, P, d)."""
    dims = displacement.dim() - 2
    positions = points.flip(-1).reshape(*points.shape[:2], *[1] * (dims - 1), dims)
    return sampling.sample(displacement, positions).flatten(2).transpose(1, 2)


def similarity(kind: str, warped: torch.Tensor, fixed: torch.Tensor, window: int) -> torch.Tensor:
    """The similarity of [loss], smaller is better."""
    if kind == "mse":
        return mean_squared_error(warped, fixed)
    if kind == "ncc":
        return local_ncc(warped, fixed, window)
    return structural_similarity(warped, fixed, window)
