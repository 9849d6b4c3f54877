"""The network that a configuration trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..networks.heatmaps import KeypointNetwork
from ..networks.symmetric import Symmetric
from ..networks.unet import UNet

if TYPE_CHECKING:
    from .config import TrainingConfig


def network_of(config: TrainingConfig) -> UNet | KeypointNetwork:
    """The network of a configuration, untrained."""
    part, points = config.network, config.keypoints
    layout = config.dimension, part.encoder, part.decoder, part.half_resolution
    if part.kind == "keypoints":
        return KeypointNetwork(*layout, points.count, points.positions, points.features)
    return UNet(*layout)


def unet_of(network: UNet | KeypointNetwork) -> UNet:
    """The U-Net in it."""
    return network.unet if isinstance(network, KeypointNetwork) else network


def whole_of(config: TrainingConfig, network: UNet | KeypointNetwork) -> torch.nn.Module:
    """The network as it registers: both directions of a symmetric one."""
    symmetric = config.network.symmetric and isinstance(network, UNet)
    return Symmetric(network) if symmetric else network  # type: ignore[arg-type]


def layout_of(config: TrainingConfig) -> tuple:
    """What decides which weights a network has."""
    part = config.network
    features = config.keypoints.features if part.kind == "keypoints" else None
    return config.dimension, part.kind, part.encoder, part.decoder, part.half_resolution, features


def initialise(network: UNet) -> None:
    """Weights that keep the variance of the signal from layer to layer (He et al., ICCV 2015, eq. 15).

    PyTorch's own start lets it fade by about half a layer, and training then begins with thousands of idle steps.
    """
    for block in (*network.down, *network.up, *network.final):
        torch.nn.init.kaiming_normal_(block.conv.weight, a=0.2)
        torch.nn.init.zeros_(block.conv.bias)
