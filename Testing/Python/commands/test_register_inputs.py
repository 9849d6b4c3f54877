"""What `voxelmorph register` hands on from its files: labels, masks and landmarks on their images."""

from __future__ import annotations

import numpy as np
import pytest

from grids import make_grid, smooth_image
from label_cases import segmentation
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration import register as registration
from VoxelMorphRegistrationLib.registration.inputs import accepted
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.registration.warnings import COPIES

FIXED, MOVING = make_grid((12, 11, 10), (2, 2, 2.5), (5, 6, 7)), make_grid((10, 12, 9), (2.2, 2, 3), center=(3, 2, 1))


@pytest.fixture
def accept(tmp_path, monkeypatch):
    """Run the command with more arguments; returns what would be registered, and the warnings."""
    for name, grid in (("fixed", FIXED), ("moving", MOVING)):
        write_image(smooth_image(grid), tmp_path / f"{name}.nii.gz")
    seen = {}

    def stop(fixed, moving, *_, **arguments):
        seen["warnings"] = []
        extras = {name: value for name, value in arguments.items() if name.endswith(("labels", "mask", "points"))}
        # Lists, of which the first ones are looked at here.
        seen["inputs"] = accepted(fixed[0], moving[0], Settings(), seen["warnings"], **extras)
        raise InputError("enough")

    monkeypatch.setattr(registration, "register", stop)

    def run(**arguments):
        words = [word for name, path in arguments.items() for word in (f"--{name.replace('_', '-')}", str(path))]
        images = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
        assert main(["register", *images, "-o", str(tmp_path / "out"), *words]) == 1
        return seen["inputs"], seen["warnings"]

    return run


def save(path, array, grid):
    write_image(Image(np.asarray(array), grid), path)
    return path


@pytest.mark.parametrize("value", [-1, 1, 100])
def test_masks_count_where_they_are_not_zero(value, accept, tmp_path):
    array = np.zeros(FIXED.shape, np.int8)
    array[3:6] = value
    other = np.zeros(MOVING.shape, np.int8)
    other[2:4] = value
    found, _ = accept(
        fixed_mask=save(tmp_path / "f.nii", array, FIXED), moving_mask=save(tmp_path / "m.nii", other, MOVING)
    )
    np.testing.assert_array_equal(found.fixed_mask.array, array != 0)
    np.testing.assert_array_equal(found.moving_mask.array, other != 0)
    np.testing.assert_array_equal(found.region, array != 0)


def test_segmentations_lie_on_their_images_and_are_matched_by_name(accept, tmp_path):
    part = FIXED.cropped((2, 3, 4), (5, 4, 3))
    array = np.zeros(part.shape, np.uint8)
    array[1, 1, 1], array[1, 2, 3] = 1, 2
    one = segmentation(tmp_path / "f.seg.nrrd", array, [("Liver", 1, 0), ("Spleen", 2, 0)], part)
    other = make_grid((9, 9, 9), (1.5, 1.5, 1.5), (40, 0, 0), center=(3, 2, 1))
    blocks = np.zeros(other.shape, np.uint8)
    blocks[:4], blocks[4:] = 1, 2
    two = segmentation(tmp_path / "m.seg.nrrd", blocks, [("spleen", 1, 0), ("liver", 2, 0)], other)
    found, _ = accept(fixed_labels=one, moving_labels=two)
    right = np.zeros(FIXED.shape, int)
    right[5, 4, 3], right[5, 5, 5] = 1, 2
    np.testing.assert_array_equal(found.fixed_labels.array, right)
    assert found.moving_labels.grid.same_as(MOVING)
    ijk = np.rint(other.to_ijk(MOVING.positions())).astype(int)
    within = ((ijk >= 0) & (ijk < 9)).all(-1)
    expected = np.where(within, np.where(ijk[..., 2] < 4, 2, 1), 0)
    near = np.abs(other.to_ijk(MOVING.positions()) - ijk).max(-1) > 0.49
    np.testing.assert_array_equal(found.moving_labels.array[~near], expected[~near])
    found, _ = accept(fixed_mask=one)
    np.testing.assert_array_equal(found.fixed_mask.array, right != 0)


def test_labels_of_a_smaller_box_and_of_large_numbers(accept, tmp_path):
    part = FIXED.cropped((2, 3, 4), (5, 4, 3))
    array = np.full(part.shape, 3_000_000_000, np.uint32)
    moving = save(tmp_path / "m.nrrd", np.full(MOVING.shape, 3_000_000_000.0), MOVING)
    found, _ = accept(fixed_labels=save(tmp_path / "f.nrrd", array, part), moving_labels=moving)
    assert found.fixed_labels.grid.same_as(FIXED)
    assert np.unique(found.fixed_labels.array).tolist() == [0, 3_000_000_000]
    assert np.count_nonzero(found.fixed_labels.array) == array.size
    assert np.unique(found.moving_labels.array).tolist() == [3_000_000_000]


