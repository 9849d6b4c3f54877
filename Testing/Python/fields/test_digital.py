import numpy as np
import pytest

from grids import KINDS, make_grid
from VoxelMorphRegistrationLib.fields.digital import non_diffeomorphic_percent
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField


def linear_field(grid, matrix) -> DisplacementField:
    return DisplacementField((grid.positions() @ (np.asarray(matrix) - np.eye(3)).T).astype(np.float32), grid)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirror_turns_everything_inside_out_and_a_turn_nothing(kind):
    grid = make_grid(**KINDS[kind])
    assert non_diffeomorphic_percent(linear_field(grid, np.diag([-1.0, 1, 1]))) == pytest.approx(100, rel=1e-3)
    turn = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    assert non_diffeomorphic_percent(linear_field(grid, turn)) == 0.0
    # By half its size: what is turned has an eighth of the volume.
    assert non_diffeomorphic_percent(linear_field(grid, -0.5 * np.eye(3))) == pytest.approx(12.5, rel=1e-3)


def test_a_slice_counts_areas():
    grid = make_grid((20, 18, 1), (1, 1.5, 2), (10, 20, 30))
    along = grid.directions[:, 0]
    mirror = np.eye(3) - 2 * np.outer(along, along)
    assert non_diffeomorphic_percent(linear_field(grid, mirror)) == pytest.approx(100, rel=1e-3)
    assert non_diffeomorphic_percent(linear_field(grid, np.eye(3))) == 0.0


def test_one_voxel_out_of_place_turns_what_it_leaves_behind():
    grid = make_grid((9, 9, 9))
    u = np.zeros((9, 9, 9, 3), np.float32)
    # 2.5 voxels to the right: past its neighbour, through the tetrahedra on its right.
    u[4, 4, 4, 0] = 2.5
    found = non_diffeomorphic_percent(DisplacementField(u, grid)) * 8**3 / 100
    # By both ways to cut the cells, each of whose five volumes is linear in where that voxel is: four cells of eight
    # lie to the right, and in each the voxel's own corner tetrahedron (1/6), those of its three neighbours (1/6 each)
    # along the edge that shrinks, and the core of the way in which it is a corner of the core.
    corner = (2.5 - 1) / 6
    neighbour = (2.5 - 1) / 6
    core = (2.5 / 2 - 1) * 2 / 6
    assert found == pytest.approx(4 * 0.5 * (corner + neighbour + core), rel=1e-4)


def test_cells_count_where_all_their_corners_are_in_the_mask():
    grid = make_grid((10, 10, 10))
    u = np.zeros((10, 10, 10, 3), np.float32)
    u[:, :, 5:, 0] = -2.0 * np.arange(5)
    mask = np.zeros((10, 10, 10), bool)
    mask[:, :, :5] = True
    assert non_diffeomorphic_percent(DisplacementField(u, grid), mask) == 0.0
    assert non_diffeomorphic_percent(DisplacementField(u, grid), ~mask) == pytest.approx(100, rel=1e-4)
    assert np.isnan(non_diffeomorphic_percent(DisplacementField(u, grid), np.zeros_like(mask)))


def test_it_does_not_depend_on_the_blocks(monkeypatch):
    grid = make_grid((20, 18, 16), (1, 1.4, 2), (10, 20, 30), left_handed=True)
    u = np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32)
    field = DisplacementField(u, grid)
    whole = non_diffeomorphic_percent(field)
    monkeypatch.setattr("VoxelMorphRegistrationLib.fields.folding.BLOCK_VOXELS", 700)
    assert non_diffeomorphic_percent(field) == pytest.approx(whole, rel=1e-9) and whole > 1


def test_a_slice_that_is_sheared_and_mirrored_counts_the_area_it_has_then():
    grid = make_grid((20, 18, 1), (1, 1.5, 2), (10, 20, 30))
    axes = grid.directions[:, :2]
    for plane, percent in (([[-0.6, 0.5], [0.3, 0.8]], 63.0), ([[0.6, 0.5], [0.3, 0.8]], 0.0)):
        matrix = np.eye(3) + axes @ (np.array(plane) - np.eye(2)) @ axes.T
        assert non_diffeomorphic_percent(linear_field(grid, matrix)) == pytest.approx(percent, abs=0.1)
