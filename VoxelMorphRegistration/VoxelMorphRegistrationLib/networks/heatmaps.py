"""The network of keypoints: where each point of the fixed image lies in the moving one, as a heatmap, and how surely.

After VoxelMorph++ (Heinrich and Hansen, WBIR 2022): features of VoxelMorph's U-Net at keypoints of the fixed image, a
heatmap over a cube of displacements for each, its expectation the displacement. There the heatmap is computed from the
feature vector of both images stacked. Here both images go through one U-Net and the heatmap is how well the fixed
features of the point agree with the moving ones at each displacement, as in Heinrich's discrete registration (MICCAI
2019, "Closing the gap between deep and conventional image registration using probabilistic dense displacement
networks") and in GraphRegNet (Hansen and Heinrich, IEEE TMI 2021): a large motion is then looked up rather than
remembered, so that a small network and a short training do, and nothing has to be learned anew for another reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .keypoints import chosen_points, distinctiveness, unravelled
from .unet import UNet

DEFAULT_COUNT, DEFAULT_POSITIONS, DEFAULT_FEATURES = 1024, 11, 16
# Points compared at a time without gradients: their moving features then fit a processor's cache.
_AT_A_TIME = 64
# What a heatmap says is right on the average of the training, and drawn towards no motion where it is not sure. The
# mean of it raised to this power is nearer to the truth: on ten held-out pairs of random shapes the fitted field missed
# it by 2.56 voxels instead of 3.22 (2.57 with 3 or 8).
_SHARPENED = 4.0


class KeypointNetwork(nn.Module):
    """Points of the fixed image with their displacements.

    forward(moving, fixed, region): two tensors (1, 1, *S), values in [0, 1], any sizes; region (1, 1, *S), not 0 where
    points may lie, or None. Returns (1, P, 2 d + 1): position and displacement of each of P <= count points in voxels
    of the grid of the features (as the flow's of a UNet), in the order of the tensor axes, and the standard deviation
    of its heatmap, over all axes, in the same voxels.

    positions: of a heatmap along each axis, odd; it reaches (positions - 1) / 2 voxels of the features to each side.
    features: numbers that describe a place.
    """

    def __init__(
        self,
        dimension: int,
        encoder: Sequence[int],
        decoder: Sequence[int],
        half_resolution: bool = True,
        count: int = DEFAULT_COUNT,
        positions: int = DEFAULT_POSITIONS,
        features: int = DEFAULT_FEATURES,
    ) -> None:
        super().__init__()
        self.unet = UNet(dimension, encoder, decoder, half_resolution, inputs=1, outputs=features)
        # As the layers before it: the features of a new network tell places apart, if not well.
        nn.init.kaiming_normal_(self.unet.flow.weight, nonlinearity="linear")
        self.dimension, self.stride, self.half_resolution = dimension, self.unet.stride, half_resolution
        self.count = count
        self.reach = (positions - 1) // 2
        # How much an agreement says; how far its neighbours' heatmaps speak for a point, and how much.
        self.sharpness = nn.Parameter(torch.tensor(math.log(20.0)))
        self.nearness = nn.Parameter(torch.tensor(math.log(3.0)))
        self.sharing = nn.Parameter(torch.tensor(0.0))
        self.at_a_time, self.sharpened = _AT_A_TIME, _SHARPENED

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
        points = self.points(fixed, region)
        expected, spread = self.expectation(self.heatmaps(moving, fixed, points))
        return torch.cat([points.to(expected.dtype), expected, spread[:, None]], 1)[None]

    def steps(self, like: torch.Tensor) -> torch.Tensor:
        """The displacements of a heatmap (positions^d, d), int64, on the device of a tensor."""
        side = 2 * self.reach + 1
        sizes = [side] * self.dimension
        # A power of two whole numbers is none in TorchScript.
        count = int(side**self.dimension)
        return unravelled(torch.arange(count, device=like.device), sizes) - self.reach

    def points(self, fixed: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
        """The keypoints of a fixed image (1, 1, *S), voxels (P, d) of the grid of the features."""
        points = chosen_points(distinctiveness(fixed.float()), region, self.count)
        # No two are neighbours, so that each has a voxel of the features of its own.
        return torch.div(points, 2, rounding_mode="floor") if self.half_resolution else points

    def heatmaps(self, moving: torch.Tensor, fixed: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Logarithms (P, positions^d), up to a constant, of the probability of each displacement of `steps`."""
        return self.compared(self.described(fixed), self.described(moving), points)

    def compared(self, fixed: torch.Tensor, moving: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """`heatmaps` of images that are `described`."""
        sizes = list(fixed.shape[:-1])
        at_points = fixed.flatten(0, -2)[self._numbers(points, sizes)]
        flat = moving.flatten(0, -2)
        steps = self.steps(flat)
        parts: list[torch.Tensor] = []
        step = self.at_a_time if not self.training else max(1, points.shape[0])
        for start in range(0, points.shape[0], step):
            some = points[start : start + step]
            near = flat[self._numbers(some[:, None] + steps, sizes)]
            parts.append(torch.matmul(near, at_points[start : start + step, :, None])[:, :, 0])
        if len(parts) == 0:
            return flat.new_zeros((0, steps.shape[0]))
        return self._shared(torch.exp(self.sharpness) * torch.cat(parts), points)

    def expectation(self, heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean displacement (P, d) of sharpened `heatmaps`, and its standard deviation (P,)."""
        probability = torch.softmax(self.sharpened * heatmaps, 1)
        steps = self.steps(heatmaps).to(probability.dtype)
        expected = probability @ steps
        second = probability @ steps.square().sum(1)
        return expected, (second - expected.square().sum(1)).clamp_min(0.0).sqrt()

    def described(self, image: torch.Tensor) -> torch.Tensor:
        """Features (*S', C) of an image (1, 1, *S), of length 1 at each place."""
        features = self.unet.flow_of(self.unet.features_of(image)).float()[0]
        return F.normalize(features, dim=0).movedim(0, -1).contiguous()

    def _numbers(self, points: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Which voxels of a volume of `sizes` are meant by (..., d), the border repeated."""
        numbers = torch.zeros_like(points[..., 0])
        for axis in range(self.dimension):
            numbers = numbers * sizes[axis] + points[..., axis].clamp(0, sizes[axis] - 1)
        return numbers

    def _shared(self, heatmaps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Heatmaps (P, n) mixed with those of the points nearby: neighbours move alike.

        A step of mean-field inference on the graph of the points, with Gaussian weights of their distances.
        """
        places = points.float()
        squared = (places[:, None] - places[None]).square().sum(-1)
        weights = torch.softmax(-0.5 * squared * torch.exp(-2.0 * self.nearness), 1)
        return torch.lerp(heatmaps, weights @ heatmaps, torch.sigmoid(self.sharing))
