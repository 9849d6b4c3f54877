"""`voxelmorph apply`: landmarks, tables, surfaces, curves and segmentations go the way of the anatomy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apply_cases import Files, array, pattern, refused
from transform_cases import LPS, chain_of, moved
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.images.landmarks import read_points
from VoxelMorphRegistrationLib.transforms.chain import Chain
from VoxelMorphRegistrationLib.transforms.parts import Bent
from VoxelMorphRegistrationLib.transforms.writing import write_transform

pytestmark = pytest.mark.usefixtures("readers_here")


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


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


def test_a_table_whose_rows_run_over_lines_is_refused(files, capsys):
    (files.folder / "m.csv").write_text('name,x,y,z\n"a\nb",1,2,3\nc,4,5,6\n')
    assert files.apply(files.folder / "m.csv", "o.csv") == 1
    refused(capsys, "m.csv cannot be carried: its rows run over several lines. Put each point into a line of its own.")
    assert not (files.folder / "o.csv").exists()


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
