"""The benchmark of random starts: its displacements are what it says, and it counts what comes back."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "Benchmarks"))

import alignment_robustness as robustness

from grids import make_grid
from VoxelMorphRegistrationLib.images.image import Image


def test_displacements_stay_within_their_limits_and_turn_about_the_centre():
    rng = np.random.default_rng(2)
    center = np.array([30.0, -20.0, 50.0])
    for _ in range(50):
        motion, (angle, shift) = robustness.displacement(rng, center, 45.0, 100.0)
        cosine = (np.trace(motion[:3, :3]) - 1) / 2
        assert np.degrees(np.arccos(cosine)) == pytest.approx(angle, abs=1e-5)
        assert np.linalg.norm(motion[:3, :3] @ center + motion[:3, 3] - center) == pytest.approx(shift)
        assert np.allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3))
        assert 0 <= angle <= 45 and 0 <= shift <= 100


@pytest.fixture
def one_case(monkeypatch):
    """A case of noise, and a method that always answers with the given matrix."""
    values = np.random.default_rng(0).uniform(size=(10, 9, 8)).astype(np.float32)
    grid = make_grid((8, 9, 10), (2.0, 2.0, 2.0))
    task = robustness.Task(Image(values, grid, "fixed"), Image(values, grid, "moving"), answer=np.eye(4))
    monkeypatch.setattr(robustness, "CASES", {"noise": lambda data: task})
    back = []

    def perfect(kind, fixed, moving):
        back.append(moving.grid.ijk_to_ras @ fixed.grid.ras_to_ijk)
        return back[-1], ""

    monkeypatch.setattr(robustness, "METHODS", {"ours": perfect, "SimpleITK": lambda *given: (np.eye(4), "lost")})
    return task


def test_starts_that_come_back_are_counted_and_written(one_case, tmp_path, capsys):
    table = tmp_path / "rows.csv"
    options = ["--data", str(tmp_path), "--cases", "noise", "--starts", "4", "--peer-starts", "2", "--csv", str(table)]
    assert robustness.main([*options, "--seed", "7"]) == 0
    printed = capsys.readouterr().out
    assert "noise, ours: 4 of 4 starts within 2 mm" in printed
    assert "noise, SimpleITK: 0 of 2 starts within 2 mm" in printed
    assert "0 failed without a word" in printed
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["method"] for row in rows].count("ours") == 5
    assert all(float(row["error_mm"]) < 1e-9 for row in rows if row["method"] == "ours")


def test_an_unknown_case_is_refused(tmp_path, capsys):
    assert robustness.main(["--data", str(tmp_path), "--cases", "knee"]) == 1
    assert "There is no case knee" in capsys.readouterr().err
