"""The paper's experiments on tiny labelled slices: scores, tables, resuming, bad data."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from experiment_cases import CONFIG, numbers, options_of, run, table, write_cases
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.training import curves
from VoxelMorphRegistrationLib.training.beginnings import load_checkpoint
from VoxelMorphRegistrationLib.training.experiments.scores import pair_grid, read_scores, score_pair, write_scores
from VoxelMorphRegistrationLib.training.experiments.setup import experiment_config
from VoxelMorphRegistrationLib.training.experiments.study import Study
from VoxelMorphRegistrationLib.training.experiments.tables import formatted, spread, write_table
from VoxelMorphRegistrationLib.training.experiments.training_size import default_sizes
from VoxelMorphRegistrationLib.training.pairs import TrainingPair
from VoxelMorphRegistrationLib.training.supervision import Structure, Supervision
from VoxelMorphRegistrationLib.training.trainer import CHECKPOINT_NAME, Trainer

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
    options = options_of(data, config=None, images="*_t1.nii.gz", labels="*_seg.nii.gz", spacing=1.3, steps=40)
    config, _ = experiment_config(options)
    # 32 voxels of 2 mm are 50 of 1.3 mm, and the network's stride is 16.
    assert (config.shape, config.steps, config.dimension) == ((64, 64), 40, 2)
    assert config.images.spacing_mm == (1.3,) and config.loss.similarity == "mse"


def test_a_table_of_images_is_taken_as_well_as_a_folder(data):
    rows = "".join(f"s{n}_t1.nii.gz,s{n}_seg.nii.gz\n" for n in range(6))
    (data / "table.csv").write_text("image,labels\n" + rows, encoding="utf-8")
    config, _ = experiment_config(options_of(data, data=str(data / "table.csv"), config=None))
    assert config.images.table.endswith("table.csv") and config.images.folder == ""
    assert config.shape == (32, 32)


def test_tables_leave_empty_what_is_not_measured(tmp_path):
    rows = [{"name": "a", **spread("dice", [0.5, 0.7, float("nan")])}, {"name": "bb", **spread("dice", [])}]
    write_table(rows, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == ["name,dice,dice_sd", "a,0.6,0.1", "bb,,"]
    assert formatted(rows).splitlines() == ["name  dice  dice_sd", "   a   0.6      0.1", "  bb     -        -"]
