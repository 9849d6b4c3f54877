"""What a network is given."""

from __future__ import annotations

import numpy as np
import pytest

from grids import make_grid
from registration_cases import SHIFT, ball, settings
from small_models import save_centroid_model
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
