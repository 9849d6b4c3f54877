"""Displacements in voxels: composed, integrated, and where they lead; smoothing before a coarser grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grids import make_grid
from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.images.image import Image, smoothed

SHAPE = (11, 15, 13)


def affine(matrix, shift, shape=SHAPE) -> torch.Tensor:
    """(1, d, *S): p -> center + matrix (p - center) + shift, in voxels along the tensor axes."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    places = torch.stack(axes)
    offset = places - torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64).reshape(-1, *[1] * len(shape))
    moved = torch.einsum("ab,b...->a...", torch.tensor(np.asarray(matrix) - np.eye(len(shape))), offset)
    return (moved + torch.tensor(np.asarray(shift, float)).reshape(-1, *[1] * len(shape)))[None]


def inner(values: torch.Tensor, margin: int = 4) -> np.ndarray:
    return values[(0, slice(None), *[slice(margin, -margin)] * (values.dim() - 2))].numpy()


def test_positions_are_in_the_order_i_j_k():
    displacement = torch.zeros(1, 3, *SHAPE)
    displacement[0, 0], displacement[0, 1], displacement[0, 2] = 0.5, 0.25, 0.125
    positions = sampling.voxel_positions(displacement)
    assert positions.shape == (1, *SHAPE, 3)
    # The voxel (k, j, i) = (2, 7, 4).
    assert positions[0, 2, 7, 4].tolist() == [4.125, 7.25, 2.5]


def test_composition_takes_the_second_first():
    first = affine(np.diag([1.1, 0.95, 1.0]), (0.5, 0.0, -1.0))
    second = affine(np.eye(3), (1.0, -2.0, 0.5))
    composed = sampling.compose(first, second)
    # p -> first(p + s): the scales act on the shift as well.
    expected = affine(np.diag([1.1, 0.95, 1.0]), np.array([0.5, 0.0, -1.0]) + [1.1, -1.9, 0.5])
    np.testing.assert_allclose(inner(composed), inner(expected), atol=1e-9)


@pytest.mark.parametrize("steps", [0, 3, 7])
def test_a_steady_flow_goes_as_far_as_it_is_fast(steps):
    velocity = affine(np.eye(3), (1.5, -0.5, 0.25))
    np.testing.assert_allclose(inner(sampling.integrate(velocity, steps)), inner(velocity), atol=1e-9)


def test_a_flow_that_widens_grows_exponentially():
    rate = 0.2
    flown = sampling.integrate(affine(np.diag([1 + rate, 1.0, 1 - rate]), (0, 0, 0)), 8)
    expected = affine(np.diag([math.exp(rate), 1.0, math.exp(-rate)]), (0, 0, 0))
    np.testing.assert_allclose(inner(flown), inner(expected), atol=2e-3)


def test_smoothing_before_a_coarser_grid_is_as_wide_as_its_step_along_each_axis():
    grid = make_grid((31, 31, 31))
    array = np.zeros(grid.shape, np.float32)
    array[15, 15, 15] = 1000.0
    # Steps of 3 voxels along i and of 1 along j and k, each with its own direction.
    to_source = np.diag([-3.0, 1.0, 1.0, 1.0])
    result = smoothed(Image(array, grid, "point"), to_source)
    assert result.array.dtype == np.float32 and result.grid is grid and result.name == "point"
    weights = result.array / result.array.sum()
    k, j, i = np.indices(grid.shape) - 15.0
    spread = [math.sqrt(float((weights * axis**2).sum())) for axis in (i, j, k)]
    assert spread == pytest.approx([0.5 * math.sqrt(3**2 - 1), 0.0, 0.0], abs=0.05)
