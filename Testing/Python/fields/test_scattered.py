"""A field through scattered points."""

from __future__ import annotations

import pytest
import torch

from VoxelMorphRegistrationLib.fields.scattered import fitted


def places(count, shape, seed=0):
    return torch.rand(count, len(shape), generator=torch.Generator().manual_seed(seed)) * torch.tensor(shape)


def voxels(shape):
    return torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))


@pytest.mark.parametrize("shape", [(20, 24), (12, 16, 10)])
def test_an_affine_motion_comes_out_as_it_is_at_every_voxel(shape):
    """To 1e-4 voxels, however unevenly sure its points are, beyond the outermost of them, too."""
    dims, points = len(shape), 0.5 * places(60, shape) + 2
    generator = torch.Generator().manual_seed(1)
    matrix, offset = 0.2 * torch.randn(dims, dims, generator=generator), torch.randn(dims, generator=generator)
    spread = torch.rand(60, generator=generator) * 3
    field = fitted(points, points @ matrix.T + offset, spread, shape)
    expected = torch.einsum("ab,b...->a...", matrix, voxels(shape)) + offset.reshape(-1, *[1] * dims)
    assert field.shape == (dims, *shape)
    assert float((field - expected).abs().max()) < 1e-4


def test_a_smooth_motion_is_met_between_its_points():
    shape = (24, 24, 24)

    def motion(p):
        return 3.0 * torch.sin(p / 8.0)

    points = places(400, shape)
    field = fitted(points, motion(points), torch.full((400,), 0.2), shape)
    inner = (slice(None), *(slice(3, -3),) * 3)
    expected = motion(voxels(shape))
    assert float((field - expected)[inner].norm(dim=0).mean()) < 0.2 * float(expected[inner].norm(dim=0).mean())


def test_a_point_counts_as_far_as_it_is_sure():
    shape = (20, 20)
    points = places(50, shape)
    values = torch.zeros(50, 2)
    values[0] = 5.0
    sure, unsure = torch.full((50,), 0.3), torch.full((50,), 0.3)
    unsure[0] = 6.0
    fields = [fitted(points, values, spread, shape, refits=0).abs().max() for spread in (sure, unsure)]
    assert float(fields[1]) < 0.1 * float(fields[0])


def test_a_point_that_no_other_agrees_with_is_left_out():
    shape = (20, 20)
    points = places(50, shape)
    values = 1.0 + 0.05 * torch.randn(50, 2, generator=torch.Generator().manual_seed(2))
    values[0] = -8.0
    spread = torch.full((50,), 0.3)
    once, again = (fitted(points, values, spread, shape, refits=n) for n in (0, 2))
    assert float((again - 1.0).abs().max()) < 0.5 < float((once - 1.0).abs().max())


def test_one_point_moves_everything_alike():
    field = fitted(torch.tensor([[3.0, 4.0, 2.0]]), torch.tensor([[1.0, -2.0, 0.5]]), torch.ones(1), (6, 7, 5))
    assert torch.allclose(field, torch.tensor([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1).expand_as(field), atol=1e-4)


def test_the_field_can_be_learned_from():
    points, shape = places(12, (10, 10)), (10, 10)
    values = torch.zeros(12, 2, requires_grad=True)
    fitted(points, values, torch.ones(12), shape).sum().backward()
    # A shift of all points is one of all voxels.
    assert float(values.grad.sum()) == pytest.approx(2 * 100, rel=1e-3)
