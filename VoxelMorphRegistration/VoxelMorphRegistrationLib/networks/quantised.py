"""A symmetric 3D network whose convolutions are of 8-bit integers from the second pass of a registration on.

Processors with vector instructions for them (VNNI) multiply four times as many in the same time as of float32. Each
channel of a block's output is a whole number from 0 to 255 times a step of its own, which the first pass of the
registration tells: it runs in float32 and is watched. Steps and weights after Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018; steps by channel are moved into the next
weights as in Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

from .symmetric import Symmetric
from .unet import ConvBlock, UNet

# Of LeakyReLU, as in the U-Net, whose code for TorchScript can name no constant.
SLOPE = 0.2
# The whole number that stands for zero: what LeakyReLU leaves of the negative ones is a fifth, or 42 of 255. Before it
# (in the first block, which is pooled first) they take more.
ZERO, FIRST_ZERO = 42, 100
# Of the range that the first pass shows; what lies outside is cut. Little hangs on it: two pairs of brains, Dice .8008
# with 0.9, .8003 with 1.3, .8004 in float32. A channel that is idle in the first pass still has this part of the
# widest one's range.
RANGE_PART, LEAST_PART = 1.0, 0.05
# Values of float32 that a convolution has in flight: they stay in the processor's cache.
SLAB_VALUES = 1_000_000
# The integers are tried on the middle of the first pair, so many voxels a side. There the flow differs from that in
# float32 by .04 to .3 of the whole flow's length (root mean square; brains, an abdomen, prostates), and over the whole
# images by .05 to .07; where it differs by more than this, float32 stays.
TRIED_VOXELS, LARGEST_DIFFERENCE = 32, 0.5

Range = tuple[torch.Tensor, torch.Tensor]


def can_be_quantised(network: nn.Module) -> TypeGuard[Symmetric]:
    """Whether it is one of the networks that are computed so: symmetric, 3D, of half resolution."""
    if not isinstance(network, Symmetric):
        return False
    unet = network.network
    return unet.dimension == 3 and unet.half_resolution and len(unet.down) > 1 and len(unet.final) > 0


class Quantised(nn.Module):
    """A Symmetric network for one registration, with its inputs and outputs, on the CPU.

    The first call is in float32 and tells the ranges; the further ones are of integers, unless the trial fails. Both
    directions have the same ranges, so that exchanging the images still turns the flow round.
    """

    def __init__(self, whole: Symmetric) -> None:
        super().__init__()
        self.whole = whole
        # Whether a pass was of integers.
        self.used = False
        self._first = True
        self._layers: _Layers | None = None

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        if self._layers is not None:
            self.used = True
            return _flow(self.whole.network, *self._layers.first(moving, fixed), self._layers)
        if not self._first:
            return self.whole(moving, fixed)
        self._first = False
        unet = self.whole.network
        watched = _Watched(unet)
        flow = _flow(unet, watched.first(moving, fixed), watched.first(fixed, moving), watched)
        self._layers = self._tried(watched.ranges, flow, moving, fixed)
        return flow

    def _tried(self, ranges: dict[str, Range], whole: torch.Tensor, *images: torch.Tensor) -> _Layers | None:
        """The layers in integers, or None where they do not give what those in float32 give. whole: their flow."""
        starts = [max(0, (size - TRIED_VOXELS) // 2) for size in images[0].shape[2:]]
        k, j, i = (slice(start, start + TRIED_VOXELS) for start in starts)
        parts = [image[:, :, k, j, i] for image in images]
        try:
            layers = _Layers(self.whole.network, ranges)
            flow = _flow(self.whole.network, *layers.first(*parts), layers)
        except (RuntimeError, TypeError):
            # A PyTorch whose function is another one.
            return None
        wanted = self.whole(*parts)
        # In the middle alone there may be next to no flow.
        length = max(_length(wanted), _length(whole))
        return layers if _length(flow - wanted) <= LARGEST_DIFFERENCE * length else None


def _length(flow: torch.Tensor) -> float:
    return float(flow.square().mean().sqrt())


class _Blocks(Protocol):
    """The blocks of a network by their names ("down.1", "up.0", "final.0"), on features as they are kept here."""

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor: ...

    def joined(self, name: str, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor: ...

    def pooled(self, x: torch.Tensor) -> torch.Tensor: ...


def _features(unet: UNet, x: torch.Tensor, blocks: _Blocks) -> torch.Tensor:
    """UNet.features from its first block's output on."""
    skips = []
    for level in range(1, len(unet.down)):
        x = blocks.block(f"down.{level}", x)
        skips.append(x)
        x = blocks.pooled(x)
    for level in range(len(unet.up)):
        name = f"up.{level}"
        x = blocks.joined(name, x, skips.pop()) if level else blocks.block(name, x)
    for level in range(len(unet.final)):
        x = blocks.block(f"final.{level}", x)
    return x


