"""The one script for a GPU, on the CPU."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import gpu


def test_a_device_is_checked_against_the_processor_and_everything_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "CHECK_SIZE", 16)
    # The refinement is the quickest one under each name.
    monkeypatch.setattr(gpu, "PRESETS", {"default": gpu.PRESETS["default"]})
    monkeypatch.setattr(gpu, "Options", lambda preset, similarity, make=gpu.Options: make("coarse", similarity))
    monkeypatch.setattr(gpu, "command", lambda shape, device: {"wall_s": 1.0})
    small = {"shape": [16, 16, 16], "network": {"encoder": [4, 4], "decoder": [4, 4, 4]}}
    monkeypatch.setattr(gpu, "config_from_dict", lambda values, make=gpu.config_from_dict: make(values | small))
    output = tmp_path / "gpu.json"
    words = [
        "-o",
        str(output),
        "--device",
        "cpu",
        "--size",
        "24",
        "24",
        "24",
        "--repeats",
        "1",
        "--training-steps",
        "1",
    ]
    assert gpu.main(words) == 0
    found = json.loads(output.read_text())
    assert set(found) == {"machine", "size", "checks", "network", "refinement", "command", "training"}
    assert {check["name"] for check in found["checks"]} >= {"Gaussian", "warp", "refinement, lncc", "refinement, mi"}
    assert all(check["difference"] == 0 and check["passed"] for check in found["checks"])
    assert found["refinement"]["default"]["error_voxels"] < found["refinement"]["error_before_voxels"]
    assert found["training"]["steps_per_second"] > 0 and found["network"]["best_s"] > 0


def test_a_device_that_disagrees_is_told(tmp_path, monkeypatch, capsys):
    failing = [{"name": "warp", "difference": 1.0, "allowed": 0.1, "passed": False}]
    monkeypatch.setattr(gpu, "checks", lambda device: failing)
    for part in ("network", "refinement", "command", "training"):
        monkeypatch.setattr(gpu, part, lambda *_: {})
    assert gpu.main(["-o", str(tmp_path / "gpu.json"), "--device", "cpu"]) == 1
    assert "disagrees with the CPU: warp" in capsys.readouterr().err


def test_the_ball_is_bent_by_the_truth():
    fixed, moving, truth = gpu.bent_ball((24, 20, 28))
    from VoxelMorphRegistrationLib.fields.warp import warp_image

    assert warp_image(moving, fixed.grid, truth).array == pytest.approx(fixed.array, abs=1e-4)
