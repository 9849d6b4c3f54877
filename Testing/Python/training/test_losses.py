"""Every loss against a direct computation, in 2D and 3D."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from VoxelMorphRegistrationLib.training import losses

SHAPES = [(9, 12), (6, 7, 8)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def windows(a: torch.Tensor, b: torch.Tensor, radius: int):
    """The values of both images in the box around each voxel."""
    for centre in np.ndindex(tuple(a.shape[2:])):
        box = tuple(slice(max(0, c - radius), c + radius + 1) for c in centre)
        yield a[0, 0][box].numpy(), b[0, 0][box].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_squared_error_is_the_mean_of_squares(shape):
    a, b = random(1, 1, *shape), random(1, 1, *shape, seed=1)
    assert float(losses.mean_squared_error(a, b)) == pytest.approx(float(np.mean((a - b).numpy() ** 2)))


@pytest.mark.parametrize("shape", SHAPES)
def test_local_ncc_equals_correlation_window_by_window(shape):
    a, b = random(1, 1, *shape), random(1, 1, *shape, seed=1)
    values = []
    for x, y in windows(a, b, 2):
        cross = ((x - x.mean()) * (y - y.mean())).mean()
        values.append(cross**2 / (x.var() * y.var() + 1e-5))
    assert float(losses.local_ncc(a, b, window=5)) == pytest.approx(1.0 - np.mean(values), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_local_ncc_ignores_contrast_and_brightness(shape):
    a = random(1, 1, *shape)
    # 1e-5 keeps the division defined; variances here are about 0.08.
    assert float(losses.local_ncc(a, 7.0 - 2.0 * a, window=5)) == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_structural_similarity_equals_the_index_window_by_window(shape):
    a, b = random(1, 1, *shape), random(1, 1, *shape, seed=1)
    values = []
    for x, y in windows(a, b, 3):
        cross = ((x - x.mean()) * (y - y.mean())).mean()
        brightness = (2 * x.mean() * y.mean() + 0.01**2) / (x.mean() ** 2 + y.mean() ** 2 + 0.01**2)
        values.append(brightness * (2 * cross + 0.03**2) / (x.var() + y.var() + 0.03**2))
    assert float(losses.structural_similarity(a, b)) == pytest.approx(1.0 - np.mean(values), abs=1e-9)


def test_structural_similarity_of_brighter_flat_images_is_the_brightness_term_alone():
    a, b = torch.full((1, 1, 8, 8), 0.4), torch.full((1, 1, 8, 8), 0.8)
    expected = 1 - (2 * 0.32 + 1e-4) / (0.16 + 0.64 + 1e-4)
    assert float(losses.structural_similarity(a, b)) == pytest.approx(expected, abs=1e-6)
    assert float(losses.structural_similarity(0 * a, 0 * b)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", [losses.local_ncc, losses.structural_similarity])
def test_window_losses_take_several_images_and_channels_as_their_mean(loss):
    a, b = random(2, 2, 9, 12), random(2, 2, 9, 12, seed=1)
    # Centring is over all images, which changes nothing but rounding.
    single = [float(loss(a[n, c][None, None], b[n, c][None, None])) for n in range(2) for c in range(2)]
    assert float(loss(a, b)) == pytest.approx(np.mean(single), abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_local_ncc_keeps_its_digits_in_float32_also_for_bright_images(shift):
    a, b = random(1, 1, 24, 24, 24), random(1, 1, 24, 24, 24, seed=1)
    exact = float(losses.local_ncc(a, b))
    # 100 leaves 17 bits, 8e-6, for the values.
    assert float(losses.local_ncc(a.float() + shift, b.float() + shift)) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("loss", [losses.local_ncc, losses.structural_similarity])
def test_window_losses_of_flat_images_are_finite_with_a_finite_gradient(loss):
    a = torch.zeros(1, 1, 8, 8, requires_grad=True)
    value = loss(a, torch.zeros(1, 1, 8, 8))
    value.backward()
    assert float(value.detach()) == (1.0 if loss is losses.local_ncc else 0.0)
    assert bool(torch.isfinite(a.grad).all())


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("loss", [losses.local_ncc, losses.structural_similarity])
def test_an_even_window_is_refused(loss, window):
    with pytest.raises(ValueError, match="odd"):
        loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), window=window)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_dice_of_hard_labels_is_one_minus_the_overlap(shape):
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 3, shape) for _ in range(2))
    hot = [torch.from_numpy(np.stack([x == label for label in range(3)])[None].astype(float)) for x in (a, b)]
    direct = [2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum()) for n in range(3)]
    assert float(losses.soft_dice(*hot)) == pytest.approx(1.0 - np.mean(direct))
    assert float(losses.soft_dice(*hot, channels=[2, 0])) == pytest.approx(1.0 - (direct[0] + direct[2]) / 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_dice_of_probabilities_is_that_of_sums_of_products(shape):
    a, b = random(2, 3, *shape), random(2, 3, *shape, seed=1)
    direct = []
    for x, y in zip(a.numpy().reshape(6, -1), b.numpy().reshape(6, -1), strict=True):
        direct.append(2 * sum(x * y) / (sum(x * x) + sum(y * y)))
    assert float(losses.soft_dice(a, b)) == pytest.approx(1.0 - np.mean(direct))


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


@pytest.mark.parametrize("dims", [2, 3])
def test_bending_energy_of_a_quadratic_field_is_the_sum_of_its_squared_second_derivatives(dims):
    rng = np.random.default_rng(0)
    hessians = rng.normal(size=(dims, dims, dims))
    hessians = hessians + hessians.transpose(0, 2, 1)
    affine = rng.normal(size=(dims, dims))
    x = np.stack(np.meshgrid(*[np.arange(6.0)] * dims, indexing="ij"))
    field = 0.5 * np.einsum("cab,a...,b...->c...", hessians, x, x) + np.tensordot(affine, x, 1)
    # Differences of a quadratic are exact, and the sum over a and b has the mixed ones twice.
    energy = float(losses.bending_energy(torch.from_numpy(field)[None]))
    assert energy == pytest.approx(float((hessians**2).sum()))
    assert float(losses.bending_energy(torch.from_numpy(np.tensordot(affine, x, 1))[None])) < 1e-20


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_energy_equals_differences_voxel_by_voxel(shape):
    u = random(1, len(shape), *shape)
    array, total = u[0].numpy(), 0.0
    for a, b in itertools.product(range(len(shape)), repeat=2):
        squares = []
        step_a, step_b = np.eye(len(shape), dtype=int)[[a, b]]
        for voxel in np.ndindex(*(np.array(shape) - step_a - step_b)):
            ends = [(slice(None), *(np.array(voxel) + m * step_a + n * step_b)) for m in (0, 1) for n in (0, 1)]
            second = array[ends[3]] - array[ends[2]] - array[ends[1]] + array[ends[0]]
            squares.append((second**2).sum())
        total += np.mean(squares)
    assert float(losses.bending_energy(u)) == pytest.approx(total)


def test_bending_energy_of_a_field_too_small_to_bend_is_zero():
    assert float(losses.bending_energy(torch.rand(1, 2, 1, 2))) == 0.0


@pytest.mark.parametrize("penalty", [losses.squared_gradient, losses.bending_energy])
def test_penalties_with_a_target_are_those_of_the_difference(penalty):
    a, b = random(1, 3, 4, 5, 6), random(1, 3, 4, 5, 6, seed=1)
    assert float(penalty(a, b)) == pytest.approx(float(penalty(a - b)))


def test_displacement_error_is_the_mean_squared_length_where_the_weight_is():
    a, b = random(1, 2, 4, 4), random(1, 2, 4, 4, seed=1)
    weight = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    weight[..., 1, 2] = 1.0
    squared = ((a - b) ** 2).sum(1)
    assert float(losses.displacement_error(a, b)) == pytest.approx(float(squared.mean()))
    assert float(losses.displacement_error(a, b, weight)) == pytest.approx(float(squared[0, 1, 2]))


def interpolated(field: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Linear interpolation of (d, *S) at one inner point, corner by corner."""
    low = np.floor(point).astype(int)
    total = np.zeros(len(field))
    for corner in itertools.product((0, 1), repeat=len(point)):
        weight = np.prod([f if c else 1 - f for c, f in zip(corner, point - low, strict=True)])
        total += weight * field[(slice(None), *(low + corner))]
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1, 2])
def test_landmark_distance_is_that_of_the_moved_fixed_points(shape, scale):
    dims = len(shape)
    u = 3 * random(1, dims, *shape) - 1
    fixed, moving = (random(1, 5, dims, seed=s) * (torch.tensor(shape) - 2) * scale + scale for s in (1, 2))
    direct = []
    for x, y in zip(fixed[0].numpy(), moving[0].numpy(), strict=True):
        # Voxel p of a displacement at half resolution has its centre between the voxels 2p and 2p + 1.
        moved = x + scale * interpolated(u[0].numpy(), x if scale == 1 else (x - 0.5) / 2)
        direct.append(((moved - y) ** 2).sum())
    assert float(losses.landmark_distance(u, fixed, moving, scale)) == pytest.approx(np.mean(direct))


