"""Configurations and checkpoints: what they hold, and what is refused."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
import torch

import VoxelMorphRegistrationLib
from training_cases import tiny, write_config
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.errors import InputError, OutputError, SettingsError
from VoxelMorphRegistrationLib.networks.shelf import models_folder
from VoxelMorphRegistrationLib.training.beginnings import load_checkpoint
from VoxelMorphRegistrationLib.training.config import config_from_dict, load_config
from VoxelMorphRegistrationLib.training.export import export_checkpoint
from VoxelMorphRegistrationLib.training.trainer import (
    CHECKPOINT_NAME,
    Trainer,
)


def test_training_starts_from_the_checkpoint_of_another_run(tmp_path):
    config = write_config(tmp_path)
    assert main(["train", str(config), "-o", str(tmp_path / "a"), "--minutes", "1e-9", "--device", "cpu"]) == 0
    start = tmp_path / "a" / CHECKPOINT_NAME
    assert main(["train", str(config), "-o", str(tmp_path / "b"), "--from", str(start), "--device", "cpu"]) == 0
    assert load_checkpoint(tmp_path / "b" / CHECKPOINT_NAME)["step"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [16]}, "2 or 3 sizes"),
        ({"smallest": [32, 16]}, "none larger"),
        ({"smallest": [16]}, "must have 2 sizes"),
        ({"shape": [16, 18]}, "multiples of 4"),
        ({"steps": 0}, "must be positive"),
        ({"steps": "many"}, "must be of type int"),
        ({"colour": 1}, "Unknown training setting 'colour'"),
        ({"loss": {"smoothnes": 1.0}}, "Unknown training setting 'loss.smoothnes'"),
        ({"loss": {"smoothness": -1.0}}, "must not be negative"),
        ({"loss": 3}, "must be a section"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"loss": {"similarity": "mi"}}, "loss.similarity must be one of"),
        ({"source": "web"}, "source must be one of"),
        ({"batch": 0}, "must be positive"),
        ({"anatomy": {"planes": ["oblique"]}}, "anatomy.planes"),
        ({"anatomy": {"tissues": [[1], [2]], "typical": [0.5]}}, "anatomy.typical"),
        ({"anatomy": {"same": 1.5}}, "anatomy.same"),
        ({"network": {"symmetric": 1}}, "must be of type bool"),
        ({"seed": True}, "must be of type int"),
        ({"network": {"encoder": [4, 4], "decoder": [4]}}, "decoder needs at least"),
        ({"shapes": {"blur": [1.0]}}, "must be a list"),
        ({"shapes": {"blur": [2.0, 1.0]}}, "range"),
        ({"shapes": {"coarsest": 12}}, "power of two"),
        ({"optimiser": {"learning_rate": 0.0}}, "must be positive"),
        ({"network": {"kind": "points"}}, "network.kind must be one of flow, keypoints"),
        ({"network": {"kind": "keypoints"}}, "needs network.integration_steps = 0"),
        ({"loss": {"heatmap": 1.0}}, "loss.heatmap is for networks"),
        ({"keypoints": {"count": 0}}, "keypoints.count must be from 1"),
        ({"keypoints": {"positions": 10}}, "must be an odd number"),
        ({"keypoints": {"features": 0}}, "keypoints.features must be from 1"),
    ],
)
def test_a_wrong_setting_is_named(changes, message):
    with pytest.raises(SettingsError, match=message):
        tiny(**changes)


def test_a_missing_setting_is_named():
    with pytest.raises(SettingsError, match="needs shape, steps"):
        config_from_dict({"name": "x"})


def test_a_configuration_survives_the_checkpoint():
    config = tiny(shapes={"blur": [0.5, 1]})
    assert config_from_dict(config.to_dict()) == config


def test_unreadable_configurations_and_checkpoints_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("shape = [", encoding="utf-8")
    with pytest.raises(InputError, match="no valid TOML"):
        load_config(broken)
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="no training checkpoint"):
        load_checkpoint(broken)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="no training checkpoint of this program"):
        load_checkpoint(tmp_path / "other.ckpt")


def test_another_network_than_the_checkpoints_is_refused(tmp_path):
    trainer = Trainer(tiny(), tmp_path)
    trainer.save(tmp_path / CHECKPOINT_NAME)
    other = tiny(network={"encoder": [4, 4], "decoder": [4, 4, 8]})
    with pytest.raises(InputError, match="another network"):
        Trainer.resume(tmp_path / CHECKPOINT_NAME, tmp_path, config=other)


def test_a_checkpoint_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    trainer = Trainer(tiny(), tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        trainer.save(tmp_path / "missing" / CHECKPOINT_NAME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(models_folder().glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_training_configurations_are_valid(path):
    config = load_config(path)
    assert config.name == path.stem
    assert config.dimension == int(path.stem[-2])


def test_the_documentation_names_every_training_setting():
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    pending = [tiny()]
    while pending:
        section = pending.pop()
        for part in dataclasses.fields(section):
            value = getattr(section, part.name)
            if dataclasses.is_dataclass(value):
                pending.append(value)
            else:
                assert f"`{part.name}`" in text, part.name


def test_an_exported_model_tells_no_paths_of_the_computer_that_made_it(tmp_path):
    trainer = Trainer(tiny(), tmp_path)
    trainer.save(tmp_path / CHECKPOINT_NAME)
    export_checkpoint(tmp_path / CHECKPOINT_NAME, tmp_path / "model.pt")
    library = str(Path(VoxelMorphRegistrationLib.__file__).parent.parent).encode()
    for name in (CHECKPOINT_NAME, "model.pt"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert not [record for record in archive.namelist() if library in archive.read(record)]
