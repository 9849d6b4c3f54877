"""The numbers in a Keras file (.h5), read within limits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from .. import apart
from ..errors import ModelError
from .card import MOST_FACTS_BYTES

# The published networks have 12 layers and some 300,000 numbers.
MOST_LAYERS, MOST_NUMBERS = 200, 50_000_000


def read_layers(path: Path) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The configuration of a VxmDense network, its kernels and its biases, by the layers' short names.

    Nothing outside of the file is read, and that in a process of its own: libhdf5 may never come back from a damaged
    file. Needs h5py. Raises ModelError for another file, for numbers that lie in other files, and for numbers that are
    none.
    """
    (config, names), values = apart.call(read_here, path, ModelError)
    kernels: dict[str, np.ndarray] = {}
    biases: dict[str, np.ndarray] = {}
    for key, value in zip(names, values, strict=True):
        parts = key.split("/")
        if len(parts) < 2 or parts[-1] not in ("kernel:0", "bias:0"):
            raise ModelError(f"{path.name} holds a Keras network of another layout than VoxelMorph's U-Net (VxmDense).")
        layer = parts[-2].split("_unet_")[-1]
        layer = "flow" if layer.endswith("flow") else layer
        (kernels if parts[-1] == "kernel:0" else biases)[layer] = value
    return config, kernels, biases


def read_here(path: Path) -> tuple[tuple[dict, list[str]], list[np.ndarray]]:
    """The configuration, the arrays' names and the arrays, in this process. Raises ModelError."""
    try:
        import h5py
    except ImportError as error:
        raise ModelError("Reading Keras weights needs the package h5py: pip install h5py") from error
    wrong = f"{path.name} is no Keras file of a VoxelMorph network (VxmDense)."
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs["model_config"]
            text = text.decode() if isinstance(text, bytes) else text
            if not isinstance(text, str) or len(text) > MOST_FACTS_BYTES:
                raise ModelError(wrong)
            config = json.loads(text)["config"]
            if not isinstance(config, dict):
                raise ModelError(wrong)
            found: list[tuple[str, h5py.Dataset]] = []
            _collect(file["model_weights"], "", found, path)
            return (config, [name for name, _ in found]), [_numbers(item, path) for _, item in found]
    except ModelError:
        raise
    except Exception as error:
        # h5py raises whatever its library meets in a damaged file, of a dozen kinds.
        raise ModelError(wrong) from error


def _collect(group, prefix: str, found: list, path: Path, depth: int = 0) -> None:
    """The arrays in a group and below; links to other places and files are not followed."""
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ModelError(f"{path.name} refers to numbers in another place or file; only those inside are read.")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            found.append((f"{prefix}{name}", item))
        elif depth < 6:
            _collect(item, f"{prefix}{name}/", found, path, depth + 1)
        if len(found) > MOST_LAYERS or depth >= 6:
            raise ModelError(f"{path.name} holds a Keras network of another layout than VoxelMorph's U-Net (VxmDense).")


def _numbers(item, path: Path) -> np.ndarray:
    if item.external or item.is_virtual:
        raise ModelError(f"{path.name} refers to numbers in another place or file; only those inside are read.")
    if item.dtype.kind != "f" or not 1 <= item.ndim <= 5 or math.prod(item.shape) > MOST_NUMBERS:
        raise ModelError(f"{path.name} holds arrays that are no weights of a network.")
    value = np.array(item, np.float32)
    if not np.isfinite(value).all():
        raise ModelError(f"{path.name} holds weights that are no finite numbers.")
    return value
