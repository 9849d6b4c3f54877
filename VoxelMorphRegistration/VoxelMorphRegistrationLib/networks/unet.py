"""The VoxelMorph U-Net and its export to TorchScript.

Architecture of Balakrishnan, Zhao, Sabuncu, Guttag, Dalca, "VoxelMorph: A Learning Framework for Deformable
Medical Image Registration", IEEE TMI 2019, with the half-resolution stationary velocity of Dalca et al., MedIA 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

DEFAULT_ENCODER = (16, 32, 32, 32)
DEFAULT_DECODER = (32, 32, 32, 32, 32, 16, 16)


def _joined(x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """x upsampled and the skip, which lacks up to a voxel along each axis; zeros are put there."""
    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    pad: list[int] = []
    for axis in range(x.dim() - 1, 1, -1):
        pad.extend([0, x.shape[axis] - skip.shape[axis]])
    return torch.cat([x, F.pad(skip, pad) if sum(pad) > 0 else skip], 1)


def _cropped(x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    for axis in range(2, x.dim()):
        x = x.narrow(axis, 0, sizes[axis])
    return x


class ConvBlock(nn.Module):
    """A 3x3(x3) convolution and LeakyReLU 0.2."""

    def __init__(self, dimension: int, inputs: int, outputs: int) -> None:
        super().__init__()
        conv = nn.Conv3d if dimension == 3 else nn.Conv2d
        self.conv = conv(inputs, outputs, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place: the full-resolution features are the largest tensors of all.
        return F.leaky_relu_(self.conv(x), 0.2)

    def joined(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """The block after _joined(x, skip); not in training, in half the time.

        What reads the upsampled features, three voxels wide, reads at most two different ones: a transposed
        convolution with a kernel of four, each of its weights the sum of those that meet the same voxel.
        """
        if self.training:
            return _cropped(self.forward(_joined(x, skip)), list(skip.shape))
        weight, bias = self.conv.weight, self.conv.bias
        inner = x.shape[1]
        doubled = weight.narrow(1, 0, inner).transpose(0, 1)
        # In float32: sums of eight weights would lose too much in bfloat16.
        doubled = doubled.flip(list(range(2, weight.dim()))).to(torch.promote_types(weight.dtype, torch.float32))
        for axis in range(weight.dim() - 2):
            sides = [0, 0] * axis
            doubled = F.pad(doubled, sides + [0, 1]) + F.pad(doubled, sides + [1, 0])
        doubled = doubled.to(weight.dtype)
        direct = weight.narrow(1, inner, weight.shape[1] - inner)
        if weight.dim() == 5:
            y = F.conv3d(skip, direct, bias, padding=1)
            y += _cropped(F.conv_transpose3d(x, doubled, stride=2, padding=1), list(skip.shape))
        else:
            y = F.conv2d(skip, direct, bias, padding=1)
            y += _cropped(F.conv_transpose2d(x, doubled, stride=2, padding=1), list(skip.shape))
        return F.leaky_relu_(y, 0.2)


class UNet(nn.Module):
    """g(m, f) = flow: the registration network.

    forward(moving, fixed): two tensors (N, 1, *S), values in [0, 1], any sizes. Returns (N, d, *S'), channel c along
    tensor axis c, in voxels of the flow grid:
    S' = S, or ceil(S / 2) with `half_resolution`, where flow voxel p covers input voxels 2p and 2p + 1.

    encoder: features before each of the len(encoder) max-poolings by two. decoder: first len(encoder) entries are
    the convolutions before each upsampling (with `half_resolution` the last upsampling is left out), the others
    the final convolutions. The flow starts near zero (weights N(0, 1e-5)). inputs: 2, or 1 for the features of one
    image; outputs: channels of the last convolution, one an axis when None.

    The convolutions may be in bfloat16; the flow's own is to stay float32, or the rounding of its output (1 part in
    256 of a displacement) shows in the Jacobian determinant.
    """

    def __init__(
        self,
        dimension: int = 3,
        encoder: Sequence[int] = DEFAULT_ENCODER,
        decoder: Sequence[int] = DEFAULT_DECODER,
        half_resolution: bool = True,
        inputs: int = 2,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        if dimension not in (2, 3):
            raise ValueError(f"The network works in 2 or 3 dimensions, not {dimension}.")
        levels = len(encoder)
        if levels < 1 or len(decoder) < levels:
            raise ValueError("The decoder needs at least as many features as the encoder has levels.")
        self.dimension = dimension
        self.stride = 2**levels
        self.half_resolution = half_resolution
        # Open to type checkers, to which the items of a ModuleList are any modules; TorchScript knows no casts.
        down: Any = nn.ModuleList()
        up: Any = nn.ModuleList()
        final: Any = nn.ModuleList()
        self.down, self.up, self.final = down, up, final
        features = self.inputs = inputs
        for count in encoder:
            self.down.append(ConvBlock(dimension, features, count))
            features = count
        # The skip that each upsampling is joined with; none where half_resolution leaves it out.
        skips = list(reversed(encoder))
        for level, count in enumerate(decoder[:levels]):
            self.up.append(ConvBlock(dimension, features, count))
            upsampled = not half_resolution or level < levels - 1
            features = count + (skips[level] if upsampled else 0)
        for count in decoder[levels:]:
            self.final.append(ConvBlock(dimension, features, count))
            features = count
        conv = nn.Conv3d if dimension == 3 else nn.Conv2d
        self.flow = conv(features, outputs or dimension, kernel_size=3, padding=1)
        nn.init.normal_(self.flow.weight, std=1e-5)
        assert self.flow.bias is not None
        nn.init.zeros_(self.flow.bias)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return self.flow_of(self.features(moving, fixed))

    def features(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """What the flow is computed from: (N, C, *S')."""
        return self.features_of(torch.cat([moving, fixed], 1))

    def features_of(self, images: torch.Tensor) -> torch.Tensor:
        """`features` of the images as channels (N, inputs, *S)."""
        x = images.to(self.down[0].conv.weight.dtype)
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            if level == 0 and self.half_resolution and not self.training:
                x = self._first_level(x, block.conv.weight, block.conv.bias)
            else:
                x = block(x)
                # At half resolution the full-resolution features are no skip: let them go.
                if level > 0 or not self.half_resolution:
                    skips.append(x)
                x = self._pooled(x)
        # From here on every block but the first sees the upsampled features beside a skip, while there are skips.
        joining = False
        for block in self.up:
            x = block.joined(x, skips.pop()) if joining else block(x)
            joining = len(skips) > 0
        for block in self.final:
            x = block.joined(x, skips.pop()) if joining else block(x)
            joining = len(skips) > 0
        if joining:
            skip = skips.pop()
            x = _cropped(_joined(x, skip), list(skip.shape))
        return x

    def flow_of(self, features: torch.Tensor, offset: bool = True) -> torch.Tensor:
        """The last convolution, which is linear, with its bias or without."""
        features = features.to(self.flow.weight.dtype)
        bias = self.flow.bias
        if bias is not None and not offset:
            # Not left out: every parameter of a training has a gradient.
            bias = 0.0 * bias
        if self.dimension == 3:
            flow = F.conv3d(features, self.flow.weight, bias, padding=1)
        else:
            flow = F.conv2d(features, self.flow.weight, bias, padding=1)
        return flow

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(x, 2, ceil_mode=True) if self.dimension == 3 else F.max_pool2d(x, 2, ceil_mode=True)

    def _first_level(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """First block and pooling, slab by slab: the full-resolution features never exist as a whole.

        The slabs overlap by the reach of the convolution, so the result is that of one piece. What is largest is
        largest before and after the LeakyReLU, which therefore waits for the pooling.
        """
        size = x.shape[2]
        # Smaller ones PyTorch gives to a routine for 3D convolutions in float32 that takes four times as long.
        rows = 2 * (1 + 5120 // x.shape[3])
        rows = 2 * math.ceil(size / max(1, size // rows) / 2)
        # Zeros in front of and behind the volume, as the convolution pads.
        x = F.pad(x, [0, 0] * (self.dimension - 1) + [1, 1])
        pooled: list[torch.Tensor] = []
        for start in range(0, size, rows):
            stop = min(start + rows, size)
            part = x.narrow(2, start, stop - start + 2)
            if self.dimension == 3:
                part = F.conv3d(part, weight, bias, padding=[0, 1, 1])
            else:
                part = F.conv2d(part, weight, bias, padding=[0, 1])
            pooled.append(F.leaky_relu_(self._pooled(part), 0.2))
        return torch.cat(pooled, 2)
