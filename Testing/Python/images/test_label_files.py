"""Label maps and masks: exact numbers, one rule of what is inside, on the voxels of their image."""

from __future__ import annotations

import numpy as np
import pytest

from grids import KINDS, make_grid
from label_cases import segmentation
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.grid import Grid, reoriented
from VoxelMorphRegistrationLib.images.image import Image, resample
from VoxelMorphRegistrationLib.images.labels import inside, looks_like_labels, on_image, whole_numbers
from VoxelMorphRegistrationLib.images.segmentations import matched_by_name, read_labels, read_mask
from VoxelMorphRegistrationLib.registration import evaluation

LARGE = [0, 1, 2**31, 3_000_000_000, 2**40 + 1, 2**53 - 1]


def labels(array, grid=None, name="fixed labels"):
    array = np.asarray(array)
    return Image(array, grid or make_grid(array.shape[::-1]), name)


def row(values, dtype):
    return labels(np.array(values, dtype).reshape(1, 1, -1))


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("u1", 200), ("i2", 30000), ("u4", 3_000_000_000), ("i8", 2**53), ("u8", 2**53), ("f8", 2**53)],
)
def test_whole_numbers_stay_exact(dtype, largest):
    values = [value for value in [*LARGE, largest] if value <= largest]
    found = whole_numbers(row(values, dtype)).array
    assert found.dtype.kind in "iu"
    assert found.ravel().tolist() == values


def test_numbers_of_single_precision_and_negative_ones_stay():
    assert whole_numbers(row([0, -3, 2**24, 2.0**40], "f4")).array.ravel().tolist() == [0, -3, 2**24, 2**40]
    assert whole_numbers(row([0, -(2**53)], "i8")).array.ravel().tolist() == [0, -(2**53)]
    assert whole_numbers(row([False, True], bool)).array.ravel().tolist() == [0, 1]


@pytest.mark.parametrize("values", [[0.5], [np.nan], [np.inf], [2.0**54]])
def test_what_is_no_label_is_refused(values):
    with pytest.raises(InputError, match="not whole numbers|beyond which"):
        whole_numbers(row(values, "f8"))


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1])
def test_numbers_that_other_programs_mix_up_are_refused(value):
    with pytest.raises(InputError, match=str(abs(value))):
        whole_numbers(row([0, value], "i8"))


@pytest.mark.parametrize(
    ("values", "dtype"), [([0, -1], "i1"), ([0, 255], "u1"), ([0, 0.3], "f4"), ([0, -0.3], "f4"), ([np.nan, 1], "f4")]
)
def test_inside_is_what_is_not_zero(values, dtype):
    assert inside(row(values, dtype)).array.ravel().tolist() == [False, True]


def test_large_labels_are_measured_each():
    array = np.zeros((4, 4, 12), np.int64)
    for n, value in enumerate(LARGE[1:]):
        array[1:3, 1:3, 2 * n : 2 * n + 2] = value
    other = array.copy()
    other[1:3, 1:3, 10:] = 0
    a, b = labels(array), labels(other)
    assert evaluation.dice(a, a) == dict.fromkeys(LARGE[1:], 1.0)
    assert evaluation.surface_distance95(a, a) == dict.fromkeys(LARGE[1:], 0.0)
    found = evaluation.surface_distance95(a, b)
    assert [value for value in LARGE[1:] if np.isnan(found[value])] == []
    unsigned = labels(np.where(array < 2**32, array, 0).astype(np.uint32))
    assert list(evaluation.surface_distance95(unsigned, unsigned)) == [1, 2**31, 3_000_000_000]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [None, "RAS", "LPS", "SLA"])
def test_labels_in_a_smaller_box_come_onto_the_image(kind, turned):
    grid = make_grid(**KINDS[kind])
    whole = np.random.default_rng(0).integers(-5, 2**40, grid.shape)
    box = grid.cropped((3, 4, 5), (9, 8, 7))
    part = whole[5:12, 4:12, 3:12]
    small = labels(part, box)
    if turned:
        other = reoriented(box, turned)
        small = Image(
            resample(small.with_array(np.arange(part.size, dtype=np.float32).reshape(part.shape)), other).array, other
        )
        small = small.with_array(part.ravel()[small.array.astype(int)])
    image = Image(np.zeros(grid.shape), grid)
    expected = np.zeros_like(whole)
    expected[5:12, 4:12, 3:12] = part
    found = on_image(small, image, "fixed labels", "fixed image")
    assert found.array.dtype == whole.dtype
    np.testing.assert_array_equal(found.array, expected)
    assert found.grid is grid


@pytest.mark.parametrize("start", [(-1, 0, 0), (0.3, 0, 0), (3, 0, 0)])
@pytest.mark.parametrize("spacing", [1.0, 0.0025])
def test_other_grids_are_refused_at_every_voxel_size(start, spacing):
    grid = make_grid((12, 12, 12), [spacing] * 3, (10, 20, 30))
    other = grid.cropped(start, (12, 12, 12))
    with pytest.raises(InputError, match="on another grid than the fixed image"):
        on_image(
            labels(np.ones((12, 12, 12), int), other), Image(np.zeros(grid.shape), grid), "fixed labels", "fixed image"
        )
    near = Grid(grid.shape, grid.cropped((0.02, 0, 0), (12, 12, 12)).ijk_to_ras)
    same = labels(np.ones(grid.shape, int), near)
    assert on_image(same, Image(np.zeros(grid.shape), grid), "fixed labels", "fixed image") is same


