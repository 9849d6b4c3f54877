"""The running mean of the weights: what it is, and that validation, export and going on take it."""

from __future__ import annotations

import pytest
import torch

from training_cases import tiny
from VoxelMorphRegistrationLib.errors import SettingsError
from VoxelMorphRegistrationLib.networks.model import load_model
from VoxelMorphRegistrationLib.training.averaging import RunningMean
from VoxelMorphRegistrationLib.training.beginnings import final_weights, load_checkpoint, model_weights
from VoxelMorphRegistrationLib.training.export import export_checkpoint
from VoxelMorphRegistrationLib.training.trainer import CHECKPOINT_NAME, Trainer

AVERAGED = {"optimiser": {"average_steps": 3, "warm_steps": 0}}


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_steps_have_a_plain_mean_and_later_ones_fade():
    layer = torch.nn.Linear(1, 1, bias=False)
    mean = RunningMean(layer, 2)
    found = []
    for value in (3.0, 5.0, 7.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        mean.add()
        found.append(float(mean.weights["weight"]))
    assert found == pytest.approx([3.0, 4.0, 5.5])
    assert float(layer.weight.detach()) == 7.0


def test_validation_and_export_take_the_mean_and_the_training_goes_on_with_its_own_weights(tmp_path):
    trainer = Trainer(tiny(steps=8, **AVERAGED), tmp_path)
    for _ in range(5):
        trainer.train_step()
    last, seen = weights_of(trainer), []
    predict = trainer.predict
    trainer.predict = lambda *args: seen.append(weights_of(trainer)) or predict(*args)
    trainer.validate()
    assert equal(seen[0], trainer.mean.weights)
    assert not equal(seen[0], last)
    assert equal(weights_of(trainer), last)
    trainer.save(tmp_path / CHECKPOINT_NAME)
    export_checkpoint(tmp_path / CHECKPOINT_NAME, tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt").card.training["steps"] == 5
    assert equal(model_weights(tmp_path / "model.pt"), trainer.mean.weights)
    begun = Trainer(tiny(), tmp_path / "b")
    begun.start_from(tmp_path / CHECKPOINT_NAME)
    assert equal(weights_of(begun), trainer.mean.weights)


def test_a_run_that_goes_on_has_the_same_mean_as_one_in_one_go(tmp_path):
    config = tiny(steps=8, **AVERAGED)
    whole, first = Trainer(config, tmp_path / "a"), Trainer(config, tmp_path / "b")
    for _ in range(3):
        first.train_step()
    first.save(tmp_path / CHECKPOINT_NAME)
    second = Trainer.resume(tmp_path / CHECKPOINT_NAME, tmp_path / "b")
    for _ in range(6):
        whole.train_step()
    for _ in range(3):
        second.train_step()
    assert equal(whole.mean.weights, second.mean.weights)
    assert equal(weights_of(whole), weights_of(second))


def test_a_checkpoint_without_a_mean_goes_on_and_begins_one(tmp_path):
    trainer = Trainer(tiny(), tmp_path)
    trainer.train_step()
    trainer.save(tmp_path / CHECKPOINT_NAME)
    state = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert equal(final_weights(state), weights_of(trainer))
    del state["mean"]  # as checkpoints were before
    torch.save(state, tmp_path / CHECKPOINT_NAME)
    gone_on = Trainer.resume(tmp_path / CHECKPOINT_NAME, tmp_path, config=tiny(**AVERAGED))
    gone_on.train_step()
    assert gone_on.mean.count == 1
    assert equal(gone_on.mean.weights, weights_of(gone_on))


def test_a_negative_length_is_refused():
    with pytest.raises(SettingsError, match="average_steps must not be negative"):
        tiny(optimiser={"average_steps": -1})
