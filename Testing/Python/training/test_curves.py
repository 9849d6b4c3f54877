"""The curves of a training: what is drawn, and when."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from experiment_cases import PNG, run
from VoxelMorphRegistrationLib.training import curves
from VoxelMorphRegistrationLib.training.curves import CURVES_NAME, read_columns, running_mean, write_curves


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
