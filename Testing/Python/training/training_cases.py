"""A tiny training, and what its logs say."""

from __future__ import annotations

from VoxelMorphRegistrationLib.training.config import config_from_dict

TINY = """
name = "tiny"
shape = {shape}
steps = {steps}
seed = 3
log_every = 1
checkpoint_every = 3

[network]
encoder = [4, 4]
decoder = [4, 4, 4]
integration_steps = 3

[shapes]
labels = [3, 5]
coarsest = 8

[loss]
smoothness = 0.1
displacement = 0.1

[optimiser]
learning_rate = 1e-3
warm_steps = 2
decay_steps = 3

[validation]
pairs = 2
every = 4
"""


def write_config(folder, shape=(16, 16), steps=6, extra=""):
    path = folder / "tiny.toml"
    path.write_text(TINY.format(shape=list(shape), steps=steps) + extra, encoding="utf-8")
    return path


def tiny(**changes):
    values = {"name": "tiny", "shape": [16, 16], "steps": 6, "network": {"encoder": [4, 4], "decoder": [4, 4, 4]}}
    changes["network"] = values["network"] | changes.get("network", {})
    return config_from_dict(values | changes)
