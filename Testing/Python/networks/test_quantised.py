"""Networks whose convolutions are of 8-bit integers from the second pass on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model_cases import small_card, small_network
from VoxelMorphRegistrationLib.images.sampling import gaussian_smooth
from VoxelMorphRegistrationLib.networks import quantised
from VoxelMorphRegistrationLib.networks.model import Model, load_model, save_model
from VoxelMorphRegistrationLib.networks.quantised import Quantised, can_be_quantised
from VoxelMorphRegistrationLib.networks.symmetric import Symmetric

ODD = (37, 26, 33)


def images(shape, seed=0):
    """Smooth ones in [0, 1], with an empty background on one side."""
    generator = torch.Generator().manual_seed(seed)
    made = [gaussian_smooth(torch.rand(1, 1, *shape, generator=generator), (1.5,) * 3) for _ in range(2)]
    made = [(image - image.min()) / (image.max() - image.min()) for image in made]
    for image in made:
        image[:, :, : shape[0] // 4] = 0
    return made


@pytest.fixture
def whole():
    network = Symmetric(small_network())
    # Weights that keep the signal from layer to layer, as training leaves them.
    for block in (*network.network.down, *network.network.up, *network.network.final):
        torch.nn.init.kaiming_normal_(block.conv.weight, a=0.2)
    return network.eval().requires_grad_(False)


def difference(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("shape", [(32, 32, 32), ODD])
def test_the_first_pass_is_in_float32_and_further_ones_are_near_it(whole, shape):
    network = Quantised(whole)
    first, second = images(shape), images(shape, 1)
    assert torch.equal(network(*first), whole(*first)) and not network.used
    flow, expected = network(*second), whole(*second)
    assert network.used and flow.shape == expected.shape
    # Eight layers of 8 bits; on the border as within.
    assert 0 < difference(flow, expected) < 0.1
    assert difference(flow[:, :, -1], expected[:, :, -1]) < 0.15


def test_slabs_give_what_one_piece_gives(whole, monkeypatch):
    first, second = images(ODD), images(ODD, 1)

    def flow():
        network = Quantised(whole)
        network(*first)
        return network(*second)

    expected = flow()
    monkeypatch.setattr(quantised, "SLAB_VALUES", 2000)
    assert torch.equal(flow(), expected)


def test_exchanged_images_turn_the_flow_round_exactly_and_equal_ones_stay(whole):
    network = Quantised(whole)
    network(*images(ODD))
    moving, fixed = images(ODD, 1)
    assert torch.equal(network(moving, fixed), -network(fixed, moving))
    assert not network(fixed, fixed).any()


def test_channels_that_the_first_pass_leaves_idle_work_later(whole):
    network = Quantised(whole)
    first, second = images((32, 32, 32)), images((32, 32, 32), 1)
    # A hundredth of the contrast: most channels hardly differ from their biases.
    network(*(0.01 * image for image in first))
    assert network.used is False
    assert difference(network(*second), whole(*second)) < 1.0


@pytest.mark.parametrize("fault", ["wrong", "missing"])
def test_float32_goes_on_where_integers_fail(whole, monkeypatch, fault):
    sound = quantised._Convolution.__call__

    def broken(self, x, zero_out=None):
        if fault == "missing":
            raise RuntimeError("Unsupported post op")
        y = sound(self, x, zero_out)
        # As a kernel that forgets what stands for zero.
        return y + 10 if y.dtype == torch.float32 else y

    monkeypatch.setattr(quantised._Convolution, "__call__", broken)
    network = Quantised(whole)
    network(*images(ODD))
    second = images(ODD, 1)
    assert torch.equal(network(*second), whole(*second)) and not network.used


def test_which_networks_are_quantised(whole):
    assert can_be_quantised(whole)
    assert not can_be_quantised(whole.network)
    assert not can_be_quantised(Symmetric(small_network(2)))
    assert not can_be_quantised(torch.nn.Identity())


@pytest.mark.parametrize("allowed", [True, False])
def test_auto_quantises_where_the_model_allows_it(whole, allowed, tmp_path, monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.networks.model.has_int8", lambda: True)
    monkeypatch.setattr("VoxelMorphRegistrationLib.networks.model.has_bfloat16", lambda: False)
    card = small_card()
    card.architecture.update(bfloat16=allowed, symmetric=True)
    save_model(whole, card, tmp_path / "m.pt")
    assert not isinstance(load_model(tmp_path / "m.pt").network, Quantised)
    assert isinstance(load_model(tmp_path / "m.pt", "cpu", "auto").network, Quantised) is allowed


def test_a_registration_begins_anew_each_time(whole):
    model = Model(Quantised(whole), small_card(), "cpu")
    flows = []
    for seed in (0, 1, 0):
        begun = model.begun()
        assert begun.precision == "float32"
        flows.append([begun.flow(*images((32, 32, 32), number)) for number in (seed, 2)])
        assert begun.precision == "int8"
    # What another pair left behind is not seen.
    assert torch.equal(flows[0][1], flows[2][1]) and not torch.equal(flows[0][1], flows[1][1])
    assert model.precision == "float32"


def test_pooling_of_odd_sizes_is_that_of_the_network(whole):
    network = Quantised(whole)
    network(*images(ODD))
    values = torch.randint(0, 256, (1, 5, 7, 6, 9), dtype=torch.uint8)
    pooled = network._layers.pooled(values.contiguous(memory_format=torch.channels_last_3d))
    assert torch.equal(pooled.float(), F.max_pool3d(values.float(), 2, ceil_mode=True))


def test_a_middle_without_any_flow_is_no_failure(whole):
    moving, fixed = images((48, 48, 48))
    # Nearly equal but for the edges, which are not tried: by less than the images' own rounding.
    middle = fixed[:, :, 6:42, 6:42, 6:42]
    moving[:, :, 6:42, 6:42, 6:42] = middle + 0.002 * torch.rand(middle.shape, generator=torch.Generator())
    network = Quantised(whole)
    network(moving, fixed)
    network(*images((48, 48, 48), 1))
    assert network.used
