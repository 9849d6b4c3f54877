"""The device, and its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DeviceError
from ..images.grid import Grid
from ..networks.model import Model, load_model
from .memory import available_memory, images_bytes, network_bytes

if TYPE_CHECKING:
    from .settings import Settings


def choose_device(name: str) -> str:
    """ "auto" to "cuda" where one is found, else "cpu"; raises DeviceError when the device asked for is missing."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "No CUDA device was found. Choose device 'auto' or 'cpu', or install a CUDA build of PyTorch."
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("No Apple GPU (mps) was found. Choose device 'auto' or 'cpu'.")
    return name


def with_memory(
    network: Model, grid: Grid, images: tuple[Grid, Grid], settings: Settings, warnings: list[str]
) -> Model:
    """The network on a device with enough memory. Raises DeviceError when not even the CPU has it.

    grid: the largest working grid. images: grids of the fixed and the moving image.
    """
    needed = network_bytes(network.card, grid.voxel_count)
    if network.device != "cpu":
        free = available_memory(network.device)
        if free is None or needed <= free:
            return network
        network = on_cpu(network, settings.precision, warnings)
    check_memory(needed + images_bytes(*images), f"The working grid of {'x'.join(map(str, grid.size))} voxels")
    return network


def check_memory(needed: int, what: str) -> None:
    free = available_memory("cpu")
    if free is not None and needed > free:
        raise DeviceError(
            f"{what} needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. "
            "Set a coarser working spacing, or crop the fixed image."
        )


def on_cpu(network: Model, precision: str, warnings: list[str]) -> Model:
    if network.path is None:
        raise DeviceError("The GPU has too little memory, and the model has no file to load it on the CPU from.")
    warnings.append("The GPU has too little memory for this pair; the network ran on the CPU.")
    return load_model(network.path, "cpu", precision, trust=network.trusted)
