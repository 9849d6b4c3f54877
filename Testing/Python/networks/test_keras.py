"""Keras files of strangers: nothing outside of them is read, and what is damaged ends in a sentence."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from model_cases import write_keras
from VoxelMorphRegistrationLib.errors import ModelError
from VoxelMorphRegistrationLib.networks.importers import import_keras

KERNEL = "model_weights/vxm_dense_flow/vxm_dense_flow/kernel:0"


def replaced(path, value=None, **how):
    """The file with another kernel of the flow."""
    write_keras(path)
    with h5py.File(path, "r+") as file:
        shape = file[KERNEL].shape
        del file[KERNEL]
        if value is not None:
            file[KERNEL] = value
        else:
            file.create_dataset(KERNEL, shape, "f4", **how)
    return path


def external(path):
    (path.parent / "secret.bin").write_bytes(bytes(10_000))
    return replaced(path, external=[(str(path.parent / "secret.bin"), 0, h5py.h5f.UNLIMITED)])


def virtual(path):
    replaced(path)
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["x"] = np.zeros((3, 3, 3, 4, 3), "f4")
    layout = h5py.VirtualLayout((3, 3, 3, 4, 3), "f4")
    layout[...] = h5py.VirtualSource(path.parent / "other.h5", "x", (3, 3, 3, 4, 3))
    with h5py.File(path, "r+") as file:
        del file[KERNEL]
        file.create_virtual_dataset(KERNEL, layout)
    return path


def linked(path):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["x"] = np.zeros((3, 3, 3, 4, 3), "f4")
    return replaced(path, h5py.ExternalLink("other.h5", "x"))


def configured(path, config):
    write_keras(path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = config
    return path


def settings(**values):
    return json.dumps({"config": {"unet_half_res": True, "int_steps": 7, "int_downsize": 2, **values}})


MADE = {
    "numbers in another file": (external, "in another place or file"),
    "an array put together from others": (virtual, "in another place or file"),
    "a link to another file": (linked, "in another place or file"),
    "a link that leads nowhere": (lambda p: replaced(p, h5py.SoftLink("/nowhere")), "in another place or file"),
    "NaN": (lambda p: replaced(p, np.full((3, 3, 3, 4, 3), np.nan, "f4")), "no finite numbers"),
    "texts": (lambda p: replaced(p, np.array([b"abc"])), "no weights of a network"),
    "whole numbers": (lambda p: replaced(p, np.zeros((3, 3, 3, 4, 3), "i4")), "no weights of a network"),
    "a number alone": (lambda p: replaced(p, np.float32(1)), "no weights of a network"),
    "far too many": (lambda p: (replaced(p), enlarge(p))[0], "no weights of a network"),
    "another shape": (lambda p: replaced(p, np.zeros((3, 3, 3, 5, 3), "f4")), "layer flow is"),
    "four dimensions": (lambda p: replaced(p, np.zeros((3, 3, 3, 4, 4), "f4")), "of 4 dimensions"),
    "no JSON": (lambda p: configured(p, "{"), "no Keras file of a VoxelMorph network"),
    "a list": (lambda p: configured(p, "[]"), "no Keras file of a VoxelMorph network"),
    "a number": (lambda p: configured(p, 3), "no Keras file of a VoxelMorph network"),
    "endless squarings": (lambda p: configured(p, settings(int_steps=10**9)), "out of range"),
    "steps in words": (lambda p: configured(p, settings(int_steps="many")), "out of range"),
}


def enlarge(path):
    with h5py.File(path, "r+") as file:
        del file[KERNEL]
        # Says it is large, and holds nothing.
        file.create_dataset(KERNEL, (10_000, 10_000, 10), "f4", chunks=(1000, 1000, 1))


@pytest.mark.parametrize("name", MADE)
def test_malformed_files_end_in_a_sentence(name, tmp_path, forked_readers):
    make, message = MADE[name]
    path = make(tmp_path / "weights.h5")
    with pytest.raises(ModelError, match=message):
        import_keras(path)


def test_a_layer_without_its_bias_is_another_layout(tmp_path):
    path = tmp_path / "weights.h5"
    write_keras(path)
    with h5py.File(path, "r+") as file:
        del file[KERNEL.replace("kernel", "bias")]
    with pytest.raises(ModelError, match="another layout"):
        import_keras(path)
