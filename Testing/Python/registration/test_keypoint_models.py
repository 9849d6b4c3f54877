"""Networks of keypoints in the pipeline: millimetres on any grid, the region, the start of a refinement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from grids import KINDS, make_grid
from registration_cases import SHIFT, SMALL, ball, settings
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import Model, save_model
from VoxelMorphRegistrationLib.registration.passes import region_on, run_network
from VoxelMorphRegistrationLib.registration.register import register


class CentroidPoints(nn.Module):
    """Five voxels of the output, each moved by the distance between the centroids; output voxels are two wide."""

    def centroid(self, image: torch.Tensor) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = image.shape[axis]
            line = torch.arange(image.shape[axis], dtype=image.dtype).reshape(shape)
            parts.append((image * line).sum() / image.sum())
        return torch.stack(parts)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        shift = (self.centroid(moving[0, 0]) - self.centroid(fixed[0, 0])) / 2.0
        places = torch.tensor([[1, 1, 1], [6, 1, 2], [1, 6, 2], [1, 2, 6], [5, 5, 5]]).float()
        return torch.cat([places, shift.expand(5, 3), torch.full((5, 1), 0.5)], 1)[None]


@pytest.fixture(scope="module")
def centroid_file(tmp_path_factory):
    """A foreign network of keypoints as a file of TorchScript."""
    card = ModelCard(
        "centroid points",
        spacing_mm=(1.0,) * 3,
        stride=4,
        output="displacement",
        returns="keypoints",
        normalization={"method": "percentile", "low": 0.0, "high": 100.0},
    )
    path = tmp_path_factory.mktemp("points") / "points.pt"
    save_model(CentroidPoints(), card, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_points_move_by_the_same_millimetres_on_every_grid(kind, centroid_file):
    center = np.array(KINDS[kind].get("center", (0.0, 0.0, 0.0)))
    grid = make_grid(**{**SMALL[kind], "center": center})
    fixed, moving = ball(grid, center, "fixed"), ball(grid, center + SHIFT / 2, "moving")
    result = register(fixed, moving, settings=settings(centroid_file))
    inner = result.field.at(center[None] + np.array([[0, 0, 0], [4, -3, 2]]))
    np.testing.assert_allclose(inner, np.tile(SHIFT / 2, (2, 1)), atol=0.15)
    assert result.report.model["name"] == "centroid points"


def test_a_network_of_keypoints_is_the_start_of_a_refinement(centroid_file):
    grid = make_grid((28, 28, 28))
    fixed, moving = ball(grid, name="fixed"), ball(grid, SHIFT, "moving")
    result = register(fixed, moving, settings=settings(centroid_file, refinement="fast"))
    np.testing.assert_allclose(result.field.at(np.zeros((1, 3)))[0], SHIFT, atol=0.3)
    assert result.report.refinement["preset"] == "fast"


class Counting(nn.Module):
    """Moves its one point by as many voxels as the region has."""

    def forward(self, moving, fixed, region):
        return torch.stack([torch.zeros(3), region.sum().repeat(3), torch.ones(3)]).reshape(1, 1, 9)[..., :7]


@pytest.mark.parametrize("region", [None, 12])
def test_the_network_is_told_where_points_may_lie(region):
    card = ModelCard("counting", output="displacement", output_scale=1.0, returns="keypoints", stride=4)
    grid = make_grid((4, 4, 4))
    images = np.zeros((2, *grid.shape), np.float32)
    part = None
    if region is not None:
        part = np.zeros(grid.shape, np.float32)
        part.ravel()[:region] = 1.0
    field = run_network(Model(Counting(), card, "cpu"), *images, grid, part)
    np.testing.assert_allclose(field.displacement_ras, region or grid.voxel_count, rtol=1e-5)


def test_a_region_is_that_of_the_anatomy_on_the_working_grid():
    own, working = make_grid((20, 20, 20)), make_grid((10, 10, 10), (2.0, 2.0, 2.0))
    region = np.zeros(own.shape, bool)
    region[4:12, :, 10:] = True
    expected = np.zeros(working.shape, np.float32)
    expected[2:6, :, 5:] = 1.0
    np.testing.assert_array_equal(region_on(region, own, working), expected)


def test_points_lie_within_the_mask(centroid_file, monkeypatch):
    """What the pipeline hands to the network is the mask of the fixed image, on the grid of each pass."""
    from VoxelMorphRegistrationLib.registration import passes

    given, run = [], passes.run_network

    def seen(network, moving, fixed, grid, region=None):
        given.append((region, grid))
        return run(network, moving, fixed, grid, region)

    monkeypatch.setattr(passes, "run_network", seen)
    grid = make_grid((28, 28, 28))
    fixed, moving = ball(grid, name="fixed"), ball(grid, SHIFT / 2, "moving")
    mask = Image((np.abs(grid.positions()).max(-1) < 6).astype(np.uint8), grid, "mask")
    register(fixed, moving, settings=settings(centroid_file), fixed_mask=mask)
    ((region, working),) = given
    inside = np.abs(working.positions()).max(-1) < 6
    assert region.sum() > 0 and (region[~inside] == 0).all() and (region > 0).sum() >= 0.6 * inside.sum()
