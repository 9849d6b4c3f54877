"""Small networks, their cards, and files of other programs."""

import json

import h5py
import numpy as np
import torch

from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.unet import UNet

ENCODER, DECODER = (4, 6), (6, 6, 4)


def small_card(**changes):
    facts = dict(
        name="small",
        spacing_mm=(2.0, 2.0, 2.0),
        stride=4,
        architecture={"encoder": list(ENCODER), "decoder": list(DECODER), "half_resolution": True},
    )
    return ModelCard(**{**facts, **changes})


def small_network(dimension=3, seed=0):
    torch.manual_seed(seed)
    network = UNet(dimension, ENCODER, DECODER)
    torch.nn.init.normal_(network.flow.weight, std=0.05)
    return network.eval()


class MovedAndField(torch.nn.Module):
    """A foreign network over (i, j, k) tensors: moves by a fixed number of voxels along each of its axes."""

    def forward(self, source: torch.Tensor, target: torch.Tensor):
        field = torch.ones_like(source) * torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1, 1)
        return source + 0 * target, field


def write_keras(path, seed=0, **config):
    """A file with the layer names and shapes of the published VxmDense weights, small features, random numbers."""
    rng = np.random.default_rng(seed)
    sizes = {"enc_conv_0_0": (2, 3), "enc_conv_1_0": (3, 4), "dec_conv_1_0": (4, 5), "dec_conv_0_0": (9, 6)}
    sizes = {f"vxm_dense_unet_{name}": size for name, size in sizes.items()}
    sizes |= {"vxm_dense_unet_dec_final_conv_0": (6, 4), "vxm_dense_flow": (4, 3)}
    layers = {}
    with h5py.File(path, "w") as file:
        settings = {"unet_half_res": True, "int_steps": 7, "int_downsize": 2, **config}
        file.attrs["model_config"] = json.dumps({"class_name": "VxmDense", "config": settings})
        for name, (a, b) in sizes.items():
            layers[name] = rng.normal(0, 0.1, (3, 3, 3, a, b)).astype("f4"), rng.normal(0, 0.1, b).astype("f4")
            group = file.create_group(f"model_weights/{name}/{name}")
            group["kernel:0"], group["bias:0"] = layers[name]
    return {name.removeprefix("vxm_dense_").removeprefix("unet_"): value for name, value in layers.items()}
