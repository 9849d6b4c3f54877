"""Networks of keypoints in the trainer: what they learn from, exact resume, export."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training_cases import tiny
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.fields.scattered import fitted
from VoxelMorphRegistrationLib.images.sampling import warp
from VoxelMorphRegistrationLib.networks.model import load_model
from VoxelMorphRegistrationLib.training import curves, keypoints
from VoxelMorphRegistrationLib.training.export import export_checkpoint
from VoxelMorphRegistrationLib.training.losses import displacement_at
from VoxelMorphRegistrationLib.training.pairs import TRAINING_STREAM, TrainingPair
from VoxelMorphRegistrationLib.training.trainer import CHECKPOINT_NAME, Trainer

POINTS = {"kind": "keypoints", "integration_steps": 0, "symmetric": False}


def points_config(**changes):
    changes["network"] = POINTS | changes.get("network", {})
    changes["loss"] = {"dice": 0.0, "smoothness": 0.0, "displacement": 0.1, "heatmap": 1.0} | changes.get("loss", {})
    sizes = {"count": 24, "positions": 7, "features": 4}
    values = {"keypoints": sizes, "validation": {"pairs": 2, "every": 4}, "log_every": 1}
    return tiny(**{**values, "optimiser": {"warm_steps": 2, "decay_steps": 3}, **changes})


def quiet(_line):
    pass


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(curves, "write_curves", lambda folder: None)


def test_a_resumed_training_of_keypoints_gives_the_same_weights(tmp_path):
    config = points_config(passes=2, steps=4, shapes={"displacement": [0.2, 0.5]})
    whole = Trainer(config, tmp_path / "whole")
    whole.run(report=quiet)
    interrupted = Trainer(config, tmp_path / "parts")
    interrupted.run(minutes=1e-9, report=quiet)
    resumed = Trainer.resume(tmp_path / "parts" / CHECKPOINT_NAME, tmp_path / "parts")
    resumed.run(report=quiet)
    assert (interrupted.step, resumed.step) == (1, 4)
    start = Trainer(config, tmp_path / "new").network.state_dict()
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(weights, resumed.network.state_dict()[name]), name
        assert not torch.equal(weights, start[name]), name


def test_training_brings_held_out_points_nearer_to_the_truth(tmp_path):
    shapes = {"labels": [6, 9], "coarsest": 8, "related": 1.0, "foreground": 0.0, "displacement": [0.5, 1.0]}
    config = points_config(
        steps=30, shape=[32, 32], shapes=shapes, optimiser={"learning_rate": 1e-2, "warm_steps": 5, "decay_steps": 20}
    )
    trainer = Trainer(config, tmp_path)
    before = trainer.validate()
    while trainer.step < config.steps:
        trainer.train_step()
    after = trainer.validate()
    # From 2.58 to 1.92; 2.25 where nothing moves.
    assert after.error_after < min(0.85 * before.error_after, 0.95 * after.error_before)


@pytest.mark.parametrize("half", [True, False])
def test_the_loss_of_points_is_their_distance_from_the_true_motion(tmp_path, half):
    """In squared voxels of the grid that the losses of dense fields have."""
    config = points_config(network={"half_resolution": half}, shape=[32, 32])
    trainer = Trainer(config, tmp_path)
    pair = trainer.source.pair(TRAINING_STREAM, 0, "cpu")
    truth = torch.tensor([0.5, -0.75]).reshape(1, 2, 1, 1).expand(1, 2, 16, 16)
    pair = dataclasses.replace(pair, displacement=truth, visible=torch.ones(1, 1, 16, 16))
    with torch.no_grad():
        answer = keypoints.found(trainer.network, trainer._alone, pair)
        parts = keypoints.terms(trainer.network, answer, pair)
    scale = 2 if half else 1
    distance = (answer.expected * scale / 2 - truth[0, :, 0, 0]).square().sum(1).mean()
    assert float(parts["displacement"]) == pytest.approx(float(distance), rel=1e-4)
    _, values = trainer._loss(pair)
    assert values.total == pytest.approx(0.1 * values.displacement + values.heatmap, rel=1e-5)
    assert math.isnan(values.dice) and math.isnan(values.landmarks)
    # Beside them those of the fitted field, whose distance from the truth stands back behind that of the points.
    both = Trainer(points_config(network={"half_resolution": half}, shape=[32, 32], loss={"smoothness": 0.3}), tmp_path)
    both.network.load_state_dict(trainer.network.state_dict())
    _, found = both._loss(pair)
    assert (found.displacement, found.heatmap) == pytest.approx((values.displacement, values.heatmap), rel=1e-5)
    assert found.smoothness > 0
    assert found.total == pytest.approx(values.total + 0.3 * found.smoothness, rel=1e-5)


def test_points_that_are_out_of_sight_or_out_of_reach_teach_nothing(tmp_path):
    trainer = Trainer(points_config(shape=[32, 32]), tmp_path)
    pair = trainer.source.pair(TRAINING_STREAM, 0, "cpu")
    far = torch.zeros(1, 2, 16, 16)
    far[..., 8:, :] = 3.5
    visible = torch.ones(1, 1, 16, 16)
    visible[..., :4] = 0.0
    pair = dataclasses.replace(pair, displacement=far, visible=visible)
    with torch.no_grad():
        answer = keypoints.found(trainer.network, trainer._alone, pair)
        heatmaps = torch.zeros_like(answer.heatmaps).requires_grad_()
        with torch.enable_grad():
            changed = dataclasses.replace(answer, heatmaps=heatmaps)
            keypoints.terms(trainer.network, changed, pair)["heatmap"].backward()
    assert bool((answer.points[:, 1] >= 4).all())
    taught = heatmaps.grad.abs().amax(1) > 0
    assert torch.equal(taught, answer.points[:, 0] < 8)
    assert taught.any() and not taught.all()


def test_landmarks_of_a_pair_are_further_points(tmp_path):
    trainer = Trainer(points_config(shape=[16, 16], loss={"landmarks": 1.0}), tmp_path)
    images = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    fixed_points = torch.tensor([[[3.0, 4.0], [10.0, 8.0]]])
    moving_points = fixed_points + torch.tensor([2.0, -3.0])
    pair = TrainingPair(images[0], images[1], fixed_points=fixed_points, moving_points=moving_points)
    with torch.no_grad():
        answer = keypoints.found(trainer.network, trainer._alone, pair)
        parts = keypoints.terms(trainer.network, answer, pair)
    assert answer.marked == 2 and answer.points[-2:].tolist() == [[1, 2], [5, 4]]
    distance = (2 * answer.expected[-2:] - torch.tensor([2.0, -3.0])).square().sum(1).mean()
    assert float(parts["landmarks"]) == pytest.approx(float(distance), rel=1e-4)
    _, values = trainer._loss(pair)
    assert values.total == pytest.approx(values.landmarks + values.heatmap, rel=1e-5)
    # A registration does not have them, and so they are no part of its field.
    own = fitted(answer.points[:-2].float(), answer.expected[:-2], answer.spread[:-2], (8, 8))
    assert torch.equal(answer.dense((16, 16))[0], own)


def test_what_a_pass_has_left_is_found_by_the_next():
    grid = torch.meshgrid(*[torch.arange(20.0)] * 2, indexing="ij")
    before = 1.5 * torch.sin(torch.stack(grid) / 5.0)[None]
    points = torch.tensor([[6.0, 7.0], [12.0, 9.0]])
    truth = torch.tensor([[2.0, -1.0], [0.5, 2.5]])
    left = keypoints.rest(truth, before, points)
    torch.testing.assert_close(left + displacement_at(before, (points + left)[None])[0], truth, atol=0.01, rtol=0)


def test_a_later_pass_learns_what_is_left(tmp_path):
    """After a pass that moved everything as it should, nothing is: the loss is that of a pair without motion."""
    trainer = Trainer(points_config(shape=[32, 32], passes=2), tmp_path)
    pair = trainer.source.pair(TRAINING_STREAM, 0, "cpu")
    moved = torch.full((1, 2, 16, 16), 1.25)
    pair = dataclasses.replace(pair, displacement=moved)
    trainer._registered = lambda pair, passes: moved if passes else None
    _, second = trainer._loss(pair, 1)
    full = trainer._at_full(moved, pair)
    still = dataclasses.replace(pair, moving=warp(pair.moving, full), displacement=torch.zeros_like(moved))
    _, expected = trainer._loss(still, 0)
    assert second.displacement == pytest.approx(expected.displacement, rel=1e-4)
    assert second.heatmap == pytest.approx(expected.heatmap, rel=1e-4)


def test_the_cross_entropy_is_that_of_linear_weights_about_the_truth():
    reach, generator = 2, torch.Generator().manual_seed(0)
    heatmaps = torch.randn(3, 125, generator=generator)
    truth = torch.tensor([[0.25, -1.5, 2.0], [-2.0, 0.0, 1.75], [0.0, 0.0, 0.0]])
    steps = torch.stack(torch.meshgrid(*[torch.arange(-2.0, 3.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    weights = (1.0 - (steps[None] - truth[:, None]).abs()).clamp_min(0).prod(-1)
    torch.testing.assert_close(weights @ steps, truth)
    expected = -(weights * F.log_softmax(heatmaps, 1)).sum(1)
    torch.testing.assert_close(keypoints.cross_entropy(heatmaps, truth, reach), expected)


def test_losses_of_fields_reach_the_points_through_the_fit(tmp_path):
    config = points_config(loss={"displacement": 0.0, "heatmap": 0.0, "dice": 1.0, "smoothness": 0.1})
    trainer = Trainer(config, tmp_path)
    before = [weight.detach().clone() for weight in trainer.network.parameters()]
    values = trainer.train_step()
    assert math.isfinite(values.dice) and math.isfinite(values.smoothness)
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))


def test_pairs_without_anything_to_learn_points_from_are_told(tmp_path):
    trainer = Trainer(points_config(), tmp_path)
    images = torch.rand(2, 1, 1, 16, 16)
    with pytest.raises(InputError, match="neither a known displacement nor landmarks"):
        trainer._loss(TrainingPair(images[0], images[1]))


def test_the_exported_file_gives_what_the_trained_network_gives(tmp_path):
    config = points_config(shape=[16, 16, 16], steps=2)
    trainer = Trainer(config, tmp_path)
    trainer.run(report=quiet)
    card = export_checkpoint(tmp_path / CHECKPOINT_NAME, tmp_path / "model.pt")
    assert (card.returns, card.output, card.output_scale) == ("keypoints", "displacement", 2.0)
    assert card.architecture["count"] == 24 and card.architecture["positions"] == 7
    model = load_model(tmp_path / "model.pt")
    pair = dataclasses.replace(trainer.source.pair(TRAINING_STREAM, 7, "cpu"), visible=None)
    found = model.keypoints(pair.moving, pair.fixed, torch.ones_like(pair.fixed))
    dense = fitted(found[:, :3], found[:, 3:6], found[:, 6], (8, 8, 8))
    with torch.no_grad():
        expected = trainer.predict(pair)[1][0]
    np.testing.assert_allclose(dense.numpy(), expected.numpy(), atol=1e-4)
    other = Trainer(config, tmp_path / "other")
    other.start_from(tmp_path / "model.pt")
    for name, weights in trainer.network.state_dict().items():
        assert torch.equal(weights, other.network.state_dict()[name]), name


def test_a_flow_is_no_beginning_for_points(tmp_path):
    Trainer(tiny(), tmp_path).save(tmp_path / CHECKPOINT_NAME)
    with pytest.raises(InputError, match="another network"):
        Trainer(points_config(), tmp_path / "b").start_from(tmp_path / CHECKPOINT_NAME)
