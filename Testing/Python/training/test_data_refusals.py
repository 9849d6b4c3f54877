"""Training data with a fault is refused by a sentence that names the file, the line or the setting."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from grids import blobs, make_grid
from image_cases import GRID, SIZES, THREE, labelled, section, write_points
from VoxelMorphRegistrationLib.errors import InputError, SettingsError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.training.images import ImageSource, ImagesSection
from VoxelMorphRegistrationLib.training.pairs import StepSizes


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
