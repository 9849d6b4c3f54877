"""The part of the fixed image that a network is shown."""

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.networks.model import read_card
from VoxelMorphRegistrationLib.networks.shelf import find_model
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.registration.working import pass_grids, surroundings


def shown(grid, start, stop):
    """First voxel and number of voxels, in the order (I, J, K), of what is shown around a box of the grid."""
    mask = np.zeros(grid.shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start[::-1], stop[::-1], strict=True))] = True
    part = surroundings(grid, mask)
    np.testing.assert_allclose(part.spacing, grid.spacing)
    return np.round(grid.to_ijk(part.to_ras([0.0, 0.0, 0.0]))).astype(int).tolist(), part.size.tolist()


@pytest.mark.parametrize("spacing", [0.5, 0.0005])
def test_large_anatomy_is_shown_with_a_part_of_its_longest_side_around_it(spacing):
    # 3 % of 300 voxels, whatever the unit.
    grid = make_grid((360, 40, 44), (spacing,) * 3, (10.0, 20.0, -5.0))
    assert shown(grid, (30, 15, 12), (330, 25, 30)) == ([21, 6, 3], [318, 28, 36])


def test_small_anatomy_is_shown_with_five_of_the_smallest_voxel_sides_around_it():
    grid = make_grid((60, 40, 30), (0.5, 1.0, 2.0), left_handed=True)
    # 2.5 mm: 5, 3 and 2 whole voxels.
    assert shown(grid, (20, 10, 8), (30, 20, 18)) == ([15, 7, 6], [20, 16, 14])


def test_what_is_shown_ends_with_the_image_and_stays_in_the_plane_of_a_slice():
    grid = make_grid((60, 40, 1), (0.5, 1.0, 0.1))
    assert shown(grid, (2, 10, 0), (30, 38, 1)) == ([0, 7, 0], [35, 33, 1])


@pytest.mark.parametrize(("name", "size"), [("brain-2d", (40, 40, 40)), ("brain-3d", (64, 64, 1))])
def test_a_model_of_the_other_dimension_has_no_grids(name, size):
    other = "brain-3d" if name == "brain-2d" else "brain-2d"
    with pytest.raises(InputError, match=f"the model '{name}' is for .D images. Shipped .D models: {other}"):
        pass_grids(make_grid(size), read_card(find_model(name)), Settings())
