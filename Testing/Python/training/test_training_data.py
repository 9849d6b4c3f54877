"""Training pairs from image files: what is read, how it is changed, which structures are seen, what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from grids import blobs, make_grid
from image_cases import GRID, SIZES, THREE, drawn_images, labelled, same, section, source
from VoxelMorphRegistrationLib.errors import SettingsError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.registration.intensity import intensity_scale, normalised
from VoxelMorphRegistrationLib.training.augment import AugmentationSection
from VoxelMorphRegistrationLib.training.images import ImageSource, ImagesSection
from VoxelMorphRegistrationLib.training.pairs import StepSizes
from VoxelMorphRegistrationLib.training.supervision import Structure, Supervision

# --- images and labels -------------------------------------------------------------------------------------------


def test_a_pair_has_the_intensities_and_the_labels_that_the_files_have(folder):
    pairs = source(folder)
    pair, maps = pairs.pair(1, 0, "cpu"), pairs.label_maps(1, 0, "cpu")
    matched = []
    for number in range(6):
        image, labels = labelled(make_grid(**GRID), number)
        expected = normalised(image, intensity_scale(image, ModelCard("x")))
        for drawn, shares, whole in zip(
            (pair.fixed, pair.moving), (pair.fixed_labels, pair.moving_labels), maps, strict=True
        ):
            # Files hold float32 and the memory float16, whose spacing below 1 is at most 2^-11.
            if np.abs(drawn[0, 0].numpy() - expected).max() > 2**-11:
                continue
            matched.append(number)
            known = np.where(labels.array == 9, 0, labels.array)
            assert np.array_equal(whole[0, 0].numpy(), known)
            blocks = known.reshape(9, 2, 10, 2, 8, 2)
            for channel, label in enumerate((3, 7, 300)):
                assert np.allclose(shares[0, channel].numpy(), (blocks == label).mean((1, 3, 5)))
    assert len(set(matched)) == 2


def test_images_without_segmentations_make_pairs_without_labels(folder):
    pair = ImageSource(section(folder), SIZES).pair(0, 0, "cpu")
    assert pair.fixed_labels is None and pair.moving_labels is None and pair.fixed_points is None
    assert pair.fixed.shape == pair.moving.shape == (1, 1, 18, 20, 16)


def test_images_are_kept_in_few_bytes(folder):
    stored = ImageSource(section(folder), SIZES)._subjects[0][0]
    assert stored.image.dtype == torch.float16
    brain = ImageSource(section(folder, label_names="*_seg.nii.gz"), SIZES)._subjects[0][0]
    assert brain.labels.dtype == torch.uint8


def test_a_pair_belongs_to_seed_stream_and_number(folder):
    augmentation = AugmentationSection(rotation=5, warp=1, flip=0.5, gamma=0.2, bias=0.3, contrast=0.2, noise=0.05)
    first, again = (source(folder, augmentation=augmentation) for _ in range(2))
    for stream, number in itertools.product((0, 1), range(4)):
        assert same(first.pair(stream, number, "cpu"), again.pair(stream, number, "cpu"))
    assert not same(first.pair(0, 1, "cpu"), first.pair(0, 2, "cpu"))


def test_held_out_images_are_never_trained_with_and_fewer_images_are_a_part_of_more(folder):
    trained, held = (drawn_images(source(folder), stream, 40) for stream in (0, 1))
    assert (len(trained), len(held)) == (4, 2)
    assert not trained & held
    fewer = source(folder, training_images=2)
    assert drawn_images(fewer, 0, 20) < trained
    assert drawn_images(fewer, 1, 20) == held


def test_the_images_to_hold_out_can_be_named(folder):
    names = tuple(f"s{n}_t1.nii.gz" for n in (0, 1, 4))
    held = drawn_images(source(folder, validation=names), 1, 6)
    assert len(held) == 3
    image = blobs(make_grid(**GRID), 4)
    expected = normalised(image, intensity_scale(image, ModelCard("x")))
    assert expected.astype(np.float16).astype(np.float32).tobytes() in held


def test_validation_goes_through_all_pairs_before_it_repeats_one(folder):
    pairs = source(folder, validation=tuple(f"s{n}_t1.nii.gz" for n in range(3)))
    drawn = [pairs.pair(1, number, "cpu") for number in range(6)]
    assert not any(same(a, b) for a, b in itertools.combinations(drawn, 2))
    assert same(pairs.pair(1, 6, "cpu"), drawn[0])


def test_the_working_grid_has_the_spacing_and_sizes_asked_for_about_the_middle(folder):
    pairs = ImageSource(section(folder, spacing_mm=(2.0,), orientation="RAS"), StepSizes((8, 12, 10)))
    assert pairs.grid.shape == (8, 12, 10)
    assert pairs.grid.orientation == "RAS"
    assert pairs.spacing_mm == pytest.approx((2.0, 2.0, 2.0))
    assert np.abs(pairs.grid.center_ras - make_grid(**GRID).center_ras).max() <= 1.0 + 1e-6
    assert pairs.pair(0, 0, "cpu").fixed.shape == (1, 1, 8, 12, 10)


def test_steps_of_smaller_sizes_see_crops_at_one_place_of_both_images(folder):
    pairs = ImageSource(section(folder), StepSizes((18, 20, 16), (8, 8, 8), 4), 1)
    whole = [stored.image[0].float() for stored in pairs._subjects[0]]
    sizes = set()
    for number in range(12):
        pair = pairs.pair(0, number, "cpu")
        sizes.add(tuple(pair.fixed.shape[2:]))
        places = [places_of(image[0, 0], whole) for image in (pair.fixed, pair.moving)]
        assert len(places[0]) == 1
        assert places[0] == places[1]
    assert len(sizes) > 3


def places_of(part: torch.Tensor, images: list[torch.Tensor]) -> list[tuple[int, ...]]:
    """Where `part` begins in any of the images."""
    places = []
    for image in images:
        for start in torch.nonzero(image == part[0, 0, 0]).tolist():
            box = tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))
            if torch.equal(image[box], part):
                places.append(tuple(start))
    return places


def test_other_channels_can_be_asked_for_evaluation(folder):
    observed = Supervision(THREE.structures, {"middle": (300,)})
    pairs = ImageSource(section(folder, label_names="*_seg.nii.gz"), SIZES, 5, observed)
    assert pairs.pair(1, 0, "cpu").fixed_labels.shape[1] == 1
    every = pairs.pair(1, 0, "cpu", observed.for_evaluation())
    assert torch.equal(every.fixed_labels[:, 2:], pairs.pair(1, 0, "cpu").fixed_labels)
    assert same(every, source(folder).pair(1, 0, "cpu"))


def test_the_facts_tell_numbers_and_no_paths(folder):
    assert source(folder).facts == "4 images, 3 structures of their segmentations; 2 more for validation"
    assert source(folder).normalization == {"method": "percentile", "low": 0.5, "high": 99.5}


# --- alignment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["none", "centers", "mass"])
def test_images_elsewhere_in_space_are_aligned_to_the_first_when_asked(tmp_path, method):
    grid = make_grid((24, 24, 24), (2.0, 2.0, 2.0))
    image = blobs(grid, 3)
    move = np.eye(4)
    move[:3, 3] = (9.0, -6.0, 7.0)
    for number in range(4):
        placed = grid if number % 2 == 0 else grid.transformed(move)
        write_image(Image(image.array, placed), tmp_path / f"{number}_t1.nii.gz")
        write_image(Image(np.where(image.array > 80, 3, 0), placed), tmp_path / f"{number}_seg.nii.gz")
    options = {"align": method, "label_names": "*_seg.nii.gz"}
    pairs = ImageSource(section(tmp_path, **options), StepSizes((24, 24, 24)), supervision=THREE)
    stored = [stored for part in pairs._subjects for stored in part]
    images, labels = [part.image.float() for part in stored], [part.labels for part in stored]
    apart = max(float((a - b).square().mean().sqrt()) for a, b in itertools.combinations(images, 2))
    # Where the same spots lie 13 mm apart, they have nothing in common.
    assert apart > 0.1 if method == "none" else apart < 1e-3
    differing = max(float((a != b).float().mean()) for a, b in itertools.combinations(labels, 2))
    assert differing > 0.02 if method == "none" else differing == 0.0


# --- two dimensions ----------------------------------------------------------------------------------------------


def test_png_images_make_pairs_of_slices(tmp_path):
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 256, (20, 24)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"{number}_t1.png"))
    pairs = ImageSource(section(tmp_path, image_names="*.png"), StepSizes((16, 32)))
    pair = pairs.pair(0, 0, "cpu")
    assert pair.fixed.shape == (1, 1, 16, 32)
    # Four columns each side lie outside the image.
    assert float(pair.fixed[..., :4].max()) == 0.0 == float(pair.fixed[..., 28:].max())
    assert float(pair.fixed[..., 4:28].std()) > 0.2
    assert len(pairs.spacing_mm) == 2


def test_slices_that_lie_behind_each_other_in_space_are_brought_into_one_plane(tmp_path):
    values = np.random.default_rng(0).uniform(0, 100, (16, 1, 16)).astype(np.float32)
    for number in range(4):
        grid = make_grid((16, 1, 16), center=(0.0, 30.0 * number, 0.0))
        write_image(Image(values, grid), tmp_path / f"{number}_t1.nii.gz")
    pair = ImageSource(section(tmp_path), StepSizes((16, 16))).pair(0, 0, "cpu")
    assert float((pair.fixed - pair.moving).abs().max()) < 1e-3


PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("turned", [False, True])
def test_slices_of_volumes_lie_at_the_same_place_and_within_the_range(tmp_path, plane, turned):
    """The label of a voxel is its distance from the middle, to the right, front or top, in mm plus 100."""
    grid = make_grid((12, 14, 16), (2.0, 2.0, 2.0), degrees=(0, 90, 0) if turned else (0, 0, 180))
    distance = np.rint(grid.positions()[..., PLANES[plane]] - grid.center_ras[PLANES[plane]]).astype(np.int32)
    noise = np.random.default_rng(0)
    for number in range(4):
        image = noise.uniform(0, 100, grid.shape).astype(np.float32)
        # A slice without content, which must not be drawn.
        image[distance == 1] = 0
        write_image(Image(image, grid), tmp_path / f"{number}_t1.nii.gz")
        write_image(Image(distance + 100, grid), tmp_path / f"{number}_seg.nii.gz")
    structures = [Structure(n, str(n)) for n in range(70, 131)]
    every = Supervision(structures, {s.name: (s.label,) for s in structures})
    size = [n for axis, n in enumerate(grid.shape) if 2 - axis != np.abs(grid.directions[PLANES[plane]]).argmax()]
    pairs = ImageSource(
        section(tmp_path, label_names="*_seg.nii.gz", slices=plane, slice_range_mm=(-3, 5)),
        StepSizes(tuple(size)),
        supervision=every,
    )
    seen = set()
    for number in range(40):
        maps = pairs.label_maps(0, number, "cpu")
        assert maps[0].shape == (1, 1, *size)
        values = {int(v) for part in maps for v in part.unique()}
        assert len(values) == 1
        seen |= values
        # Each slice has its own percentiles: some of its voxels are at both ends.
        pair = pairs.pair(0, number, "cpu")
        assert float(pair.fixed.min()) == 0.0 and float(pair.fixed.max()) == 1.0
    assert seen == {97, 99, 103, 105}


def test_an_impossible_range_of_slices_tells_the_possible_one(folder):
    with pytest.raises(SettingsError, match=r"they reach from -17 to 17 mm"):
        ImageSource(section(folder, slices="axial", slice_range_mm=(90, 95)), StepSizes((20, 16)))


# --- tables ------------------------------------------------------------------------------------------------------


def test_a_table_of_images_means_what_the_folder_means(folder):
    lines = [f"s{n}_t1.nii.gz, s{n}_seg.nii.gz" for n in range(6)]
    (folder / "images.csv").write_text("image,labels\n" + "\n".join(lines) + "\n", encoding="utf-8")
    listed = ImageSource(ImagesSection(table="images.csv", validation_share=0.3), SIZES, 5, THREE, folder)
    for stream, number in itertools.product((0, 1), range(4)):
        assert same(listed.pair(stream, number, "cpu"), source(folder).pair(stream, number, "cpu"))


def centroid(image: torch.Tensor) -> torch.Tensor:
    weights = image[0, 0] ** 2
    lines = [torch.arange(n, dtype=torch.float32) for n in weights.shape]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
    return (places * weights[..., None]).sum((0, 1, 2)) / weights.sum()


def spots_apart(pair) -> float:
    sides = ((pair.fixed, pair.fixed_points), (pair.moving, pair.moving_points))
    return max(float((centroid(image) - points[0, 0]).norm()) for image, points in sides)


def test_landmarks_of_listed_pairs_lie_where_the_images_show_them(landmark_pairs):
    pairs = ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv")), SIZES)
    for stream, number in ((0, 0), (0, 1), (0, 2), (1, 0)):
        pair = pairs.pair(stream, number, "cpu")
        assert pair.fixed_points.shape == pair.moving_points.shape == (1, 1, 3)
        # Linear interpolation and the cut at 0 and 1 shift the centroid of a spot by a small part of a voxel.
        assert spots_apart(pair) < 0.15


def test_landmarks_follow_the_alignment_of_a_listed_pair(landmark_pairs):
    pairs = ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv"), align="mass"), SIZES)
    plain = ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv")), SIZES)
    aligned, before = pairs.pair(1, 0, "cpu"), plain.pair(1, 0, "cpu")
    assert spots_apart(aligned) < 0.15
    distances = [float((pair.fixed_points - pair.moving_points).norm()) for pair in (aligned, before)]
    assert distances[0] < 0.5 < distances[1]


def test_landmarks_and_images_are_moved_and_mirrored_alike(landmark_pairs):
    augmentation = AugmentationSection(rotation=6, scaling=0.05, translation=2, warp=0.8, flip=0.5)
    pairs = ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv"), augmentation=augmentation), SIZES)
    plain = ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv")), SIZES)
    moved = []
    for number in range(10):
        pair = pairs.pair(0, number, "cpu")
        # The warp also turns and stretches the spot, which moves its centroid a little against its middle.
        assert spots_apart(pair) < 0.35
        moved.append(float((pair.moving_points - plain.pair(0, number, "cpu").moving_points).norm()))
    assert max(moved) > 1.0


def test_a_pair_with_a_held_out_image_is_in_no_training(folder):
    order = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3)]
    lines = ["fixed,moving"] + [f"s{a}_t1.nii.gz,s{b}_t1.nii.gz" for a, b in order]
    (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    pairs = ImageSource(ImagesSection(table="pairs.csv", validation=("s3_t1.nii.gz",)), SIZES, base=folder)
    assert pairs.facts == "4 pairs of images; 2 more for validation"
    trained = drawn_images(pairs, 0, 40)
    held = [pairs.pair(1, number, "cpu") for number in range(2)]
    assert len(trained) == 5
    assert torch.equal(held[0].moving, held[1].moving)
    assert held[0].moving.numpy().tobytes() not in trained
    assert torch.equal(held[0].fixed, pairs.pair(1, 2, "cpu").fixed)