IMAGE_LOSSES = [
    losses.mean_squared_error,
    losses.local_ncc,
    losses.structural_similarity,
    losses.soft_dice,
]


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_similarity_losses_are_smallest_for_equal_images(loss):
    target, moved = random(1, 1, 12, 12), random(1, 1, 12, 12, seed=1)
    assert float(loss(moved, target)) > float(loss(target, target))


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 3)])
@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_gradients_of_similarity_losses_agree_with_finite_differences_in_both_images(loss, shape):
    images = [random(1, 2, *shape, seed=s).requires_grad_() for s in (0, 1)]
    options = {"window": 3} if loss in (losses.local_ncc, losses.structural_similarity) else {}
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, **options), images)


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 3)])
@pytest.mark.parametrize("penalty", [losses.squared_gradient, losses.bending_energy])
def test_gradients_of_penalties_agree_with_finite_differences(penalty, shape):
    assert torch.autograd.gradcheck(penalty, random(1, len(shape), *shape).requires_grad_())


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 3)])
def test_gradients_of_displacement_losses_agree_with_finite_differences(shape):
    dims = len(shape)
    u = random(1, dims, *shape).requires_grad_()
    target, weight = random(1, dims, *shape, seed=1), random(1, 1, *shape, seed=2)
    points = [random(1, 4, dims, seed=s) * 2 for s in (3, 4)]
    assert torch.autograd.gradcheck(lambda v: losses.displacement_error(v, target, weight), u)
    assert torch.autograd.gradcheck(lambda v: losses.landmark_distance(v, *points, 2.0), u)
