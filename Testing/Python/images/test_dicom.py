"""DICOM: every slice where it says it lies, in its real values, or a sentence that names the slices."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from dicom_cases import (
    CT,
    MR,
    ORIGIN,
    PET,
    SIZE,
    SPACING,
    cut,
    directions,
    edited,
    enhanced,
    item,
    linear,
    new_dataset,
    place,
    set_pixels,
    stack,
    write,
)
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.dicom import _used_bits
from VoxelMorphRegistrationLib.images.dicom_stack import _enclosing
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.registration import register as registration


def check(path, atol=0.51, told=(), shape=SIZE[::-1], **arguments):
    """The picture is where the grid says, in all voxels."""
    image = read_image(path, **arguments)
    check_image(image, atol, shape)
    assert len(image.told) == len(told)
    for sentence, word in zip(image.told, told, strict=True):
        assert word in sentence
    return image


def check_image(image, atol=0.51, shape=SIZE[::-1]):
    assert image.grid.shape == shape
    np.testing.assert_allclose(image.array, linear(image.grid.positions() * (-1, -1, 1)), atol=atol)


def inside(image, folder) -> np.ndarray:
    """Voxels with slices all around, (K, J, I): what resampling must have right."""
    lps = image.grid.positions() * (-1, -1, 1)
    found = np.zeros(image.grid.shape, bool)
    headers = [pydicom.dcmread(path) for path in folder.iterdir()]
    for one, other in zip(
        *[sorted(headers, key=lambda h: h.ImagePositionPatient[2])[n:] for n in (0, 1)], strict=False
    ):
        low, high = (np.array(h.ImagePositionPatient, float) for h in (one, other))
        between = (lps[..., 2] >= low[2] - 1e-6) & (lps[..., 2] <= high[2] + 1e-6)
        for corner in (low, high):
            ends = corner[:2] + (np.array(SIZE[:2]) - 1) * SPACING[:2]
            between &= ((lps[..., :2] >= corner[:2] - 1e-6) & (lps[..., :2] <= ends + 1e-6)).all(-1)
        found |= between
    return found


@pytest.mark.parametrize("degrees", [(0, 0, 0), (25, -40, 10), (180, 0, 0), (0, 90, 90)])
def test_an_even_stack_lies_where_its_slices_say(degrees, tmp_path):
    turn = directions(degrees)
    image = check(stack(tmp_path, turn=turn))
    assert image.array.dtype == np.int16
    np.testing.assert_allclose(image.grid.spacing, SPACING, atol=1e-5)


@pytest.mark.parametrize("number", [lambda k: 100 - k, lambda k: (k * 5) % 8, lambda k: 1])
def test_slice_numbers_and_file_names_do_not_count(number, tmp_path):
    for k in range(SIZE[2]):
        write(tmp_path, k, name=f"{(k * 3) % 8}", InstanceNumber=number(k))
    check(tmp_path)


@pytest.mark.parametrize("fields", [{"SpacingBetweenSlices": -4}, {"SpacingBetweenSlices": 3}, {"SliceThickness": 1}])
def test_the_positions_alone_give_the_gap(fields, tmp_path):
    check(stack(tmp_path, **fields))


@pytest.mark.parametrize("junk", ["DICOMDIR", "readme.txt", ".DS_Store"])
def test_other_files_beside_are_no_matter(junk, tmp_path):
    stack(tmp_path)
    (tmp_path / junk).write_bytes(b"junk" * 100)
    check(tmp_path)


def test_a_series_in_a_folder_below_is_found(tmp_path):
    stack(tmp_path / "a/b")
    check(tmp_path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_ways_to_store_pixels(syntax, tmp_path):
    for path in stack(tmp_path).iterdir():
        data = pydicom.dcmread(path)
        if syntax is RLELossless:
            data.compress(syntax)
            data.save_as(path)
        else:
            if syntax is ExplicitVRBigEndian:
                data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
            data.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(path, data, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    check(tmp_path)


def test_bits_beyond_the_stored_ones_are_no_values(tmp_path):
    for path in stack(tmp_path, dtype="<u2").iterdir():
        data = pydicom.dcmread(path)
        data.BitsStored, data.HighBit = 12, 11
        data.PixelData = (np.frombuffer(data.PixelData, "<u2") | 0x8000).tobytes()
        data.save_as(path)
    check(tmp_path)


@pytest.mark.parametrize("kind", [CT, MR, PET])
@pytest.mark.parametrize("first", [1.0, 0.02])
def test_each_slice_has_its_own_slope(kind, first, tmp_path):
    slopes = [first, 0.031, 0.11, 0.05, 0.027, 0.043, 0.09, 0.021]
    for k, slope in enumerate(slopes):
        write(tmp_path, k, slope=slope, intercept=-3.5 if kind == CT else 0.0, kind=kind, dtype="<u2")
    image = read_image(tmp_path)
    assert image.array.dtype == np.float32
    off = np.abs(image.array - linear(image.grid.positions() * (-1, -1, 1)))
    assert (off.max(axis=(1, 2)) <= np.array(slopes) / 2 + 1e-4).all()


def test_whole_slopes_give_whole_numbers(tmp_path):
    image = check(stack(tmp_path, slope=1, intercept=-1024), atol=0.51)
    assert image.array.dtype == np.int16
    assert check(stack(tmp_path / "b", slope=2, intercept=100), atol=1.01).array.dtype == np.int16


@pytest.mark.parametrize(
    ("missing", "words"), [([3], "1 slice is missing.*002.dcm and 004.dcm"), ([2, 3], "2 slices.*001.dcm and 004.dcm")]
)
def test_missing_slices_are_named(missing, words, tmp_path):
    stack(tmp_path)
    for k in missing:
        (tmp_path / f"{k:03d}.dcm").unlink()
    with pytest.raises(InputError, match=words):
        read_image(tmp_path)


def test_copies_of_a_file_are_left_out_and_told(tmp_path):
    stack(tmp_path)
    shutil.copy(tmp_path / "003.dcm", tmp_path / "copy.dcm")
    check(tmp_path, told=["copies"])
    edited(tmp_path / "copy.dcm", PatientName="Other")
    with pytest.raises(InputError, match=r"003\.dcm and copy\.dcm have one identity"):
        read_image(tmp_path)


def test_a_slice_twice_is_named(tmp_path):
    stack(tmp_path)
    write(tmp_path, 3, name="again.dcm")
    with pytest.raises(InputError, match=r"at one place: 003\.dcm and again\.dcm"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("EchoTime", ("10", "90"), "echo time 10 and 90"),
        ("TemporalPositionIdentifier", (1, 2), "time position 1 and 2"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value 0.0 and 1000.0"),
        ("AcquisitionTime", ("101010", "101020"), "acquisition time 101010 and 101020"),
        ("PatientName", ("A", "B"), "2 images at each of 8 places"),
    ],
)
def test_several_images_at_each_place_are_named(name, values, words, tmp_path):
    for n, value in enumerate(values):
        stack(tmp_path, name=f"{n}-{{}}.dcm", kind=MR, **{name: value})
    with pytest.raises(InputError, match=f"2 images at each of 8 places.*{words}|{words}"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("EchoTime", ("10", "90"), "echo time 10 and 90"),
        ("TemporalPositionIdentifier", (1, 2), "time position 1 and 2"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value 0 and 1e.03"),
    ],
)
@pytest.mark.parametrize("aside", [0.5, 0.3])
def test_images_whose_slices_lie_between_each_other_are_named(name, values, words, aside, tmp_path):
    for n, value in enumerate(values):
        for k in range(5):
            position = place(0, directions()) + directions()[:, 2] * SPACING[2] * (k + n * aside)
            write(tmp_path, k, name=f"{n}-{{}}.dcm", position=position, kind=MR, **{name: value})
    with pytest.raises(InputError, match=rf"between each other \({words}\): 0-0\.dcm, 1-0\.dcm, 0-1\.dcm"):
        read_image(tmp_path)


def test_what_may_differ_from_slice_to_slice_makes_no_several_images(tmp_path):
    for k in range(8):
        write(
            tmp_path, k, kind=MR, AcquisitionNumber=1 + k % 2, EchoTime=f"{10 + 1e-3 * (k % 3):.4f}", TriggerTime=k % 3
        )
    check(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: setattr(d, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "004.dcm has another orientation"),
        (lambda d: set_pixels(d, np.zeros((9, 9))), "004.dcm has another number of pixels"),
        (lambda d: setattr(d, "PixelSpacing", [3, 3]), "004.dcm has another pixel spacing"),
        (lambda d: delattr(d, "ImagePositionPatient"), "004.dcm does not state where it lies"),
        (
            lambda d: setattr(d, "ImageOrientationPatient", [0, 0, 0, 0, 0, 0]),
            "004.dcm has an orientation that is none",
        ),
        (lambda d: setattr(d, "PixelSpacing", [0, 0]), "004.dcm gives no pixel spacing"),
    ],
)
def test_a_slice_that_is_of_another_kind_is_named(change, words, tmp_path):
    stack(tmp_path)
    data = pydicom.dcmread(tmp_path / "004.dcm")
    change(data)
    data.save_as(tmp_path / "004.dcm")
    with pytest.raises(InputError, match=words):
        read_image(tmp_path)


@pytest.mark.parametrize("part", [0, *np.arange(0.16, 1, 0.03)])
def test_a_file_that_ends_early_is_named(part, tmp_path):
    stack(tmp_path)
    cut(tmp_path / "007.dcm", part)
    with pytest.raises(InputError, match=r"007\.dcm is (damaged|no DICOM)"):
        read_image(tmp_path)


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_compressed_pixels_that_end_early_are_named(part, tmp_path):
    for path in stack(tmp_path).iterdir():
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    whole = (tmp_path / "003.dcm").stat().st_size
    data = (tmp_path / "003.dcm").read_bytes()
    start = data.index(b"\xe0\x7f\x10\x00")
    (tmp_path / "003.dcm").write_bytes(data[: start + int((whole - start) * part)])
    with pytest.raises(InputError, match=r"003\.dcm is damaged"):
        read_image(tmp_path)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_tilted_gantry_is_straightened_exactly_and_told(sign, tmp_path):
    lean = np.array([0, sign * SPACING[2] * np.tan(np.radians(15)), 0])
    for k in range(SIZE[2]):
        write(tmp_path, k, position=place(k, np.eye(3)) + k * lean)
    image = read_image(tmp_path)
    assert image.grid.is_orthogonal
    assert "lean by 15.0 degrees" in image.told[0]
    known = inside(image, tmp_path)
    assert known.sum() > 0.6 * SIZE[0] * SIZE[1] * SIZE[2]
    right = linear(image.grid.positions() * (-1, -1, 1))
    np.testing.assert_allclose(image.array[known], right[known], atol=0.51)


def test_a_tilted_gantry_adds_no_margin_of_background(tmp_path):
    lean = np.array([0, SPACING[2] * np.tan(np.radians(15)), 0])
    for k in range(SIZE[2]):
        path = write(tmp_path, k, position=place(k, np.eye(3)) + k * lean)
        # Noise is background.
        stored = np.zeros((12, 7))
        stored[::2] = 5
        stored[5:7, 2:5] = 500
        data = pydicom.dcmread(path)
        set_pixels(data, stored)
        data.save_as(path)
    image = read_image(tmp_path)
    assert image.grid.shape == (SIZE[2], 12, 7)
    np.testing.assert_array_equal(image.array[4], stored)
    corner = pydicom.dcmread(tmp_path / "004.dcm").ImagePositionPatient
    np.testing.assert_allclose(image.grid.to_ras([0, 0, 4]) * (-1, -1, 1), np.array(corner, float), atol=1e-5)


def test_a_lean_along_both_axes_with_the_table_moved(tmp_path):
    shifts = np.array([[0, 0, 0], [1, 2, 0], [1.5, -2, 0], [7, 2.5, 0], [0, 1, 0], [3, 3, 0], [2, 2, 0], [4, 0, 0]])
    for k in range(SIZE[2]):
        write(tmp_path, k, position=place(k, np.eye(3)) + shifts[k])
    image = read_image(tmp_path)
    assert "shifted within their planes" in image.told[0]
    known = inside(image, tmp_path)
    right = linear(image.grid.positions() * (-1, -1, 1))
    assert known.any()
    np.testing.assert_allclose(image.array[known], right[known], atol=0.51)


def test_uneven_slices_are_resampled_exactly_and_told(tmp_path):
    heights = [0, 4, 8, 12, 16, 18.5, 21, 23.5]
    for k, height in enumerate(heights):
        write(tmp_path, k, position=ORIGIN + [0, 0, height])
    image = check(tmp_path, told=["unevenly spaced (2.5 to 4 mm)"], shape=(11, *SIZE[1::-1]))
    np.testing.assert_allclose(image.grid.spacing[2], 2.35, atol=1e-6)
    ends = image.grid.to_ras([[0, 0, 0], [0, 0, 10]])[:, 2]
    np.testing.assert_allclose(ends, [ORIGIN[2], ORIGIN[2] + 23.5], atol=1e-6)


def test_hardly_uneven_slices_keep_their_number(tmp_path):
    heights = np.arange(8) * 4.0 + [0, 0.1, -0.1, 0.08, 0, -0.1, 0.1, 0]
    for k, height in enumerate(heights):
        write(tmp_path, k, position=ORIGIN + [0, 0, height])
    check(tmp_path, told=["unevenly spaced"])


def test_rounded_positions_are_an_even_stack(tmp_path):
    for k in range(SIZE[2]):
        write(tmp_path, k, position=np.round(ORIGIN + [0, 0, k * 1.25 / 3], 2))
    assert not read_image(tmp_path).told


def test_several_series_are_listed_and_chosen(tmp_path):
    stack(tmp_path, name="a{}.dcm", series="1.2.9", SeriesNumber=7, SeriesDescription="T1 thin", slope=2)
    stack(tmp_path, count=3, name="b{}.dcm", series="1.2.8", SeriesNumber=3, SeriesDescription="Scout")
    with pytest.raises(InputError, match=r"2 DICOM series") as error:
        read_image(tmp_path)
    assert "1: CT 'Scout', 3 images of 7 x 6, number 3" in str(error.value)
    assert "2: CT 'T1 thin', 8 images of 7 x 6, number 7" in str(error.value)
    check(tmp_path, atol=1.01, series=2)
    check(tmp_path, atol=1.01, series="1.2.9")
    check(tmp_path, series="1", shape=(3, *SIZE[1::-1]))
    for wrong in (0, 3, "x"):
        with pytest.raises(InputError, match="has no series"):
            read_image(tmp_path, series=wrong)


def test_the_command_line_lists_series_and_takes_the_choice(tmp_path, capsys, monkeypatch):
    def stop():
        raise InputError("enough")

    stack(tmp_path / "d", name="a{}.dcm", series="1.2.8", SeriesDescription="One")
    for path in stack(tmp_path / "d", name="b{}.dcm", series="1.2.9", SeriesDescription="Two").glob("b*"):
        edited(path, RescaleSlope=1, RescaleIntercept=1000)
    arguments = ["register", str(tmp_path / "d"), str(tmp_path / "d"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "same file" in capsys.readouterr().err
    assert main([*arguments, "--series", "1,9"]) == 1
    error = capsys.readouterr().err
    assert "The moving image" in error
    assert "has no series 9" in error
    assert "'One'" in error
    assert main([*arguments, "--series", "1,2,3"]) == 1
    assert not (tmp_path / "out").exists()
    seen = []
    monkeypatch.setattr(registration, "register", lambda fixed, moving, *_, **__: seen.extend(fixed + moving) or stop())
    assert main([*arguments, "--series", "1,2"]) == 1
    check_image(seen[0])
    np.testing.assert_array_equal(seen[1].array, seen[0].array + 1000)


def test_one_file_is_one_slice(tmp_path):
    stack(tmp_path)
    image = check(tmp_path / "002.dcm", told=["one slice of a series"], shape=(1, *SIZE[1::-1]))
    np.testing.assert_allclose(image.grid.spacing, SPACING)


def test_a_file_that_does_not_say_where_it_lies(tmp_path):
    data = new_dataset("1.2.840.10008.5.1.4.1.1.7")
    set_pixels(data, np.arange(42).reshape(6, 7), "u1")
    data.save_as(tmp_path / "a.dcm")
    image = read_image(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.array[0], np.arange(42).reshape(6, 7))
    assert "does not state where it lies" in image.told[0]
    # Rows and columns along the patient's axes.
    np.testing.assert_array_equal(image.grid.ijk_to_ras, np.diag([-1.0, -1.0, 1.0, 1.0]))


@pytest.mark.parametrize("order", [list(range(8)), [7, 6, 5, 4, 3, 2, 1, 0], [3, 0, 7, 1, 5, 2, 6, 4]])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, 30, -10)])
def test_frames_of_one_file_lie_where_they_say(order, degrees, tmp_path):
    turn = directions(degrees)
    path = enhanced(tmp_path / "a.dcm", [place(k, turn) for k in order], turn)
    check(path)
    check(tmp_path)


def test_frames_have_their_own_slopes(tmp_path):
    path = enhanced(tmp_path / "a.dcm", [place(k, np.eye(3)) for k in range(8)], slopes=[1, 0.5, 0.1, 0.2, 1, 1, 1, 2])
    check(path, atol=1.01)


@pytest.mark.parametrize(
    ("frames", "fields", "words"),
    [
        ([0, 1, 2, 4, 5], {}, "frame 3 and a.dcm, frame 4"),
        (
            [0, 1, 2, 0, 1, 2],
            {"FrameContentSequence": {"TemporalPositionIndex": [1, 1, 1, 2, 2, 2]}},
            "2 images at each of 3 places .time position 1 and 2",
        ),
        ([0, 1, 2, 2], {}, "a.dcm, frame 3 and a.dcm, frame 4"),
    ],
)
def test_frames_that_are_no_stack_are_named(frames, fields, words, tmp_path):
    path = enhanced(tmp_path / "a.dcm", [place(k, np.eye(3)) for k in frames], frame_fields=fields)
    with pytest.raises(InputError, match=words):
        read_image(path)


def test_a_file_with_frames_that_ends_early_is_named(tmp_path):
    path = enhanced(tmp_path / "a.dcm", [place(k, np.eye(3)) for k in range(8)])
    cut(path, 0.9)
    with pytest.raises(InputError, match=r"a\.dcm is damaged: it ends early"):
        read_image(path)


def test_a_dose_has_frames_at_offsets(tmp_path):
    offsets = np.arange(8) * SPACING[2]
    data = new_dataset("1.2.840.10008.5.1.4.1.1.481.2", NumberOfFrames=8, DoseGridScaling="0.01")
    data.GridFrameOffsetVector = [float(v) for v in offsets]
    data.ImagePositionPatient, data.ImageOrientationPatient = list(ORIGIN), [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [SPACING[1], SPACING[0]]
    j, i = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]), indexing="ij")
    plane = ORIGIN + np.stack([i * SPACING[0], j * SPACING[1], 0 * i], -1)
    set_pixels(data, np.stack([linear(plane + [0, 0, d]) for d in offsets]) / 0.01, "<u4")
    data.save_as(tmp_path / "dose.dcm")
    check(tmp_path / "dose.dcm", atol=0.01)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"SamplesPerPixel": 3}, "3 values a voxel"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "numbers of colours"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaics"),
    ],
)
def test_what_is_no_stack_of_grey_slices_is_said(fields, words, tmp_path):
    stack(tmp_path, **fields)
    with pytest.raises(InputError, match=words):
        read_image(tmp_path)


def test_segmentations_and_reports_are_no_images(tmp_path):
    data = new_dataset("1.2.840.10008.5.1.4.1.1.66.4", SegmentSequence=Sequence([item(SegmentNumber=1)]))
    set_pixels(data, np.zeros((6, 7)), "u1")
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="DICOM segmentation"):
        read_image(tmp_path)
    new_dataset("1.2.840.10008.5.1.4.1.1.88.11").save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="holds no DICOM image"):
        read_image(tmp_path)


def test_numbers_without_a_word_on_their_bits_are_as_stored():
    stored = np.array([[0, 1, 2**15, 2**16 - 1]], np.uint16)
    np.testing.assert_array_equal(_used_bits(stored, {}), stored)
    np.testing.assert_array_equal(_used_bits(np.array([2**12 + 5], np.uint16), {"BitsStored": 12, "HighBit": 11}), [5])


@pytest.mark.parametrize(("begins", "found"), [((1, 1), 1), ((2, 0), 0), ((0, 2), 0), ((-2, 0), 0), ((0, -2), 0)])
def test_leaning_slices_are_resampled_onto_one_that_holds_what_all_of_them_show(begins, found):
    """The middle one if it does: columns 1 to 6 and rows 1 to 4 are shown, of the 8 and 6 of a slice."""
    content = np.zeros((3, 6, 8), bool)
    content[0, 2:4, 1:7] = True
    content[2, 1:5, 2:4] = True
    assert _enclosing(content, np.array([[0, 0], begins, [0, 0]])) == found


def test_one_file_of_a_series_is_a_slice_and_the_folder_is_named(tmp_path):
    files = sorted(stack(tmp_path / "study").iterdir())
    (told,) = read_image(files[1], "moving image").told
    assert "moving image is one slice of a series" in told and f"Give the folder {tmp_path / 'study'}" in told
    # Where it makes the registration impossible, the error says so.
    slices, volume = read_image(files[1]), read_image(tmp_path / "study")
    with pytest.raises(InputError, match="Give two slices or two volumes. The .* one slice of a series"):
        registration.register(volume, slices)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(files[1], alone)
    assert read_image(alone / files[1].name).told == ()


def test_of_radiographs_in_one_series_no_volume_is_spoken_of(tmp_path):
    for path in stack(tmp_path).iterdir():
        data = pydicom.dcmread(path)
        del data.ImagePositionPatient, data.ImageOrientationPatient, data.SliceThickness
        data.save_as(path)
    assert not any("one slice of a series" in told for told in read_image(tmp_path / "002.dcm").told)
