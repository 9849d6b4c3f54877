"""What a training begins with: a checkpoint of one, or the weights of a finished model."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from ..errors import InputError, ModelError
from ..networks.archive import Archive
from ..networks.model import read_card
from ..networks.symmetric import Symmetric
from ..networks.weights import plain_network

CHECKPOINT_FORMAT = "voxelmorph-training-checkpoint-1"


def load_checkpoint(path: Path | str) -> dict:
    """The state saved by Trainer.save, on the CPU."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    try:
        with warnings.catch_warnings():
            # Of a model file, which the error below tells of in words.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets in a foreign file
        raise InputError(f"{path} is no training checkpoint, or it is damaged.") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path} is no training checkpoint of this program.")
    return state


def final_weights(state: dict) -> dict[str, torch.Tensor]:
    """What a training has come to: the running mean of its weights where it keeps one, else the weights."""
    mean = state.get("mean")
    return mean["weights"] if mean and mean["count"] else state["network"]


def is_model_file(path: Path | str) -> bool:
    """Whether the file is a model (TorchScript), and not a checkpoint. False for what is neither, or missing."""
    try:
        return Archive(Path(path)).is_program()
    except ModelError:
        return False


def model_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The parameters of the network in a model file that this trainer made, on the CPU. No code of the file runs.

    Raises InputError for another network, ModelError for a damaged file.
    """
    path = Path(path)
    network = plain_network(Archive(path), read_card(path))
    if network is None:
        raise InputError(f"{path.name} holds a foreign network; a training can begin with one of this trainer only.")
    return (network.network if isinstance(network, Symmetric) else network).state_dict()
