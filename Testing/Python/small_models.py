"""Networks whose answer is known, for the tests: small, exact, without training."""

import torch
from torch import nn

from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import save_model


class CentroidNetwork(nn.Module):
    """Moves everything by `part` of the distance between the centroids of intensity, in voxels of the flow grid."""

    def __init__(self, dimension: int, part: float = 1.0, scale: int = 1) -> None:
        super().__init__()
        self.dimension, self.part, self.scale = dimension, part, scale

    def centroid(self, image: torch.Tensor) -> torch.Tensor:
        weight = image[0, 0]
        parts: list[torch.Tensor] = []
        for axis in range(self.dimension):
            shape = [1] * self.dimension
            shape[axis] = weight.size(axis)
            line = torch.arange(weight.size(axis), dtype=weight.dtype).reshape(shape)
            parts.append((weight * line).sum() / weight.sum())
        return torch.stack(parts)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        shift = self.part * (self.centroid(moving) - self.centroid(fixed)) / float(self.scale)
        shape = [1, self.dimension]
        shape += [(fixed.size(2 + axis) + self.scale - 1) // self.scale for axis in range(self.dimension)]
        return shift.reshape([1, self.dimension] + [1] * self.dimension).expand(shape).contiguous()


def save_centroid_model(path, dimension=3, part=1.0, scale=1, **facts):
    """A model file of a CentroidNetwork; facts go into its card."""
    card = dict(
        name="centroid",
        dimension=dimension,
        spacing_mm=(1.0,) * dimension,
        stride=4,
        output="displacement",
        output_scale=float(scale),
        normalization={"method": "percentile", "low": 0.0, "high": 100.0},
    )
    save_model(CentroidNetwork(dimension, part, scale), ModelCard(**{**card, **facts}), path)
    return path


class HungryNetwork(nn.Module):
    """Answers small images with zeros; larger ones ask for more memory than there can be."""

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        if fixed.size(2) > 16:
            return torch.empty([70_368_744_177_664])
        return torch.cat([moving * 0.0] * 3, dim=1)


def save_hungry_model(path):
    """A model file of a HungryNetwork."""
    card = ModelCard("hungry", spacing_mm=(1.0,) * 3, stride=4, output="displacement", output_scale=1.0)
    save_model(HungryNetwork(), card, path)
    return path