def test_a_coarser_lattice_is_another_grid():
    grid = make_grid((12, 12, 12))
    coarse = make_grid((6, 6, 6), (2, 2, 2))
    with pytest.raises(InputError, match="another grid"):
        on_image(labels(np.ones((6, 6, 6), int), coarse), Image(np.zeros(grid.shape), grid), "mask", "fixed image")


GRID = make_grid((6, 5, 4), (2, 2.5, 3), (10, 20, 30))


def test_a_segmentation_keeps_its_values_and_names(tmp_path):
    array = np.zeros(GRID.shape, np.uint8)
    array[1, 1, 1], array[2, 2, 2] = 4, 9
    found = read_labels(
        segmentation(tmp_path / "a.seg.nrrd", array, [("tumor", 4, 0), ("brain", 9, 0)], GRID), "labels"
    )
    np.testing.assert_array_equal(found.image.array, array)
    assert found.image.grid.same_as(GRID)
    assert found.names == {4: "tumor", 9: "brain"}


def test_layers_of_a_segmentation_are_merged_and_their_overlap_is_told(tmp_path):
    layers = np.zeros((*GRID.shape, 2), np.uint8)
    layers[1, 1, 1, 0] = layers[2, 2, 2, 1] = 1
    segments = [("a", 1, 0), ("b", 1, 1)]
    found = read_labels(segmentation(tmp_path / "a.seg.nrrd", layers, segments, GRID), "labels")
    assert (found.image.array[1, 1, 1], found.image.array[2, 2, 2]) == (1, 2)
    assert not found.image.told
    layers[1, 1, 1, 1] = 1
    found = read_labels(segmentation(tmp_path / "a.seg.nrrd", layers, segments, GRID), "labels")
    assert found.image.array[1, 1, 1] == 2
    assert "overlap in 1 voxels" in found.image.told[0]
    mask = read_mask(tmp_path / "a.seg.nrrd", "mask").image
    assert mask.array.dtype == bool
    assert mask.array.sum() == 2
    assert not mask.told


def test_segments_of_two_files_are_matched_by_name(tmp_path):
    array = np.zeros(GRID.shape, np.uint8)
    array[1, 1, 1], array[2, 2, 2], array[3, 3, 3] = 1, 2, 3
    one = segmentation(tmp_path / "a.seg.nrrd", array, [("Liver", 1, 0), ("Spleen", 2, 0)], GRID)
    other = segmentation(tmp_path / "b.seg.nrrd", array, [("spleen", 1, 0), ("liver ", 2, 0), ("New", 3, 0)], GRID)
    found = matched_by_name(read_labels(one, "fixed labels"), read_labels(other, "moving labels"))
    assert [found.image.array[n, n, n] for n in (1, 2, 3)] == [2, 1, 4]
    alone = segmentation(tmp_path / "c.seg.nrrd", array, [("x", 1, 0)], GRID)
    with pytest.raises(InputError, match="share no name"):
        matched_by_name(read_labels(one, "fixed labels"), read_labels(alone, "moving labels"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["u4", "i8", "f8"])
def test_label_files_keep_large_numbers(suffix, dtype, tmp_path):
    array = np.zeros(GRID.shape, dtype)
    array.flat[: len(LARGE[:4])] = LARGE[:4]
    write_image(Image(array, GRID), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"a{suffix}", "labels").image.array, array.astype(np.int64))


def test_masks_in_files_may_be_negative_or_fractional(tmp_path):
    array = np.zeros(GRID.shape, np.float32)
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = -1, 0.25, np.nan
    write_image(Image(array, GRID), tmp_path / "a.nrrd")
    assert np.argwhere(read_mask(tmp_path / "a.nrrd", "mask").image.array).tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("start", [(0, 0, 0), (4, 0, 2)])
def test_a_box_may_begin_and_end_with_the_image(start):
    grid = make_grid((9, 10, 11), (1, 2, 3), degrees=(10, 5, 20))
    box = grid.cropped(start, np.array(grid.size) - start)
    part = np.ones(box.shape, np.int16)
    found = on_image(Image(part, box), Image(np.zeros(grid.shape), grid), "fixed labels", "fixed image")
    expected = np.zeros(grid.shape, np.int16)
    expected[start[2] :, start[1] :, start[0] :] = 1
    np.testing.assert_array_equal(found.array, expected)
    for outside in ((-1, 0, 0), (0, 0, 1)):
        beyond = grid.cropped(outside, grid.size)
        with pytest.raises(InputError, match="on another grid"):
            on_image(
                Image(np.ones(beyond.shape, np.int16), beyond),
                Image(np.zeros(grid.shape), grid),
                "fixed labels",
                "fixed image",
            )


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_label_maps_are_told_from_images_by_their_patches(kind):
    rng = np.random.default_rng(3)
    blocks = np.kron(rng.integers(1, 40, (5, 6, 7)), np.ones((4, 4, 4))).astype(kind)
    blocks[:6] = 0
    grains = rng.integers(0, 120, (20, 24, 28)).astype(kind)
    for array, expected in ((blocks, True), (grains, False)):
        assert looks_like_labels(array) is expected
        assert looks_like_labels(array[10]) is expected
    # The background says nothing, nor do a few voxels.
    grains[5:] = 0
    assert looks_like_labels(grains) is False
    assert looks_like_labels(blocks[:7, :9, :9]) is None


def test_an_image_of_fractions_looks_like_no_label_map():
    assert looks_like_labels(np.full((9, 30, 30), 0.5) + np.arange(30.0)) is False
    assert looks_like_labels(np.full((9, 30, 30), np.nan)) is None
