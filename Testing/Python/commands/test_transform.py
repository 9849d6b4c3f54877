import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from grids import make_grid, rotation, smooth_displacement
from transform_cases import apart, blank, chain_of, lps_affine, moved, setting
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.files import read_image, set_sitk_geometry, write_image
from VoxelMorphRegistrationLib.transforms.chain import Chain
from VoxelMorphRegistrationLib.transforms.parts import Bent, Matrix
from VoxelMorphRegistrationLib.transforms.reading import read_chain, read_transform
from VoxelMorphRegistrationLib.transforms.writing import write_transform

pytestmark = pytest.mark.usefixtures("readers_here")

ODD = "oblique, anisotropic, left-handed"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    s, folder = setting(ODD), tmp_path_factory.mktemp("written")
    write_transform(Chain((Bent(s.field),)), folder / "u.h5")
    write_transform(Chain((Matrix(s.matrix),)), folder / "a.tfm")
    write_transform(chain_of(s), folder / "both.h5", composite=True)
    blank(s.fixed, folder / "fixed.nii.gz")
    blank(s.moving, folder / "moving.nii.gz")
    return folder


@pytest.fixture
def files(written, tmp_path):
    """A folder with the transforms and images of `written`."""
    return Path(shutil.copytree(written, tmp_path, dirs_exist_ok=True))


def run(folder, *arguments) -> int:
    """Names with a suffix are files of the folder."""
    return main(["transform", *(str(folder / a) if "." in a and not a.startswith("-") else a for a in arguments)])


def test_describe_tells_what_a_file_is_and_does(files, capsys):
    s = setting(ODD)
    assert run(files, "describe", "both.h5", "a.tfm", "u.h5", "--json") == 0
    both, matrix, field = json.loads(capsys.readouterr().out)
    assert [part["kind"] for part in both["parts"]] == ["displacement field", "affine matrix"]
    assert both["parts"][0]["grid"]["size"] == s.fixed.size.tolist()
    steps = np.linalg.norm(s.field.displacement_ras, axis=-1)
    assert field["measured"]["largest_displacement_mm"] == pytest.approx(steps.max(), abs=1e-4)
    assert field["measured"]["folded_voxels"] == field["measured"]["folded_voxels_any_corner"] == 0
    assert field["measured"]["non_diffeomorphic_volume_percent"] == 0.0
    assert "measured" not in matrix
    np.testing.assert_allclose(np.sort(matrix["parts"][0]["scales"]), [0.97, 1.02, 1.04], atol=1e-6)
    assert run(files, "describe", "both.h5", "a.tfm") == 0
    told = capsys.readouterr().out
    for word in (
        "displacement field",
        "voxels of 1.1 x 1.4 x 2.2 mm",
        "turns by",
        "non-diffeomorphic volume 0.00000 %",
    ):
        assert word in told


def test_describe_counts_folds(tmp_path, capsys):
    grid = make_grid((20, 20, 20))
    u = np.zeros((*grid.shape, 3), np.float32)
    u[..., 0] = 1.2 * (np.arange(20) % 2)
    write_transform(Chain((Bent(DisplacementField(u, grid)),)), tmp_path / "fold.nrrd")
    assert run(tmp_path, "describe", "fold.nrrd", "--json") == 0
    found = json.loads(capsys.readouterr().out)[0]["measured"]
    # Every second step along i goes back by .2 of a voxel: of 19 cells 9, by a fifth of their volume.
    assert found["folded_voxels"] == 0 and found["folded_voxels_any_corner"] == 7200
    assert found["non_diffeomorphic_volume_percent"] == pytest.approx(100 * 9 * 0.2 / 19, rel=1e-4)


def test_inverse_of_a_chain_with_its_error(files, capsys):
    s = setting(ODD)
    assert run(files, "invert", "both.h5", "-o", "back.nii.gz", "--to", "ants", "--reference", "moving.nii.gz") == 0
    assert "at its voxels" in capsys.readouterr().out
    back = read_transform(files / "back.nii.gz")
    y = s.moving.positions().reshape(-1, 3)[::13]
    assert apart(chain_of(s).transform_points(back.transform_points(y).points).points, y) < 0.01


def test_inverse_of_a_matrix_is_exact(files, capsys):
    assert run(files, "invert", "a.tfm", "-o", "b.tfm") == 0
    assert "exact" in capsys.readouterr().out
    np.testing.assert_allclose(read_transform(files / "b.tfm").matrix, np.linalg.inv(setting(ODD).matrix), atol=1e-9)


