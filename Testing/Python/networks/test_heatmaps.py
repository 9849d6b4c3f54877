"""The network of keypoints: what a heatmap says, motions that are known, its file, and those of others."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from VoxelMorphRegistrationLib.errors import ModelError
from VoxelMorphRegistrationLib.networks.archive import Archive
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.heatmaps import KeypointNetwork
from VoxelMorphRegistrationLib.networks.keypoints import blurred
from VoxelMorphRegistrationLib.networks.model import Model, check_model, load_model, save_model
from VoxelMorphRegistrationLib.networks.weights import plain_network, read_weights

SIZES = {"count": 40, "positions": 5, "features": 6}


def small_points(dimension=3, half=True, **changes):
    torch.manual_seed(0)
    return KeypointNetwork(dimension, (4,), (6, 5), half, **{**SIZES, **changes}).eval()


def points_card(dimension=3, **changes):
    architecture = {"encoder": [4], "decoder": [6, 5], "half_resolution": True, **SIZES}
    facts = dict(
        name="points",
        dimension=dimension,
        spacing_mm=(1.0,) * dimension,
        stride=2,
        output="displacement",
        returns="keypoints",
        architecture=architecture,
    )
    return ModelCard(**{**facts, **changes})


def image(*shape, seed=0):
    return blurred(torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_expectation_of_a_symmetric_heatmap_is_its_middle(dimension):
    """Two places of the same probability: the mean between them, and half their distance as the deviation."""
    network = small_points(dimension)
    steps = network.steps(torch.zeros(1))
    ends = torch.tensor([[-1, 0, 2][:dimension], [2, 1, -2][:dimension]])
    heatmap = torch.full((1, len(steps)), -200.0)
    for end in ends:
        heatmap[0, (steps == end).all(1)] = 3.0
    expected, spread = network.expectation(heatmap)
    torch.testing.assert_close(expected[0], ends.float().mean(0))
    torch.testing.assert_close(spread[0], (ends[0] - ends[1]).float().norm() / 2)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("shift", [(4, -2), (2, 0, -4)])
def test_a_shift_is_found(shift, half):
    """Of whole strides of the network, so that the features are those of the fixed image, shifted.

    Of a network that learned nothing, to which a few places look alike.
    """
    network = small_points(len(shift), half, positions=5 if half else 9)
    with torch.no_grad():
        network.sharpness.fill_(13.0)
        network.sharing.fill_(-20.0)
    fixed = image(*(32,) * len(shift))
    moving = torch.roll(fixed, shift, tuple(range(2, 2 + len(shift))))
    inner = torch.zeros_like(fixed)
    inner[(0, 0, *(slice(10, 22),) * len(shift))] = 1.0
    with torch.inference_mode():
        (points,) = network(moving, fixed, inner)
    assert len(points) > 5
    expected = torch.tensor(shift) / (2.0 if half else 1.0)
    met = (points[:, len(shift) : -1] - expected).abs().amax(1) < 0.05
    assert float(met.float().mean()) > 0.85
    assert float(points[met, -1].max()) < 0.3


def test_neighbours_speak_for_a_point_as_far_as_the_network_says():
    network = small_points(2)
    points = torch.tensor([[2, 2], [2, 4], [30, 30]])
    heatmaps = torch.zeros(3, 25)
    heatmaps[1, 7] = 10.0
    with torch.no_grad():
        network.sharing.fill_(0.0)
        shared = network._shared(heatmaps, points)
        network.sharing.fill_(-50.0)
        alone = network._shared(heatmaps, points)
    torch.testing.assert_close(alone, heatmaps)
    assert 1.0 < float(shared[0, 7]) < float(shared[1, 7]) < 10.0
    assert float(shared[2].abs().max()) < 1e-6


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_saved_network_of_keypoints_gives_the_same_points_from_its_numbers_alone(dimension, tmp_path, monkeypatch):
    network, path = small_points(dimension), tmp_path / "points.pt"
    card = points_card(dimension)
    save_model(network, card, path)
    images = image(*(20,) * dimension), image(*(20,) * dimension, seed=1)
    scripted = torch.jit.load(str(path))
    expected = network(*images)
    torch.testing.assert_close(scripted(*images), expected)

    def refused(*_args, **_facts):
        raise AssertionError("the file's code was loaded")

    monkeypatch.setattr(torch.jit, "load", refused)
    model = load_model(path)
    assert model.card == card
    torch.testing.assert_close(model.keypoints(*images, torch.ones_like(images[0])), expected[0])
    found = check_model(model)
    assert found["output"][1] == 2 * dimension + 1
    assert found["parameters"] == sum(weight.numel() for weight in network.parameters())


def test_weights_that_do_not_fit_the_facts_are_no_network_of_ours(tmp_path):
    path = tmp_path / "points.pt"
    save_model(small_points(), points_card(), path)
    archive = Archive(path)
    assert plain_network(archive, points_card()) is not None
    assert set(read_weights(archive)[1]) >= {"sharpness", "nearness", "sharing"}
    right = points_card().architecture
    without = {key: value for key, value in right.items() if key != "count"}
    for facts in ({**right, "features": 7}, {**right, "positions": 4}, without):
        assert plain_network(archive, dataclasses.replace(points_card(), architecture=facts)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"output": "velocity"},
        {"architecture": {"count": 10**6}},
        {"architecture": {"positions": 33}},
        {"architecture": {"features": 0}},
    ],
)
def test_facts_of_keypoints_out_of_range_are_refused(changes):
    with pytest.raises(ModelError, match="out of range"):
        points_card(**changes)


def test_the_memory_of_the_points_is_told():
    few, many = (points_card(architecture={**points_card().architecture, "count": n}) for n in (10, 4000))
    heatmaps = 4 * 4000 * 5**3
    assert many.memory_bytes(10**6) > few.memory_bytes(10**6) + heatmaps + 8 * 4000**2


class Answer(nn.Module):
    """A foreign network that returns what it was made with."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Buffer(answer)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(1, 4, 6), r"returned \(1, 4, 6\) where \(1, points, 7\) are due"),
        (torch.zeros(1, 3, 8, 8, 8), "its facts say that it returns keypoints"),
        (torch.zeros(1, 0, 7), "no point to hold on to"),
        (torch.full((1, 2, 7), float("nan")), "not finite"),
    ],
)
def test_answers_that_are_no_keypoints_end_in_a_sentence(answer, words):
    model = Model(Answer(answer), points_card(architecture={}), "cpu")
    with pytest.raises(ModelError, match=words):
        model.keypoints(*[torch.zeros(1, 1, 8, 8, 8)] * 3)


def test_keypoints_in_the_order_of_nibabel_are_turned():
    model = Model(Answer(torch.tensor([[[1.0, 2, 3, 4, 5, 6, 7]]])), points_card(architecture={}, axes="ijk"), "cpu")
    (point,) = model.keypoints(*[torch.zeros(1, 1, 8, 8, 8)] * 3)
    assert point.tolist() == [3, 2, 1, 6, 5, 4, 7]
