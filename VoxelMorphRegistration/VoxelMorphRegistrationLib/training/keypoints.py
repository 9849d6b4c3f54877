"""What a network of keypoints learns from: where each point of the fixed image lies in the moving one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import SettingsError
from ..fields.scattered import fitted
from ..networks.facts import MOST_FEATURES, MOST_KEYPOINTS, MOST_POSITIONS
from ..networks.heatmaps import DEFAULT_COUNT, DEFAULT_FEATURES, DEFAULT_POSITIONS, KeypointNetwork
from .losses import displacement_at
from .pairs import TrainingPair

# Steps by which the rest of a motion is found after a first pass; each takes what is left down to the slope of that.
_INVERSION_STEPS = 5


@dataclass(frozen=True)
class KeypointsSection:
    """[keypoints]: of a network of kind "keypoints" (see networks.heatmaps).

    count: points of an image at most. positions: of a heatmap along each axis, odd; (positions - 1) / 2 voxels of the
    features is as far as one pass moves a point. features: numbers that describe a place.
    """

    count: int = DEFAULT_COUNT
    positions: int = DEFAULT_POSITIONS
    features: int = DEFAULT_FEATURES

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_KEYPOINTS:
            raise SettingsError(f"keypoints.count must be from 1 to {MOST_KEYPOINTS}, not {self.count}.")
        if not 3 <= self.positions <= MOST_POSITIONS or self.positions % 2 == 0:
            raise SettingsError(
                f"keypoints.positions must be an odd number from 3 to {MOST_POSITIONS}, not {self.positions}."
            )
        if not 1 <= self.features <= MOST_FEATURES:
            raise SettingsError(f"keypoints.features must be from 1 to {MOST_FEATURES}, not {self.features}.")


class Matcher(nn.Module):
    """The part of a network of keypoints that is trained: heatmaps (P, n) of given points (P, d).

    reduced: the U-Net in bfloat16. What it finds is compared in float32.
    """

    def __init__(self, network: KeypointNetwork, reduced: bool) -> None:
        super().__init__()
        self.network, self.reduced = network, reduced

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        with torch.autocast(fixed.device.type, torch.bfloat16, enabled=self.reduced):
            first, second = (self.network.described(image) for image in (fixed, moving))
        return self.network.compared(first, second, points)


@dataclass(frozen=True)
class Found:
    """Points (P, d) in voxels of the features, the last `marked` of them landmarks, and what the network says of them:
    heatmaps (P, n), displacements (P, d) in the same voxels and their deviations (P,). scale: image voxels of a voxel.
    """

    points: torch.Tensor
    heatmaps: torch.Tensor
    expected: torch.Tensor
    spread: torch.Tensor
    marked: int
    scale: int

    def dense(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The displacement (1, d, *S') that a registration makes of the points for images of `shape`."""
        own = slice(0, len(self.points) - self.marked)
        coarse = tuple(-(-size // self.scale) for size in shape)
        if own.stop == 0:
            return self.expected.new_zeros(1, len(shape), *coarse)
        return fitted(self.points[own].float(), self.expected[own], self.spread[own], coarse)[None]


def found(network: KeypointNetwork, matcher: nn.Module, pair: TrainingPair) -> Found:
    """The points of a pair's fixed image, where its truth counts, and its landmarks; what `matcher` says of them."""
    region, scale = None, 2 if network.half_resolution else 1
    if pair.visible is not None:
        region = F.interpolate(pair.visible, size=pair.fixed.shape[2:], mode="nearest")
        region = (region > 0.5).float()
    points, marked = network.points(pair.fixed, region), 0
    if pair.fixed_points is not None and pair.moving_points is not None:
        marks = _cells(pair.fixed_points[0], scale)
        points, marked = torch.cat([points, marks]), len(marks)
    heatmaps = matcher(pair.moving, pair.fixed, points)
    return Found(points, heatmaps, *network.expectation(heatmaps), marked, scale)


def terms(
    network: KeypointNetwork, answer: Found, pair: TrainingPair, before: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """The parts of the loss that points have, smaller is better; of those that the pair has the truth for.

    displacement: mean squared distance of the expectations from the known displacement, in squared half-resolution
    voxels, as of a dense one. landmarks: of the landmarks, in squared voxels of the images. heatmap: cross entropy of
    all heatmaps with the truth, which lies between positions with linear weights. before: (1, d, *S') in voxels of the
    features, the displacement with which the moving image was already warped. What is farther away than a heatmap
    reaches, or not visible, does not count.
    """
    scale, count = answer.scale, len(answer.points) - answer.marked
    truth = torch.zeros_like(answer.expected)
    weight = torch.zeros_like(answer.spread)
    if pair.displacement is not None:
        places = (answer.points[:count].float()[None] + 0.5) * scale / 2 - 0.5
        truth[:count] = displacement_at(pair.displacement, places)[0] * 2 / scale
        weight[:count] = 1.0 if pair.visible is None else displacement_at(pair.visible, places)[0, :, 0]
    if answer.marked:
        assert pair.fixed_points is not None and pair.moving_points is not None
        truth[count:] = (pair.moving_points[0] - pair.fixed_points[0]) / scale
        weight[count:] = 1.0
    truth = truth if before is None else rest(truth, before, answer.points.float())
    weight = weight * (truth.abs().amax(1) <= network.reach)
    squared = (answer.expected - truth).square().sum(1)
    entropy = cross_entropy(answer.heatmaps, truth, network.reach)
    result = {"heatmap": _mean(entropy, weight)}
    if pair.displacement is not None:
        result["displacement"] = _mean(squared[:count], weight[:count]) * (scale / 2) ** 2
    if answer.marked:
        result["landmarks"] = _mean(squared[count:], weight[count:]) * scale**2
    return result if pair.displacement is not None or answer.marked else {}


def rest(truth: torch.Tensor, before: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """What is left (P, d) of a motion (P, d) of points (P, d): v with v + before(p + v) = truth, all in one voxel."""
    left = truth
    for _ in range(_INVERSION_STEPS):
        left = truth - displacement_at(before, (points + left)[None])[0]
    return left


def cross_entropy(heatmaps: torch.Tensor, truth: torch.Tensor, reach: int) -> torch.Tensor:
    """(P,) - sum q log p of heatmaps (P, (2 reach + 1)^d), logarithms up to a constant, with displacements (P, d).

    q: weights of linear interpolation at the true displacement, so that it is their expectation.
    """
    dims, side = truth.shape[1], 2 * reach + 1
    place = truth.clamp(-reach, reach) + reach
    low = place.floor().clamp(max=side - 2)
    part = place - low
    logarithm = F.log_softmax(heatmaps, 1)
    total = torch.zeros_like(heatmaps[:, 0])
    for corner in range(2**dims):
        number = torch.zeros_like(low[:, 0])
        share = torch.ones_like(total)
        for axis in range(dims):
            up = corner >> axis & 1
            number = number * side + low[:, axis] + up
            share = share * (part[:, axis] if up else 1.0 - part[:, axis])
        total = total - share * logarithm.gather(1, number.long()[:, None])[:, 0]
    return total


def _cells(points: torch.Tensor, scale: int) -> torch.Tensor:
    """The voxels of the features (P, d) in which points (P, d) of the image lie."""
    return ((points + 0.5) / scale - 0.5).round().long().clamp_min(0)


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-5)
