"""bfloat16 where it can be trusted, steps that are not finite, and weights to begin with."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from training_cases import tiny, write_config
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.errors import InputError, VoxelMorphError
from VoxelMorphRegistrationLib.training import curves, precision
from VoxelMorphRegistrationLib.training import trainer as trainer_module
from VoxelMorphRegistrationLib.training.beginnings import load_checkpoint
from VoxelMorphRegistrationLib.training.config import load_config
from VoxelMorphRegistrationLib.training.export import export_checkpoint
from VoxelMorphRegistrationLib.training.networks import network_of
from VoxelMorphRegistrationLib.training.trainer import CHECKPOINT_NAME, MOST_SKIPPED, Trainer, learning_rate

CPU = torch.device("cpu")
GRID = {2: (32, 32), 3: (16, 16, 16)}


@pytest.mark.parametrize("shape", [[16, 32], [16, 32, 16]])
def test_bfloat16_changes_the_weights_only_slightly(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(trainer_module, "bfloat16_fault", lambda *args: None)
    trainers = [Trainer(tiny(shape=shape, precision=name), tmp_path) for name in ("float32", "bfloat16")]
    # The first step of Adam moves each weight by the rate, whatever the precision; the pairs are the same.
    losses = [trainer.train_step() for trainer in trainers]
    assert losses[0].total == pytest.approx(losses[1].total, rel=1e-2)
    rate = learning_rate(trainers[0].config, 0)
    weights = [torch.cat([w.detach().flatten() for w in trainer.network.parameters()]) for trainer in trainers]
    assert 0.0 < float((weights[0] - weights[1]).abs().max()) <= 2.001 * rate


@pytest.fixture
def supported(monkeypatch):
    """A processor that says it has bfloat16, and computes soundly in it.

    oneDNN's own convolutions do not where the processor lacks it: on one thread, gradients in 3D are not finite.
    """
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def test_a_processor_without_bfloat16_trains_in_float32_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    lines: list[str] = []
    reduced = Trainer(tiny(precision="bfloat16", steps=2), tmp_path / "a")
    reduced.run(report=lines.append)
    assert lines[0].startswith("Training in float32, not in bfloat16: this processor has no instructions for it")
    full = Trainer(tiny(steps=2), tmp_path / "b")
    full.run(report=lambda line: None)
    for one, other in zip(reduced.network.parameters(), full.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [[16, 16], [16, 16, 16]])
def test_sound_bfloat16_passes_its_check_which_leaves_no_trace(supported, shape):
    network = network_of(tiny(shape=shape))
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    drawn = torch.random.get_rng_state()
    assert precision.bfloat16_fault(network, CPU, GRID[network.dimension]) is None
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda gradient, _call: gradient.fill_(math.inf), "is not finite"),
        (lambda gradient, call: gradient.mul_(1.0 + 1e-3 * call), "differs from one run to the next"),
        (lambda gradient, _call: gradient.mul_(3.0), "far from that in float32"),
    ],
)
def test_a_faulty_kernel_is_found(supported, monkeypatch, spoil, words):
    """Each kind of garbage that a backward pass in bfloat16 can give."""
    sound, calls = precision._gradients, []

    def gradients(network, images, reduced):
        values = sound(network, images, reduced)
        if reduced:
            calls.append(1)
            for value in values.values():
                spoil(value, len(calls))
        return values

    monkeypatch.setattr(precision, "_gradients", gradients)
    assert words in (precision.bfloat16_fault(network_of(tiny()), CPU, GRID[2]) or "")


def test_memory_that_nobody_wrote_shows(supported, monkeypatch):
    """A kernel that leaves a part of its result unwritten: free memory is filled before each pass, so that it is seen.

    What a process gets as free memory is up to chance: here it is a block that holds what was put there last.
    """
    free = torch.zeros(())
    poison = precision._poison

    def poisoned(device):
        poison(device)
        free.fill_(math.nan)

    class Unwritten(torch.autograd.Function):
        @staticmethod
        def forward(_context, x):
            free.zero_()
            return x.clone()

        @staticmethod
        def backward(_context, gradient):
            out = gradient.clone()
            out[:, :1] = free
            return out

    monkeypatch.setattr(precision, "_poison", poisoned)
    network = network_of(tiny(shape=[16, 16, 16]))
    block = network.up[0]
    monkeypatch.setattr(block, "forward", lambda x: Unwritten.apply(block.conv(x)), raising=True)
    assert "is not finite" in (precision.bfloat16_fault(network, CPU, GRID[network.dimension]) or "")


def test_bfloat16_is_checked_on_the_grids_of_the_training_only(monkeypatch, supported):
    """A kernel that is wrong on small grids keeps nobody from training on larger ones."""
    tried = []
    sound = precision._gradients

    def gradients(network, images, reduced):
        tried.append(tuple(images[0].shape[2:]))
        values = sound(network, images, reduced)
        if reduced and min(tried[-1]) < 8:
            next(iter(values.values())).fill_(math.inf)
        return values

    monkeypatch.setattr(precision, "_gradients", gradients)
    network = network_of(tiny(shape=[32, 32]))
    assert network.stride == 4
    assert precision.bfloat16_fault(network, CPU, (32, 16), (8, 12)) is None
    assert set(tried) == {(8, 12), (20, 16)}
    assert "is not finite" in (precision.bfloat16_fault(network, CPU, (32, 16), (4, 12)) or "")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, where):
    trainer = Trainer(tiny(steps=4, log_every=1), tmp_path)
    sound = Trainer._loss

    def loss(self, pair, passes_before=0):
        total, parts = sound(self, pair, passes_before)
        if self.step != 1:
            return total, parts
        if where == "gradient":
            total.register_hook(lambda gradient: gradient * math.nan)
            return total, parts
        return total * math.nan, dataclasses.replace(parts, total=math.nan)

    monkeypatch.setattr(Trainer, "_loss", loss)
    trainer.train_step()
    before = [weight.clone() for weight in trainer.network.parameters()]
    trainer.train_step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    trainer.train_step()
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    assert (trainer.step, trainer.skipped) == (3, 1)
    trainer.save(tmp_path / CHECKPOINT_NAME)
    gone_on = Trainer.resume(tmp_path / CHECKPOINT_NAME, tmp_path)
    assert gone_on.skipped == 1
    assert gone_on.facts()["skipped_steps"] == 1
    lines: list[str] = []
    gone_on.run(report=lines.append)
    assert any(line.endswith("1 skipped") for line in lines)


def test_a_training_without_a_finite_step_ends_with_a_sentence_and_keeps_the_weights(tmp_path):
    trainer = Trainer(tiny(steps=100), tmp_path)
    with torch.no_grad():
        trainer.network.flow.weight.fill_(float("nan"))
    before = trainer.network.down[0].conv.weight.clone()
    for _ in range(MOST_SKIPPED - 1):
        trainer.train_step()
    with pytest.raises(VoxelMorphError, match=f"{MOST_SKIPPED} steps in a row had no finite loss or gradient"):
        trainer.train_step()
    assert torch.equal(trainer.network.down[0].conv.weight, before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A configuration, the checkpoint of its training, and the model file made of it. Looked at only."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "write_curves", lambda folder: None)
        assert main(["train", str(config), "-o", str(folder / "a"), "--device", "cpu"]) == 0
    checkpoint = folder / "a" / CHECKPOINT_NAME
    export_checkpoint(checkpoint, folder / "model.pt")
    return config, checkpoint, folder / "model.pt"


def test_a_training_begins_with_the_weights_of_a_model_file(tmp_path, finished, capsys):
    config, checkpoint, model = finished
    trainer = Trainer(load_config(config), tmp_path / "b")
    trainer.start_from(model)
    assert trainer.step == 0
    for name, weights in load_checkpoint(checkpoint)["network"].items():
        assert torch.equal(weights, trainer.network.state_dict()[name])
    for option, folder in (("--from", "c"), ("--weights", "d")):
        command = ["train", str(config), "-o", str(tmp_path / folder), option, str(model), "--device", "cpu"]
        assert main(command) == 0
    first, second = (load_checkpoint(tmp_path / folder / CHECKPOINT_NAME) for folder in "cd")
    assert first["step"] == 6
    for name, weights in first["network"].items():
        assert torch.equal(weights, second["network"][name])
    capsys.readouterr()


def test_a_shipped_model_is_named_as_elsewhere(tmp_path, finished, capsys):
    command = ["train", str(finished[0]), "-o", str(tmp_path / "e"), "--from", "brain-3d", "--device", "cpu"]
    assert main(command) == 1
    assert "another network than the model file" in capsys.readouterr().err


def test_another_network_or_none_is_refused_as_a_beginning(tmp_path, finished):
    _, _, model = finished
    other = Trainer(tiny(network={"encoder": [4, 8], "decoder": [4, 4, 4]}), tmp_path / "b")
    with pytest.raises(InputError, match=r"another network than the model file"):
        other.start_from(model)
    foreign = tmp_path / "foreign.pt"
    torch.jit.script(torch.nn.Conv2d(2, 2, 3)).save(
        str(foreign), _extra_files={"voxelmorph.json": '{"name": "x", "dimension": 2, "spacing_mm": [1, 1]}'}
    )
    with pytest.raises(InputError, match="foreign network"):
        other.start_from(foreign)
    with pytest.raises(InputError, match="no checkpoint"):
        other.start_from(tmp_path / "missing.pt")