def test_composition_as_one_field_as_parts_and_of_matrices(files):
    s = setting(ODD)
    assert run(files, "compose", "u.h5", "a.tfm", "-o", "one.nrrd") == 0
    one = read_transform(files / "one.nrrd")
    assert len(one.parts) == 1 and apart(one.transform_points(s.nodes).points, moved(s, s.nodes)) < 1e-3
    assert run(files, "compose", "u.h5", "a.tfm", "-o", "parts.tfm", "--composite") == 0
    parts = read_transform(files / "parts.tfm")
    assert len(parts.parts) == 2 and apart(parts.transform_points(s.between).points, moved(s, s.between)) < 1e-3
    assert run(files, "compose", "a.tfm", "a.tfm", "-o", "twice.txt") == 0
    np.testing.assert_allclose(read_transform(files / "twice.txt").matrix, s.matrix @ s.matrix, atol=1e-9)
    assert run(files, "compose", "a.tfm:inverse", "u.h5:inverse", "-o", "back.h5", "--reference", "moving.nii.gz") == 0
    y = s.moving.positions().reshape(-1, 3)[::13]
    there = chain_of(s).transform_points(read_chain([str(files / "back.h5")]).transform_points(y).points).points
    assert apart(there, y) < 0.01


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t.mat", ["--to", "fsl", "--reference", "fixed.nii.gz", "--moving", "moving.nii.gz"]),
        ("t.lta", ["--reference", "fixed.nii.gz", "--moving", "moving.nii.gz"]),
        ("t.mat", ["--to", "greedy"]),
        ("t.mat", ["--to", "ants"]),
        ("t.h5", ["--to", "slicer"]),
    ],
)
def test_a_matrix_goes_to_every_program_and_back(files, name, options):
    assert run(files, "convert", "a.tfm", "-o", name, *options) == 0
    back = options[2:] if "fsl" in options else []
    source = f"{name}:fsl" if "fsl" in options else name
    assert run(files, "convert", source, "-o", "back.tfm", *back) == 0
    np.testing.assert_allclose(read_transform(files / "back.tfm").matrix, setting(ODD).matrix, atol=1e-8)


def test_the_intent_of_a_nifti_field_says_its_frame(files):
    import nibabel

    on_disk = {}
    for program in ("itk", "ants"):
        assert run(files, "convert", "u.h5", "-o", f"{program}.nii.gz", "--to", program) == 0
        image = nibabel.load(files / f"{program}.nii.gz")
        on_disk[program] = image.get_fdata()[3, 4, 5, 0]
        assert int(image.header["intent_code"]) == {"itk": 1006, "ants": 1007}[program]
    np.testing.assert_allclose(on_disk["itk"], setting(ODD).field.displacement_ras[5, 4, 3], atol=1e-5)
    np.testing.assert_allclose(on_disk["ants"], on_disk["itk"] * [-1, -1, 1], atol=1e-6)


