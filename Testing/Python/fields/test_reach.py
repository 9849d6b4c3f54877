"""How far a field reaches, where it leads, and how it and a linear part change volumes and areas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grids import KINDS, make_grid
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField, grid_over, inverse_tolerance
from VoxelMorphRegistrationLib.fields.folding import change_of_pieces, linear_determinant
from VoxelMorphRegistrationLib.fields.positions import warped_positions

MATRIX = np.array([[1.1, 0.2, -0.1], [0.0, 0.9, 0.3], [0.05, -0.2, 1.3]])


def affine(linear=MATRIX, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, shift
    return matrix


def linear_field(grid, linear=MATRIX, shift=(0.0, 0.0, 0.0)) -> DisplacementField:
    points = grid.positions()
    return DisplacementField((points @ np.asarray(linear).T + shift - points).astype(np.float32), grid)


# --- volumes and areas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_part_changes_volumes_by_its_determinant(kind):
    assert linear_determinant(affine(), make_grid(**KINDS[kind])) == pytest.approx(np.linalg.det(MATRIX))


@pytest.mark.parametrize("axis", range(3))
def test_in_a_slice_a_linear_part_changes_areas(axis):
    size = [9, 8, 7]
    size[axis] = 1
    scales = np.array([1.5, 0.8, 3.0])
    expected = np.prod(scales) / scales[axis]
    assert linear_determinant(affine(np.diag(scales)), make_grid(size)) == pytest.approx(expected)
    # On turned axes, too: the matrix that scales along them.
    grid = make_grid(size, (1.0, 2.0, 0.5), (20, 30, -10))
    turned = grid.directions @ np.diag(scales) @ grid.directions.T
    assert linear_determinant(affine(turned), grid) == pytest.approx(expected)


def test_the_spread_of_the_volume_change_is_of_its_natural_logarithm():
    grid = make_grid((24, 20, 18))
    line = grid.positions()[..., 0]
    # Twice as long in one half, as it was in the other.
    u = np.zeros((*grid.shape, 3), np.float32)
    u[..., 0] = np.maximum(line - line.mean(), 0.0)
    mask = np.abs(line - line.mean()) > 2
    folding = DisplacementField(u, grid).folding(mask)
    assert folding.sd_log == pytest.approx(math.log(2) / 2, rel=1e-4)
    assert (folding.minimum, folding.maximum) == (pytest.approx(1.0), pytest.approx(2.0))


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_linear_field_all_change_alike(kind):
    grid = make_grid(**KINDS[kind])
    mask = np.zeros(grid.shape, bool)
    mask[3:-3, 4:-4, 5:-5] = True
    smallest, largest = change_of_pieces(linear_field(grid), mask, grid)
    assert (smallest, largest) == (pytest.approx(np.linalg.det(MATRIX), rel=2e-3),) * 2


def test_pieces_tell_the_smallest_from_the_largest_change():
    grid = make_grid((40, 40, 40))
    points = grid.positions()
    line = points[..., 0] - points[..., 0].mean()
    u = np.zeros((*grid.shape, 3), np.float32)
    u[..., 0] = 0.4 * np.maximum(line, 0.0) - 0.4 * np.minimum(line, 0.0)
    smallest, largest = change_of_pieces(DisplacementField(u, grid), np.ones(grid.shape, bool), grid)
    assert smallest == pytest.approx(0.6, abs=0.01) and largest == pytest.approx(1.4, abs=0.01)
    outside = make_grid((8, 8, 8), center=(500, 0, 0))
    assert change_of_pieces(linear_field(outside), np.ones(grid.shape, bool), grid) == (1.0, 1.0)


# --- reach ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_is_enlarged_by_its_border_until_it_holds_all_centres(kind):
    grid = make_grid(**KINDS[kind])
    rng = np.random.default_rng(0)
    field = DisplacementField(rng.normal(size=(*grid.shape, 3)).astype(np.float32), grid)
    wide = grid.cropped(np.array([-3, 1, -1]), grid.size + [5, -1, 3])
    found = field.covering(wide)
    assert found.grid.size.tolist() == (grid.size + [5, 0, 3]).tolist()
    np.testing.assert_array_equal(found.displacement_ras[1:-2, :, 3:-2], field.displacement_ras)
    np.testing.assert_array_equal(found.displacement_ras[0, :, 3:-2], field.displacement_ras[0])
    np.testing.assert_array_equal(found.displacement_ras[1:-2, :, 0], field.displacement_ras[:, :, 0])
    assert found.grid.to_ras([3, 0, 1]) == pytest.approx(grid.to_ras([0, 0, 0]))
    # Enough already.
    assert field.covering(grid.cropped([1, 1, 1], grid.size - 2)) is field


@pytest.mark.parametrize("axis", range(3))
def test_a_field_of_a_slice_stays_a_slice(axis):
    size, more = np.array([9, 8, 7]), np.array([4, 4, 4])
    size[axis], more[axis] = 1, 0
    grid = make_grid(size.tolist())
    # The other slice lies beside this one.
    start = np.where(np.arange(3) == axis, 3, -2)
    found = linear_field(grid).covering(grid.cropped(start, size + more))
    assert found.grid.size.tolist() == (size + more).tolist()
    assert found.grid.to_ras(np.where(np.arange(3) == axis, 0, 2)) == pytest.approx(grid.to_ras([0, 0, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_over_another_holds_its_corners_between_its_voxel_centres(kind):
    grid, covered = make_grid(**KINDS[kind]), make_grid((30, 50, 20), (1.3, 0.9, 2.0), (10, -20, 5), center=(6, -4, 9))
    over = grid_over(grid, covered)
    ijk = over.to_ijk(covered.corners())
    assert (ijk >= -1e-6).all() and (ijk <= over.size - 1 + 1e-6).all()
    # By whole voxels of the grid, one at least to each side, and no further than that.
    first = grid.to_ijk(over.to_ras([0, 0, 0]))
    np.testing.assert_allclose(first, np.rint(first), atol=1e-6)
    last = first + over.size - 1
    assert (first <= -1 + 1e-6).all() and (last >= grid.size - 1e-6).all()
    own = grid.to_ijk(covered.corners())
    np.testing.assert_allclose(first, np.minimum(np.floor(own.min(0)), -1), atol=1e-6)
    np.testing.assert_allclose(last, np.maximum(np.ceil(own.max(0)), grid.size), atol=1e-6)


def test_an_inverse_is_as_exact_as_the_smallest_voxel_asks_for():
    fine, coarse = make_grid((9, 9, 9), (0.5, 2.0, 4.0)), make_grid((9, 9, 9), (3.0, 2.5, 3.0))
    flat = make_grid((9, 9, 1), (3.0, 2.5, 0.01))
    assert inverse_tolerance(coarse) / 2.5 == pytest.approx(inverse_tolerance(fine) / 0.5)
    assert inverse_tolerance(coarse, fine) == inverse_tolerance(fine, coarse) == inverse_tolerance(fine)
    # How thick a slice is does not count.
    assert inverse_tolerance(flat) == inverse_tolerance(coarse)


@pytest.mark.parametrize("voxels", [None, 700])
@pytest.mark.parametrize("bent", [False, True])
def test_positions_go_through_the_field_then_the_matrix_into_the_source(bent, voxels):
    reference = make_grid(**KINDS["oblique, anisotropic, left-handed"])
    source = make_grid((30, 20, 25), (1.5, 2.0, 1.0), (5, 15, -25), center=(3, 2, 1))
    # The field's own grid is another one, and holds the reference.
    over = grid_over(make_grid((20, 20, 20), (3.0, 3.0, 3.0)), reference)
    shift = (2.0, -1.0, 3.0)
    field = linear_field(over, np.eye(3) + 0.1 * MATRIX, shift) if bent else None
    matrix = affine(MATRIX, (4.0, 5.0, -6.0))
    moved = reference.positions()
    moved = moved @ (np.eye(3) + 0.1 * MATRIX).T + shift if bent else moved
    expected = source.to_ijk(moved @ MATRIX.T + [4.0, 5.0, -6.0])
    covered = []
    for rows, positions in warped_positions(reference, field, matrix, source, voxels):
        np.testing.assert_allclose(positions.numpy(), expected[rows], atol=2e-3)
        covered += range(*rows.indices(reference.shape[0]))
    assert covered == list(range(reference.shape[0]))


@pytest.mark.parametrize(("across", "shape"), [(False, (1, 9, 10)), (True, (5, 9, 10))])
def test_a_padded_slice_stays_a_slice_unless_it_is_asked_for(across, shape):
    grid = make_grid((6, 5, 1), (2, 1.5, 3), degrees=(10, 20, 30))
    values = np.random.default_rng(0).normal(size=(1, 5, 6, 3)).astype(np.float32)
    found = DisplacementField(values, grid).padded(2, across)
    assert found.grid.shape == shape
    middle = shape[0] // 2
    np.testing.assert_array_equal(found.displacement_ras[middle, 2:-2, 2:-2], values[0])
    np.testing.assert_array_equal(found.displacement_ras[0, 0, 0], values[0, 0, 0])
    np.testing.assert_allclose(found.grid.to_ras([2, 2, middle]), grid.to_ras([0, 0, 0]), atol=1e-9)


def test_pieces_of_a_slice_change_their_area():
    grid = make_grid((48, 40, 1), (1, 1.5, 6), (10, 20, 30))
    along = grid.directions[:, 1]
    u = (0.5 * (grid.positions() @ along)[..., None] * along).astype(np.float32)
    inside = np.zeros(grid.shape, bool)
    inside[:, 8:-8, 8:-8] = True
    assert change_of_pieces(DisplacementField(u, grid), inside, grid) == pytest.approx((1.5, 1.5), rel=1e-3)
