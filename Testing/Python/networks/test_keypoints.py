"""Points that can be found again: where they are, and that they cover the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from VoxelMorphRegistrationLib.networks.keypoints import blurred, chosen_points, distinctiveness, unravelled


def noise(*shape, seed=0):
    return blurred(torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("shape", [(12, 14), (10, 9, 11)])
def test_distinctiveness_is_the_inverse_trace_of_the_inverse_structure_tensor(shape):
    image = noise(*shape)
    smooth = blurred(image)[0, 0].numpy().astype(np.float64)
    padded = np.pad(smooth, 1, mode="edge")
    inner = [np.gradient(padded, axis=axis)[(slice(1, -1),) * len(shape)] for axis in range(len(shape))]
    products = np.stack([a * b for a in inner for b in inner])
    tensor = blurred(torch.from_numpy(products)[:, None]).numpy().reshape(len(shape), len(shape), *shape)
    expected = 1.0 / np.trace(np.linalg.inv(np.moveaxis(tensor, (0, 1), (-2, -1))), axis1=-2, axis2=-1)
    np.testing.assert_allclose(distinctiveness(image)[0, 0].numpy(), expected, rtol=2e-3, atol=1e-9)


def test_a_corner_is_distinct_and_an_edge_a_face_and_an_even_part_are_not():
    image = torch.zeros(1, 1, 24, 24, 24)
    image[..., 8:, 8:, 8:] = 1.0
    found = distinctiveness(image)[0, 0]
    corner = float(found[7:10, 7:10, 7:10].max())
    assert corner > 1e-3
    for place in ((8, 8, 18), (8, 18, 18), (16, 16, 16), (2, 2, 2)):
        assert float(found[place]) < 1e-4 * corner
    points = chosen_points(distinctiveness(image), None, 10)
    assert points.shape == (1, 3)
    assert (points[0] - 8).abs().max() <= 1


def test_points_lie_in_the_region_apart_from_each_other_and_are_the_same_every_time():
    image = noise(30, 32, 28)
    region = torch.zeros_like(image)
    region[..., 5:25, :, 3:20] = 1.0
    points = chosen_points(distinctiveness(image), region, 60)
    assert len(points) == 60
    assert all(region[0, 0][tuple(point)] for point in points.tolist())
    apart = (points[:, None] - points[None]).abs().amax(-1) + 100 * torch.eye(60, dtype=torch.long)
    assert int(apart.min()) >= 2
    assert torch.equal(points, chosen_points(distinctiveness(image), region, 60))


def test_faint_parts_of_the_image_have_points_too():
    """A tenth of the contrast everywhere but in one corner, which has more maxima than points are asked for."""
    image = noise(64, 64, seed=1)
    image[..., 24:, :] *= 0.1
    image[..., :, 24:] *= 0.1
    points = chosen_points(distinctiveness(image), None, 24)
    quarters = {(int(y) // 32, int(x) // 32) for y, x in points}
    assert len(quarters) == 4
    strong = ((points < 24).all(1)).sum()
    assert strong <= 8


def test_nothing_distinct_gives_no_point():
    assert chosen_points(distinctiveness(torch.full((1, 1, 8, 8, 8), 0.3)), None, 5).shape == (0, 3)


def test_numbers_of_voxels_become_their_places():
    sizes = [3, 4, 5]
    numbers = torch.arange(60)
    assert torch.equal(unravelled(numbers, sizes), torch.stack(torch.unravel_index(numbers, sizes), 1))
