"""`voxelmorph apply`: images, labels and series through a transform; what is refused."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from apply_cases import Files, array, pattern, refused
from full_disk import files_up_to
from grids import make_grid
from registration_cases import pair
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import write_field
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.transforms import cubic
from VoxelMorphRegistrationLib.transforms.frames import read_frames, read_grid
from VoxelMorphRegistrationLib.transforms.reading import read_transform

pytestmark = pytest.mark.usefixtures("readers_here")


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_an_image_is_what_simpleitk_makes_of_it_in_its_own_type(files, kind):
    source = files.image("m.nii.gz", (pattern(files.s.moving, 0.2)).astype(kind))
    assert files.apply(source, "out.nii.gz", "--background", "0") == 0
    found, expected = array(files.folder / "out.nii.gz"), files.by_sitk(source, sitk.sitkLinear)
    assert found.dtype == kind
    expected = sitk.GetArrayFromImage(expected)
    if np.issubdtype(kind, np.integer):
        expected = np.rint(expected)
    both = (found != 0) & (expected != 0)
    assert both.mean() > 0.5
    # A whole number may fall to the other side of a half.
    allowed = 1.0 if np.issubdtype(kind, np.integer) else 0.02
    assert np.abs(found.astype(float) - expected)[both].max() <= allowed
    assert np.abs(found.astype(float) - expected)[both].mean() < 0.01


@pytest.mark.parametrize("how", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int8])
def test_whole_numbers_at_both_ends_of_their_type_stay_at_their_end(files, kind, how):
    ends = np.iinfo(kind)
    values = np.full(files.s.moving.shape, ends.min, kind)
    values[:, :, files.s.moving.shape[2] // 2 :] = ends.max
    source = files.image("m.nrrd", values)
    assert files.apply(source, "out.nrrd", "--interpolation", how) == 0
    found = array(files.folder / "out.nrrd")
    assert found.dtype == kind
    # Between both lies a layer of what is interpolated, in double precision.
    near = 2.0**-40 * float(ends.max)
    parts = [np.mean(np.abs(found.astype(float) - float(end)) <= near) for end in (ends.min, ends.max)]
    assert min(parts) > 0.1 and sum(parts) > (0.999 if how == "nearest" else 0.8)
    assert files.apply(files.image("same.nrrd", np.full_like(values, ends.max)), "end.nrrd") == 0
    assert array(files.folder / "end.nrrd").min() >= ends.max - near


def test_voxels_that_are_not_finite_stay_so_and_are_no_damage(files):
    values = pattern(files.s.moving).astype(np.float32)
    values[3:6, 4:9, 5:9] = np.nan
    source = files.folder / "n.nrrd"
    assert files.image("n.nrrd", values) == source
    for output in ("o.nii.gz", "o.nrrd"):
        assert files.apply(source, output) == 0
        found = read_frames(files.folder / output).values
        assert np.isnan(found).any() and np.nanmin(found) > 0


@pytest.mark.parametrize(("name", "told"), [("o.tif", True), ("o.gipl", True), ("o.nrrd", False), ("o.mha", False)])
def test_a_format_that_does_not_hold_the_place_says_so(files, name, told, capsys):
    source = files.image("m.nrrd", pattern(files.s.moving).astype(np.int16))
    assert files.apply(source, name) == 0
    assert (f"Warning: {name} does not say where its voxels lie" in capsys.readouterr().out) == told


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd"])
def test_a_displacement_field_that_is_cut_is_the_same_field(name, tmp_path):
    grid = make_grid((6, 5, 4), (2, 2.5, 3), (10, 20, 30))
    field = DisplacementField(np.random.default_rng(0).normal(size=(*grid.shape, 3)), grid)
    write_field(field, tmp_path / "u.nii.gz")
    (tmp_path / "a.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    part = grid.cropped((1, 1, 1), (4, 3, 2))
    write_image(Image(np.zeros(part.shape, np.uint8), part), tmp_path / "part.nrrd")
    files = [str(tmp_path / one) for one in ("a.txt", "u.nii.gz", name, "part.nrrd")]
    assert main(["apply", *files[:2], "-o", files[2], "--reference", files[3]]) == 0
    points = part.positions().reshape(-1, 3)
    found = read_transform(tmp_path / name).transform_points(points).points
    np.testing.assert_allclose(found, field.transform_points(points), atol=1e-4)


def test_the_clock_of_a_series_is_kept_in_seconds(files):
    import nibabel

    series = nibabel.Nifti1Image(np.zeros((*files.s.moving.size, 3), np.int16), files.s.moving.ijk_to_ras)
    series.header.set_xyzt_units("mm", "msec")
    series.header["pixdim"][4] = 1500
    nibabel.save(series, files.folder / "t.nii.gz")
    assert files.apply(files.folder / "t.nii.gz", "o.nii.gz") == 0
    assert sitk.ReadImage(str(files.folder / "o.nii.gz")).GetSpacing()[3] == pytest.approx(1.5)


def test_large_whole_numbers_stay_exact(files):
    values = np.full(files.s.moving.shape, 123_456_789, np.int32)
    assert files.apply(files.image("m.nii.gz", values), "out.nii.gz") == 0
    assert (array(files.folder / "out.nii.gz") == 123_456_789).all()


def test_every_frame_of_a_series_and_every_colour_goes_its_way(files):
    volumes = [pattern(files.s.moving, scale) for scale in (0.1, 0.2, 0.05)]
    expected = []
    for number, volume in enumerate(volumes):
        source = files.image(f"v{number}.nii.gz", volume.astype(np.uint8))
        assert files.apply(source, f"one{number}.nii.gz", "--background", "3") == 0
        expected.append(array(files.folder / f"one{number}.nii.gz"))
    series = sitk.JoinSeries([sitk.ReadImage(str(files.folder / f"v{n}.nii.gz")) for n in range(3)], 10.0, 2.5)
    sitk.WriteImage(series, str(files.folder / "series.nii.gz"))
    assert files.apply(files.folder / "series.nii.gz", "moved.nii.gz", "--background", "3") == 0
    result = sitk.ReadImage(str(files.folder / "moved.nii.gz"))
    assert result.GetDimension() == 4 and result.GetSpacing()[3] == 2.5
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), np.stack(expected))
    colours = files.image("rgb.nrrd", np.stack(volumes, -1).astype(np.uint8), vector=True)
    assert files.apply(colours, "rgb_moved.nrrd", "--background", "3") == 0
    np.testing.assert_array_equal(array(files.folder / "rgb_moved.nrrd"), np.stack(expected, -1))


def test_a_slice_stays_a_file_of_two_dimensions(tmp_path):
    picture = sitk.GetImageFromArray((np.arange(30 * 20).reshape(30, 20) % 250).astype(np.uint8))
    sitk.WriteImage(picture, str(tmp_path / "p.png"))
    sitk.WriteTransform(sitk.TranslationTransform(2, (3.0, 5.0)), str(tmp_path / "t.tfm"))
    assert main(["apply", str(tmp_path / "t.tfm"), str(tmp_path / "p.png"), "-o", str(tmp_path / "o.png")]) == 0
    result = sitk.ReadImage(str(tmp_path / "o.png"))
    assert result.GetDimension() == 2
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result)[:-5, :-3], sitk.GetArrayFromImage(picture)[5:, 3:])


def test_a_chain_is_interpolated_once(files):
    # Over there and back again, ten times: an image resampled at each step would be a blur.
    rng = np.random.default_rng(0)
    values = rng.integers(0, 255, files.s.moving.shape).astype(np.uint8)
    source = files.image("noise.nii.gz", values)
    there, back = files.names[1], f"{files.names[1]}:inverse"
    arguments = ["apply", *([there, back] * 10), str(source), "-o", str(files.folder / "o.nii.gz")]
    assert main(arguments) == 0
    np.testing.assert_array_equal(array(files.folder / "o.nii.gz"), values)


@pytest.mark.parametrize("mode", ["nearest", "labels"])
def test_labels_are_never_mixed(files, mode):
    labels = np.where(pattern(files.s.moving) > 600, 70_000, np.where(pattern(files.s.moving) > 400, 5, 0))
    source = files.image("l.nrrd", labels.astype(np.int32))
    assert files.apply(source, "out.nrrd", "--interpolation", mode) == 0
    found = array(files.folder / "out.nrrd")
    assert found.dtype == np.int32 and set(np.unique(found)) == {0, 5, 70_000}
    if mode == "nearest":
        expected = sitk.GetArrayFromImage(files.by_sitk(source, sitk.sitkNearestNeighbor))
        # Positions half way between voxels round either way.
        assert np.mean(found != expected) < 0.01


@pytest.mark.parametrize(("options", "told"), [((), True), (("--interpolation", "nearest"), False)])
def test_labels_that_would_be_mixed_are_told(files, options, told, capsys):
    shape = files.s.moving.shape
    blocks = np.kron(np.arange(64).reshape(4, 4, 4), np.ones([-(-n // 4) for n in shape]))
    blocks = blocks[tuple(slice(n) for n in shape)].astype(np.uint8)
    assert files.apply(files.image("labels.nii.gz", blocks), "out.nii.gz", *options) == 0
    assert ("Choose --interpolation nearest or labels." in capsys.readouterr().out) == told


def test_cubic_keeps_a_parabola_and_does_not_wrap_around(files):
    import torch

    grid = files.s.moving
    line = np.arange(grid.shape[2], dtype=np.float32)
    volume = torch.from_numpy(np.broadcast_to(line**2, grid.shape).copy())[None]
    places = torch.tensor([[3.3, 5.2, 4.1], [7.75, 9.5, 10.2]])
    found = cubic.sample(volume, places, cubic.convolution_weights)[0]
    np.testing.assert_allclose(found, places[:, 0] ** 2, rtol=1e-5)
    edge = np.where(np.arange(grid.shape[2]) < 10, 0, 255) * np.ones(grid.shape)
    assert files.apply(files.image("e.nii.gz", edge.astype(np.uint8)), "o.nii.gz", "--interpolation", "cubic") == 0
    linear = files.apply(files.folder / "e.nii.gz", "l.nii.gz")
    assert linear == 0
    step = np.abs(array(files.folder / "o.nii.gz").astype(float) - array(files.folder / "l.nii.gz"))
    assert 0 < step.max() < 80


def test_reference_spacing_and_crop_make_the_grid(files):
    values = np.zeros(files.s.moving.shape, np.int16)
    values[8:12, 7:11, 9:14] = 100
    source = files.image("m.nrrd", values)
    assert files.apply(source, "own.nrrd", "--spacing", "2", "--crop") == 0
    result = sitk.ReadImage(str(files.folder / "own.nrrd"))
    np.testing.assert_allclose(result.GetSpacing(), 2.0)
    found = sitk.GetArrayFromImage(result)
    for axis in range(3):
        planes = np.moveaxis(found, axis, 0)
        assert planes[0].any() and planes[-1].any()
    # Without a reference: the grid of the first field.
    assert files.apply(source, "field.nrrd", reference=False) == 0
    assert read_grid(files.folder / "field.nrrd", "x").same_as(files.s.fixed)


def test_a_voxelmorph_field_and_its_flow_agree(files):
    import nibabel

    flow = files.s.field.displacement_ras @ files.s.fixed.ras_to_ijk[:3, :3].T
    image = nibabel.Nifti1Image(flow.transpose(2, 1, 0, 3).astype(np.float32), files.s.fixed.ijk_to_ras)
    nibabel.save(image, files.folder / "warp.nii.gz")
    source = files.image("m.nii.gz", pattern(files.s.moving).astype(np.float32))
    results = []
    for name, options in ((files.names[0], []), (files.folder / "warp.nii.gz", ["--convention", "voxelmorph"])):
        output = files.folder / f"o{len(results)}.nii.gz"
        assert main([str(p) for p in ["apply", name, source, "-o", output, *options]]) == 0
        results.append(array(output))
    assert np.abs(results[0] - results[1]).max() < 0.05


def test_several_inputs_are_all_written_or_none(files, capsys):
    values = pattern(files.s.moving).astype(np.float32)
    good = files.image("a.nii.gz", values)
    (files.folder / "b.csv").write_text("no points here\n")
    out = files.folder / "out"
    arguments = ["apply", *files.names, "-o", str(out), "--reference", files.reference, "--inputs", str(good)]
    assert main([*arguments, str(files.folder / "b.csv")]) == 1
    refused(capsys, "landmarks in b.csv cannot be read")
    assert not out.exists()
    (files.folder / "b.csv").write_text("1,2,3\n")
    assert main([*arguments, str(files.folder / "b.csv")]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.nii.gz", "b.csv"]
    assert main(arguments) == 1
    refused(capsys, "--overwrite")


@pytest.mark.parametrize(
    ("source", "output", "options", "message"),
    [
        ("missing.nii.gz", "o.nii.gz", [], "there is no file"),
        ("m.nii.gz", "o.csv", [], "is no name for that"),
        ("p.csv", "o.fcsv", [], "keep their format"),
        ("p.csv", "o.csv", ["--crop"], "--crop is for images"),
        ("m.nii.gz", "o.nii.gz", ["--background", "70000"], "does not fit the image's type"),
        ("m.nii.gz", "o.nii.gz", ["--spacing", "1", "2"], "one spacing for all axes or three"),
        ("m.nii.gz", "o.nii.gz", ["--reference", "none.nii"], "there is no file none.nii"),
        ("m.nii.gz", "o.xyz", [], "could not be written"),
        ("plane.mrk.json", "o.mrk.json", [], "holds a Plane"),
        ("bad.stl", "o.stl", [], "it is no .stl file"),
    ],
)
def test_bad_input_gets_a_sentence_and_nothing_is_left(files, source, output, options, message, capsys):
    files.image("m.nii.gz", pattern(files.s.moving).astype(np.int16))
    (files.folder / "p.csv").write_text("x,y,z\n1,2,3\n")
    (files.folder / "bad.stl").write_text("nothing")
    plane = {"type": "Plane", "controlPoints": [{"position": [1, 2, 3]}]}
    (files.folder / "plane.mrk.json").write_text(json.dumps({"markups": [plane]}))
    before = sorted(files.folder.iterdir())
    assert files.apply(files.folder / source, output, *options, reference="--reference" not in options) == 1
    refused(capsys, message)
    assert sorted(files.folder.iterdir()) == before


def test_the_transform_of_a_registration_remakes_its_image(tmp_path):
    fixed, moving = pair("oblique", "anisotropic")
    model = save_centroid_model(tmp_path / "m.pt")
    for image, name in ((fixed, "fixed.nii.gz"), (moving, "moving.nii.gz")):
        write_image(image, tmp_path / name)
    names = [str(tmp_path / name) for name in ("fixed.nii.gz", "moving.nii.gz")]
    options = ["--model", str(model), "--device", "cpu", "--alignment", "centers"]
    assert main(["register", *names, "-o", str(tmp_path / "out"), *options]) == 0
    result = str(tmp_path / "out" / "transform.h5")
    assert main(["apply", result, names[1], "-o", str(tmp_path / "o.nii.gz"), "--reference", names[0]]) == 0
    # Fields are rounded to a thousandth of a voxel or finer, those of the field being 2 mm wide: to 1 micrometre.
    spacing = moving.grid.spacing[::-1]
    slope = sum(np.abs(np.diff(moving.array, axis=axis)).max() / spacing[axis] for axis in range(3))
    found, expected = array(tmp_path / "o.nii.gz"), array(tmp_path / "out" / "warped.nii.gz")
    np.testing.assert_allclose(found, expected, atol=0.001 * slope)


@pytest.mark.parametrize(
    ("limit", "arguments"),
    [
        (3_000, ["apply", "1Warp.nii.gz", "m.nii.gz", "-o", "o.nii.gz"]),
        (3_000, ["apply", "1Warp.nii.gz", "m.csv", "-o", "o.csv"]),
        (20_000, ["transform", "compose", "1Warp.nii.gz", "0GenericAffine.mat", "-o", "c.h5", "--composite"]),
        (20_000, ["transform", "convert", "1Warp.nii.gz", "-o", "c.nrrd"]),
    ],
)
def test_a_full_disk_is_told_and_nothing_is_half_written(files, limit, arguments, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    files.image("m.nii.gz", rng.normal(size=files.s.moving.shape))
    np.savetxt(files.folder / "m.csv", rng.uniform(-5, 5, (500, 3)), delimiter=",")
    before = sorted(files.folder.iterdir())
    monkeypatch.chdir(files.folder)
    with files_up_to(limit):
        assert main(arguments) == 1
    refused(capsys, "Error: ")
    assert sorted(files.folder.iterdir()) == before


def test_frames_read_alike_from_every_layout(files):
    values = pattern(files.s.moving).astype(np.float32)
    frames = read_frames(files.image("m.mha", values))
    assert frames.values.shape == (1, *files.s.moving.shape) and frames.grid.same_as(files.s.moving)


@pytest.mark.parametrize("kept", ["input.nrrd", "fixed.nii.gz", "1Warp.nii.gz"])
def test_inputs_are_never_replaced(tmp_path, kept, capsys):
    files = Files(tmp_path)
    source = files.image("input.nrrd", np.zeros(files.s.moving.shape, np.float32))
    before = (tmp_path / kept).read_bytes()
    assert files.apply(source, kept, "--overwrite") == 1
    refused(capsys, f"The input {tmp_path / kept} would be replaced")
    assert (tmp_path / kept).read_bytes() == before


def test_options_go_to_the_inputs_that_they_are_for(tmp_path, capsys):
    """Those of images go with images beside points; where none of the inputs can heed an option, it is told."""
    files = Files(tmp_path)
    source = files.image("input.nrrd", np.zeros(files.s.moving.shape, np.float32))
    assert files.apply(source, "out.nrrd", "--frame", "LPS") == 1
    refused(capsys, "--frame is for tables and surfaces; input.nrrd holds an image")
    (tmp_path / "p.fcsv").write_text("# CoordinateSystem = RAS\n# columns = id,x,y,z\n1,1,2,3\n")
    assert files.apply(tmp_path / "p.fcsv", "out.fcsv", "--frame", "LPS") == 1
    refused(capsys, "--frame is for tables and surfaces; p.fcsv says its own")
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    more = ["--inputs", source, tmp_path / "p.csv", "--spacing", "3", "--frame", "LPS", "--reference", files.reference]
    assert main([str(part) for part in ["apply", *files.names, "-o", tmp_path / "out", *more]]) == 0
    assert sitk.ReadImage(str(tmp_path / "out/input.nrrd")).GetSpacing() == pytest.approx((3, 3, 3), rel=0.1)
