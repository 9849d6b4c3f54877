"""NIfTI files: whole or refused, at the place that their header states, in the values that they hold."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from grids import KINDS, make_grid
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import read_field, write_field
from VoxelMorphRegistrationLib.images.files import grid_from_sitk, read_image, write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.nifti_space import lost_places

SIZE = (6, 5, 4)
# Of the NIfTI-1 header.
OFFSETS = {
    "datatype": (70, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scl": (112, "2f"),
    "units": (123, "B"),
    "codes": (252, "2h"),
    "quaternion": (256, "3f"),
    "sform": (280, "12f"),
}


def values(dtype=np.int16, size=SIZE) -> np.ndarray:
    return np.arange(np.prod(size)).reshape(size).astype(dtype)


def place(degrees=(10, 20, -30), spacing=(2.0, 2.5, 3.0), left_handed=False) -> np.ndarray:
    return make_grid(SIZE, spacing, degrees, left_handed, center=(5, -8, 3)).ijk_to_ras.copy()


def save(path, array=None, matrix=None, kind=nibabel.Nifti1Image, codes=(1, 1), endianness="<", **fields):
    """A file by nibabel, with fields of its header replaced byte for byte (NIfTI-1)."""
    array = values() if array is None else array
    matrix = place() if matrix is None else matrix
    image = kind(array, matrix, kind.header_class(endianness=endianness), dtype=array.dtype)
    image.set_qform(matrix, 1)
    image.set_sform(matrix, 1)
    data = bytearray(image.to_bytes())
    for name, content in {**({"codes": codes} if codes != (1, 1) else {}), **fields}.items():
        offset, form = OFFSETS[name]
        struct.pack_into(endianness + form, data, offset, *np.atleast_1d(content))
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(bytes(data)))
    return path


def check(path, array=None, matrix=None, told=()):
    image = read_image(path)
    np.testing.assert_array_equal(image.array, (values() if array is None else array).T)
    np.testing.assert_allclose(image.grid.ijk_to_ras, place() if matrix is None else matrix, atol=1e-5)
    assert len(image.told) == len(told)
    for sentence, words in zip(image.told, told, strict=True):
        for word in words:
            assert word in sentence
    return image


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nii.bz2", ".nii.xz"])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_values_and_place_as_nibabel_has_them(suffix, endianness, tmp_path):
    check(save(tmp_path / f"a{suffix}", endianness=endianness))


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (1, 4), (2, 2)])
def test_either_form_places_the_voxels(codes, left_handed, tmp_path):
    matrix = place(left_handed=left_handed)
    broken = {"sform": np.zeros(12)} if codes[1] == 0 else {"quaternion": (0, 0, 0)} if codes[0] == 0 else {}
    check(save(tmp_path / "a.nii", matrix=matrix, codes=codes, **broken), matrix=matrix)


@pytest.mark.parametrize(
    "degrees", [(180, 0, 0), (0, 180, 0), (0, 0, 180), (90, 0, 90), (150, 40, -20), (30, 170, 40), (179.99, 0, 0.01)]
)
def test_any_rotation_survives_writing_and_reading_by_either_form(degrees, tmp_path):
    grid = make_grid(SIZE, (1.1, 2.2, 3.3), degrees)
    write_image(Image(values().T, grid), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    check(tmp_path / "a.nii", matrix=grid.ijk_to_ras)
    struct.pack_into("<2h", data, OFFSETS["codes"][0], 1, 0)
    (tmp_path / "q.nii").write_bytes(data)
    # Single precision leaves 4e-4 of an angle near half a turn, whoever writes the quaternion.
    np.testing.assert_allclose(read_image(tmp_path / "q.nii").grid.ijk_to_ras, grid.ijk_to_ras, atol=5e-3)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_written_files_are_the_same_to_nibabel_and_itk(kind, suffix, dtype, tmp_path):
    grid = make_grid(**{**KINDS[kind], "size_ijk": SIZE})
    array = values(dtype).T
    if dtype in ("i8", "u8"):
        array = array + np.array(2**53 - 200, dtype)
    write_image(Image(array, grid), tmp_path / f"a{suffix}")
    found = nibabel.load(tmp_path / f"a{suffix}")
    assert found.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj).T, array)
    for matrix in (found.get_sform(), found.get_qform()):
        np.testing.assert_allclose(matrix, grid.ijk_to_ras, atol=1e-5)
    other = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(other), array)
    np.testing.assert_allclose(grid_from_sitk(other).ijk_to_ras, grid.ijk_to_ras, atol=1e-5)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").array, array)


def test_the_same_image_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_image(Image(values(np.float32).T, make_grid(SIZE)), tmp_path / f"{name}.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nii.bz2", ".nii.xz"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_a_file_that_ends_early_is_refused(suffix, part, tmp_path):
    rng = np.random.default_rng(0)
    data = save(tmp_path / f"a{suffix}", rng.integers(0, 30000, SIZE).astype(np.int16)).read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match="b.nii.*ends early"):
        read_image(tmp_path / f"b{suffix}")


def test_a_stream_that_lost_only_its_check_sum_is_refused(library, tmp_path):
    data = save(tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(data[:-4])
    with pytest.raises(InputError, match="ends early"):
        read_image(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(data[:-8] + bytes(4) + data[-4:])
    with pytest.raises(InputError, match="damaged"):
        read_image(tmp_path / "a.nii.gz")


def test_several_gzip_members_and_zeros_behind_them_are_one_file(library, tmp_path):
    data = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data[:400]) + gzip.compress(data[400:]) + bytes(100))
    check(tmp_path / "a.nii.gz")


def test_the_content_tells_whether_a_file_is_packed(tmp_path):
    save(tmp_path / "a.nii").rename(tmp_path / "b.nii.gz")
    check(tmp_path / "b.nii.gz")


def test_a_file_longer_than_its_header_says_is_told(tmp_path):
    path = save(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes() + bytes(200))
    check(path, told=[["longer", "200 bytes"]])
    # Less than a slice is what some programs fill their files up with.
    path.write_bytes(path.read_bytes()[:-150])
    check(path)


def test_a_header_that_claims_more_than_memory_holds_is_refused(tmp_path):
    data = bytearray(save(tmp_path / "a.nii").read_bytes())
    struct.pack_into("<8h", data, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data))
    with pytest.raises(InputError, match="ends early"):
        read_image(tmp_path / "a.nii.gz")


def test_a_neighbour_of_the_same_name_is_not_read(tmp_path):
    save(tmp_path / "a.nii", values() + np.int16(1000))
    save(tmp_path / "a.nii.gz")
    check(tmp_path / "a.nii.gz")
    check(tmp_path / "a.nii", values() + 1000)


def test_the_other_half_of_a_pair_is_the_one_that_is_packed_alike(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(values(size=(9, 5, 4)), place()), tmp_path / "a.img")
    nibabel.save(nibabel.Nifti1Pair(values(), place()), tmp_path / "b.img")
    for ending in (".hdr", ".img"):
        (tmp_path / f"a{ending}.gz").write_bytes(gzip.compress((tmp_path / f"b{ending}").read_bytes()))
    for ending in (".hdr.gz", ".img.gz"):
        check(tmp_path / f"a{ending}")
    for ending in (".hdr", ".img"):
        check(tmp_path / f"a{ending}", values(size=(9, 5, 4)))
    # Only one half is packed.
    (tmp_path / "b.img.gz").write_bytes(gzip.compress((tmp_path / "b.img").read_bytes()))
    (tmp_path / "b.img").unlink()
    check(tmp_path / "b.hdr")
    check(tmp_path / "b.img.gz")


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (1, 4)])
def test_two_places_that_disagree_are_told_and_the_sform_is_used(codes, tmp_path):
    other = place()
    other[:3, 3] += (30, 0, 40)
    path = save(tmp_path / "a.nii", codes=codes, sform=other[:3].ravel())
    check(path, matrix=other, told=[["sform", "qform", "50", f"code {codes[0]}", f"code {codes[1]}"]])


@pytest.mark.parametrize("code", [0, 1])
def test_voxel_sizes_that_disagree_with_the_sform_are_told(code, tmp_path):
    larger = place(spacing=(4.0, 5.0, 6.0))
    path = save(tmp_path / "a.nii", codes=(code, 1), sform=larger[:3].ravel())
    check(path, matrix=larger, told=[["sform", "qform" if code else "4 x 5 x 6", "" if code else "2 x 2.5 x 3"]])


@pytest.mark.parametrize("missing", [0, np.nan])
def test_voxel_sizes_that_are_missing_contradict_nothing(missing, tmp_path):
    check(save(tmp_path / "a.nii", codes=(0, 1), pixdim=(1, *[missing] * 3, 0, 0, 0, 0)))


def test_rounding_is_no_contradiction(tmp_path):
    near = place() + np.random.default_rng(0).uniform(-5e-4, 5e-4, (4, 4))
    path = save(tmp_path / "a.nii", sform=near[:3].ravel(), pixdim=(1, 2.0004, 2.4996, 3, 0, 0, 0, 0))
    near[3] = (0, 0, 0, 1)
    check(path, matrix=near)


@pytest.mark.parametrize("sform", ["sheared", "zero", "nan"])
def test_the_qform_serves_where_the_sform_is_no_grid(sform, tmp_path):
    matrix = place()
    if sform == "sheared":
        matrix[:3, 1] += 0.3 * matrix[:3, 0]
    else:
        matrix[:] = 0 if sform == "zero" else np.nan
    path = save(tmp_path / "a.nii", sform=matrix[:3].ravel())
    check(path, told=[["sform", "qform was used"]])
    with pytest.raises(InputError, match="sheared" if sform == "sheared" else "not finite or singular"):
        read_image(save(tmp_path / "b.nii", codes=(0, 1), sform=matrix[:3].ravel()))


def test_a_file_without_a_place_lies_as_itk_has_it_and_says_so(tmp_path):
    path = save(tmp_path / "a.nii", codes=(0, 0))
    image = check(path, matrix=np.diag([-2, -2.5, 3, 1]), told=[["does not state where it lies", "codes"]])
    np.testing.assert_allclose(grid_from_sitk(sitk.ReadImage(str(path))).ijk_to_ras, image.grid.ijk_to_ras, atol=1e-6)


@pytest.mark.parametrize(("unit", "scale"), [(0, 1), (2, 1), (3, 1e-3), (2 | 8, 1), (3 | 16, 1e-3)])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1)])
def test_units_become_millimetres(unit, scale, codes, tmp_path):
    matrix = place()
    matrix[:3] *= scale
    check(save(tmp_path / "a.nii", codes=codes, units=unit), matrix=matrix)


def test_voxels_of_metres_are_told(tmp_path):
    matrix = place()
    matrix[:3] *= 1000
    check(save(tmp_path / "a.nii", units=1), matrix=matrix, told=[["metres", "3000 mm"]])


def test_nan_and_infinite_values_stay(tmp_path):
    array = values(np.float32)
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, -3.4e38
    check(save(tmp_path / "a.nii.gz", array), array)


@pytest.mark.parametrize(
    ("scl", "expected"),
    [
        ((0.5, -3), lambda a: a * 0.5 - 3),
        ((0, 7), lambda a: a),
        ((np.nan, np.nan), lambda a: a),
        ((1, 0), lambda a: a),
        ((2, np.nan), lambda a: 2 * a),
        ((1, -1024), lambda a: a - 1024.0),
    ],
)
def test_real_values_where_the_header_scales(scl, expected, tmp_path):
    image = check(save(tmp_path / "a.nii", scl=scl), expected(values()))
    assert (image.array.dtype.kind == "i") == ((scl[0] in (0, 1) and scl[1] in (0, 7)) or np.isnan(scl[0]))


def test_slopes_keep_the_precision_of_large_numbers(tmp_path):
    array = values(np.int32) + np.int32(2**30)
    check(save(tmp_path / "a.nii", array, scl=(0.5, 0)), array / 2)


def test_nifti_2_is_read(tmp_path):
    image = nibabel.Nifti2Image(values(), place())
    image.set_qform(place(), 1)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, tmp_path / name)
        check(tmp_path / name)


def test_header_and_voxels_in_two_files(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(values(), place()), tmp_path / "a.img")
    check(tmp_path / "a.img")
    check(tmp_path / "a.hdr")
    (tmp_path / "b.img").write_bytes((tmp_path / "a.img").read_bytes()[:-2])
    (tmp_path / "b.hdr").write_bytes((tmp_path / "a.hdr").read_bytes())
    with pytest.raises(InputError, match="ends early"):
        read_image(tmp_path / "b.hdr")
    (tmp_path / "b.img").unlink()
    with pytest.raises(InputError, match=r"no b\.img beside it"):
        read_image(tmp_path / "b.hdr")


def test_analyze_is_read_and_said_to_have_no_place(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(values(), np.diag([2, 2.5, 3, 1])), tmp_path / "a.img")
    check(tmp_path / "a.img", matrix=np.diag([-2, -2.5, 3, 1]), told=[["does not state where it lies"]])


def test_a_slice_has_a_place_too(tmp_path):
    array = values(size=(6, 5, 1))
    image = check(save(tmp_path / "a.nii", array), array)
    assert image.grid.dimension == 2
    flat = nibabel.Nifti1Image(array[..., 0], place())
    nibabel.save(flat, tmp_path / "b.nii")
    np.testing.assert_allclose(read_image(tmp_path / "b.nii").grid.ijk_to_ras, place(), atol=1e-5)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((*SIZE, 3), np.float32), "3 frames"),
        (np.zeros((*SIZE, 1, 3), np.float32), "3 values a voxel"),
        (np.zeros(SIZE, np.complex64), "complex"),
        (np.zeros(SIZE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
        (np.zeros(SIZE, [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]), "colour"),
    ],
)
def test_what_is_no_scalar_image_is_named(array, words, tmp_path):
    nibabel.save(nibabel.Nifti1Image(array, place()), tmp_path / "a.nii")
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(values()[..., None], place()), tmp_path / "a.nii")
    check(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "fields", [{"datatype": 99}, {"vox_offset": np.nan}, {"vox_offset": -5}, {"vox_offset": 1e9}, {"datatype": 1}]
)
def test_a_damaged_header_is_refused(fields, tmp_path):
    with pytest.raises(InputError, match=r"a\.nii cannot be read"):
        read_image(save(tmp_path / "a.nii", **fields))


def test_what_is_no_nifti_file_is_refused(tmp_path):
    for content in (b"", b"text", bytes(1000), b"\x28\xb5\x2f\xfd" + bytes(400)):
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.nii\.gz cannot be read"):
            read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_fields_are_written_and_read_at_their_place(suffix, tmp_path):
    grid = make_grid(SIZE, (1.5, 2, 3), (10, 20, 30), left_handed=True, center=(9, 8, 7))
    vectors = np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32)
    write_field(DisplacementField(vectors, grid), tmp_path / f"f{suffix}")
    found = read_field(tmp_path / f"f{suffix}")
    np.testing.assert_allclose(found.displacement_ras, vectors, atol=1e-6)
    np.testing.assert_allclose(found.grid.ijk_to_ras, grid.ijk_to_ras, atol=1e-5)
    if ".nii" in suffix:
        header = nibabel.load(tmp_path / f"f{suffix}").header
        assert header["intent_code"] == 1006
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)


def test_vectors_without_the_displacement_intent_are_lps_as_itk_writes_them(tmp_path):
    grid = make_grid(SIZE, degrees=(5, 6, 7))
    vectors = np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32)
    image = nibabel.Nifti1Image(np.moveaxis(vectors, -1, 0).T[:, :, :, None], grid.ijk_to_ras)
    image.header.set_intent("vector")
    nibabel.save(image, tmp_path / "f.nii")
    np.testing.assert_allclose(read_field(tmp_path / "f.nii").displacement_ras, vectors * (-1, -1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "center", "lost"),
    [
        ((2, 2.5, 3), (10, 20, 30), False),
        ((0.001, 0.001, 0.001), (30, -40, 50), False),
        ((1, 1, 1), (1e5, 0, 0), False),
        ((2, 2.5, 3), (1e7 + 0.3, 0, 0), True),
        ((0.001, 0.001, 0.001), (0, 0, 900.0003), True),
    ],
)
def test_places_that_a_written_file_cannot_hold_are_told(spacing, center, lost, tmp_path):
    grid = make_grid(SIZE, spacing, (10, 20, 30), center=center)
    write_image(Image(values(np.float32, grid.shape), grid), tmp_path / "a.nii.gz")
    back = read_image(tmp_path / "a.nii.gz").grid
    off = np.linalg.norm(back.corners() - grid.corners(), axis=1).max()
    assert bool(lost_places(grid)) is lost is bool(off > 0.01 * min(spacing))
    # What was read from such a file is held by another one.
    assert lost_places(back) == ""


@pytest.mark.parametrize("beyond", [0, 5, -1])
def test_sizes_beyond_the_number_of_dimensions_mean_nothing(beyond, tmp_path):
    path = save(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    struct.pack_into("<h", data, 48, beyond)
    path.write_bytes(bytes(data))
    check(path)


def test_a_missing_voxel_size_is_the_mean_of_the_others_and_told(tmp_path):
    path = save(tmp_path / "a.nii", codes=(1, 0), pixdim=(1, 2.0, 2.5, 0, 0, 0, 0, 0))
    image = read_image(path)
    assert "no voxel size along its axis k; 2.25 was used" in image.told[0]
    np.testing.assert_allclose(image.grid.spacing, (2.0, 2.5, 2.25), rtol=1e-6)


@pytest.mark.parametrize("quaternion", [(np.nan, 0, 0), (0, 3, 0)])
def test_a_quaternion_that_is_none_gives_no_place(quaternion, tmp_path):
    path = save(tmp_path / "a.nii", codes=(1, 0), quaternion=quaternion)
    with pytest.raises(InputError, match="not finite or singular"):
        read_image(path)
