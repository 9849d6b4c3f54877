"""Our own networks from their files by their numbers alone: no code of the file runs, and TorchScript is not needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from .archive import Archive
from .card import ModelCard
from .pickled import Object, Tensor, modules_of, read_pickle

if TYPE_CHECKING:
    import torch

_OURS = "__torch__.VoxelMorphRegistrationLib."
# Its networks, and what the names of a U-Net's weights begin with in each.
_PREFIXES = {"UNet": "", "Symmetric": "network.", "KeypointNetwork": "unet."}
_DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4"}


def read_weights(archive: Archive) -> tuple[str, dict[str, np.ndarray]]:
    """The class of a TorchScript file's network and its parameters, by their names in a state dict.

    Tensors of other kinds than numbers that numpy knows are left out. Raises ModelError.
    """
    root = read_pickle(archive.read("data.pkl"), f"data.pkl of {archive.path.name}").value
    if not isinstance(root, Object):
        raise ModelError(f"{archive.path.name} holds no network.")
    values = modules_of(root)
    weights = {
        name: _array(archive, item)
        for name, item in values.items()
        if isinstance(item, Tensor) and item.kind in _DTYPES
    }
    return root.kind, weights


def _array(archive: Archive, tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor as a contiguous array of its own."""
    content = archive.read(f"data/{tensor.key}")
    if len(content) % np.dtype(_DTYPES[tensor.kind]).itemsize:
        raise ModelError(f"{archive.path.name} is damaged: data/{tensor.key} is cut short.")
    data = np.frombuffer(content, _DTYPES[tensor.kind])
    if 0 in tensor.shape:
        return np.empty(tensor.shape, data.dtype)
    if data.size < tensor.count or math.prod(tensor.shape) > data.size:
        raise ModelError(f"{archive.path.name} is damaged: a tensor is larger than its numbers.")
    steps = [step * data.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, steps, writeable=False).copy()


def plain_network(archive: Archive, card: ModelCard) -> torch.nn.Module | None:
    """The network of our own with the file's weights, or None where the file holds another network.

    Raises ModelError when the weights are not finite.
    """
    facts = card.architecture
    encoder, decoder = facts.get("encoder"), facts.get("decoder")
    if not encoder or not decoder or len(decoder) < len(encoder):
        return None
    kind, weights = read_weights(archive)
    name = kind.rpartition(".")[2]
    if not kind.startswith(_OURS) or name not in _PREFIXES:
        return None
    prefix = _PREFIXES[name]
    blocks = [f"down.{n}" for n in range(len(encoder))]
    blocks += [f"up.{n}" for n in range(len(encoder))] + [f"final.{n}" for n in range(len(decoder) - len(encoder))]
    # Before anything of these sizes is made: a card may name any.
    if any(
        weights.get(f"{prefix}{block}.conv.bias", np.empty(0)).shape != (features,)
        for block, features in zip(blocks, [*encoder, *decoder], strict=True)
    ):
        return None
    import torch

    from .heatmaps import KeypointNetwork
    from .symmetric import Symmetric
    from .unet import UNet

    layout = card.dimension, encoder, decoder, bool(facts.get("half_resolution", False))
    network: torch.nn.Module
    if name == "KeypointNetwork":
        sizes = [int(facts.get(key, 0)) for key in ("count", "positions", "features")]
        if min(sizes) < 1 or sizes[1] % 2 == 0 or weights.get("unet.flow.bias", np.empty(0)).shape != (sizes[2],):
            return None
        network = KeypointNetwork(*layout, *sizes)
    else:
        network = Symmetric(UNet(*layout)) if name == "Symmetric" else UNet(*layout)
    expected = network.state_dict()
    if {key: tuple(value.shape) for key, value in expected.items()} != {k: w.shape for k, w in weights.items()}:
        return None
    if any(weight.dtype != np.float32 for weight in weights.values()):
        return None
    if not all(np.isfinite(weight).all() for weight in weights.values()):
        raise ModelError(f"{archive.path.name} holds weights that are no finite numbers.")
    network.load_state_dict({key: torch.from_numpy(weight) for key, weight in weights.items()}, assign=True)
    return network.eval().requires_grad_(False)
