"""The curves of a run, and the paper's experiments on tiny labelled slices: tables, resuming, peers, bad data."""

from __future__ import annotations

import csv
import importlib.util
import math
import shutil
import stat
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grids import make_grid
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.errors import SettingsError
from VoxelMorphRegistrationLib.images.files import read_image, write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.training import curves
from VoxelMorphRegistrationLib.training.beginnings import load_checkpoint
from VoxelMorphRegistrationLib.training.curves import CURVES_NAME, read_columns, running_mean, write_curves
from VoxelMorphRegistrationLib.training.experiments import one_pair, peers, plots, run_time
from VoxelMorphRegistrationLib.training.experiments.peers import NiftyReg
from VoxelMorphRegistrationLib.training.experiments.scores import pair_grid, read_scores, score_pair, write_scores
from VoxelMorphRegistrationLib.training.experiments.setup import experiment_config
from VoxelMorphRegistrationLib.training.experiments.study import Run, Study
from VoxelMorphRegistrationLib.training.experiments.tables import formatted, spread, write_table
from VoxelMorphRegistrationLib.training.experiments.training_size import default_sizes
from VoxelMorphRegistrationLib.training.pairs import TrainingPair
from VoxelMorphRegistrationLib.training.supervision import Structure, Supervision
from VoxelMorphRegistrationLib.training.trainer import CHECKPOINT_NAME, Trainer

PNG = b"\x89PNG\r\n\x1a\n"
CONFIG = """
name = "tiny"
shape = [32, 32]
steps = 2
source = "images"
log_every = 1
[network]
encoder = [4, 4]
decoder = [4, 4, 4]
symmetric = false
[images]
label_names = "*_seg.nii.gz"
image_names = "*_t1.nii.gz"
validation_share = 0.3
[supervision]
table = "structures.csv"
[optimiser]
warm_steps = 0
decay_steps = 0
[validation]
pairs = 2
every = 2
"""


def write_cases(folder: Path, depth: int) -> None:
    """Six images and label maps with `depth` equal slices each."""
    grid = make_grid((32, 32, depth), (2.0, 2.0, 2.0))
    j, i = np.mgrid[:32, :32]
    for number in range(6):
        distance = np.hypot(i - 14 - number % 3, j - 16 + number % 2)
        labels = np.where(distance < 5, 1, np.where(distance < 10, np.where(i < 15, 2, 3), 0)).astype(np.uint8)
        labels = np.repeat(labels[None], depth, 0)
        image = np.array([0.0, 100.0, 60.0, 60.0], np.float32)[labels]
        write_image(Image(image, grid), folder / f"s{number}_t1.nii.gz")
        write_image(Image(labels, grid), folder / f"s{number}_seg.nii.gz")


plotted: set[str] = set()


