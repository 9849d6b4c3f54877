"""Training pairs from image files: what is read, how it is changed, which structures are seen, what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from grids import blobs, make_grid
from VoxelMorphRegistrationLib.errors import InputError, SettingsError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.sampling import gaussian_smooth
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.registration.intensity import intensity_scale, normalised
from VoxelMorphRegistrationLib.training.augment import AugmentationSection, changed_intensities
from VoxelMorphRegistrationLib.training.images import ImageSource, ImagesSection
from VoxelMorphRegistrationLib.training.pairs import StepSizes
from VoxelMorphRegistrationLib.training.shapes import Source
from VoxelMorphRegistrationLib.training.supervision import BRAIN, Structure, Supervision, SupervisionSection, read_table

GRID = dict(size_ijk=(16, 20, 18), spacing=(1.5, 1.2, 2.0), degrees=(10.0, -5.0, 20.0), left_handed=True)
SIZES = StepSizes((18, 20, 16))
THREE = Supervision(
    [Structure(3, "left part", "sides"), Structure(7, "right part", "sides"), Structure(300, "middle", "")],
    {"left part": (3,), "right part": (7,), "middle": (300,)},
)


def labelled(grid, seed: int) -> tuple[Image, Image]:
    """An image and a map of the labels 3, 7 and 300 in it, and of an unknown one, 9."""
    image = blobs(grid, seed)
    parts = np.digitize(image.array, np.percentile(image.array, [40, 60, 80, 95]))
    return image, image.with_array(np.array([0, 3, 7, 300, 9], np.int32)[parts])


@pytest.fixture
def folder(tmp_path):
    """Six images with label maps on one grid."""
    grid = make_grid(**GRID)
    for number in range(6):
        image, labels = labelled(grid, number)
        write_image(image, tmp_path / f"s{number}_t1.nii.gz")
        write_image(labels, tmp_path / f"s{number}_seg.nii.gz")
    return tmp_path


def section(where, **changes) -> ImagesSection:
    return ImagesSection(**{"folder": str(where), "image_names": "*_t1.nii.gz", "validation_share": 0.3, **changes})


def source(folder, **changes) -> ImageSource:
    return ImageSource(section(folder, label_names="*_seg.nii.gz", **changes), SIZES, 5, THREE)


def same(a, b) -> bool:
    parts = [(getattr(a, n), getattr(b, n)) for n in ("fixed", "moving", "fixed_labels", "moving_labels")]
    return all(torch.equal(x, y) for x, y in parts)


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


def drawn_images(pairs: ImageSource, stream: int, count: int) -> set[bytes]:
    drawn = [pairs.pair(stream, number, "cpu") for number in range(count)]
    assert not any(torch.equal(pair.fixed, pair.moving) for pair in drawn)
    return {image.numpy().tobytes() for pair in drawn for image in (pair.fixed, pair.moving)}


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


def write_points(path, points):
    path.write_text("x,y,z\n" + "\n".join(",".join(f"{v:.6f}" for v in p) for p in points), encoding="utf-8")


@pytest.fixture
def landmark_pairs(tmp_path):
    """A table of four pairs of spots; the fixed and the moving images lie on unlike grids."""
    fixed_grid = make_grid(**GRID)
    moving_grid = make_grid((22, 24, 26), (1.1, 1.0, 1.3), degrees=(-5, 10, 0), center=(1.0, 2.0, -1.0))
    lines = ["fixed,moving,fixed_points,moving_points"]
    generator = np.random.default_rng(0)
    for number in range(4):
        names = []
        for side, grid in (("fixed", fixed_grid), ("moving", moving_grid)):
            ras = fixed_grid.center_ras + generator.uniform(-5, 5, 3)
            array = 100 * np.exp(-((grid.positions() - ras) ** 2).sum(-1) / (2 * 2.5**2))
            write_image(Image(array.astype(np.float32), grid), tmp_path / f"{side}{number}.nii.gz")
            # The second point lies outside of everything, in one of the images only.
            write_points(tmp_path / f"{side}{number}.csv", [ras, ras if side == "fixed" else ras + 500])
            names.append(f"{side}{number}")
        lines.append(",".join([f"{n}.nii.gz" for n in names] + [f"{n}.csv" for n in names]))
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


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


# --- what is refused ---------------------------------------------------------------------------------------------


def write_table(folder, *lines):
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")


def replace_labels(folder, change):
    image, labels = labelled(make_grid(**GRID), 2)
    write_image(change(image, labels), folder / "s2_seg.nii.gz")


FAULTS = {
    "no label map": (lambda f: (f / "s2_seg.nii.gz").unlink(), "s2_t1.nii.gz has no label map s2_seg.nii.gz"),
    "other grid": (
        lambda f: replace_labels(f, lambda i, x: Image(x.array[1:], x.grid.cropped((0, 0, 1), (16, 20, 17)))),
        "s2_seg.nii.gz is on another grid than its image .*s2_t1.nii.gz: 16x20x17 against 16x20x18",
    ),
    "other place": (
        lambda f: replace_labels(f, lambda i, x: Image(x.array, x.grid.cropped((0, 0, 1), (16, 20, 18)))),
        "s2_seg.nii.gz is on another grid",
    ),
    "fractions": (lambda f: replace_labels(f, lambda i, x: i), "s2_seg.nii.gz holds values that are not whole"),
    "no structure": (
        lambda f: replace_labels(f, lambda i, x: x.with_array(np.where(x.array > 0, 9, 0))),
        "s2_seg.nii.gz has none of the 3 structures",
    ),
    "constant": (
        lambda f: write_image(Image(np.ones((18, 20, 16), np.float32), make_grid(**GRID)), f / "s2_t1.nii.gz"),
        "s2_t1.nii.gz.* is empty",
    ),
    "slice": (
        lambda f: write_image(Image(blobs(make_grid((9, 9, 1))).array, make_grid((9, 9, 1))), f / "s2_t1.nii.gz"),
        "s2_t1.nii.gz is 2D, but 3D images are needed",
    ),
    "damaged": (lambda f: (f / "s2_t1.nii.gz").write_bytes(b"x"), "s2_t1.nii.gz"),
    "far away": (
        lambda f: write_image(blobs(make_grid(**GRID | {"center": (900, 0, 0)})), f / "s2_t1.nii.gz"),
        "Nothing of .*s2_t1.nii.gz lies in the working grid of 16x20x18 voxels",
    ),
    "too few": (lambda f: [(f / f"s{n}_t1.nii.gz").unlink() for n in (0, 1, 2)], "There are 3 images, 2 of them held"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_with_a_fault_is_refused_and_the_file_is_named(folder, fault):
    spoil, message = FAULTS[fault]
    spoil(folder)
    # Of an image elsewhere, the labels would be refused first.
    labels = "" if fault == "far away" else "*_seg.nii.gz"
    with pytest.raises(InputError, match=message):
        ImageSource(section(folder, label_names=labels), SIZES, 5, THREE)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,label", "s0_t1.nii.gz,s0_seg.nii.gz"], r"must be image\[,labels\], not 'image,label'"),
        (["image"], "no lines below"),
        (["image", "s0_t1.nii.gz", "none.nii.gz"], "line 3: there is no file .*none.nii.gz"),
        (["image", "s0_t1.nii.gz", "s0_t1.nii.gz"], "lists the image s0_t1.nii.gz twice"),
        (["image,labels", "s0_t1.nii.gz,s0_seg.nii.gz", "s1_t1.nii.gz,"], "line 3: labels is empty"),
        (["image,labels", "s0_t1.nii.gz"], "line 2: 1 values for 2 columns"),
        (["fixed,moving", "s0_t1.nii.gz,s0_t1.nii.gz"], "line 2: the fixed and the moving image are the same"),
        (["fixed,moving", "s0_t1.nii.gz,"], "line 2: the column moving is empty"),
        (["fixed,moving", "s0_t1.nii.gz,s1_t1.nii.gz"], "0 are left to train with"),
        (
            ["fixed,moving,fixed_labels", "s0_t1.nii.gz,s1_t1.nii.gz,s0_seg.nii.gz"],
            "line 2: fixed_labels or moving_labels is empty",
        ),
    ],
)
def test_a_table_with_a_fault_is_refused_and_the_line_is_named(folder, lines, message):
    write_table(folder, *lines)
    with pytest.raises(InputError, match=message):
        ImageSource(ImagesSection(table="table.csv"), SIZES, base=folder)


def test_landmarks_that_do_not_correspond_or_lie_elsewhere_are_refused(landmark_pairs):
    write_points(landmark_pairs / "moving2.csv", [(0, 0, 0)])
    with pytest.raises(InputError, match="line 4: There are 2 landmarks and 1 landmarks"):
        ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv")), SIZES)
    write_points(landmark_pairs / "moving2.csv", [(900, 0, 0), (0, 900, 0)])
    with pytest.raises(InputError, match="line 4: no landmark lies in the working grid"):
        ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv")), SIZES)
    with pytest.raises(InputError, match="landmarks cannot be used with slices"):
        ImageSource(ImagesSection(table=str(landmark_pairs / "pairs.csv"), slices="axial"), StepSizes((20, 16)))


def test_missing_places_and_names_are_told(folder, tmp_path):
    for changes, message in (
        ({"folder": "nowhere"}, "There is no folder .*nowhere"),
        ({"image_names": "*_t9.nii.gz"}, "with a name like"),
        ({"validation": ("s9_t1.nii.gz",)}, "images.validation names s9_t1.nii.gz"),
        ({"folder": "", "table": "none.csv"}, "There is no table .*none.csv"),
    ):
        with pytest.raises(InputError, match=message):
            ImageSource(section(folder, **changes), SIZES, base=tmp_path)


def test_colour_images_are_refused_by_name(tmp_path):
    for number in range(4):
        colour = sitk.GetImageFromArray(np.zeros((8, 8, 3), np.uint8), isVector=True)
        sitk.WriteImage(colour, str(tmp_path / f"{number}.png"))
    with pytest.raises(InputError, match=r"\.png has 3 values a voxel"):
        ImageSource(section(tmp_path, image_names="*"), StepSizes((8, 8)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "x.csv"}, "not both"),
        ({"align": "elastic"}, "images.align must be one of"),
        ({"slices": "diagonal"}, "images.slices must be one of"),
        ({"slice_range_mm": (0.0, 1.0)}, "goes with images.slices"),
        ({"slices": "axial", "slice_range_mm": (1.0, 0.0)}, "lowest, highest"),
        ({"spacing_mm": (0.0,)}, "images.spacing_mm must be"),
        ({"percentiles": (50.0, 50.0)}, "rising"),
        ({"validation_share": 1.0}, "between 0 and 1"),
        ({"training_images": 1}, "2 or more"),
    ],
)
def test_a_wrong_setting_of_images_is_named(changes, message):
    with pytest.raises(SettingsError, match=message):
        section("x", **changes)


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"folder": ""}, (18, 20, 16), "needs a folder or a table"),
        ({"image_names": "t1"}, (18, 20, 16), "exactly one"),
        ({"slices": "axial"}, (18, 20, 16), "for training in 2D"),
        ({"spacing_mm": (1.0, 1.0)}, (18, 20, 16), "1 or 3 numbers"),
        ({}, (17, 20, 16), "must be even"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_told(folder, changes, shape, message):
    with pytest.raises(SettingsError, match=message):
        ImageSource(section(folder, **changes), StepSizes(shape))


# --- augmentation ------------------------------------------------------------------------------------------------


def test_labels_are_moved_and_mirrored_with_their_image(tmp_path):
    grid = make_grid((24, 28, 26))
    for number in range(4):
        array = (blobs(grid, number, radius=(3.0, 5.0)).array > 60).astype(np.uint8)
        write_image(Image(array * 100, grid), tmp_path / f"{number}_t1.nii.gz")
        write_image(Image(array * 3, grid), tmp_path / f"{number}_seg.nii.gz")
    augmentation = AugmentationSection(rotation=6, scaling=0.1, translation=2, warp=0.8, flip=0.5)
    sizes = StepSizes((26, 28, 24))
    options = {"label_names": "*_seg.nii.gz"}
    changed = ImageSource(section(tmp_path, augmentation=augmentation, **options), sizes, 1, THREE)
    plain = ImageSource(section(tmp_path, **options), sizes, 1, THREE)
    for number in range(4):
        pair, before = changed.pair(0, number, "cpu"), plain.pair(0, number, "cpu")
        for image, shares in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
            halves = torch.nn.functional.avg_pool3d(image, 2)
            # Linear against nearest interpolation of the same shapes: they differ at the edges only.
            assert float((halves - shares[:, :1]).abs().mean()) < 0.05
            assert float(((halves > 0.75) & (shares[:, :1] < 0.25)).float().mean()) < 1e-3
        assert float((pair.moving - before.moving).abs().mean()) > 0.05
        # The fixed image is mirrored at most.
        assert torch.equal(pair.fixed.flatten().sort().values, before.fixed.flatten().sort().values)


@pytest.mark.parametrize("name", ["gamma", "bias", "contrast", "noise"])
def test_each_change_of_grey_values_works_alone_keeps_black_and_the_range(name):
    image = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    image[..., :8] = 0.0
    strength = AugmentationSection(**{name: 0.3})
    changed = changed_intensities(strength, image, Source(torch.device("cpu"), np.random.default_rng(3)))
    assert float((changed - image).abs().mean()) > 1e-3
    assert float(changed[..., :8].max()) == 0.0
    assert float(changed.min()) >= 0.0 and float(changed.max()) <= 1.0
    if name in ("gamma", "contrast"):
        # The order of grey values stays.
        order = image.flatten().argsort()
        assert bool((changed.flatten()[order].diff() >= -1e-6).all())
    if name == "bias":
        ratio = (changed / image)[..., 8:]
        free = (changed[..., 8:] < 1).float()
        smooth = gaussian_smooth(ratio * free, (2.0, 2.0)) / gaussian_smooth(free, (2.0, 2.0)).clamp_min(1e-6)
        assert float(((ratio - smooth) * free).abs().max()) < 0.2


def test_nothing_changes_at_strength_zero(folder):
    image = torch.rand(1, 1, 8, 8)
    assert torch.equal(
        changed_intensities(AugmentationSection(), image, Source(torch.device("cpu"), np.random.default_rng(0))), image
    )
    pairs = source(folder)
    stored = {part.image.float().numpy().tobytes() for part in pairs._subjects[0]}
    assert drawn_images(pairs, 0, 20) == stored


def test_validation_is_never_changed(folder):
    strong = AugmentationSection(rotation=10, warp=2, flip=1, gamma=0.5, noise=0.2)
    assert same(source(folder, augmentation=strong).pair(1, 0, "cpu"), source(folder).pair(1, 0, "cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"noise": -0.1}, "noise must not be negative"), ({"flip": 1.5}, "flip must not exceed 1")],
)
def test_a_wrong_strength_is_named(changes, message):
    with pytest.raises(SettingsError, match=message):
        AugmentationSection(**changes)


# --- supervision -------------------------------------------------------------------------------------------------


def test_every_structure_of_the_brain_is_observed_by_default():
    every = Supervision.of(SupervisionSection())
    assert every.count == len(every.observed) == 30
    assert every.unobserved == ()
    assert {s.label for s in BRAIN if s.group == "brainstem"} == {16, 28, 60}
    assert {s.label for s in BRAIN if s.group == "white matter"} == {2, 41, 7, 46}


@pytest.mark.parametrize(("choice", "least", "most"), [("one", 1, 2), ("half", 15, 16)])
def test_one_and_half_are_drawn_by_the_seed_with_both_sides(choice, least, most):
    draws = [Supervision.of(SupervisionSection(choice), seed) for seed in range(20)]
    assert {least, most} == {drawn.count for drawn in draws}
    assert len({drawn.names for drawn in draws}) > 3
    assert draws[7].names == Supervision.of(SupervisionSection(choice), 7).names
    for drawn in draws:
        assert not set(drawn.observed) & set(drawn.unobserved)
        assert len(drawn.observed) + len(drawn.unobserved) == 30
        for name in drawn.names:
            for side, other in (("left", "right"), ("right", "left")):
                assert not name.startswith(side) or name.replace(side, other, 1) in drawn.names


def test_coarse_groups_are_the_union_of_their_structures():
    coarse = Supervision.of(SupervisionSection("coarse"))
    assert sorted(coarse.names) == ["CSF", "brainstem", "grey matter", "white matter"]
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 70, (1, 1, 8, 6, 4)))
    shares = coarse.probabilities(labels)
    blocks = labels.numpy().reshape(4, 2, 3, 2, 2, 2)
    for channel, name in enumerate(coarse.names):
        members = [s.label for s in BRAIN if s.group == name]
        assert np.allclose(shares[0, channel].numpy(), np.isin(blocks, members).mean((1, 3, 5)))


def test_listed_labels_are_the_channels_and_all_others_are_none():
    listed = Supervision.of(SupervisionSection("list", (53, 17)))
    assert listed.names == ("left hippocampus", "right hippocampus")
    labels = torch.tensor([[17, 53, 2, 0, -4, 60, 61, 62, 99999]])
    assert listed.channels(labels).tolist() == [[1, 2, 0, 0, 0, 0, 0, 0, 0]]
    assert listed.channels(labels.float()).tolist() == [[1, 2, 0, 0, 0, 0, 0, 0, 0]]


def test_evaluation_has_a_channel_for_each_structure_in_the_order_of_the_table():
    half = Supervision.of(SupervisionSection("half"), 3)
    every = half.for_evaluation()
    assert every.observed == tuple(s.label for s in BRAIN)
    labels = torch.tensor([s.label for s in BRAIN])
    assert every.channels(labels).tolist() == list(range(1, 31))
    assert (half.channels(labels) > 0).sum() == half.count


def test_a_table_names_structures_and_groups(tmp_path):
    path = tmp_path / "organs.csv"
    path.write_text("label, name, group\n5, liver, organs\n900, L kidney, organs\n901, R kidney,\n", encoding="utf-8")
    assert read_table(path) == (
        Structure(5, "liver", "organs"),
        Structure(900, "L kidney", "organs"),
        Structure(901, "R kidney", ""),
    )
    coarse = Supervision.of(SupervisionSection("coarse", table="organs.csv"), folder=tmp_path)
    assert coarse.channels(torch.tensor([5, 900, 901])).tolist() == [1, 1, 0]
    assert coarse.unobserved == (901,)
    drawn = {Supervision.of(SupervisionSection("one", table=str(path)), seed).observed for seed in range(10)}
    assert drawn == {(5,), (900, 901)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\n1\n", "must be label,name"),
        ("label,name\n0,air\n", "line 2: give a label from 1"),
        ("label,name\n1.5,air\n", "line 2: give a label from 1"),
        ("label,name\n1,a\n1,b\n", "line 3: the label 1 or the name 'b' is there twice"),
        ("label,name\n1,a\n2,a\n", "line 3: the label 2 or the name 'a' is there twice"),
        ("", "must be label,name"),
    ],
)
def test_a_table_of_structures_with_a_fault_names_the_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.csv")


def test_choices_that_the_table_does_not_allow_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("label,name\n1,a\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="column group"):
        Supervision.of(SupervisionSection("coarse", table="t.csv"), folder=tmp_path)
    with pytest.raises(SettingsError, match="names 4, which is not in the table"):
        Supervision.of(SupervisionSection("list", (4,), "t.csv"), folder=tmp_path)
    with pytest.raises(InputError, match="There is no file .*none.csv"):
        Supervision.of(SupervisionSection(table="none.csv"), folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("some",), "structures must be one of"),
        (("list",), "goes with"),
        (("all", (2,)), "goes with"),
        (("list", (2, 2)), "twice"),
    ],
)
def test_a_wrong_setting_of_supervision_is_named(arguments, message):
    with pytest.raises(SettingsError, match=message):
        SupervisionSection(*arguments)
