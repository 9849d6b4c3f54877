"""One notion of voxels without data: what is taken for them, and what is not."""

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.nodata import filled, looked_through

GRID = make_grid((24, 24, 20))


def beyond_the_circle() -> np.ndarray:
    """(K, J, I) bool: outside of the scanner's circle."""
    radius = np.linalg.norm((GRID.positions() - GRID.center_ras)[..., :2], axis=-1)
    return radius > 12


def tissue() -> np.ndarray:
    return np.linalg.norm(GRID.positions() - GRID.center_ras, axis=-1) < 8


def ct(seed: int = 0) -> np.ndarray:
    """Soft tissue and bone in noisy air, Hounsfield units."""
    rng = np.random.default_rng(seed)
    array = np.where(tissue(), 40.0, -1000.0) + rng.normal(0, 15, GRID.shape)
    array[8:11, 10:13, 10:13] = 900
    return array


def brain(low: float = 60, high: float = 200, seed: int = 0) -> np.ndarray:
    """Values of a stripped brain in front of 0."""
    return np.where(tissue(), np.random.default_rng(seed).uniform(low, high, GRID.shape), 0.0)


@pytest.mark.parametrize("value", [-1500, -2000, -2048, -3024, -32768])
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_padding_of_a_scanner_becomes_air(value, kind):
    array = np.rint(ct()).astype(kind)
    array[beyond_the_circle()] = value
    found = filled(Image(array, GRID, "CT"))
    np.testing.assert_array_equal(~found.known, beyond_the_circle())
    assert found.image.array.dtype == kind and found.image.array[~found.known].max() == found.value
    assert found.value == pytest.approx(-1000, abs=60)
    assert f"({value})" in found.sentence() and f"in {found.missing} of its 11520 voxels" in found.sentence()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.finfo(np.float32).min, np.finfo(np.float32).max, -1e20])
def test_what_is_no_number_or_beyond_any_is_no_data(value):
    array = brain().astype(np.float32)
    array[~tissue()] = value
    found = filled(Image(array, GRID, "brain"))
    np.testing.assert_array_equal(found.known, tissue())
    assert np.isfinite(found.image.array).all() and found.missing > array.size / 2
    # The outline stays: what was cut out is darker than what is left.
    assert found.value < 60


@pytest.mark.parametrize("value", [1e300, -1e300, 1e20])
def test_single_absurd_value_is_no_data(value):
    array = brain()
    array[10, 12, 12] = value
    found = filled(Image(array, GRID, "brain"))
    assert found.missing == 1 and found.image.array.max() < 201


def test_several_fillings_are_all_found():
    array = ct()
    array[beyond_the_circle()] = -2048
    array[:3] = np.nan
    array[-3:] = -3024
    found = filled(Image(array, GRID, "CT"))
    assert found.kinds == ("NaN", "-3024", "-2048") and found.image.array.min() > -1100


def test_interpolated_border_of_padding_goes_with_it():
    array = ct()
    array[beyond_the_circle()] = -3024
    # As resampling leaves it: between padding and air.
    array[:, 12, 23] = np.linspace(-2900, -1200, GRID.shape[0])
    assert filled(Image(array, GRID, "CT")).image.array.min() > -1100


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_a_tomogram_filled_with_the_value_of_water_has_no_data_there(kind):
    outside = beyond_the_circle()
    array = np.rint(ct()).astype(kind)
    array[outside] = 0
    array[10, 12, 12] = 0
    found = filled(Image(array, GRID, "CT"))
    np.testing.assert_array_equal(~found.known, outside)
    assert found.value == pytest.approx(-1000, abs=60) and "(0)" in found.sentence()


@pytest.mark.parametrize("value", [-500, -1000, -1024])
def test_what_a_resampling_tool_left_negative_in_magnetic_resonance_is_found(value):
    outside = beyond_the_circle()
    array = np.where(tissue(), brain(100, 900), 0) + np.random.default_rng(1).normal(0, 8, GRID.shape)
    array[outside] = value
    found = filled(Image(array.astype(np.float32), GRID, "MR"))
    np.testing.assert_array_equal(~found.known, outside)
    assert abs(found.value) < 40 and f"({value})" in found.sentence()


@pytest.mark.parametrize("noise", [lambda rng, n: rng.integers(-6, 7, n), lambda rng, n: rng.normal(0, 4, n)])
def test_padding_that_lossy_compression_made_uneven_is_found(noise):
    outside = beyond_the_circle()
    array = ct().astype(np.float32)
    array[outside] = -3024 + noise(np.random.default_rng(1), outside.sum())
    found = filled(Image(array, GRID, "CT"))
    np.testing.assert_array_equal(~found.known, outside)
    assert "(-3024" in found.sentence() or "(-3023" in found.sentence()


def test_padding_in_unsigned_numbers_is_found():
    array = np.rint(ct() + 1024).clip(0).astype(np.uint16)
    array[beyond_the_circle()] = 2**16 - 2000
    assert filled(Image(array, GRID, "CT")).kinds == ("63536",)


@pytest.mark.parametrize(
    "array",
    [
        ct(),
        np.where(beyond_the_circle(), -1000, ct()),
        np.where(beyond_the_circle(), -1024, ct()),
        # Near the values of air, for the width of the others.
        np.where(beyond_the_circle(), -1030, np.where(tissue() > 0, 1500.0, -1000.0)),
        brain(),
        brain(900, 1000),
        brain(1e4, 1.1e4),
        # With any offset, as of images scaled to a mean of 0, or stored below 0.
        (brain(60, 200) - 100) / 50,
        (brain(100, 200) - 100) / 50,
        brain() - 32768,
        brain() - 100,
        np.rint(ct()) * (np.arange(24) > 2),
        np.where(beyond_the_circle(), 0, brain(60, 200) - 100),
        # Air that was made even, in front of fat and muscle.
        np.where(tissue(), np.random.default_rng(0).choice([-100.0, 40.0, 60.0, 900.0], GRID.shape), -1000.0),
        255 - brain(),
        tissue().astype(np.uint8),
        np.where(tissue(), 50.0, -1000.0),
        tissue() - 1.0,
        # Metal, and contrast medium in a bladder.
        np.where(GRID.positions()[..., 0] > 8, 3071, ct()),
        np.where(np.linalg.norm(GRID.positions() - 4, axis=-1) < 3, 5e4, brain(1, 5)),
        np.random.default_rng(0).normal(0, 1, GRID.shape),
        brain() * 1e-18,
        brain() * 1e30,
    ],
)
def test_real_values_are_left_alone(array):
    image = Image(np.asarray(array), GRID, "image")
    found = filled(image)
    assert found.image.array is image.array and found.sentence() == ""
    # It is not looked at again, until it has other values.
    again = filled(found.image)
    assert again.image is found.image and not found.image.with_array(image.array).complete


def test_image_without_any_data_is_refused():
    with pytest.raises(InputError, match="The scan has no usable values: all of its 11520 voxels are without data"):
        filled(Image(np.full(GRID.shape, np.nan), GRID, "scan"))


def test_what_was_looked_through_is_marked_only_where_it_is_complete():
    """What is missing, or wrong, is told where the image is used, by its role."""
    grid = make_grid((6, 5, 4))
    values = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    assert looked_through(Image(values, grid)).complete
    for damaged in (np.where(values > 1, np.nan, values), np.full(grid.shape, np.nan), values + 1j):
        image = Image(damaged, grid)
        assert looked_through(image) is image
