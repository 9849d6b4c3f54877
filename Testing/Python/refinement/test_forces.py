import numpy as np
import pytest
import torch

from VoxelMorphRegistrationLib.images.boxes import box_sum
from VoxelMorphRegistrationLib.images.boxes import pooled as forces_pooled
from VoxelMorphRegistrationLib.refinement import descriptors
from VoxelMorphRegistrationLib.refinement.descriptors import LABEL_CHANNELS, _distances, label_channels, mind_ssc
from VoxelMorphRegistrationLib.refinement.terms import (
    BINS,
    FLAT,
    LocalCorrelation,
    MutualInformation,
    SquaredDifference,
)


@pytest.mark.parametrize("shape", [(2, 20, 17, 15), (1, 30, 21)])
def test_box_sums_equal_direct_sums(shape):
    volume = torch.rand(shape)
    pad = [2] * (2 * (len(shape) - 1))
    windows = torch.nn.functional.pad(volume, pad)
    for axis in range(1, len(shape)):
        windows = windows.unfold(axis, 5, 1)
    expected = windows.sum(tuple(range(len(shape), windows.dim())))
    torch.testing.assert_close(box_sum(volume, 2), expected)


@pytest.mark.parametrize("term", [SquaredDifference, LocalCorrelation, MutualInformation])
def test_where_nothing_is_known_images_are_not_alike(term):
    """Else a field that moves everything out of the other image would be the best one."""
    fixed = torch.rand(1, 9, 9, 9)
    own = term(fixed)
    weight = torch.ones(9, 9, 9)
    nothing, _ = own.evaluate(fixed, weight, torch.zeros(9, 9, 9))
    unlike, _ = own.evaluate(torch.rand(1, 9, 9, 9), weight)
    assert float(nothing) <= float(unlike)


TERMS = {
    "mse": (SquaredDifference, 3),
    "lncc": (LocalCorrelation, 1),
    "lncc in blocks": (lambda fixed: LocalCorrelation(fixed, 1, 2), 1),
    "mi": (MutualInformation, 1),
}


@pytest.mark.parametrize("shape", [(11, 12, 10), (24, 26)])
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("partly", [False, True])
def test_slope_is_the_derivative_by_the_values(name, shape, partly):
    kind, channels = TERMS[name]
    generator = torch.Generator().manual_seed(1)
    fixed = torch.rand((channels, *shape), generator=generator)
    # Away from the ends of the range and from the corners of the linear weights.
    warped = 0.1 + 0.8 * torch.rand((channels, *shape), generator=generator)
    warped = 0.6 * warped + 0.4 * fixed
    place = warped * (BINS - 1)
    warped = (place.floor() + (place - place.floor()).clamp(0.1, 0.9)) / (BINS - 1)
    weight = (torch.rand(shape, generator=generator) > 0.3).float()
    known = None
    if partly:
        known = forces_pooled((torch.rand((1, *shape), generator=generator) > 0.8).float(), 2)[0] > 0.5
        for axis, size in enumerate(shape):
            known = known.repeat_interleave(2, axis).narrow(axis, 0, size)
        known = 1.0 - known.float()
    term = kind(fixed)
    _, rows = term.evaluate(warped, weight, known)
    # Boxes that begin and end within blocks.
    others = tuple(slice(0, n) for n in shape[1:-1])
    halves = slice(0, 5), slice(5, shape[-1])
    slope = torch.cat(
        [
            torch.cat([rows((side, *others, half)) for half in halves], -1)
            for side in (slice(0, 5), slice(5, 8), slice(8, shape[0]))
        ],
        1,
    )
    # Single precision carries a sum over all voxels, so all are moved at once.
    direction = torch.sign(slope) * torch.rand(slope.shape, generator=generator)
    step = 1e-3
    change = term.evaluate(warped + step * direction, weight, known, with_slope=False)[0]
    change = (change - term.evaluate(warped - step * direction, weight, known, with_slope=False)[0]) / (2 * step)
    if partly:
        weight = weight * known
    expected = term.factor * float((slope * direction).sum()) / float(weight.sum())
    assert float(change) == pytest.approx(expected, rel=0.02)
    assert float(slope[:, weight == 0].abs().max()) == 0 or "lncc" in name


@pytest.mark.parametrize("block", [1, 2])
def test_correlation_looks_at_nothing_that_is_not_known(block):
    generator = torch.Generator().manual_seed(5)
    shape = (12, 10, 8)
    fixed, warped = torch.rand((2, 1, *shape), generator=generator)
    known = (torch.rand(shape, generator=generator) > (0.5 if block == 1 else 0.1)).float()
    found, _ = LocalCorrelation(fixed, 1, block).evaluate(warped, torch.ones(shape), known, with_slope=False)
    # Blocks count that are known as a whole.
    size = [n // block for n in shape]
    whole = known.reshape(size[0], block, size[1], block, size[2], block).amin((1, 3, 5))
    voxels = whole.repeat_interleave(block, 0).repeat_interleave(block, 1).repeat_interleave(block, 2) > 0
    values = []
    for place in np.argwhere(whole.numpy() > 0):
        window = tuple(slice(max(block * (p - 1), 0), block * (p + 2)) for p in place)
        f, m = (volume[0][window][voxels[window]].double() for volume in (fixed, warped))
        f, m = f - f.mean(), m - m.mean()
        values.append(float((f @ m) ** 2 / ((f @ f) * (m @ m) + FLAT)))
    assert float(found) == pytest.approx(np.mean(values), rel=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.7, 1.0])