def test_the_jacobian_is_that_of_the_whole_chain(tmp_path):
    grid = make_grid((20, 18, 16), (1, 1.5, 2), (10, 20, 30), left_handed=True)
    stretch = np.diag([1.1, 1.2, 0.9])
    field = DisplacementField((grid.positions() @ (stretch - np.eye(3)).T).astype(np.float32), grid)
    write_transform(Chain((Bent(field),)), tmp_path / "u.nrrd")
    sitk.WriteTransform(lps_affine(np.diag([2.0, 1.0, 1.0, 1.0])), str(tmp_path / "a.tfm"))
    labels = np.zeros(grid.shape, np.uint8)
    labels[2:5, 3:9, 4:6] = 7
    image = sitk.GetImageFromArray(labels)
    set_sitk_geometry(image, grid)
    sitk.WriteImage(image, str(tmp_path / "l.nrrd"))
    table = ["--labels", "l.nrrd", "--csv", "t.csv"]
    assert run(tmp_path, "jacobian", "u.nrrd", "a.tfm", "-o", "j.nii.gz", *table) == 0
    true = 2.0 * 1.1 * 1.2 * 0.9
    np.testing.assert_allclose(read_image(tmp_path / "j.nii.gz").array, true, rtol=1e-4)
    (row,) = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert (row["label"], row["voxels"], row["folded_voxels"]) == ("7", "36", "0")
    assert float(row["volume_in_input_mm3"]) == pytest.approx(36 * 3.0 * true, rel=1e-4)
    assert float(row["change_percent"]) == pytest.approx(100 * (true - 1), rel=1e-3)
    assert run(tmp_path, "jacobian", "u.nrrd", "a.tfm", "-o", "log.nii.gz", "--log") == 0
    np.testing.assert_allclose(read_image(tmp_path / "log.nii.gz").array, np.log(true), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "none.h5"], "there is no file"),
        (["invert", "u.h5", "-o", "a.tfm"], "--overwrite"),
        (["convert", "u.h5", "-o", "x.lta", "--reference", "fixed.nii.gz", "--moving", "moving.nii.gz"], "bends space"),
        (["convert", "a.tfm", "-o", "x.mat", "--to", "fsl"], "names both images"),
        (["convert", "a.tfm", "-o", "x.nii.gz", "--to", "fsl"], "x.nii.gz is no name for a matrix for fsl: use .mat"),
        (["convert", "a.tfm", "u.h5", "-o", "x.h5"], "takes one transform"),
        (["convert", "a.tfm", "-o", "x.nii.gz"], "Give an image as --reference"),
        (["compose", "u.h5:inverse", "-o", "x.h5", "--composite"], "cannot hold an inverse"),
        (["jacobian", "u.h5"], "Give -o IMAGE"),
        (["jacobian", "u.h5", "--csv", "x.csv", "--labels", "fixed.nii.gz", "--log"], "--log is for the map"),
        (["jacobian", "a.tfm", "-o", "x.nii.gz"], "Give an image as --reference"),
        (["jacobian", "u.h5", "-o", "x.nii.gz", "--csv", "x.csv"], "needs both"),
        (["jacobian", "u.h5", "--csv", "x.csv", "--labels", "nan.nii.gz"], "not whole numbers"),
        (
            [
                "jacobian",
                "u.h5",
                "-o",
                "x.nii.gz",
                "--csv",
                "x.csv",
                "--labels",
                "moving.nii.gz",
                "--reference",
                "fixed.nii.gz",
            ],
            "another grid",
        ),
    ],
)
def test_bad_input_gets_a_sentence_and_nothing_is_left(files, arguments, message, capsys):
    fixed = read_image(files / "fixed.nii.gz")
    write_image(fixed.with_array(np.full(fixed.array.shape, np.nan, np.float32)), files / "nan.nii.gz")
    before = sorted(files.iterdir())
    assert run(files, *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and message in error
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["convert", "a.tfm", "-o", "a.tfm"], "a.tfm"),
        (["compose", "u.h5:inverse", "a.tfm", "-o", "u.h5"], "u.h5"),
        (["invert", "u.h5", "--reference", "moving.nii.gz", "-o", "moving.nii.gz"], "moving.nii.gz"),
        (["jacobian", "u.h5", "--labels", "fixed.nii.gz", "--csv", "fixed.nii.gz"], "fixed.nii.gz"),
    ],
)
def test_inputs_are_never_replaced(files, arguments, kept, capsys):
    before = (files / kept).read_bytes()
    assert run(files, *arguments, "--overwrite") == 1
    assert f"The input {files / kept} would be replaced" in capsys.readouterr().err
    assert (files / kept).read_bytes() == before


def test_rotations_are_told_in_degrees(tmp_path, capsys):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((0, 0, 30))
    write_transform(Chain((Matrix(matrix),)), tmp_path / "r.tfm")
    assert run(tmp_path, "describe", "r.tfm") == 0
    assert "rigid matrix: turns by 30.00 degrees" in capsys.readouterr().out


def test_a_smooth_field_measures_alike_whatever_its_grid(tmp_path, capsys):
    found = []
    for left_handed in (False, True):
        grid = make_grid((24, 22, 20), (1, 1.3, 2), (10, 0, 20), left_handed=left_handed)
        field = DisplacementField(smooth_displacement(grid.positions()).astype(np.float32), grid)
        write_transform(Chain((Bent(field),)), tmp_path / "u.h5", overwrite=True)
        assert run(tmp_path, "describe", "u.h5", "--json") == 0
        found.append(json.loads(capsys.readouterr().out)[0]["measured"])
    assert found[0]["largest_displacement_mm"] == pytest.approx(found[1]["largest_displacement_mm"], abs=0.2)
    assert found[0]["folded_voxels"] == found[1]["folded_voxels"] == 0
