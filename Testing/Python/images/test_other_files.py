"""Formats that SimpleITK reads: whole or refused, and what is no scalar volume is named."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from grids import make_grid
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.files import read_image, write_image
from VoxelMorphRegistrationLib.images.image import Image

GRID = make_grid((8, 7, 6), (2, 2.5, 3), (10, 20, 30))


def noise(grid=GRID):
    return np.random.default_rng(0).integers(0, 30000, grid.shape).astype(np.int16)


@pytest.mark.parametrize("part", [0.7, 0.95])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".tif"])
def test_a_file_that_ends_early_is_refused(suffix, packed, part, tmp_path):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(noise()), str(path), packed)
    np.testing.assert_array_equal(read_image(path).array, noise())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(InputError, match="damaged" if suffix == ".mha" else "it ends early"):
        read_image(path)


@pytest.mark.parametrize("part", [0.3, 0.98])
@pytest.mark.parametrize("suffix", [".vtk", ".gipl", ".gipl.gz", ".mrc", ".jpg", ".mnc", ".h5"])
def test_formats_whose_readers_take_what_is_there_are_refused_as_well(suffix, part, tmp_path, forked_readers):
    path = tmp_path / f"a{suffix}"
    array = (noise() // 128).astype(np.uint8)[:1] if suffix == ".jpg" else noise()
    picture = sitk.GetImageFromArray(array[0] if suffix == ".jpg" else array)
    sitk.WriteImage(picture, str(path))
    assert read_image(path).array.shape == array.shape
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    # Without a whole head nothing tells that it ends early.
    with pytest.raises(InputError, match="damaged"):
        read_image(path)


@pytest.mark.parametrize("kind", ["BINARY", "ASCII"])
def test_a_vtk_image_of_other_hands_is_read_whole_or_refused(kind, tmp_path):
    values = np.arange(24, dtype=">f4")
    numbers = values.tobytes() if kind == "BINARY" else " ".join(map(str, values.tolist())).encode()
    head = "# vtk DataFile Version 3.0\na picture\n{}\nDATASET STRUCTURED_POINTS\ndimensions 2 3 4\n"
    head += "SPACING 1 2 3\nORIGIN 0 0 0\nPOINT_DATA 24\nSCALARS scalars float\nLOOKUP_TABLE default\n"
    whole = head.format(kind).encode() + numbers
    path = tmp_path / "a.vtk"
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path).array.ravel(), values)
    path.write_bytes(whole[:-5])
    with pytest.raises(InputError, match="it ends early"):
        read_image(path)


def test_hdf5_images_keep_their_places(tmp_path):
    image = Image(noise(), GRID)
    write_image(image, tmp_path / "a.h5")
    back = read_image(tmp_path / "a.h5")
    np.testing.assert_array_equal(back.array, image.array)
    np.testing.assert_allclose(back.grid.ijk_to_ras, GRID.ijk_to_ras, atol=1e-9)


def nrrd(path, sizes, directions, kinds):
    head = f"NRRD0004\ntype: short\ndimension: {len(sizes)}\nspace: left-posterior-superior\n"
    head += f"sizes: {' '.join(map(str, sizes))}\nspace directions: {directions}\nkinds: {kinds}\n"
    head += "endian: little\nencoding: raw\nspace origin: (1,2,3)\n\n"
    path.write_bytes(head.encode() + np.arange(np.prod(sizes), dtype="<i2").tobytes())
    return path


SPACE = "(2,0,0) (0,2.5,0) (0,0,3)"


@pytest.mark.parametrize(
    ("sizes", "directions", "kinds", "words"),
    [
        ((3, 6, 5, 4), f"none {SPACE}", "list domain domain domain", "3 values a voxel"),
        ((3, 6, 5, 4), f"none {SPACE}", "vector domain domain domain", "3 values a voxel"),
        ((6, 5, 4, 3), f"{SPACE} none", "domain domain domain time", "more axes than space"),
        ((6, 5, 4, 3), f"{SPACE} none", "domain domain domain list", "3 values a voxel"),
    ],
)
def test_series_and_vectors_of_nrrd_are_named(sizes, directions, kinds, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_image(nrrd(tmp_path / "a.nrrd", sizes, directions, kinds))


@pytest.mark.parametrize("sizes", [(1, 6, 5, 4), (6, 5, 4, 1)])
def test_a_series_of_one_volume_is_read(sizes, tmp_path):
    first = sizes[0] == 1
    directions = f"none {SPACE}" if first else f"{SPACE} none"
    kinds = "list domain domain domain" if first else "domain domain domain list"
    image = read_image(nrrd(tmp_path / "a.nrrd", sizes, directions, kinds))
    np.testing.assert_array_equal(image.array.ravel(), np.arange(120))
    np.testing.assert_allclose(image.grid.ijk_to_ras[:3, 3], [-1, -2, 3])


@pytest.mark.parametrize(("space", "sign"), [("right-anterior-superior", 1), ("left-posterior-superior", -1)])
def test_the_frame_that_nrrd_states(space, sign, tmp_path):
    path = nrrd(tmp_path / "a.nrrd", (6, 5, 4), SPACE, "domain domain domain")
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode()))
    expected = np.diag([sign * 2, sign * 2.5, 3, 1.0])
    expected[:3, 3] = sign * 1, sign * 2, 3
    np.testing.assert_allclose(read_image(path).grid.ijk_to_ras, expected)


def test_nan_stays_in_every_format(tmp_path):
    array = noise().astype(np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        write_image(Image(array, GRID), tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").array, array)


@pytest.mark.parametrize("kind", [">i2", ">f4"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_numbers_in_the_other_order_of_bytes_are_written_as_they_are(suffix, kind, tmp_path):
    write_image(Image(noise().astype(kind), GRID), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").array, noise())


@pytest.mark.parametrize(("head", "data"), [("a.mhd", "a.zraw"), ("a.nhdr", "a.raw.gz")])
def test_a_head_without_the_file_of_its_voxels_names_that_file(head, data, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(noise()), str(tmp_path / head), useCompression=True)
    (tmp_path / data).unlink()
    with pytest.raises(InputError, match=f"its voxels are in .*{data}, and there is no such file"):
        read_image(tmp_path / head)


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ('space units: "um" "um" "um"\n', 1),
        ('space units: "mm" "" "mm"\n', 0),
        ("# units: parsecs\n", 0),
        ("", 0),
    ],
)
def test_another_unit_of_a_nrrd_file_is_told(unit, told, tmp_path):
    """ITK and Slicer read its numbers as millimetres; so do we, but not without a word."""
    path = tmp_path / "a.nrrd"
    write_image(Image(noise(), GRID), path)
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head + b"\n" + unit.encode() + b"\n" + voxels)
    found = read_image(path, "fixed image")
    assert found.grid.spacing == pytest.approx(GRID.spacing)
    assert len(found.told) == told
    assert all("fixed image" in line and "'um'" in line for line in found.told)
