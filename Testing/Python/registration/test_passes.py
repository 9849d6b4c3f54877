"""What a network is given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grids import make_grid
from registration_cases import SHIFT, ball, pair, settings
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import load_model, save_model
from VoxelMorphRegistrationLib.networks.symmetric import Symmetric
from VoxelMorphRegistrationLib.networks.unet import UNet
from VoxelMorphRegistrationLib.registration import passes
from VoxelMorphRegistrationLib.registration.progress import STOP_HERE
from VoxelMorphRegistrationLib.registration.register import register


@pytest.mark.parametrize("factors", [(50.0, 1.0), (1.0, 50.0)])
def test_each_image_is_scaled_by_its_own_values_for_the_network(factors, tmp_path, monkeypatch):
    given, run = [], passes.run_network

    def seen(network, moving, fixed, grid, region=None):
        given.append((moving, fixed))
        return run(network, moving, fixed, grid, region)

    monkeypatch.setattr(passes, "run_network", seen)
    grid = make_grid((28, 28, 28))
    fixed, moving = (
        image.with_array(image.array * np.float32(factor))
        for image, factor in zip((ball(grid, name="fixed"), ball(grid, SHIFT, "moving")), factors, strict=True)
    )
    register(fixed, moving, settings=settings(save_centroid_model(tmp_path / "m.pt")))
    ((source, target),) = given
    for values in (source, target):
        assert float(values.max()) == pytest.approx(1.0, abs=0.05) and float(values.min()) == pytest.approx(
            0.0, abs=0.05
        )


def test_the_report_tells_the_passes_that_were_made_when_stopped(tmp_path):
    fixed, moving = pair()
    path = save_centroid_model(tmp_path / "m.pt", passes=3, pass_scales=(2.0, 1.5, 1.0))

    def stop(stage, fraction):
        return STOP_HERE if stage == "registering" and 0.5 < fraction < 1 else None

    whole, stopped = (register(fixed, moving, settings=settings(path), progress=tell).report for tell in (None, stop))
    assert (whole.passes, stopped.passes) == (3, 2)
    sizes = [math.prod(report.working_grid["shape_kji"]) for report in (whole, stopped)]
    assert sizes[1] < 0.5 * sizes[0]


def test_folds_of_a_network_are_smoothed_and_counted(tmp_path, monkeypatch):
    """A pass that jumps over its neighbours at one place, on top of the right shift."""
    fixed, moving = pair()
    sound = passes.run_network

    def folding(*args):
        field = sound(*args)
        flow = field.to_voxels()
        k, j, i = (size // 2 for size in field.grid.shape)
        flow[2, k : k + 2, j : j + 2, i : i + 2] += 3.0
        return DisplacementField.from_voxels(flow, field.grid)

    path = save_centroid_model(tmp_path / "m.pt")
    plain = register(fixed, moving, settings=settings(path))
    assert plain.report.model["folds_smoothed"] == 0
    monkeypatch.setattr(passes, "run_network", folding)
    result = register(fixed, moving, settings=settings(path))
    assert result.report.model["folds_smoothed"] > 0
    assert result.report.checks["network"]["kept"]
    assert not result.field.folded_corners().any()
    assert np.abs(result.field.on_grid(plain.field.grid).displacement_ras - plain.field.displacement_ras).max() > 0.1


def test_passes_of_8_bit_integers_are_near_those_in_float32_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.networks.model.has_int8", lambda: True)
    monkeypatch.setattr("VoxelMorphRegistrationLib.networks.model.has_bfloat16", lambda: False)
    torch.manual_seed(0)
    network = Symmetric(UNet(3, (4, 6), (6, 6, 4)))
    for block in (*network.network.down, *network.network.up, *network.network.final):
        torch.nn.init.kaiming_normal_(block.conv.weight, a=0.2)
    torch.nn.init.normal_(network.network.flow.weight, std=0.05)
    facts = {"encoder": [4, 6], "decoder": [6, 6, 4], "half_resolution": True, "symmetric": True, "bfloat16": True}
    card = ModelCard("m", spacing_mm=(1.0, 1.0, 1.0), stride=2, passes=2, architecture=facts)
    save_model(network, card, tmp_path / "m.pt")
    fixed, moving = pair()
    found, deform = [], passes.deform

    def seen(*args):
        # Before the guard: such a network does not make the images more similar.
        found.append(deform(*args))
        return found[-1]

    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.register.deform", seen)
    whole = register(fixed, moving, settings=settings(tmp_path / "m.pt", precision="float32"))
    model = load_model(tmp_path / "m.pt", "cpu", "auto")
    # A registration of other images between two of the same ones.
    first, _, again = (
        register(*images, model=model, settings=settings(tmp_path / "m.pt"))
        for images in ((fixed, moving), (moving, fixed), (fixed, moving))
    )
    assert (whole.report.model["precision"], first.report.model["precision"]) == ("float32", "int8")
    assert again.report.model == first.report.model
    moved, quick, _, repeated = (field.displacement_ras for field, *_ in found)
    assert np.array_equal(quick, repeated)
    off = np.abs(quick - moved)
    assert np.abs(moved).max() > 0.2 and 0 < off.mean() < 0.05 * np.abs(moved).max()
    single = register(fixed, moving, model=model, settings=settings(tmp_path / "m.pt", passes=1))
    assert single.report.model["precision"] == "float32"
