import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from grids import smooth_function
from registration_cases import pair
from small_models import save_centroid_model
from transform_cases import LPS, blank, chain_of, lps_affine, lps_image, moved, setting
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.images.files import set_sitk_geometry, write_image
from VoxelMorphRegistrationLib.images.landmarks import read_points
from VoxelMorphRegistrationLib.transforms import cubic
from VoxelMorphRegistrationLib.transforms.chain import Chain
from VoxelMorphRegistrationLib.transforms.frames import read_frames, read_grid
from VoxelMorphRegistrationLib.transforms.parts import Bent, Matrix
from VoxelMorphRegistrationLib.transforms.writing import write_transform

ODD = "oblique, anisotropic, left-handed"


class Files:
    """A field and a matrix in files, and images that the transform looks up."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.s = folder, setting(ODD)
        write_transform(Chain((Bent(self.s.field),)), folder / "1Warp.nii.gz", "ants")
        write_transform(Chain((Matrix(self.s.matrix),)), folder / "0GenericAffine.mat", "ants")
        self.names = [str(folder / "1Warp.nii.gz"), str(folder / "0GenericAffine.mat")]
        self.reference = str(blank(self.s.fixed, folder / "fixed.nii.gz"))
        self.transform = sitk.CompositeTransform(
            [lps_affine(self.s.matrix), sitk.DisplacementFieldTransform(lps_image(self.s.field))]
        )

    def image(self, name: str, values: np.ndarray, vector: bool = False) -> Path:
        image = sitk.GetImageFromArray(values, isVector=vector)
        set_sitk_geometry(image, self.s.moving)
        sitk.WriteImage(image, str(self.folder / name))
        return self.folder / name

    def apply(self, source, output: str, *options, reference: bool = True) -> int:
        options = [*options, "--reference", self.reference] if reference else list(options)
        arguments = ["apply", *self.names, source, "-o", self.folder / output, *options]
        return main([str(part) for part in arguments])

    def by_sitk(self, path: Path, interpolator, background: float = 0.0):
        # As it is, ITK cuts what whole numbers cannot hold.
        image = sitk.ReadImage(str(path), sitk.sitkFloat64)
        return sitk.Resample(image, sitk.ReadImage(self.reference), self.transform, interpolator, background)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def array(path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def refused(capsys, *messages) -> None:
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and "Traceback" not in error
    for message in messages:
        assert message in error


def pattern(grid, scale: float = 1.0) -> np.ndarray:
    return scale * smooth_function(grid.positions())


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


def test_voxels_that_are_not_finite_stay_so_and_are_no_damage(files):
    values = pattern(files.s.moving).astype(np.float32)
    values[3:6, 4:9, 5:9] = np.nan
    source = files.folder / "n.nrrd"
    assert files.image("n.nrrd", values) == source
    for output in ("o.nii.gz", "o.nrrd"):
        assert files.apply(source, output) == 0
        found = read_frames(files.folder / output).values
        assert np.isnan(found).any() and np.nanmin(found) > 0


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


def corresponding(files) -> tuple[np.ndarray, np.ndarray]:
    """Points in the reference's space and where the transform carries them in the input's."""
    fixed = files.s.fixed.center_ras + 0.5 * (files.s.between - files.s.fixed.center_ras)
    return fixed, moved(files.s, fixed)


def test_landmarks_keep_their_format_and_go_the_other_way(files, capsys):
    fixed, moving = corresponding(files)
    fixed, moving = fixed[:3], moving[:3]
    markups = {
        "@schema": "x",
        "markups": [
            {
                "type": "Line",
                "coordinateSystem": "LPS",
                "controlPoints": [
                    {"label": f"P{n}", "position": (p * LPS).tolist(), "description": "é"} for n, p in enumerate(moving)
                ],
                "measurements": [{"name": "length", "enabled": True, "value": 3.0}],
            }
        ],
    }
    (files.folder / "m.mrk.json").write_text(json.dumps(markups))
    rows = [f'id{n},{p[0]},{p[1]},{p[2]},0,0,0,1,1,1,0,"a, b",,x' for n, p in enumerate(moving)]
    header = "# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n# columns = id,x,y,z\n"
    (files.folder / "m.fcsv").write_text(header + "\n".join(rows) + "\n")
    table = [f"p{n};{p[2]};{p[1]};{p[0]}" for n, p in enumerate(moving * LPS)]
    (files.folder / "m.csv").write_text("name;z;y;x\n" + "\n".join(table) + "\n")
    for name, options in (("m.mrk.json", []), ("m.fcsv", []), ("m.csv", ["--frame", "LPS"])):
        assert files.apply(files.folder / name, f"out/{name}", *options) == 0
        assert "from the input to the reference, by the inverse" in capsys.readouterr().out
    out = files.folder / "out"
    for name in ("m.mrk.json", "m.fcsv"):
        assert np.abs(read_points(out / name) - fixed).max() < 0.01
    found = json.loads((out / "m.mrk.json").read_text())
    assert found["markups"][0]["controlPoints"][1]["label"] == "P1" and found["@schema"] == "x"
    assert found["markups"][0]["measurements"] == [{"name": "length", "enabled": True}]
    assert (out / "m.fcsv").read_text().startswith(header) and '"a, b",,x' in (out / "m.fcsv").read_text()
    lines = (out / "m.csv").read_text().splitlines()
    assert lines[0] == "name;z;y;x" and lines[2].startswith("p1;")
    assert np.abs([float(v) for v in lines[2].split(";")[3:0:-1]] - fixed[1] * LPS).max() < 0.01


def test_tables_of_other_programs_keep_frame_commas_and_gaps(files):
    fixed, moving = corresponding(files)
    rows = [f'"a {n}"\t{str(-p[0]).replace(".", ",")}\t{-p[1]}\t{p[2]}\tx' for n, p in enumerate(moving[:3])]
    rows.insert(1, '"gap"\t\t\t\tx')
    (files.folder / "m.tsv").write_text("label\tl\tp\ts\tnote\n" + "\n".join(rows) + "\n")
    # What the columns state goes before the option.
    assert files.apply(files.folder / "m.tsv", "o.tsv", "--frame", "RAS") == 0
    lines = (files.folder / "o.tsv").read_text().splitlines()
    assert (lines[0] == "label\tl\tp\ts\tnote" and lines[2] == "gap\t\t\t\tx") or lines[2] == '"gap"\t\t\t\tx'
    for line, point in zip([lines[1], *lines[3:]], fixed, strict=False):
        label, x, y, z, note = line.split("\t")
        assert label.strip('"').startswith("a ") and note == "x" and "," in x
        assert np.abs([float(x.replace(",", ".")), float(y), float(z)] - point * LPS).max() < 0.01


def test_points_that_are_not_placed_stay_as_they_are(files):
    _, moving = corresponding(files)
    points = [{"position": moving[0].tolist()}, {"position": [1, 2, 3], "positionStatus": "undefined"}]
    content = {"markups": [{"coordinateSystem": "RAS", "controlPoints": points}]}
    (files.folder / "m.mrk.json").write_text(json.dumps(content))
    assert files.apply(files.folder / "m.mrk.json", "o.mrk.json") == 0
    found = json.loads((files.folder / "o.mrk.json").read_text())["markups"][0]["controlPoints"]
    assert found[1] == points[1] and found[0] != points[0]


def test_ten_thousand_points_come_back(files):
    rng = np.random.default_rng(0)
    fixed = files.s.fixed.to_ras(rng.uniform(2, files.s.fixed.size - 3, (10_000, 3)))
    moving = chain_of(files.s).transform_points(fixed).points
    np.savetxt(files.folder / "p.csv", moving, delimiter=",", header="x,y,z", comments="")
    assert files.apply(files.folder / "p.csv", "q.csv") == 0
    assert np.abs(read_points(files.folder / "q.csv") - fixed).max() < 0.01


@pytest.mark.parametrize("suffix", [".vtk", ".vtp", ".stl", ".ply", ".obj"])
def test_surfaces_keep_their_cells_and_their_frame(files, suffix):
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    from VoxelMorphRegistrationLib.transforms import surfaces

    fixed, moving = corresponding(files)
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(*(moving.mean(0) * LPS))
    sphere.SetRadius(2.0)
    sphere.Update()
    source = files.folder / f"s{suffix}"
    surfaces._write(vtk, sphere.GetOutput(), source, "LPS")
    before, _ = surfaces._read(vtk, source)
    assert files.apply(source, f"out{suffix}") == 0
    after, frame = surfaces._read(vtk, files.folder / f"out{suffix}")
    assert frame == "LPS" and after.GetNumberOfCells() == before.GetNumberOfCells()
    points = [vtk_to_numpy(one.GetPoints().GetData()) * LPS for one in (after, before)]
    assert np.abs(moved(files.s, points[0]) - points[1]).max() < 0.01


def test_a_curve_of_slicer_is_read_back_by_slicer(files, scene):
    import slicer

    fixed, moving = corresponding(files)
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode")
    for point in moving[:4]:
        node.AddControlPoint(*point)
    storage = slicer.vtkMRMLMarkupsJsonStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(files.folder / "c.mrk.json"))
    assert storage.WriteData(node)
    assert files.apply(files.folder / "c.mrk.json", "o.mrk.json") == 0
    storage.SetFileName(str(files.folder / "o.mrk.json"))
    back = scene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode")
    assert storage.ReadData(back)
    for number in range(4):
        assert np.abs(np.array(back.GetNthControlPointPosition(number)) - fixed[number]).max() < 0.01


def segmentation_file(files, scene, path: Path) -> None:
    """Two segments that overlap, with names and colours, as Slicer writes them."""

    import slicer
    from VoxelMorphRegistrationLib.mrml.transforms import image_data, matrix_to_vtk

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    values = pattern(files.s.moving)
    for name, mask in (("low", values > 350), ("high", values > 550)):
        data = slicer.vtkOrientedImageData()
        data.ShallowCopy(image_data(mask.astype(np.uint8)))
        data.SetImageToWorldMatrix(matrix_to_vtk(files.s.moving.ijk_to_ras))
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(0.2, 0.4, 0.6)
        segment.AddRepresentation("Binary labelmap", data)
        node.GetSegmentation().AddSegment(segment, name)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(node)


def test_a_segmentation_with_overlaps_keeps_names_and_layers_for_slicer(files, scene):
    from vtk.util.numpy_support import vtk_to_numpy

    import slicer

    segmentation_file(files, scene, files.folder / "s.seg.nrrd")
    assert files.apply(files.folder / "s.seg.nrrd", "o.seg.nrrd") == 0
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(files.folder / "o.seg.nrrd"))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == ["low", "high"]
    np.testing.assert_allclose(segmentation.GetNthSegment(0).GetColor(), (0.2, 0.4, 0.6), atol=0.01)
    for number, limit in ((0, 350), (1, 550)):
        mask = (pattern(files.s.moving) > limit).astype(np.uint8)
        assert (
            files.apply(files.image("one.nrrd", mask), "alone.nrrd", "--interpolation", "nearest", "--overwrite") == 0
        )
        expected = array(files.folder / "alone.nrrd")
        data = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(number), data)
        extent = np.array(data.GetExtent()).reshape(3, 2)
        found = np.zeros_like(expected)
        box = tuple(slice(low, high + 1) for low, high in extent[::-1])
        found[box] = vtk_to_numpy(data.GetPointData().GetScalars()).reshape(data.GetDimensions()[::-1]) > 0
        np.testing.assert_array_equal(found, expected)


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
    np.testing.assert_allclose(array(tmp_path / "o.nii.gz"), array(tmp_path / "out" / "warped.nii.gz"), atol=0.05)


@pytest.mark.parametrize(
    ("limit", "arguments"),
    [
        (3_000, ["apply", "1Warp.nii.gz", "m.nii.gz", "-o", "o.nii.gz"]),
        (3_000, ["apply", "1Warp.nii.gz", "m.csv", "-o", "o.csv"]),
        (20_000, ["transform", "compose", "1Warp.nii.gz", "0GenericAffine.mat", "-o", "c.h5", "--composite"]),
        (20_000, ["transform", "convert", "1Warp.nii.gz", "-o", "c.nrrd"]),
    ],
)
def test_a_full_disk_is_told_and_nothing_is_half_written(files, limit, arguments):
    rng = np.random.default_rng(0)
    files.image("m.nii.gz", rng.normal(size=files.s.moving.shape))
    np.savetxt(files.folder / "m.csv", rng.uniform(-5, 5, (500, 3)), delimiter=",")
    before = sorted(files.folder.iterdir())
    library = Path(sys.modules["VoxelMorphRegistrationLib"].__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "VoxelMorphRegistrationLib", *arguments],
        cwd=files.folder,
        env={**os.environ, "PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Error: " in done.stderr and "Traceback" not in done.stderr
    assert sorted(files.folder.iterdir()) == before


def test_points_in_a_fold_are_refused(files, capsys):
    grid = files.s.fixed
    folded = np.zeros((*grid.shape, 3), np.float32)
    folded[..., 0] = -9 * np.sin(grid.positions()[..., 0] / 2)
    from VoxelMorphRegistrationLib.fields.displacement import DisplacementField

    write_transform(Chain((Bent(DisplacementField(folded, grid)),)), files.folder / "fold.nrrd")
    np.savetxt(files.folder / "p.csv", grid.positions().reshape(-1, 3)[::7], delimiter=",")
    arguments = ["apply", files.folder / "fold.nrrd", files.folder / "p.csv", "-o", files.folder / "q.csv"]
    assert main([str(part) for part in arguments]) == 1
    refused(capsys, "points cannot be carried", "folds there")


def test_surfaces_without_vtk_say_what_to_install(files):
    code = (
        "import sys; sys.modules['vtk'] = None\n"
        "from VoxelMorphRegistrationLib.transforms import surfaces\n"
        "from VoxelMorphRegistrationLib.errors import InputError\n"
        "try:\n    surfaces.carried('a.stl', None, None)\nexcept InputError as error:\n    print(error)"
    )
    library = Path(sys.modules["VoxelMorphRegistrationLib"].__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=library, capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout


def test_frames_read_alike_from_every_layout(files):
    values = pattern(files.s.moving).astype(np.float32)
    frames = read_frames(files.image("m.mha", values))
    assert frames.values.shape == (1, *files.s.moving.shape) and frames.grid.same_as(files.s.moving)
