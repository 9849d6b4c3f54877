import math

import pytest
import torch

from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.networks.symmetric import Symmetric
from VoxelMorphRegistrationLib.networks.unet import UNet


def pair(*shape):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 1, *shape, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("shape", [(16, 32, 48), (17, 30, 41), (32, 16), (21, 35)])
def test_any_size_goes_in_and_the_flow_has_one_channel_per_axis(shape, half):
    network = UNet(len(shape), (4, 8, 8, 8), (8, 8, 8, 8, 4), half_resolution=half)
    flow = network(*pair(*shape))
    expected = tuple(-(-n // 2) for n in shape) if half else shape
    assert flow.shape == (1, len(shape), *expected)


def test_default_network_is_the_published_one():
    network = UNet()
    assert network.stride == 16
    # 2D and 3D weights of Balakrishnan et al. 2019, sec. V-A: counted from the layer sizes of the published file.
    features = [(2, 16), (16, 32), (32, 32), (32, 32), (32, 32), (64, 32), (64, 32), (64, 32), (32, 32), (32, 16)]
    features += [(16, 16), (16, 3)]
    assert sum(p.numel() for p in network.parameters()) == sum(27 * a * b + b for a, b in features)


def test_untrained_network_moves_almost_nothing():
    assert UNet(2)(*pair(32, 32)).abs().max() < 1e-2


def test_scripted_network_equals_the_original():
    network = UNet(3, (4, 8), (8, 8, 4)).eval()
    torch.nn.init.normal_(network.flow.weight, std=0.1)
    scripted = torch.jit.script(network)
    for shape in ((8, 12, 16), (9, 10, 11)):
        images = pair(*shape)
        torch.testing.assert_close(scripted(*images), network(*images))


@pytest.mark.parametrize(("encoder", "decoder"), [((4, 6, 8), (8, 6, 5, 4)), ((4, 6), (8, 5)), ((4,), (6, 5))])
@pytest.mark.parametrize("half", [True, False])
# The last two are wide enough that the first level goes through them in several slabs.
@pytest.mark.parametrize("shape", [(24, 16, 40), (70, 24), (17, 10, 9), (9, 2600, 3), (13, 5200)])
def test_registering_computes_what_was_trained(shape, half, encoder, decoder):
    network = UNet(len(shape), encoder, decoder, half_resolution=half).double()
    torch.nn.init.normal_(network.flow.weight, std=0.1)
    images = [image.double() for image in pair(*shape)]
    trained = network.train()(*images)
    torch.testing.assert_close(network.eval()(*images), trained)


def test_both_directions_are_the_mean_of_what_the_network_says():
    network = UNet(3, (4, 8), (8, 8, 4)).double()
    for parameters in (network.flow.weight, network.flow.bias):
        torch.nn.init.normal_(parameters, std=0.1)
    moving, fixed = (image.double() for image in pair(9, 12, 14))
    both = Symmetric(network)
    for mode in (True, False):
        both.train(mode)
        expected = 0.5 * (network(moving, fixed) - network(fixed, moving))
        torch.testing.assert_close(both(moving, fixed), expected)
        assert torch.equal(both(fixed, moving), -both(moving, fixed))
    assert both(fixed, fixed).abs().max() == 0


def test_spatial_transformer_follows_the_definition():
    image = torch.arange(30.0).reshape(1, 1, 5, 6)
    shift = torch.zeros(1, 2, 5, 6)
    shift[:, 0], shift[:, 1] = 1.0, 0.5
    warped = sampling.warp(image, shift)
    # warped(p) = image(p + u): one row (6) and half a column (0.5) further.
    torch.testing.assert_close(warped[0, 0, :4, :5], image[0, 0, :4, :5] + 6.5)


def test_integration_keeps_a_constant_velocity_at_the_border():
    velocity = torch.full((1, 3, 8, 9, 10), 1.75)
    torch.testing.assert_close(sampling.integrate(velocity, 7), velocity)


@pytest.mark.parametrize(("encoder", "decoder", "dimension"), [((), (), 3), ((4, 4), (4,), 3), ((4,), (4,), 1)])
def test_impossible_layouts_are_refused(encoder, decoder, dimension):
    with pytest.raises(ValueError, match=r"^The (network works in 2 or 3 dimensions|decoder needs at least as many)"):
        UNet(dimension, encoder, decoder)


@pytest.mark.parametrize("shape", [(9, 14, 3), (20, 7)])
def test_smoothing_is_the_sum_over_gaussian_weights_with_the_border_repeated(shape):
    volume = torch.rand((2, 3, *shape), generator=torch.Generator().manual_seed(0))
    sigmas = (1.3, 0.0, 0.6)[: len(shape)]
    expected = volume.double()
    for axis, sigma in enumerate(sigmas, start=2):
        radius = min(int(3 * sigma + 0.999), volume.shape[axis] - 1)
        weights = [math.exp(-0.5 * (o / max(sigma, 1e-9)) ** 2) for o in range(-radius, radius + 1)]
        size = volume.shape[axis]
        rows = []
        for n in range(size):
            places = [min(max(n + o, 0), size - 1) for o in range(-radius, radius + 1)]
            parts = [w * expected.select(axis, p) for w, p in zip(weights, places, strict=True)]
            rows.append(sum(parts) / sum(weights))
        expected = torch.stack(rows, axis)
    torch.testing.assert_close(sampling.gaussian_smooth(volume, sigmas), expected.float())