def save_once(figure, path: Path) -> None:
    if path.name not in plotted:
        plotted.add(path.name)
        curves.save_figure(figure, path)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six slices of 32x32 voxels with a disc in a ring, another centre in each, and a configuration for them.

    The plot of each experiment is drawn once, whichever test runs it first.
    """
    monkeypatch.setattr(plots, "save_figure", save_once)
    folder = tmp_path / "data"
    folder.mkdir()
    write_cases(folder, 1)
    text = "label,name,group\n1,core,inner\n2,left ring,outer\n3,right ring,outer\n"
    (tmp_path / "structures.csv").write_text(text, encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(CONFIG, encoding="utf-8")
    return folder


def run(data: Path, name: str, *options: str) -> int:
    """One experiment into the folder `out`."""
    base = data.parent
    common = ["--data", str(data), "--config", str(base / "tiny.toml"), "-o", str(base / "out"), "--device", "cpu"]
    return main(["experiment", name, *common, *options])


def table(data: Path, name: str) -> list[dict[str, str]]:
    with (data.parent / "out" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(rows: list[dict[str, str]], *columns: str) -> list[float]:
    return [float(row[column]) for row in rows for column in columns]


# --- curves -----------------------------------------------------------------------------------------------------------


def write_logs(folder: Path, steps: str, validation: str) -> None:
    (folder / "steps.csv").write_text(steps, encoding="utf-8")
    (folder / "validation.csv").write_text(validation, encoding="utf-8")


def test_curves_leave_out_columns_without_numbers(tmp_path, monkeypatch):
    write_logs(
        tmp_path,
        "step,seconds,learning_rate,total,similarity,dice,smoothness,displacement,landmarks\n"
        + "".join(f"{n},1.0,0.001,0.5,{0.1 / n},nan,0.01,nan,\n" for n in range(1, 41)),
        "step,dice_before,dice_after,ncc_before,ncc_after,folds_percent\n0,nan,nan,0.3,0.3,0\n40,nan,nan,0.3,0.5,0.1\n",
    )
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure))
    write_curves(tmp_path)
    losses, quality, folds = drawn[0].axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["similarity", "smoothness"]
    assert "correlation" in quality.get_title()
    assert np.array_equal(folds.lines[0].get_ydata(), [0.0, 0.1])


def test_the_trainer_draws_curves_beside_its_tables(data, monkeypatch):
    monkeypatch.undo()
    assert run(data, "lambda", "--mse", "1", "--ncc") == 0
    for path in (data.parent / "out" / "lambda" / "mse-1" / CURVES_NAME, data.parent / "out" / "lambda.png"):
        assert path.read_bytes().startswith(PNG)


def test_without_matplotlib_a_run_says_once_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "has_matplotlib", lambda: False)
    lines = []
    drawing = curves.Curves(tmp_path)
    drawing.draw(lines.append)
    drawing.draw(lines.append, last=True)
    assert len(lines) == 1 and 'pip install ".[plots]"' in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_run_without_logs_yet_gives_empty_curves(tmp_path):
    assert write_curves(tmp_path).read_bytes().startswith(PNG)
    assert read_columns(tmp_path / "steps.csv") == {}


def test_the_running_mean_is_over_the_finite_values_before():
    values = np.array([1.0, 3.0, np.nan, 5.0])
    assert running_mean(values, 2) == pytest.approx([1.0, 2.0, 3.0, 5.0])
    assert math.isnan(running_mean(np.array([np.nan]), 3)[0])


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_exact_for_a_known_shift():
    moving_labels = torch.zeros((1, 1, 12, 16), dtype=torch.long)
    moving_labels[..., 3:9, 4:10] = 1
    moving_labels[..., 3:9, 10:12] = 2
    fixed_labels = moving_labels.roll(2, -1)
    pair = TrainingPair(fixed_labels.float() / 2, moving_labels.float() / 2)
    structures = [Structure(1, "a", "g"), Structure(2, "b", "g")]
    coarse = Supervision(structures, {"g": (1, 2)})
    shift = torch.zeros((1, 2, 12, 16))
    shift[:, 1] = -2.0
    scores = score_pair(7, pair, (fixed_labels, moving_labels), shift, coarse)
    # Of 6 columns 4 overlap before; of the 2 columns of the other none; of both together 6 of 8.
    assert scores.before.structures == pytest.approx({1: 4 / 6, 2: 0.0})
    assert scores.before.groups == pytest.approx({1: 6 / 8})
    assert scores.after.structures == {1: 1.0, 2: 1.0} and scores.after.mean_of_groups() == 1.0
    assert scores.before.mean({1}) == pytest.approx(4 / 6) and math.isnan(scores.before.mean({9}))
    assert scores.similarity.mse < 1e-12 < scores.similarity_before.mse
    assert (scores.number, scores.folds_percent, scores.folds_any_corner_percent) == (7, 0.0, 0.0)


def test_folds_are_counted_in_the_whole_grid():
    labels = torch.ones((1, 1, 8, 8), dtype=torch.long)
    pair = TrainingPair(labels.float(), labels.float())
    mirror = torch.zeros((1, 2, 8, 8))
    mirror[0, 1] = 7.0 - 2.0 * torch.arange(8.0)
    assert score_pair(0, pair, (labels, labels), mirror, None).folds_percent == 100.0


def test_scores_survive_their_file(tmp_path):
    labels = torch.randint(0, 3, (2, 1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    pair = TrainingPair(labels[0].float(), labels[1].float())
    scores = [score_pair(3, pair, tuple(labels), torch.zeros((1, 2, 8, 8)), None)]
    write_scores(scores, tmp_path / "scores.json")
    assert read_scores(tmp_path / "scores.json") == scores


@pytest.mark.parametrize("shape", [(20, 24), (16, 20, 24)])
def test_the_grid_of_a_pair_has_its_spacing_in_the_plane(shape):
    spacing = (1.5, 2.5, 3.0)[: len(shape)]
    grid = pair_grid(shape, spacing)
    assert grid.dimension == len(shape)
    assert grid.spacing[: len(shape)] == pytest.approx(spacing)


# --- experiments ------------------------------------------------------------------------------------------------------


def test_lambda_has_a_row_for_each_similarity_and_value_and_resumes_without_training(data, monkeypatch, capsys):
    options = ("--mse", "0.5", "0", "--ncc", "1")
    assert run(data, "lambda", *options) == 0
    rows = table(data, "lambda")
    assert [(row["similarity"], row["lambda"]) for row in rows] == [("mse", "0"), ("mse", "0.5"), ("ncc", "1")]
    columns = ("dice_before", "dice", "dice_sd", "folds_percent", "folds_any_corner_percent")
    assert all(math.isfinite(value) for value in numbers(rows, *columns))
    assert {(row["pairs"], row["steps"]) for row in rows} == {("2", "2")}
    shown = capsys.readouterr().out
    for fact in ("2 steps with batch 1 on 4 images", "2 held-out pairs", "32x32 voxels of 2 x 2 mm"):
        assert fact in shown

    stored = load_checkpoint(data.parent / "out" / "lambda" / "mse-0.5" / CHECKPOINT_NAME)["config"]["loss"]
    assert (stored["similarity"], stored["smoothness"], stored["dice"]) == ("mse", 0.5, 0.0)
    monkeypatch.setattr(Trainer, "train_step", lambda _self: pytest.fail("trained again"))
    assert run(data, "lambda", *options, "--continue") == 0
    assert table(data, "lambda") == rows


@pytest.mark.parametrize(("shape", "options"), [("[8, 32, 32]", []), ("[32, 32]", ["--slices", "axial"])])
def test_volumes_are_used_whole_or_as_slices(data, shape, options):
    write_cases(data, 8)
    (data.parent / "tiny.toml").write_text(CONFIG.replace("[32, 32]", shape), encoding="utf-8")
    assert run(data, "lambda", "--mse", "0.1", "--ncc", *options) == 0
    assert all(math.isfinite(value) for value in numbers(table(data, "lambda"), "dice", "folds_percent"))


def test_an_experiment_that_ran_out_of_time_goes_on_to_the_same_table(data, capsys, monkeypatch):
    options = ("--mse", "0.1", "--ncc")
    assert run(data, "lambda", *options) == 0
    whole = table(data, "lambda")
    shutil.rmtree(data.parent / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_minutes_left", lambda _self: 1e-9)
        assert run(data, "lambda", *options) == 0
    assert "--continue goes on" in capsys.readouterr().out
    assert not (data.parent / "out" / "lambda.csv").exists()
    assert load_checkpoint(data.parent / "out" / "lambda" / "mse-0.1" / CHECKPOINT_NAME)["step"] == 1
    assert run(data, "lambda", *options, "--continue", "--minutes", "1e-9") == 0
    assert run(data, "lambda", *options, "--continue") == 0
    assert table(data, "lambda") == whole


def _options(folder: Path, **changes) -> Namespace:
    names = "data config images labels structures slices spacing steps pairs seed"
    values = dict.fromkeys(names.split()) | {"data": str(folder), "config": str(folder.parent / "tiny.toml")}
    return Namespace(**(values | changes))


def test_trainsize_has_a_row_for_each_number_of_images_refined_or_not(data):
    assert run(data, "trainsize") == 0
    rows = table(data, "trainsize")
    assert [row["images"] for row in rows] == ["2", "4"]
    columns = ("dice_before", "dice", "dice_refined", "folds_percent", "refined_folds_percent")
    assert all(math.isfinite(value) for value in numbers(rows, *columns))
    # Two discs apart by up to two voxels: instance optimisation finds what two steps of training cannot.
    assert all(float(row["dice_refined"]) > float(row["dice"]) for row in rows)


def test_training_sizes_are_halves_down_to_two():
    assert default_sizes(14) == [2, 3, 7, 14]
    assert default_sizes(2) == [2]
    assert len(default_sizes(1000)) == 6


def test_supervision_has_observed_and_unobserved_dice_for_each_choice_and_weight(data):
    assert run(data, "supervision", "--gammas", "1") == 0
    rows = table(data, "supervision")
    assert [(row["structures"], row["gamma"]) for row in rows] == [
        (choice, gamma) for choice in ("one", "half", "all", "coarse") for gamma in ("0", "1")
    ]
    counts = {row["structures"]: (int(row["observed"]), int(row["unobserved"])) for row in rows}
    # Both sides of the ring are drawn together.
    assert counts["one"] in ((1, 2), (2, 1)) and sum(counts["half"]) == 3
    assert (counts["all"], counts["coarse"]) == ((3, 0), (2, 3))
    assert all(row["dice_unobserved"] == "" for row in rows if row["structures"] == "all")
    assert all(math.isfinite(value) for value in numbers(rows, "dice_observed", "dice"))
    start = [row for row in rows if row["gamma"] == "0"]
    assert len({row["dice"] for row in start}) == 1


def test_losses_have_a_row_before_and_one_for_each_loss_with_all_similarities(data):
    assert run(data, "losses") == 0
    rows = table(data, "losses")
    assert [row["loss"] for row in rows] == ["before", "mse", "ncc", "ssim", "dice"]
    assert all(math.isfinite(value) for value in numbers(rows, "dice", "folds_percent", "mse", "ncc", "ssim"))


def without_antspyx(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "ants" else find(name))


def test_runtime_tells_plainly_which_peer_is_missing_and_measures_the_others(data, monkeypatch, capsys):
    without_antspyx(monkeypatch)
    monkeypatch.setenv("PATH", str(data))

    def called(command, title):
        # What a process costs is measured in the next test.
        one_pair.main(command[3:])
        return 100.0, 50.0

    monkeypatch.setattr(peers, "measured", called)
    assert run(data, "runtime", "--pairs", "1") == 0
    network, refined, syn, niftyreg = table(data, "runtime")
    for row in (network, refined):
        assert (row["status"], row["pairs"]) == ("ok", "1")
        cpu, own, wall = numbers([row], "cpu_s", "registration_cpu_s", "wall_s")
        assert 0.0 < own < cpu == 100.0 and wall == 50.0
    assert syn["status"] == "not found: pip install antspyx"
    assert niftyreg["status"].startswith("not found: conda install") and niftyreg["dice"] == ""
    assert "ANTs SyN was not found: pip install antspyx" in capsys.readouterr().out


def test_a_pair_in_another_process_is_registered_as_here(data, tmp_path):
    config, base = experiment_config(_options(data))
    training = Run("network", config)
    study = Study(tmp_path / "study", base, "cpu", None, lambda line: None)
    model = study.exported(training)
    with pytest.raises(SettingsError, match="another seed"):
        study.exported(replace(training, config=replace(config, seed=9)))
    images = [read_image(data / f"s{n}_t1.nii.gz").array[0] / 100.0 for n in (0, 1)]
    method = peers.OnePair("network", "network", "off", model)
    found = method.run(*images, (2.0, 2.0))
    assert 0.0 < found.registration_cpu_s < found.cpu_s and found.wall_s > 0.0
    direct, _ = one_pair.by_network(*images, np.array([2.0, 2.0]), str(model), "off")
    assert found.displacement == pytest.approx(direct, abs=1e-5)


def two_blobs(shape: tuple[int, ...], shift: tuple[float, ...]) -> list[np.ndarray]:
    """A smooth image, and the same moved so that fixed(x) = moving(x + shift) in voxels, in the order of the axes."""
    axes = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    images = []
    for offset in ((0.0,) * len(shape), shift):
        image, places = np.zeros(shape), list(zip(shape, offset, strict=True))
        for number, weight in enumerate((1.0, 0.6, 0.4)):
            centre = [n * (0.35 + 0.15 * ((number + axis) % 3)) + o for axis, (n, o) in enumerate(places)]
            squared = sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True))
            image += weight * np.exp(-squared / (2 * 5.0**2))
        images.append((image / image.max()).astype(np.float32))
    return images


@pytest.mark.parametrize(("shape", "shift"), [((40, 48), (1.5, -2.0)), ((16, 18, 20), (0.0, -1.5, 0.0))])
def test_syn_gives_the_displacement_in_voxels_of_the_array_axes(shape, shift):
    fixed, moving = two_blobs(shape, shift)
    displacement, seconds = one_pair.by_syn(fixed, moving, np.array((2.0, 1.5, 1.0)[: len(shape)]))
    assert displacement.shape == (len(shape), *shape) and seconds > 0.0
    bright = fixed > 0.5
    found = [float(channel[bright].mean()) for channel in displacement]
    # So small a volume leaves SyN's coarse levels little to see.
    assert found == pytest.approx(shift, abs=0.4 if len(shape) == 2 else 0.7)


FAKE_F3D = """#!{python}
import sys
open(sys.argv[sys.argv.index("-cpp") + 1], "w").close()
"""
# Writes, as NiftyReg does, a displacement in NIfTI's frame: RAS mm, here 2 mm along +x and 3 mm along -y.
FAKE_TRANSFORM = """#!{python}
import sys
import numpy as np
import SimpleITK as sitk
reference = sitk.ReadImage(sys.argv[sys.argv.index("-ref") + 1])
count = 2 if reference.GetSize()[2] == 1 else 3
shape = reference.GetSize()[::-1][3 - count:]
vectors = np.broadcast_to(np.array([2.0, -3.0, 4.0][:count], np.float32), (*shape, count))
sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), sys.argv[-1])
"""


def fake_program(path: Path, text: str) -> Path:
    path.write_text(text.format(python=sys.executable), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@pytest.mark.parametrize(
    ("shape", "expected"), [((8, 12), (3.0 / 1.5, -2.0 / 2.0)), ((8, 12, 10), (4.0 / 0.5, 3.0 / 1.5, -2.0 / 2.0))]
)
def test_niftyregs_displacement_is_turned_from_its_frame_to_voxels(tmp_path, shape, expected):
    program = fake_program(tmp_path / "reg_f3d", FAKE_F3D)
    fake_program(tmp_path / "reg_transform", FAKE_TRANSFORM)
    method = NiftyReg(str(program))
    assert method.missing is None
    array = np.random.default_rng(0).random(shape, np.float32)
    found = method.run(array, array, (2.0, 1.5, 0.5)[: len(shape)])
    assert found.displacement.shape == (len(shape), *shape)
    for channel, value in zip(found.displacement, expected, strict=True):
        assert channel == pytest.approx(value)


def test_a_peer_that_fails_says_so_in_its_row(data, tmp_path, monkeypatch, capsys):
    broken = fake_program(tmp_path / "reg_f3d", "#!{python}\nraise SystemExit('no licence to register')\n")
    fake_program(tmp_path / "reg_transform", FAKE_TRANSFORM)
    monkeypatch.setattr(run_time, "all_methods", lambda _model, program: [NiftyReg(program)])
    assert run(data, "runtime", "--pairs", "1", "--niftyreg", str(broken)) == 0
    row = table(data, "runtime")[0]
    assert row["status"] == "failed: NiftyReg reg_f3d failed (1): no licence to register" and row["cpu_s"] == ""
    assert "no licence to register" in capsys.readouterr().out


# --- what is refused --------------------------------------------------------------------------------------------------


def test_results_are_kept_unless_overwrite_is_given(data, capsys):
    options = ("--mse", "1", "--ncc")
    assert run(data, "lambda", *options) == 0
    first = table(data, "lambda")
    assert run(data, "lambda", *options) == 1
    assert "exists" in capsys.readouterr().err
    assert run(data, "lambda", *options, "--continue", "--seed", "5") == 1
    assert "another seed" in capsys.readouterr().err
    assert run(data, "lambda", *options, "--overwrite", "--seed", "5") == 0
    assert table(data, "lambda") != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["lambda", "--data", "nowhere"], "no folder or table nowhere"),
        (["lambda", "--labels", "*_none.nii.gz"], "has no label map"),
        (["lambda", "--mse", "-1"], "must not be negative"),
        (["lambda", "--mse", "--ncc"], "at least one value"),
        (["lambda", "--slices", "axial"], "volumes"),
        (["lambda", "--minutes", "0"], "--minutes must be positive"),
        (["lambda", "--continue", "--overwrite"], "not both"),
        (["trainsize", "--sizes", "2", "9"], "between 2 and 4"),
        (["supervision", "--gammas", "0"], "must be positive"),
        (["runtime", "--niftyreg", "nowhere"], "is no program"),
    ],
)
def test_what_cannot_be_is_told_before_any_training(data, options, message, capsys, monkeypatch):
    if options[0] != "runtime":
        monkeypatch.setattr(Trainer, "train_step", lambda _self: pytest.fail("trained"))
    assert run(data, *options) == 1
    assert message in capsys.readouterr().err


def test_images_without_label_maps_are_refused_before_training(data, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", lambda _self: pytest.fail("trained"))
    rows = "".join(f"{path.name}\n" for path in sorted(data.glob("*_t1.nii.gz")))
    (data / "table.csv").write_text("image\n" + rows, encoding="utf-8")
    assert run(data, "losses", "--data", str(data / "table.csv")) == 1
    assert "needs segmentations" in capsys.readouterr().err


def test_a_folder_needs_the_names_of_its_label_maps(data, capsys):
    assert main(["experiment", "losses", "--data", str(data), "-o", str(data.parent / "out")]) == 1
    assert "--labels" in capsys.readouterr().err


def test_without_matplotlib_an_experiment_does_not_begin(data, capsys, monkeypatch):
    monkeypatch.setattr(curves, "has_matplotlib", lambda: False)
    assert run(data, "lambda") == 1
    assert "matplotlib is not installed" in capsys.readouterr().err


def test_coarse_groups_need_a_table_that_has_them(data, capsys):
    (data.parent / "structures.csv").write_text("label,name\n1,core\n2,left ring\n3,right ring\n", encoding="utf-8")
    assert run(data, "supervision", "--gammas", "1", "--seen", "coarse") == 1
    assert "column group" in capsys.readouterr().err


# --- configuration and tables -----------------------------------------------------------------------------------------


def test_without_a_configuration_the_grid_holds_the_first_image_at_the_spacing(data):
    options = _options(data, config=None, images="*_t1.nii.gz", labels="*_seg.nii.gz", spacing=1.3, steps=40)
    config, _ = experiment_config(options)
    # 32 voxels of 2 mm are 50 of 1.3 mm, and the network's stride is 16.
    assert (config.shape, config.steps, config.dimension) == ((64, 64), 40, 2)
    assert config.images.spacing_mm == (1.3,) and config.loss.similarity == "mse"


def test_a_table_of_images_is_taken_as_well_as_a_folder(data):
    rows = "".join(f"s{n}_t1.nii.gz,s{n}_seg.nii.gz\n" for n in range(6))
    (data / "table.csv").write_text("image,labels\n" + rows, encoding="utf-8")
    config, _ = experiment_config(_options(data, data=str(data / "table.csv"), config=None))
    assert config.images.table.endswith("table.csv") and config.images.folder == ""
    assert config.shape == (32, 32)


def test_tables_leave_empty_what_is_not_measured(tmp_path):
    rows = [{"name": "a", **spread("dice", [0.5, 0.7, float("nan")])}, {"name": "bb", **spread("dice", [])}]
    write_table(rows, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == ["name,dice,dice_sd", "a,0.6,0.1", "bb,,"]
    assert formatted(rows).splitlines() == ["name  dice  dice_sd", "   a   0.6      0.1", "  bb     -        -"]
