"""Models from elsewhere: published Keras weights, and TorchScript networks with their facts beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from .archive import Archive
from .card import ModelCard
from .exported import is_exported
from .facts import is_whole
from .model import Model, check_model, exported_network, scripted_network

if TYPE_CHECKING:
    import torch


def import_keras(path: str | Path, name: str | None = None) -> tuple[torch.nn.Module, ModelCard]:
    """The published VoxelMorph Keras weights (.h5) as our U-Net and its card. Needs h5py.

    Keras kernels are (x, y, z, in, out) over nibabel arrays (i, j, k); ours are (out, in, k, j, i), and the flow's
    channels turn round with the axes. The weights were trained on 1 mm brains in LIA orientation whose white matter
    lies at FreeSurfer's 110 of 255. Raises ModelError when the file is something else.
    """
    import numpy as np
    import torch

    from .keras import read_layers
    from .unet import UNet

    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113 - never raises
        raise ModelError(f"There is no file {path}.")
    config, kernels, biases = read_layers(path)
    levels = sum(layer.startswith("enc_conv_") for layer in kernels)
    finals = sum(layer.startswith("dec_final_conv_") for layer in kernels)
    names = [f"enc_conv_{n}_0" for n in range(levels)] + [f"dec_conv_{n}_0" for n in reversed(range(levels))]
    names += [f"dec_final_conv_{n}" for n in range(finals)] + ["flow"]
    if levels == 0 or set(names) != set(kernels) or set(names) != set(biases):
        raise ModelError(f"{path.name} holds a Keras network of another layout than VoxelMorph's U-Net (VxmDense).")
    dimension = kernels["flow"].shape[-1]
    if dimension not in (2, 3) or any(kernel.ndim != dimension + 2 for kernel in kernels.values()):
        raise ModelError(f"{path.name} holds a network of {dimension} dimensions; 2 or 3 can be imported.")
    half, steps, downsize = (
        config.get("unet_half_res", False),
        config.get("int_steps", 7),
        config.get("int_downsize", 2),
    )
    if not isinstance(half, bool) or not is_whole(steps, 0, 20) or not is_whole(downsize, 1, 8):
        raise ModelError(f"{path.name} names settings of the network that are out of range; it is damaged.")
    if not half and steps > 0 and downsize != 1:
        raise ModelError(
            f"{path.name} resizes a full-resolution flow for integration, which this importer does not know. "
            "Only networks with unet_half_res, or with int_downsize 1, can be imported."
        )
    encoder = [kernels[f"enc_conv_{n}_0"].shape[-1] for n in range(levels)]
    decoder = [kernels[n].shape[-1] for n in names[levels:-1]]
    network = UNet(dimension, encoder, decoder, half_resolution=half)
    modules = [*network.down, *network.up, *network.final]
    convolutions = [module.conv for module in modules] + [network.flow]
    with torch.no_grad():
        for layer, conv in zip(names, convolutions, strict=True):
            kernel = np.transpose(kernels[layer], (dimension + 1, dimension, *range(dimension - 1, -1, -1)))
            bias = biases[layer]
            if layer == "flow":
                kernel, bias = kernel[::-1], bias[::-1]
            if tuple(kernel.shape) != tuple(conv.weight.shape) or bias.shape != tuple(conv.bias.shape):
                raise ModelError(f"{path.name}: layer {layer} is {kernel.shape}, not {tuple(conv.weight.shape)}.")
            conv.weight.copy_(torch.from_numpy(kernel.copy()))
            conv.bias.copy_(torch.from_numpy(bias.copy()))
    card = ModelCard(
        name=name or path.stem,
        description="Published VoxelMorph network, converted from its Keras weights",
        dimension=dimension,
        spacing_mm=(1.0,) * dimension,
        orientation="LIA" if dimension == 3 else None,
        stride=2**levels,
        output="velocity" if steps > 0 else "displacement",
        output_scale=2.0 if half else 1.0,
        # The Keras layers resize with the corner voxels aligned.
        flow_alignment="corners" if half else "centers",
        integration_steps=steps,
        normalization={"method": "white-matter", "target": KERAS_WHITE_MATTER},
        architecture={"encoder": encoder, "decoder": decoder, "half_resolution": half, "bfloat16": True},
        license="see the publisher of the weights",
        citation="Balakrishnan et al., IEEE TMI 2019; Dalca et al., MedIA 2019",
        training={"source": path.name},
        limits="Skull-stripped, bias-corrected brain images of the contrast that the weights were trained on (T1).",
    )
    return network, card


# FreeSurfer brings white matter to 110; the images were divided by 255.
KERAS_WHITE_MATTER = 110 / 255


def import_foreign(
    path: str | Path, facts: Mapping, name: str | None = None, *, trust: bool = False
) -> tuple[torch.nn.Module, ModelCard]:
    """A foreign network (TorchScript, torch.export) with facts from JSON as a network and card for `save_model`.

    A network that returns (moved, field) keeps doing so; the card says it. A traced network is locked to the shape
    it was traced with: `facts` must name it as "shape". Raises ModelError when network and facts disagree, and
    UntrustedModelError for a program with operators that networks do not need, unless it is trusted.
    """
    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113 - never raises
        raise ModelError(f"There is no file {path}.")
    card = ModelCard.from_dict({"name": name or path.stem, **facts}, f"the facts given for {path.name}")
    if name:
        card = replace(card, name=name)
    archive = Archive(path)
    network = (
        exported_network(archive, card, trust) if is_exported(archive) else scripted_network(archive, "cpu", trust)
    )
    check_model(Model(network, card, "cpu", path))
    return network, card
