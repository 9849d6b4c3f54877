"""A network that treats both images alike."""

from __future__ import annotations

import torch
from torch import nn

from .unet import UNet


class Symmetric(nn.Module):
    """v(m, f) = (g(m, f) - g(f, m)) / 2 for a velocity network g, with g's inputs and outputs.

    Exchanging the images turns the velocity round, so both directions are inverse to each other, and an image
    registered to itself stays where it is: an offset that g has learned cancels out (Hoffmann et al.,
    "Anatomy-aware and acquisition-agnostic joint registration with SynthMorph", Imaging Neuroscience 2024).
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        # One after the other, not as a batch: half the memory when registering.
        difference = self.network.features(moving, fixed).to(self.network.flow.weight.dtype)
        difference = difference - self.network.features(fixed, moving)
        # The last convolution is linear: once for both directions, and what it adds to each cancels out.
        return 0.5 * self.network.flow_of(difference, False)
