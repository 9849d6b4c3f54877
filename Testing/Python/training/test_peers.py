"""Other programs in the experiments: found or said to be missing, run as processes, in voxels of one frame."""

from __future__ import annotations

import importlib.util
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiment_cases import numbers, options_of, run, table
from VoxelMorphRegistrationLib.errors import SettingsError
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.training.experiments import one_pair, peers, run_time
from VoxelMorphRegistrationLib.training.experiments.peers import NiftyReg
from VoxelMorphRegistrationLib.training.experiments.setup import experiment_config
from VoxelMorphRegistrationLib.training.experiments.study import Run, Study


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
    config, base = experiment_config(options_of(data))
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
