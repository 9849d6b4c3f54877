"""From a training checkpoint to a model file with its card."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from ..errors import InputError
from ..networks.card import ModelCard
from ..networks.model import save_model
from .beginnings import final_weights, load_checkpoint
from .config import TrainingConfig, config_from_dict
from .networks import network_of, unet_of, whole_of
from .shapes import ShapeSource

METHODS = {
    "shapes": "SynthMorph's recipe (Hoffmann et al., IEEE TMI 2022) with the truth of the drawn warps added",
    "anatomy": "SynthMorph's recipe (Hoffmann et al., IEEE TMI 2022): images synthesised from label maps, soft Dice",
    "images": "VoxelMorph (Balakrishnan et al., IEEE TMI 2019)",
}
KEYPOINTS = "; keypoints after VoxelMorph++ (Heinrich and Hansen, WBIR 2022)"
# What robust_range does on average in training.
NORMALIZATION = {"method": "percentile", "low": 0.5, "high": 99.5}


def checkpoint_dimension(checkpoint: Path | str) -> int:
    """2 or 3, of the network in a checkpoint."""
    return config_from_dict(load_checkpoint(checkpoint)["config"]).dimension


def export_checkpoint(checkpoint: Path | str, output: Path | str, facts: dict | None = None) -> ModelCard:
    """Write the model file `output` from `checkpoint`; `facts` replace or, for `training`, extend those of the run."""
    facts = dict(facts or {})
    state = load_checkpoint(checkpoint)
    config = config_from_dict(state["config"])
    network = network_of(config)
    network.load_state_dict(final_weights(state))
    voxels = 1
    for size in config.shape:
        voxels *= size
    run = state.get("facts", {})
    training = {
        "data": run.get("data", ShapeSource.facts),
        "method": METHODS[config.source] + (KEYPOINTS if config.network.kind == "keypoints" else ""),
        "device": run.get("device", "not recorded"),
        "seed": config.seed,
        "steps": state["step"],
        "hours": round(state["seconds"] / 3600.0, 2),
        "config": config.to_dict(),
    }
    values = {
        "name": config.name,
        "dimension": config.dimension,
        "spacing_mm": run.get("spacing_mm"),
        "target_voxels": voxels,
        "stride": unet_of(network).stride,
        "returns": config.network.kind,
        "output": "velocity" if config.network.integration_steps else "displacement",
        "output_scale": 2.0 if config.network.half_resolution else 1.0,
        "flow_alignment": "centers",
        "integration_steps": config.network.integration_steps,
        "normalization": run.get("normalization", NORMALIZATION),
        "validation": run.get("validation", {}),
        "architecture": _architecture(config),
        "license": "Apache-2.0",
    }
    training |= facts.pop("training", {})
    card = ModelCard(**(values | facts | {"training": training}))
    save_model(whole_of(config, network), card, output)
    return card


def _architecture(config: TrainingConfig) -> dict:
    """What a network is built from."""
    part = config.network
    facts = {
        "encoder": list(part.encoder),
        "decoder": list(part.decoder),
        "half_resolution": part.half_resolution,
        "symmetric": part.symmetric,
        "bfloat16": True,
    }
    return facts | asdict(config.keypoints) if part.kind == "keypoints" else facts


def read_facts(path: Path | str) -> dict:
    """Card entries from the JSON file at `path`."""
    path = Path(path)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The facts {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"The facts {path} are no valid JSON: {error}.") from error
    known = {part.name for part in fields(ModelCard)}
    if not isinstance(facts, dict) or set(facts) - known:
        raise InputError(
            f"The facts {path} must be a JSON object with entries of a model card: {', '.join(sorted(known))}."
        )
    return facts