def _flow(unet: UNet, there: torch.Tensor, back: torch.Tensor, blocks: _Blocks) -> torch.Tensor:
    """Symmetric.forward from the first block's output of both directions on."""
    difference = _features(unet, there, blocks)
    difference -= _features(unet, back, blocks)
    return 0.5 * unet.flow_of(difference, False)


class _Watched:
    """The blocks in float32, and the ranges of their channels."""

    def __init__(self, unet: UNet) -> None:
        self.ranges: dict[str, Range] = {}
        self._unet = unet
        self._blocks: dict[str, ConvBlock] = _named(unet)

    def first(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        conv = self._unet.down[0].conv
        images = torch.cat([moving, fixed], 1)
        return self._seen("down.0", self._unet._first_level(images, conv.weight, conv.bias))

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self._seen(name, self._blocks[name](x))

    def joined(self, name: str, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self._seen(name, self._blocks[name].joined(x, skip))

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return self._unet._pooled(x)

    def _seen(self, name: str, x: torch.Tensor) -> torch.Tensor:
        values = x.movedim(1, -1).reshape(-1, x.shape[1])
        high, low = values.amax(0), values.amin(0)
        before = self.ranges.get(name, (high, low))
        self.ranges[name] = torch.maximum(high, before[0]), torch.minimum(low, before[1])
        return x


def _named(unet: UNet) -> dict[str, ConvBlock]:
    parts = {"down": unet.down, "up": unet.up, "final": unet.final}
    return {f"{part}.{level}": block for part, blocks in parts.items() for level, block in enumerate(blocks)}


def _step(span: Range, zero: int, low_part: float = 1.0) -> torch.Tensor:
    """The step of each channel. low_part: what the lowest value is to be multiplied by."""
    high, low = span
    step = RANGE_PART * torch.maximum(high / (255 - zero), -low_part * low / zero)
    return step.clamp_min(max(LEAST_PART * float(step.max()), 1e-12))


@dataclass
class _Convolution:
    """A 3x3x3 convolution of integers, its rows of zeros along the first axis left to the caller.

    zero: what stands for zero in the input. The result is in steps of the output.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    step_out: torch.Tensor
    zero: int = ZERO
    step_in: float = 1.0
    outputs: int = field(init=False)

    def __post_init__(self) -> None:
        self.outputs = len(self.weight)
        step = self.weight.abs().amax((1, 2, 3, 4)).clamp_min(1e-12) / 127
        whole = (self.weight / step.view(-1, 1, 1, 1, 1)).round().to(torch.int8)
        whole = whole.contiguous(memory_format=torch.channels_last_3d)
        self._step, self._zeros = step / self.step_out, torch.zeros(self.outputs, dtype=torch.int)
        self._bias = self.bias / self.step_out
        self._packed = torch.ops.onednn.qconv_prepack(whole, self._step, self.step_in, self.zero, *self._placed(), None)

    @staticmethod
    def _placed() -> tuple[list[int], list[int], list[int], int]:
        """Stride, padding, dilation and groups."""
        return [1, 1, 1], [0, 1, 1], [1, 1, 1], 1

    def __call__(self, x: torch.Tensor, zero_out: int | None = None) -> torch.Tensor:
        """Float32, or integers with this one for zero."""
        dtype = torch.float32 if zero_out is None else torch.uint8
        return torch.ops.onednn.qconv3d_pointwise(
            *(x, self.step_in, self.zero, self._packed, self._step, self._zeros, self._bias),
            *self._placed(),
            *(1.0, zero_out or 0, dtype, "none", [], ""),
        )


class _Layers:
    """The blocks of integers. Features are (1, C, K, J, I) uint8, channels last; those of the last block float32."""

    def __init__(self, unet: UNet, ranges: dict[str, Range]) -> None:
        steps = {name: _step(span, ZERO) for name, span in ranges.items()}
        self._last = f"final.{len(unet.final) - 1}"
        steps[self._last] = torch.ones_like(steps[self._last])
        blocks = _named(unet)
        sources = {"down.0": [], "up.0": [f"down.{len(unet.down) - 1}"], "final.0": [f"up.{len(unet.up) - 1}"]}
        for name in blocks:
            part, level = name.split(".")
            sources.setdefault(name, [f"{part}.{int(level) - 1}"])
            if part == "up" and level != "0":
                sources[name].append(f"down.{len(unet.down) - int(level)}")
        self._convolutions = {}
        for name, block in blocks.items():
            if name != "down.0":
                step_in = torch.cat([steps[source] for source in sources[name]])
                conv = block.conv
                self._convolutions[name] = _Convolution(
                    conv.weight * step_in.view(1, -1, 1, 1, 1), _bias_of(conv), steps[name]
                )
        # Both directions at once: the images as they are, and exchanged.
        conv = unet.down[0].conv
        step = torch.cat([_step(ranges["down.0"], FIRST_ZERO, 1 / SLOPE)] * 2)
        weight = torch.cat([conv.weight, conv.weight.flip(1)])
        self._both = _Convolution(weight, torch.cat([_bias_of(conv)] * 2), step, 0, 1 / 255)
        self._rescaled = (step / torch.cat([steps["down.0"]] * 2)).view(1, -1, 1, 1, 1)

    def first(self, moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first block and pooling of (moving, fixed) and of (fixed, moving), images in [0, 1]."""
        images = torch.cat([moving, fixed], 1).mul(255)
        shape = images.shape[2:]
        values = F.pad(_whole(images, 0), [0, 0, 0, 0, 1, 1]).contiguous(memory_format=torch.channels_last_3d)
        count = self._both.outputs // 2
        halved = [(size + 1) // 2 for size in shape]
        out = [_empty(count, halved, torch.uint8) for _ in range(2)]
        for start, stop in _slabs(shape, 2 * count, 2):
            part = self.pooled(self._both(values[:, :, start : stop + 2], FIRST_ZERO))
            steps = part.to(torch.float32).sub_(FIRST_ZERO)
            part = _whole(F.leaky_relu_(steps, SLOPE).mul_(self._rescaled), ZERO)
            for one, half in zip(out, part.split(count, 1), strict=True):
                one[:, :, start // 2 : (stop + 1) // 2] = half
        return out[0], out[1]

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self._convolved(name, list(x.shape[2:]), lambda low, high: x[:, :, low:high])

    def joined(self, name: str, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        shape = list(skip.shape[2:])
        # Where the skip lacks a voxel, the network puts a zero and reads what is upsampled beside it.
        sides = [side for axis in (4, 3) for side in (0, 2 * x.shape[axis] - skip.shape[axis])]

        def rows(low: int, high: int) -> torch.Tensor:
            begin = low // 2
            larger = F.interpolate(x[:, :, begin : (high + 1) // 2], scale_factor=2.0)
            larger = larger[:, :, low - 2 * begin : high - 2 * begin]
            near = F.pad(skip[:, :, low:high], [*sides, 0, max(0, high - shape[0])], value=ZERO)
            return torch.cat([larger, near], 1)

        return self._convolved(name, shape, rows, 2 * x.shape[2])

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        values = x.movedim(1, -1)
        for axis in (1, 2, 3):
            size = values.shape[axis]
            if size % 2:
                values = torch.cat([values, values.narrow(axis, size - 1, 1)], axis)
            halves = values.unflatten(axis, (-1, 2))
            values = torch.maximum(halves.select(axis + 1, 0), halves.select(axis + 1, 1))
        return values.movedim(-1, 1)

    def _convolved(
        self, name: str, shape: list[int], rows: Callable[[int, int], torch.Tensor], planes: int | None = None
    ) -> torch.Tensor:
        """A block, slab by slab, cut to `shape`. rows(low, high): the planes of its input from low on, before high.

        planes: how many there are, those of `shape` when None.
        """
        planes = planes or shape[0]
        convolution, last = self._convolutions[name], name == self._last
        out = _empty(convolution.outputs, shape, torch.float32 if last else torch.uint8)
        for start, stop in _slabs(shape, convolution.outputs):
            part = rows(max(start - 1, 0), min(stop + 1, planes))
            if start == 0 or stop == planes:
                part = F.pad(part, [0, 0, 0, 0, int(start == 0), int(stop == planes)], value=ZERO)
            values = F.leaky_relu_(convolution(part)[..., : shape[1], : shape[2]], SLOPE)
            out[:, :, start:stop] = values if last else _whole(values, ZERO)
        return out


def _bias_of(conv: nn.Module) -> torch.Tensor:
    bias = conv.bias
    assert isinstance(bias, torch.Tensor), "the blocks of a U-Net have one"
    return bias


def _whole(values: torch.Tensor, zero: int) -> torch.Tensor:
    """Values in steps, which are overwritten, as the nearest whole numbers from 0 to 255."""
    return values.add_(zero + 0.5).clamp_(0, 255).to(torch.uint8)


def _empty(channels: int, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((1, channels, *shape), dtype=dtype, memory_format=torch.channels_last_3d)


def _slabs(shape: list[int] | torch.Size, channels: int, multiple: int = 1) -> list[tuple[int, int]]:
    """First and last row (left out) of slabs of about SLAB_VALUES values, but for the last a multiple of `multiple`."""
    rows = multiple * max(1, SLAB_VALUES // (multiple * shape[1] * shape[2] * channels))
    return [(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]
