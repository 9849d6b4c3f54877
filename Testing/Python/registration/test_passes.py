"""What a network is given."""

from __future__ import annotations

import numpy as np
import pytest

from grids import make_grid
from registration_cases import SHIFT, ball, pair, settings
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.registration import passes
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
