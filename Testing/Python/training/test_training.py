"""The trainer: random shapes, configuration, exact resume, export."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import VoxelMorphRegistrationLib
from training_cases import tiny, write_config
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.images.sampling import integrate, voxel_positions, warp
from VoxelMorphRegistrationLib.networks.model import load_model, read_card
from VoxelMorphRegistrationLib.training.beginnings import load_checkpoint
from VoxelMorphRegistrationLib.training.config import load_config
from VoxelMorphRegistrationLib.training.export import export_checkpoint
from VoxelMorphRegistrationLib.training.losses import soft_dice
from VoxelMorphRegistrationLib.training.pairs import TRAINING_STREAM, VALIDATION_STREAM, StepSizes
from VoxelMorphRegistrationLib.training.shapes import random_pair
from VoxelMorphRegistrationLib.training.trainer import (
    CHECKPOINT_NAME,
    Trainer,
    folded_part,
    learning_rate,
)


def quiet(_line):
    pass


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("dims", [2, 3])
def test_folded_part_is_the_share_of_voxels_that_a_displacement_turns_over(dims):
    """One of two samples mirrors the last axis, the other moves by a linear field that keeps its sense."""
    zero = torch.zeros((2, dims, *[6] * dims))
    positions = voxel_positions(zero[:1]).flip(-1)
    keeping, mirroring = 0.2 * torch.ones((dims, dims)), torch.zeros((dims, dims))
    mirroring[-1, -1] = -1.5
    fields = [torch.einsum("ab,n...b->na...", matrix, positions) for matrix in (keeping, mirroring)]
    assert folded_part(torch.cat(fields)) == 0.5


@pytest.mark.parametrize(("shape", "passes"), [((16, 16), 1), ((16, 16, 16), 1), ((16, 16), 3)])
def test_resumed_training_gives_the_same_weights_and_logs_as_an_uninterrupted_run(tmp_path, shape, passes):
    config = dataclasses.replace(load_config(write_config(tmp_path, shape)), passes=passes)
    whole = Trainer(config, tmp_path / "whole")
    whole.run(report=quiet)

    interrupted = Trainer(config, tmp_path / "parts")
    interrupted.run(minutes=1e-9, report=quiet)
    assert interrupted.step == 1
    # Steps after the last checkpoint are lost in a crash, and so must be their log rows.
    interrupted._log_step(interrupted.train_step(), quiet)
    resumed = Trainer.resume(tmp_path / "parts" / CHECKPOINT_NAME, tmp_path / "parts")
    resumed.run(report=quiet)

    assert whole.step == resumed.step == 6
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(weights, resumed.network.state_dict()[name]), name
    for name in ("steps.csv", "validation.csv"):
        once, twice = (rows(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert [{**row, "seconds": 0} for row in once] == [{**row, "seconds": 0} for row in twice]


def test_training_lowers_the_loss_on_held_out_pairs(tmp_path):
    shapes = {"labels": [3, 4], "roughness": [2.0, 2.0], "related": 1.0, "displacement": [0.2, 0.5], "foreground": 1.0}
    config = tiny(
        steps=60,
        shape=[32, 32],
        shapes=shapes,
        network={"encoder": [16, 16], "decoder": [16, 16, 16]},
        loss={"smoothness": 0.1, "displacement": 0.5},
        optimiser={"learning_rate": 5e-3, "warm_steps": 5, "decay_steps": 20},
    )
    trainer = Trainer(config, tmp_path)
    while trainer.step < config.steps:
        trainer.train_step()
    result = trainer.validate()
    # By .09 and a fifth.
    assert result.dice_after > result.dice_before + 0.04
    assert result.error_after < 0.9 * result.error_before


@pytest.mark.parametrize("half_resolution", [True, False])
def test_a_later_pass_is_trained_on_what_the_passes_before_left(tmp_path, half_resolution):
    network = {"half_resolution": half_resolution}
    config = tiny(passes=2, shape=[32, 32], network=network, loss={"smoothness": 0.0, "displacement": 1.0})
    trainer = Trainer(config, tmp_path)
    torch.nn.init.normal_(trainer.network.flow.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    pair = trainer.source.pair(TRAINING_STREAM, 0, "cpu")

    with torch.no_grad():
        _, first = trainer.predict(pair)
        full = trainer._at_full(first, pair)
        _, second = trainer.predict(dataclasses.replace(pair, moving=warp(pair.moving, full)))
        # The image is warped by the first pass, then by the second: x -> first(second(x)).
        both = trainer._at_half(second + warp(first, second))
        dice = float(soft_dice(warp(pair.moving_labels, both), pair.fixed_labels))
    _, values = trainer._loss(pair, 1)
    assert float(first.abs().max()) > 0.2
    assert values.dice == pytest.approx(dice, rel=1e-5)

    # Nothing is learnt from the first pass: the gradient is that of the second one, its input given.
    trainer.network.zero_grad()
    trainer._loss(pair, 1)[0].backward()
    given = [p.grad.clone() for p in trainer.network.parameters()]
    trainer.network.zero_grad()
    trainer._registered = lambda pair, passes: first
    trainer._loss(pair, 1)[0].backward()
    assert all(torch.allclose(a, p.grad) for a, p in zip(given, trainer.network.parameters(), strict=True))


def test_another_seed_gives_another_start_and_the_global_generator_is_untouched(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (Trainer(tiny(seed=seed), tmp_path) for seed in (1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(first.network.down[0].conv.weight, second.network.down[0].conv.weight)


@pytest.mark.parametrize("network", [{"half_resolution": False}, {"integration_steps": 0}])
def test_displacement_networks_and_full_resolution_train_and_export_as_their_card_says(tmp_path, network):
    config = tiny(loss={"similarity": "mse", "displacement": 0.1}, network=network)
    trainer = Trainer(config, tmp_path)
    trainer.run(report=quiet)
    pair = random_pair(config.shapes, config.shape, (9,))
    flow, displacement = trainer.predict(pair)
    card = export_checkpoint(tmp_path / CHECKPOINT_NAME, tmp_path / "model.pt")
    half = network.get("half_resolution", True)
    assert flow.shape[2:] == ((8, 8) if half else (16, 16))
    assert (card.output, card.output_scale) == (
        "displacement" if network.get("integration_steps") == 0 else "velocity",
        2.0 if half else 1.0,
    )
    assert torch.equal(flow, displacement) == (card.output == "displacement")


@pytest.mark.parametrize(
    "loss",
    [
        {"similarity": "mse", "dice": 0.0},
        {"similarity": "ncc", "penalty": "bending"},
        {"similarity": "ssim", "penalised": "velocity", "window": 5},
    ],
)
def test_every_similarity_and_penalty_trains(tmp_path, loss):
    trainer = Trainer(tiny(loss=loss), tmp_path)
    before = torch.cat([weight.detach().flatten().clone() for weight in trainer.network.parameters()])
    values = trainer.train_step()
    after = torch.cat([weight.detach().flatten() for weight in trainer.network.parameters()])
    expected = values.similarity + trainer.config.loss.smoothness * values.smoothness
    expected += 0.0 if math.isnan(values.dice) else values.dice
    assert values.total == pytest.approx(expected, rel=1e-5)
    assert math.isnan(values.dice) == (loss.get("dice") == 0.0)
    assert not torch.equal(before, after)


def test_a_batch_is_the_mean_of_its_pairs(tmp_path):
    single, double = (Trainer(tiny(batch=batch), tmp_path) for batch in (1, 2))
    pairs = [single.source.pair(TRAINING_STREAM, number, "cpu") for number in (0, 1)]
    parts = [single._loss(pair)[1].total for pair in pairs]
    assert double.train_step().total == pytest.approx(sum(parts) / 2, rel=1e-6)


def test_processes_that_train_together_do_what_one_does_with_a_larger_batch(tmp_path, monkeypatch):
    """With the environment that torchrun gives to each process; this one is the first of the two."""
    extra = "[network]"
    alone = write_config(tmp_path, steps=3)
    alone.write_text(alone.read_text().replace(extra, "batch = 2\n" + extra, 1))
    assert main(["train", str(alone), "-o", str(tmp_path / "alone"), "--device", "cpu"]) == 0
    together = tmp_path / "together.toml"
    together.write_text(alone.read_text().replace("batch = 2\n", ""))
    words = ["train", str(together), "-o", str(tmp_path / "two"), "--device", "cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    library = str(Path(VoxelMorphRegistrationLib.__file__).parent.parent)
    other = subprocess.Popen(
        [sys.executable, "-m", "VoxelMorphRegistrationLib", *words],
        env={**os.environ, **place, "RANK": "1", "LOCAL_RANK": "1", "PYTHONPATH": library, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for name, value in {**place, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        assert main(words) == 0
    finally:
        complaints = other.communicate(timeout=60)[1]
    assert other.returncode == 0, complaints
    one, two = (load_checkpoint(tmp_path / folder / CHECKPOINT_NAME) for folder in ("alone", "two"))
    assert one["step"] == two["step"] == 3
    for name, weights in one["network"].items():
        # The sum of two gradients in another order; Adam turns rounding into at most a part of its rate.
        assert torch.allclose(weights, two["network"][name], atol=1e-5), name


def test_weights_of_another_run_are_taken_without_its_steps(tmp_path):
    config = write_config(tmp_path)
    assert main(["train", str(config), "-o", str(tmp_path / "a"), "--device", "cpu"]) == 0
    start = tmp_path / "a" / CHECKPOINT_NAME
    trainer = Trainer(load_config(config), tmp_path / "b")
    trainer.start_from(start)
    assert trainer.step == 0
    for name, weights in load_checkpoint(start)["network"].items():
        assert torch.equal(weights, trainer.network.state_dict()[name])
    both = ["train", str(config), "-o", str(tmp_path / "c"), "--weights", str(start), "--from", str(start)]
    assert main(both) == 1


def test_learning_rate_rises_stays_and_falls_to_zero():
    config = tiny(steps=100, optimiser={"learning_rate": 1.0, "warm_steps": 10, "decay_steps": 20})
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == pytest.approx([1.0] * 72)
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_sizes_of_a_step_lie_between_smallest_and_shape_and_belong_to_its_seed():
    config = tiny(shape=[64, 32], smallest=[16, 32])
    sizes = StepSizes(config.shape, config.smallest, config.stride)
    shapes = [sizes.of(1, TRAINING_STREAM, step) for step in range(200)]
    assert {shape[1] for shape in shapes} == {32}
    assert {shape[0] for shape in shapes} == set(range(16, 65, 4))
    assert shapes == [sizes.of(1, TRAINING_STREAM, step) for step in range(200)]
    assert sizes.of(1, VALIDATION_STREAM, 0) == (64, 32)
    assert StepSizes((16, 16)).of(1, TRAINING_STREAM, 0) == (16, 16)


def test_an_interrupt_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(_self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_step", interrupt)
    assert main(["train", str(write_config(tmp_path)), "-o", str(tmp_path / "run"), "--device", "cpu"]) == 130
    assert "No checkpoint was reached" in capsys.readouterr().err


def test_the_export_gives_what_the_trained_network_gives(tmp_path):
    config = load_config(write_config(tmp_path, (16, 16, 16)))
    trainer = Trainer(config, tmp_path)
    trainer.run(report=quiet)
    card = export_checkpoint(tmp_path / CHECKPOINT_NAME, tmp_path / "model.pt", {"training": {"device": "CPU"}})
    model = load_model(tmp_path / "model.pt")
    pair = random_pair(config.shapes, config.shape, (9,))
    with torch.no_grad():
        expected = trainer.model(pair.moving, pair.fixed)
    assert torch.allclose(model.flow(pair.moving, pair.fixed), expected, atol=1e-6)
    assert torch.allclose(
        integrate(model.flow(pair.moving, pair.fixed), model.card.integration_steps),
        trainer.predict(pair)[1].detach(),
        atol=1e-5,
    )
    assert model.card == card
    assert (card.training["steps"], card.training["seed"], card.training["device"]) == (6, 3, "CPU")
    assert (card.stride, card.target_voxels, card.license) == (4, 4096, "Apache-2.0")


@pytest.mark.parametrize("shape", [(16, 32), (16, 16, 32)])
def test_a_symmetric_network_turns_round_with_its_images_and_leaves_equal_ones_in_place(tmp_path, shape):
    trainer = Trainer(tiny(shape=list(shape)), tmp_path)
    torch.nn.init.ones_(trainer.network.flow.bias)
    pair = random_pair(trainer.config.shapes, shape, (1,))
    with torch.no_grad():
        forth, back = trainer.model(pair.moving, pair.fixed), trainer.model(pair.fixed, pair.moving)
        same = trainer.model(pair.fixed, pair.fixed)
        plain = Trainer(tiny(shape=list(shape), network={"symmetric": False}), tmp_path).model
    assert torch.equal(forth, -back)
    assert float(forth.abs().max()) > 0.0
    assert float(same.abs().max()) == 0.0
    assert type(plain).__name__ == "UNet"


def test_the_commands_train_go_on_and_export(tmp_path, capsys):
    config = write_config(tmp_path)
    run = tmp_path / "run"
    train = ["train", str(config), "--output", str(run), "--device", "cpu"]
    assert main([*train, "--minutes", "1e-9"]) == 0
    assert main(train) == 1
    assert "--continue" in capsys.readouterr().err
    assert main([*train, "--continue"]) == 0
    assert load_checkpoint(run / CHECKPOINT_NAME)["step"] == 6
    model = tmp_path / "model.pt"
    facts = tmp_path / "facts.json"
    facts.write_text('{"limits": "A test."}', encoding="utf-8")
    export = ["export", str(run / CHECKPOINT_NAME), "-o", str(model), "--name", "small", "--facts", str(facts)]
    assert main(export) == 0
    card = read_card(model)
    assert (card.name, card.dimension, card.limits) == ("small", 2, "A test.")
    assert main(export) == 1
    assert "--overwrite" in capsys.readouterr().err
    # Nothing that is read is ever replaced.
    for name in (run / CHECKPOINT_NAME, facts):
        assert main([*export[:2], "-o", str(name), *export[4:], "--overwrite"]) == 1
        assert "would be replaced by the output" in capsys.readouterr().err
    assert load_checkpoint(run / CHECKPOINT_NAME)["step"] == 6
    # A model is no checkpoint, and no warning of Python's says so first.
    assert main(["export", str(model), "-o", str(tmp_path / "b.pt")]) == 1
    assert capsys.readouterr().err.startswith("Error: ")
