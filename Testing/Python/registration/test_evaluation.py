import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration import evaluation


def boxes(grid, start, size, label=1):
    array = np.zeros(grid.shape, np.int16)
    array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = label
    return Image(array, grid, "labels")


def test_dice_of_shifted_boxes():
    grid = make_grid((20, 20, 20))
    a, b = boxes(grid, (2, 2, 2), (8, 8, 8)), boxes(grid, (4, 2, 2), (8, 8, 8))
    assert evaluation.dice(a, b) == {1: pytest.approx(0.75)}


def test_dice_of_a_label_missing_in_one_map_is_zero_and_in_both_undefined():
    grid = make_grid((10, 10, 10))
    a, b = boxes(grid, (0, 0, 0), (2, 2, 2), 5), boxes(grid, (0, 0, 0), (2, 2, 2), 6)
    found = evaluation.dice(a, b, [5, 6, 7])
    assert found[5] == found[6] == 0 and np.isnan(found[7])
    assert evaluation.mean_dice(found) == 0


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 4), (1, 4, 4)])
def test_surface_distance_of_structures_one_voxel_thin(size):
    """One voxel at the same place in both maps had no surface, and the registration ended with an IndexError."""
    grid = make_grid((12, 12, 12), (2.0, 2.0, 2.0))
    a, b = boxes(grid, (4, 4, 4), size), boxes(grid, (6, 4, 4), size)
    assert evaluation.surface_distance95(a, a)[1] == 0
    assert evaluation.surface_distance95(a, b)[1] == pytest.approx(4.0)


def test_surface_distance_of_shifted_boxes_in_mm():
    grid = make_grid((30, 30, 30), (1.0, 1.0, 2.5))
    a, b = boxes(grid, (5, 5, 5), (8, 10, 10)), boxes(grid, (7, 5, 5), (8, 10, 10))
    # Shifted by two voxels along k, 5 mm: more than a tenth of the surface lies 5 mm off.
    assert evaluation.surface_distance95(a, b)[1] == pytest.approx(5.0)
    assert evaluation.surface_distance95(a, a)[1] == 0


def test_surface_distance_of_flat_labels():
    grid = make_grid((20, 20, 1))
    a, b = boxes(grid, (0, 4, 4), (1, 8, 8)), boxes(grid, (0, 4, 7), (1, 8, 8))
    assert evaluation.surface_distance95(a, b)[1] == pytest.approx(3.0)


def test_surface_distance_of_a_missing_label_is_undefined():
    grid = make_grid((10, 10, 10))
    assert np.isnan(
        evaluation.surface_distance95(boxes(grid, (1, 1, 1), (3, 3, 3)), boxes(grid, (1, 1, 1), (0, 0, 0)))[1]
    )


def test_labels_on_different_grids_are_refused():
    with pytest.raises(InputError, match="different grids"):
        evaluation.dice(
            boxes(make_grid((9, 9, 9)), (1, 1, 1), (2, 2, 2)), boxes(make_grid((8, 9, 9)), (1, 1, 1), (2, 2, 2))
        )


def test_landmark_error():
    moved = np.array([[0.0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(evaluation.target_registration_error(moved, [[3, 4, 0], [1, 1, 1]]), [5, 0])
    with pytest.raises(InputError, match="2 fixed and 3 moving landmarks"):
        evaluation.target_registration_error(moved, np.zeros((3, 3)))


def test_similarity_knows_equal_inverted_and_unrelated_images():
    rng = np.random.default_rng(0)
    a, mask = rng.random((30, 30, 30)), np.ones((30, 30, 30), bool)
    same, inverted = evaluation.similarity(a, a, mask), evaluation.similarity(a, 1 - a, mask)
    other = evaluation.similarity(a, rng.random(a.shape), mask)
    assert same["ncc"] == pytest.approx(1) and inverted["ncc"] == pytest.approx(-1)
    # The mutual information of an image with itself is its entropy, log(32) for uniform values in 32 bins.
    assert same["mi"] == pytest.approx(np.log(32), abs=0.02) and inverted["mi"] == pytest.approx(same["mi"], abs=0.02)
    assert abs(other["ncc"]) < 0.05 and other["mi"] < 0.05