def test_what_is_even_in_one_image_pulls_at_nothing_and_weak_texture_counts(level):
    """Saturated, or without any contrast: what rounding leaves of its variance is no texture. A contrast of .3 % is."""
    generator = torch.Generator().manual_seed(7)
    texture = torch.randn((1, 24, 16, 16), generator=generator)
    even, weak = torch.full_like(texture, level), 0.5 + 0.003 * texture
    fixed = torch.cat([even, weak], -1)
    warped = torch.cat([0.5 + 0.1 * texture, 0.5 + 0.003 * torch.roll(texture, 1, 1)], -1)
    value, slope = LocalCorrelation(fixed, 2).evaluate(warped, torch.ones(warped.shape[1:]))
    pull = slope(tuple(slice(0, n) for n in fixed.shape[1:]))[0].abs()
    # Two voxels of a window, and two of the windows that a voxel belongs to, away from where they meet.
    assert float(pull[..., :12].max()) < 0.02 * float(pull[..., 20:].mean())
    own = LocalCorrelation(fixed, 2).evaluate(fixed, torch.ones(warped.shape[1:]), with_slope=False)[0]
    assert float(own) > 0.45 and float(value) < 0.1


@pytest.mark.parametrize("shape", [(12, 10, 8), (24, 26)])
def test_correlation_in_blocks_is_that_of_the_windows_around_them(shape):
    generator = torch.Generator().manual_seed(4)
    fixed, warped = torch.rand((2, 1, *shape), generator=generator)
    found, _ = LocalCorrelation(fixed, 1, 2).evaluate(warped, torch.ones(shape), with_slope=False)
    expected = []
    for block in np.ndindex(*[n // 2 for n in shape]):
        window = tuple(slice(max(2 * (b - 1), 0), 2 * (b + 2)) for b in block)
        f, m = (volume[0][window].double() for volume in (fixed, warped))
        f, m = f - f.mean(), m - m.mean()
        expected.append(float((f * m).sum() ** 2 / ((f * f).sum() * (m * m).sum())))
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4)


def test_mutual_information_of_equal_images_is_their_entropy_and_of_unrelated_ones_none():
    values = (torch.arange(4000) % 4).float().reshape(1, 20, 20, 10) / 3 * 24 / 31
    weight = torch.ones(values.shape[1:])
    equal, _ = MutualInformation(values).evaluate(values, weight)
    # Four equal parts, 8 bins apart: the Parzen window of 1 bin leaves them separate.
    assert float(equal) == pytest.approx(np.log(4), rel=0.01)
    other = values.roll(0).reshape(-1)[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]
    unrelated, _ = MutualInformation(values).evaluate(other.reshape(values.shape), weight)
    assert unrelated < 0.01


@pytest.mark.parametrize(("shape", "channels"), [((50, 14, 12), 12), ((40, 44), 4)])
def test_descriptors_do_not_change_with_contrast(shape, channels):
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    described = mind_ssc(volume)
    assert described.shape == (channels, *shape)
    assert float(described.min()) >= 0 and float(described.max()) == 1
    torch.testing.assert_close(mind_ssc(0.9 - 0.5 * volume), described, atol=1e-4, rtol=1e-4)


def test_pooled_descriptors_are_averages_whatever_the_slabs():
    volume = torch.rand((60, 8, 8), generator=torch.Generator().manual_seed(3))
    distances = _distances(volume)
    whole = torch.exp(-distances / distances.mean(0))
    pooled = torch.nn.functional.avg_pool3d(whole, 2)
    torch.testing.assert_close(mind_ssc(volume, 2), pooled)


def test_labels_become_channels_and_many_share_them():
    labels = torch.tensor([[0, 3], [7, 3]])
    channels = label_channels(labels, [3, 7])
    assert channels.tolist() == [[[0, 1], [0, 1]], [[0, 0], [1, 0]]]
    many = label_channels(torch.arange(1, 101).reshape(10, 10), list(range(1, 101)))
    assert many.shape == (LABEL_CHANNELS, 10, 10)
    torch.testing.assert_close(many.square().sum(0), torch.ones(10, 10))
    words = many.reshape(LABEL_CHANNELS, 100)
    between = words.T @ words - torch.eye(100)
    assert float(between.abs().max()) < 0.9


@pytest.mark.parametrize("shape", [(50, 30, 16), (30, 52)])
@pytest.mark.parametrize("pool", [1, 2])
def test_descriptors_of_tiles_are_those_of_the_whole(shape, pool, monkeypatch):
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    tiled = mind_ssc(volume, pool)
    monkeypatch.setattr(descriptors, "TILE", 64)
    torch.testing.assert_close(tiled, mind_ssc(volume, pool), atol=1e-6, rtol=0)