def test_landmarks_are_paired_by_label_and_told(accept, tmp_path):
    (tmp_path / "f.csv").write_text("label,x,y,z\na,1,2,3\nb,,,\nc,4,5,6\n")
    (tmp_path / "m.csv").write_text("label,x,y,z\nc,4,5,7\nb,1,1,1\na,1,2,4\n")
    found, warnings = accept(fixed_points=tmp_path / "f.csv", moving_points=tmp_path / "m.csv")
    np.testing.assert_array_equal(found.moving_points - found.fixed_points, [[0, 0, 1], [0, 0, 1]])
    assert any("'b' of the fixed landmarks" in text for text in warnings)


def test_a_series_is_of_a_dicom_folder(tmp_path, capsys):
    for name, grid in (("fixed", FIXED), ("moving", MOVING)):
        write_image(smooth_image(grid), tmp_path / f"{name}.nii.gz")
    images = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    assert main(["register", *images, "-o", str(tmp_path / "out"), "--series", "1"]) == 1
    assert "no image is a folder with DICOM files" in capsys.readouterr().err


def test_a_preview_replaces_no_input(tmp_path, capsys):
    names = [str(tmp_path / name) for name in ("fixed.nii.gz", "preview.nii.gz")]
    for name, grid in zip(names, (FIXED, MOVING), strict=True):
        write_image(smooth_image(grid), name)
    out = ["-o", str(tmp_path / "out"), "--preview", str(tmp_path), "--overwrite"]
    assert main(["register", *names, *out]) == 1
    assert "would be replaced by the preview" in capsys.readouterr().err


def test_an_image_as_labels_is_told_and_a_label_map_is_not(accept, tmp_path):
    blocks = np.kron(np.arange(1, 28).reshape(3, 3, 3), np.ones((4, 4, 4), np.uint8)).astype(np.uint8)
    blocks = np.pad(blocks, [(0, max(0, n - 12)) for n in FIXED.shape])[tuple(slice(n) for n in FIXED.shape)]
    grains = np.random.default_rng(2).integers(0, 200, MOVING.shape).astype(np.uint8)
    _, warnings = accept(
        fixed_labels=save(tmp_path / "f.nii", blocks, FIXED), moving_labels=save(tmp_path / "m.nii", grains, MOVING)
    )
    assert warnings == [
        "The moving labels look like an image: their numbers change from voxel to voxel. Give a label map."
    ]


def test_a_label_map_among_two_images_is_told_and_two_label_maps_are_none_among_images():
    blocks = Image(np.kron(np.arange(27).reshape(3, 3, 3), np.ones((5, 5, 5))), make_grid((15, 15, 15)), "blocks.nii")
    scan = smooth_image(make_grid((15, 15, 15), center=(2, 1, 0)), "scan.nii")
    for pair, told in (((scan, blocks), "moving"), ((blocks, scan), "fixed")):
        warnings: list[str] = []
        accepted(*pair, Settings(), warnings)
        assert warnings == [
            f"The {told} image (blocks.nii) looks like a label map, and the other image does not. Give two images."
        ]
    warnings = []
    more = Image(blocks.array[::-1].copy(), blocks.grid, "more.nii")
    accepted(blocks, more, Settings(), warnings)
    assert warnings == []
    # Nor among further images of each side.
    moved = smooth_image(make_grid((15, 15, 15), center=(1, 1, 0)), "moved.nii")
    accepted(scan, moved, Settings(), warnings, further=[(blocks, more), (moved, blocks)])
    assert [text.split(" looks")[0] for text in warnings] == ["The moving image 3 (blocks.nii)"]


def test_an_image_as_mask_is_told_and_a_mask_with_soft_edges_is_not():
    grid = make_grid((15, 15, 15))
    scan, other = smooth_image(grid, "scan.nii"), smooth_image(make_grid((15, 15, 15), center=(1, 0, 0)), "other.nii")
    soft = np.zeros(grid.shape, np.float32)
    soft[3:12, 3:12, 3:12] = np.random.default_rng(1).uniform(0.1, 1, (9, 9, 9))
    for array, told in ((scan.array + 1, 1), (soft, 0), (np.ones(grid.shape, np.uint8), 0)):
        warnings: list[str] = []
        accepted(scan, other, Settings(), warnings, fixed_mask=Image(array, grid, "mask.nii"))
        assert len(warnings) == told and all("The fixed mask looks like an image" in text for text in warnings)


def test_a_copy_of_an_image_is_told_and_a_copy_elsewhere_is_not():
    grid = make_grid((15, 15, 15))
    scan = smooth_image(grid, "scan.nii")
    for other, told in ((grid, [COPIES]), (make_grid((15, 15, 15), center=(1, 0, 0)), [])):
        warnings: list[str] = []
        accepted(scan, Image(scan.array.copy(), other, "copy.nii"), Settings(), warnings)
        assert warnings == told
