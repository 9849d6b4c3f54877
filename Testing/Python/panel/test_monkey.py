"""A few random actions of a seed; Testing/Benchmarks/panel_monkey.py does a thousand of any."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import panel_cases as press

sys.path.append(str(Path(__file__).parents[2] / "Benchmarks"))
import panel_monkey


@pytest.mark.parametrize("seed", [1, 2])
def test_random_actions_leave_nothing_stale(swift_panel, scene, standin, tmp_path, seed):
    widget, *_ = swift_panel
    colors = press.add_color_legends(scene)
    press.add_slice_views(scene)
    press.add_place_nodes(scene)
    panel_monkey.Monkey(widget, seed, tmp_path, standin).act(50)
    colors.SetMRMLScene(None)
