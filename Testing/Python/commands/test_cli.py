import contextlib
import gc
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from full_disk import files_up_to
from grids import make_grid
from model_cases import write_keras
from registration_cases import SHIFT, ball, ball_labels
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.commands.register import _loading
from VoxelMorphRegistrationLib.commands.terminal import Progress
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import read_field
from VoxelMorphRegistrationLib.images.files import read_image, write_image
from VoxelMorphRegistrationLib.results import outputs
from VoxelMorphRegistrationLib.transforms.chain import Chain
from VoxelMorphRegistrationLib.transforms.parts import Bent, Matrix
from VoxelMorphRegistrationLib.transforms.writing import write_transform


def write_pair(folder, fixed, moving):
    for name, grid, center in (("fixed", fixed, (0, 0, 0)), ("moving", moving, SHIFT)):
        image = ball(grid, center)
        write_image(image, folder / f"{name}.nii.gz")
        write_image(ball_labels(image), folder / f"{name}_labels.nrrd")
    (folder / "fixed.csv").write_text("x,y,z\n0,0,0\n1,2,3\n")
    (folder / "moving.csv").write_text("x,y,z\n3,-2,4\n4,0,7\n")
    save_centroid_model(folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Files of a fixed and a moving image on unlike grids, their labels and landmarks, and a model."""
    fixed = make_grid((40, 36, 30), (1, 1.1, 1.5), (10, 5, -20), left_handed=True)
    moving = make_grid((44, 40, 38), (1.2, 1, 1), (0, -15, 0), center=SHIFT)
    return write_pair(tmp_path_factory.mktemp("inputs"), fixed, moving)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """As `inputs`, with few voxels."""
    fixed, moving = make_grid((16, 14, 12), (2.4, 2.6, 3)), make_grid((18, 16, 14), (2.4, 2.4, 2.4), center=SHIFT)
    return write_pair(tmp_path_factory.mktemp("coarse"), fixed, moving)


@pytest.fixture(scope="module")
def result(inputs, tmp_path_factory):
    """(folder of all results with labels, landmarks and inverse, what was printed). Looked at only."""
    out = tmp_path_factory.mktemp("result") / "new" / "out"
    labels = ["--fixed-labels", inputs / "fixed_labels.nrrd", "--moving-labels", inputs / "moving_labels.nrrd"]
    points = ["--fixed-points", inputs / "fixed.csv", "--moving-points", inputs / "moving.csv"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert register(inputs, out, *labels, *points, "--inverse") == 0
    return out, printed.getvalue()


def register(inputs, output, *options, alignment="none"):
    arguments = [inputs / "fixed.nii.gz", inputs / "moving.nii.gz", "-o", output, "--model", inputs / "model.pt"]
    return main(["register", *map(str, arguments), "--device", "cpu", "--alignment", alignment, *map(str, options)])


def quickly(coarse, output, *options):
    """For what is the same whatever the images and however well they are registered."""
    return register(coarse, output, "--refine", "off", *options)


def refused(capsys, *messages):
    captured = capsys.readouterr()
    error = captured.err[captured.err.index("Error: ") :]
    assert "Traceback" not in error
    for message in messages:
        assert message in error
    return True


def test_all_results_are_written_and_agree(inputs, result):
    out, printed = result
    assert sorted(p.name for p in out.iterdir()) == sorted(outputs.output_names(True, True))
    report = json.loads((out / "report.json").read_text())
    assert report["dice"]["after"]["mean"] > 0.85 and report["tre_mm"]["after"]["mean"] < 0.3
    # SimpleITK with the written transform makes the same image as the one written.
    fixed, moving = (sitk.ReadImage(str(inputs / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    for transform in (
        sitk.ReadTransform(str(out / "transform.h5")),
        sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "displacement.nii.gz"), sitk.sitkVectorFloat64)),
    ):
        resampled = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform))
        warped = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped.nii.gz")))
        inside = resampled > 0
        assert np.abs(warped - resampled)[inside].max() < 1e-3 * 1000
    for words in ("mean Dice", "mean landmark error", "folded voxels", "inverse.h5"):
        assert words in printed


def test_ants_moves_the_image_alike_by_the_written_files(inputs, result):
    import ants

    out, _ = result
    fixed, moving = (ants.image_read(str(inputs / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped.nii.gz")))
    for name in ("transform.h5", "displacement.nii.gz"):
        moved = ants.apply_transforms(fixed, moving, [str(out / name)]).numpy().transpose(2, 1, 0)
        inside = moved > 0
        assert inside.mean() > 0.3
        assert np.abs(moved - warped)[inside].max() < 1e-3 * 1000


def test_affine_alignment_and_linear_files_go_together(coarse, tmp_path):
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    write_transform(Chain((Matrix(matrix),)), tmp_path / "start.tfm")
    assert quickly(coarse, tmp_path / "out", "--initial-transform", tmp_path / "start.tfm") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    np.testing.assert_allclose(report["linear"], matrix, atol=1e-6)
    assert report["largest_displacement_mm"] < 0.2


def test_a_chain_of_files_is_the_start(coarse, tmp_path):
    half = np.eye(4)
    half[:3, 3] = -np.array(SHIFT) / 2
    write_transform(Chain((Matrix(half),)), tmp_path / "half.tfm")
    grid = make_grid((20, 20, 20), (3, 3, 3))
    shift = np.broadcast_to(np.float32(SHIFT) / 2, (*grid.shape, 3))
    write_transform(Chain((Bent(DisplacementField(shift, grid)),)), tmp_path / "1Warp.nii.gz", "ants")
    starts = [
        "--initial-transform",
        f"{tmp_path / 'half.tfm'}:inverse",
        "--initial-transform",
        tmp_path / "1Warp.nii.gz",
    ]
    assert quickly(coarse, tmp_path / "out", *starts) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    np.testing.assert_allclose(np.array(report["linear"])[:3, 3], SHIFT, atol=0.01)
    assert report["largest_displacement_mm"] < 0.2


def test_a_result_is_gone_on_from_with_other_settings(coarse, tmp_path, capsys):
    assert quickly(coarse, tmp_path / "first", "--passes", "2") == 0
    first = read_field(tmp_path / "first" / "transform.h5")
    pair = [str(coarse / "fixed.nii.gz"), str(coarse / "moving.nii.gz"), "-o", str(tmp_path / "second")]
    assert main(["register", *pair, "--continue", str(tmp_path / "first"), "--refine", "fast"]) == 0
    report = json.loads((tmp_path / "second" / "report.json").read_text())
    assert report["settings"]["passes"] == 2 and report["settings"]["refinement"] == "fast"
    assert report["model"]["name"] == "none" and "registering" not in report["seconds"]
    points = np.random.default_rng(0).uniform(-6, 6, (20, 3))
    moved = read_field(tmp_path / "second" / "transform.h5").transform_points(points)
    assert np.linalg.norm(moved - first.transform_points(points), axis=1).max() < 1.0
    # Settings of a file take the place of the earlier ones, the network that they name with them.
    (tmp_path / "s.json").write_text(json.dumps({"model": "no-such-model", "refinement": "fast"}))
    more = ["--continue", str(tmp_path / "first"), "--settings", str(tmp_path / "s.json"), "--overwrite"]
    assert main(["register", *pair, *more]) == 1
    assert refused(capsys, "no-such-model")
    assert main(["register", *pair, "--continue", str(coarse), "--overwrite"]) == 1
    assert refused(capsys, "holds no earlier result to go on from")


def test_existing_results_are_kept_unless_overwriting(coarse, result, tmp_path, capsys):
    shutil.copytree(result[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("keep")
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert quickly(coarse, tmp_path) == 1
    assert refused(capsys, "already holds transform.h5", "--overwrite")
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    assert quickly(coarse, tmp_path, "--overwrite") == 0
    now = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    # Labels and an older inverse do not outlive the transform that they belong to; what is no result stays.
    assert sorted(now) == sorted([*outputs.output_names(False), "notes.txt"])
    assert [name for name in now if now[name] == before[name]] == ["notes.txt"]


def test_options_go_before_the_settings_file(coarse, tmp_path):
    (tmp_path / "s.json").write_text('{"passes": 3, "jacobian": "deformable"}')
    assert quickly(coarse, tmp_path / "out", "--settings", tmp_path / "s.json", "--passes", "2") == 0
    used = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert (used["passes"], used["jacobian"]) == (2, "deformable")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--model", "none", "--refine", "off"], ["nothing to do when refinement is off"]),
        (["--settings", "missing.json"], ["settings file missing.json cannot be read"]),
        (["--fixed-mask", "missing.nrrd"], ["fixed mask cannot be read: there is no file"]),
        (["--initial-transform", "missing.tfm"], ["missing.tfm"]),
        (["--fixed-points", "missing.csv"], ["fixed landmarks cannot be read"]),
        (["--model", "missing.pt"], ["no model file or shipped model 'missing.pt'"]),
        (["--passes", "0"], ["passes is 0"]),
        (["--model", "none", "--passes", "2"], ["--passes is for a network, and none runs here"]),
        (["--model", "auto", "--refine", "fast", "--working-spacing", "2"], ["--working-spacing is for a network"]),
    ],
)
def test_bad_options_are_told_and_nothing_is_left(options, messages, inputs, tmp_path, capsys):
    assert register(inputs, tmp_path / "out", *options) == 1
    assert refused(capsys, *messages)
    assert not (tmp_path / "out").exists()


def test_same_file_twice_is_refused(inputs, tmp_path, capsys):
    image = str(inputs / "fixed.nii.gz")
    assert main(["register", image, image, "-o", str(tmp_path / "out")]) == 1
    assert refused(capsys, "are the same file")
    other = str(inputs / "moving.nii.gz")
    sides = ["--fixed", image, image, "--moving", other, image]
    assert main(["register", *sides, "-o", str(tmp_path / "out")]) == 1
    assert refused(capsys, "moving image 2 are the same file")


def test_missing_image_is_named(tmp_path, capsys):
    assert main(["register", "a.nii", "b.nii", "-o", str(tmp_path / "out")]) == 1
    assert refused(capsys, "The fixed image cannot be read: there is no file a.nii")
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file_is_refused(inputs, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert register(inputs, tmp_path / "out") == 1
    assert refused(capsys, "is a file. Give a folder")
    assert register(inputs, tmp_path / "out" / "deeper") == 1
    assert refused(capsys, "Nothing can be written to")


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_output_that_is_a_link_to_nothing_is_refused(target, inputs, tmp_path, capsys):
    (tmp_path / "link").symlink_to(target)
    assert register(inputs, tmp_path / "link") == 1
    assert refused(capsys, "link is a link that leads nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link"]


@pytest.mark.parametrize("limit", [2_000, 50_000, 400_000])
def test_full_disk_is_told_and_nothing_is_half_written(inputs, tmp_path, capsys, limit):
    (tmp_path / "kept.txt").write_text("kept")
    with files_up_to(limit):
        assert quickly(inputs, tmp_path) == 1
    assert refused(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_piped_output_is_plain_lines(coarse, tmp_path, capfd):
    assert quickly(coarse, tmp_path / "out") == 0
    printed = capfd.readouterr()
    first, *stages = printed.err.splitlines()[:4]
    assert first.startswith("Expected: about ")
    assert stages == ["checking ...", "loading the model ...", "aligning ..."]
    assert "\r" not in printed.err and "Results are in" in printed.out


def test_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress(stream) as progress:
        progress("aligning", 0.5)
        progress("aligning", 1.0)
    text = stream.getvalue()
    assert "[###############...............]  50 %  aligning" in text and "100 %  aligning" in text
    assert text.endswith("\r\033[K")


def test_interrupting_leaves_nothing(coarse, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    for place in ("write_field", "_verify"):
        monkeypatch.setattr(outputs, place, interrupt)
        assert quickly(coarse, tmp_path / "out") == 130
        assert not (tmp_path / "out").exists()
    assert "Cancelled. Nothing was written." in capsys.readouterr().err


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["register"])
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


# --- models -----------------------------------------------------------------------------------------------------


def test_models_are_listed_described_and_checked(inputs, capsys):
    assert main(["models", "list"]) == 0
    assert "general-3d" in capsys.readouterr().out
    assert main(["models", "describe", "general-3d"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "general-3d"
    assert main(["models", "check", str(inputs / "model.pt")]) == 0
    assert "usable 3D model 'centroid'" in capsys.readouterr().out


def test_bad_model_file_is_told(tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(b"x")
    assert main(["models", "check", str(tmp_path / "a.pt")]) == 1
    assert refused(capsys, "no TorchScript model file")


def test_keras_weights_are_imported_and_kept_unless_overwriting(tmp_path, capsys):
    write_keras(tmp_path / "w.h5")
    command = ["models", "import", str(tmp_path / "w.h5"), "-o", str(tmp_path / "m.pt"), "--name", "mine"]
    assert main(command) == 0
    assert main(command) == 1
    assert refused(capsys, "exists. Give another name, or --overwrite")
    assert main([*command, "--overwrite"]) == 0
    weights = (tmp_path / "w.h5").read_bytes()
    assert main([*command[:4], str(tmp_path / "w.h5"), "--overwrite"]) == 1
    assert refused(capsys, "would be replaced by the output") and (tmp_path / "w.h5").read_bytes() == weights


class Foreign(torch.nn.Module):
    def forward(self, source: torch.Tensor, target: torch.Tensor):
        return source, torch.ones(1, 3, 1, 1, 1) * (source + target * 0 + 1)


def test_traced_network_is_imported_with_facts_and_registers(inputs, tmp_path, capsys):
    images = [torch.zeros(1, 1, 16, 20, 24), torch.zeros(1, 1, 16, 20, 24)]
    torch.jit.save(torch.jit.trace(Foreign(), images), tmp_path / "foreign.pt")
    command = ["models", "import", str(tmp_path / "foreign.pt"), "-o", str(tmp_path / "own.pt")]
    assert main(command) == 1
    assert refused(capsys, "does not say what it expects")
    facts = {"shape": [16, 20, 24], "returns": "moved and field", "output": "displacement", "output_scale": 1.0}
    (tmp_path / "foreign.json").write_text(json.dumps({**facts, "spacing_mm": [2, 2, 2], "stride": 1}))
    assert main(command) == 0
    assert main(["models", "check", str(tmp_path / "own.pt")]) == 0
    assert "locked to 16x20x24 voxels" in capsys.readouterr().out
    assert quickly(inputs, tmp_path / "out", "--model", tmp_path / "own.pt") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["working_grid"]["shape_kji"] == [16, 20, 24]


def test_written_field_equals_the_transform(result):
    first, second = (read_field(result[0] / name) for name in ("transform.h5", "displacement.nii.gz"))
    np.testing.assert_allclose(first.displacement_ras, second.displacement_ras, atol=1e-5)


def test_inverse_undoes_the_transform(result):
    forward, backward = (sitk.ReadTransform(str(result[0] / name)) for name in ("transform.h5", "inverse.h5"))
    for point in np.random.default_rng(0).uniform(-12, 12, (20, 3)):
        np.testing.assert_allclose(forward.TransformPoint(backward.TransformPoint(point)), point, atol=5e-3)


def test_dicom_folder_and_two_dimensional_files_are_told_apart(inputs, tmp_path, capsys):
    (tmp_path / "series").mkdir()
    command = ["register", str(tmp_path / "series"), str(inputs / "moving.nii.gz"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert refused(capsys, "holds no DICOM")
    for name in ("a", "b"):
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (20, 24)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / f"{name}.png"))
    command = ["register", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "out")]
    assert main([*command, "--alignment", "none", "--model", str(inputs / "model.pt")]) == 1
    assert refused(capsys, "images are 2D, but the model 'centroid' is for 3D images")
    save_centroid_model(tmp_path / "flat.pt", dimension=2)
    assert main([*command, "--alignment", "none", "--refine", "off", "--model", str(tmp_path / "flat.pt")]) == 0
    assert (tmp_path / "out" / "overview.png").is_file()


def test_what_computes_is_loaded_while_the_images_are_read():
    """A second and more, of which nothing is left when they are large."""
    code = (
        "import sys\n"
        "from VoxelMorphRegistrationLib.commands.register import _loading\n"
        "with _loading(): pass\n"
        "print('torch' in sys.modules, 'SimpleITK' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["True", "True"]


def test_memory_is_looked_after_again_once_all_is_loaded(tmp_path):
    """Also where the images cannot be read."""
    with pytest.raises(InputError), _loading():
        read_image(tmp_path / "none.nii.gz")
    assert gc.isenabled()
