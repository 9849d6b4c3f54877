"""Whether this computer's convolutions in bfloat16 can be trained with: asked before the first step.

A kernel that reads memory which nobody wrote gives other gradients from run to run, and sooner or later one that is
not finite; such faults belong to one kind of processor and one version of PyTorch. So nothing is believed: the network
to be trained goes forth and back on a few sizes that it will meet, twice each, while freed memory is filled with NaN in
between, and is compared with itself and with float32.
"""

from __future__ import annotations

import torch

from ..networks.unet import UNet

# Of the whole gradient, as a part of its length in float32: rounding gave .003 to .076 in 50
# gradients of ten new networks (4 to 32 features, 2D and 3D); garbage gives anything.
FARTHEST = 0.25
# Numbers of freed blocks, and how many of each: what the next tensors of these sizes are made of.
_POISONED = ((2**10, 32), (2**13, 32), (2**16, 16), (2**19, 8), (2**21, 2))
# A grid is tried up to so many voxels along an axis at the bottom of the network. On a processor with AVX512-BF16 and
# without AMX, PyTorch 2.13 wrote only a part of some gradients in 3D wherever there were one or two; none of ten grids
# with three to five was wrong.
_LARGEST = {2: 5, 3: 3}


def bfloat16_fault(
    network: UNet, device: torch.device, largest: tuple[int, ...], smallest: tuple[int, ...] = ()
) -> str | None:
    """What keeps `network` from being trained in bfloat16 on `device`, as a part of a sentence; None: nothing does.

    largest, smallest: of the grids of the steps, (K, J, I) or (J, I) in voxels; without `smallest` all have `largest`.
    Takes about a second. The weights and the state of the random generators stay as they are.
    """
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no instructions for it, and would take a hundred times as long"
    generator = torch.Generator().manual_seed(0)
    parameters = dict(network.named_parameters())
    kept = {name: weight.detach().clone() for name, weight in parameters.items()}
    with torch.no_grad():
        # A new network's flow is next to zero, and so would be the gradients of all that comes before it.
        network.flow.weight.copy_(0.05 * torch.randn(network.flow.weight.shape, generator=generator))
    try:
        for shape in _tried(network, largest, smallest or largest):
            images = [torch.rand((1, 1, *shape), generator=generator).to(device) for _ in range(2)]
            reference = _gradients(network, images, reduced=False)
            rounds = [_gradients(network, images, reduced=True) for _ in range(2)]
            for name in reference:
                first, second = (gradients[name] for gradients in rounds)
                if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
                    return f"the gradient of '{name}' is not finite"
                # A GPU adds up in any order.
                if device.type == "cpu" and not torch.equal(first, second):
                    return f"the gradient of '{name}' differs from one run to the next"
            if distance(reference, rounds[0]) > FARTHEST:
                return "the gradient is far from that in float32"
    finally:
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.copy_(kept[name])
    return None


def _tried(network: UNet, *corners: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The grids of `corners`, the largest and the smallest of a training, as far as that is tried."""
    most = network.stride * _LARGEST[network.dimension]
    return sorted({tuple(min(size, most) for size in corner) for corner in corners})


def _gradients(network: UNet, images: list[torch.Tensor], reduced: bool) -> dict[str, torch.Tensor]:
    """The gradient of the mean square of the flow in each parameter, float32."""
    parameters = dict(network.named_parameters())
    dimension = network.dimension
    layout = torch.channels_last_3d if dimension == 3 else torch.channels_last
    device = images[0].device
    seen = torch.cat(images[: network.inputs], 1).to(memory_format=layout)
    _poison(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
        flow = network.flow_of(network.features_of(seen))
    loss = flow.float().square().mean()
    _poison(device)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return {name: gradient.float() for name, gradient in zip(parameters, gradients, strict=True)}


def distance(reference: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """|other - reference| / |reference| of two gradients, over all parameters."""
    squares = [float((other[name] - exact).square().sum()) for name, exact in reference.items()]
    return (sum(squares) / max(1e-30, sum(float(exact.square().sum()) for exact in reference.values()))) ** 0.5


def _poison(device: torch.device) -> None:
    """Leave NaN in memory that is free."""
    blocks = [torch.full((count,), float("nan"), device=device) for count, many in _POISONED for _ in range(many)]
    del blocks
