"""Every loss against a direct computation, in 2D and 3D."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from VoxelMorphRegistrationLib import losses

SHAPES = [(9, 12), (6, 7, 8)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_squared_error_is_the_mean_of_squares(shape):
    a, b = random(1, 1, *shape), random(1, 1, *shape, seed=1)
    assert float(losses.mean_squared_error(a, b)) == pytest.approx(float(np.mean((a - b).numpy() ** 2)))


@pytest.mark.parametrize("shape", SHAPES)
def test_local_ncc_equals_correlation_window_by_window(shape):
    a, b = random(1, 1, *shape), random(1, 1, *shape, seed=1)
    radius, values = 2, []
    for centre in np.ndindex(shape):
        box = tuple(slice(max(0, c - radius), c + radius + 1) for c in centre)
        x, y = a[0, 0][box].numpy(), b[0, 0][box].numpy()
        cross = ((x - x.mean()) * (y - y.mean())).mean()
        values.append(cross**2 / (x.var() * y.var() + 1e-5))
    assert float(losses.local_ncc(a, b, window=5)) == pytest.approx(1.0 - np.mean(values), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_local_ncc_ignores_contrast_and_brightness(shape):
    a = random(1, 1, *shape)
    # 1e-5 keeps the division defined; variances here are about 0.08.
    assert float(losses.local_ncc(a, 7.0 - 2.0 * a, window=5)) == pytest.approx(0.0, abs=1e-2)


def test_local_ncc_of_bright_float32_images_keeps_its_digits():
    a, b = random(1, 1, 16, 16), random(1, 1, 16, 16, seed=1)
    exact = float(losses.local_ncc(a, b))
    bright = float(losses.local_ncc(a.float() + 100.0, b.float() + 100.0))
    assert bright == pytest.approx(exact, abs=1e-3)


def test_local_ncc_of_flat_images_is_finite_with_a_finite_gradient():
    a = torch.zeros(1, 1, 8, 8, requires_grad=True)
    value = losses.local_ncc(a, torch.zeros(1, 1, 8, 8))
    value.backward()
    assert float(value.detach()) == 1.0
    assert bool(torch.isfinite(a.grad).all())


@pytest.mark.parametrize("window", [0, 4])
def test_local_ncc_refuses_an_even_window(window):
    with pytest.raises(ValueError, match="odd"):
        losses.local_ncc(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), window=window)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_dice_of_hard_labels_is_one_minus_the_overlap(shape):
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 3, shape) for _ in range(2))
    hot = [torch.from_numpy(np.stack([x == label for label in range(3)])[None].astype(float)) for x in (a, b)]
    direct = [2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum()) for n in range(3)]
    assert float(losses.soft_dice(*hot)) == pytest.approx(1.0 - np.mean(direct))


def test_soft_dice_leaves_out_structures_that_are_in_neither_map():
    a = torch.zeros(1, 3, 4, 4)
    a[:, 0] = 1.0
    assert float(losses.soft_dice(a, a)) == 0.0


def test_soft_dice_of_disjoint_structures_is_one():
    a, b = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    a[..., :2], b[..., 2:] = 1.0, 1.0
    assert float(losses.soft_dice(a, b)) == 1.0


@pytest.mark.parametrize("dims", [2, 3])
def test_squared_gradient_of_a_linear_field_is_the_sum_of_its_squared_derivatives(dims):
    matrix = np.random.default_rng(0).normal(size=(dims, dims))
    positions = np.stack(np.meshgrid(*[np.arange(5.0)] * dims, indexing="ij"))
    field = torch.from_numpy(np.tensordot(matrix, positions, 1))[None]
    assert float(losses.squared_gradient(field)) == pytest.approx(float((matrix**2).sum()))


def test_squared_gradient_with_a_target_is_that_of_the_difference():
    a, b = random(1, 3, 4, 5, 6), random(1, 3, 4, 5, 6, seed=1)
    assert float(losses.squared_gradient(a, b)) == pytest.approx(float(losses.squared_gradient(a - b)))


def test_displacement_error_is_the_mean_squared_length_where_the_weight_is():
    a, b = random(1, 2, 4, 4), random(1, 2, 4, 4, seed=1)
    weight = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    weight[..., 1, 2] = 1.0
    squared = ((a - b) ** 2).sum(1)
    assert float(losses.displacement_error(a, b)) == pytest.approx(float(squared.mean()))
    assert float(losses.displacement_error(a, b, weight)) == pytest.approx(float(squared[0, 1, 2]))


def test_landmark_distance_is_the_mean_squared_distance():
    a, b = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), torch.tensor([[3.0, 4.0, 0.0], [1.0, 1.0, 3.0]])
    assert float(losses.landmark_distance(a, b)) == pytest.approx((25.0 + 4.0) / 2)


@pytest.mark.parametrize("loss", [losses.mean_squared_error, losses.local_ncc, losses.soft_dice])
def test_similarity_losses_are_smallest_for_equal_images_and_differentiable(loss):
    target = random(1, 1, 12, 12)
    moved = random(1, 1, 12, 12, seed=1).requires_grad_()
    value = loss(moved, target)
    value.backward()
    assert float(value.detach()) > float(loss(target, target))
    assert float(moved.grad.abs().sum()) > 0.0
