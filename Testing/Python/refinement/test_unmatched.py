"""What the moving image shows and the fixed one lacks does not draw its surroundings in, and is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refinement_cases import GRIDS, deformed, displacement, inner, refined, textured
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement import refine as refinement
from VoxelMorphRegistrationLib.refinement import unmatched
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.refinement.unmatched import left_out, without_counterpart
from VoxelMorphRegistrationLib.registration.progress import STOP_HERE
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings

FIXED, MOVING = GRIDS[0]
PLACE, RADIUS = np.array([4.0, -3.0, 2.0]), 5.0


def from_place(grid):
    """mm, (K, J, I)."""
    return np.linalg.norm(grid.positions() - PLACE, axis=-1)


def test_a_cavity_does_not_draw_its_surroundings_in():
    moving = textured(MOVING)
    cavity = np.where(from_place(MOVING) < RADIUS, 4, moving.array).astype(np.float32)
    result = refined(deformed(FIXED), moving.with_array(cavity), "fast")
    points = inner(FIXED)
    truth = points + displacement(points)
    far = np.linalg.norm(truth - PLACE, axis=-1)
    before, after = (np.linalg.norm(p - truth, axis=-1) for p in (points, result.transform_points(points)))
    # Drawn in, 3.1 mm from 2.8 beside it, and determinants of 3.4.
    beside = (far > RADIUS - 1) & (far < RADIUS + 1)
    assert after[beside].mean() < 0.75 * before[beside].mean()
    assert after[far > RADIUS + 1].mean() < 0.33 * before[far > RADIUS + 1].mean()
    assert result.report.folding["inside"]["maximum"] < 1.7
    told = [text for text in result.report.warnings if "were left out of the comparison" in text]
    assert len(result.report.warnings) == len(told) == 1


def spreading(growth: float) -> tuple[Pair, DisplacementField]:
    """A field that stretches what lies around PLACE, in each direction, by `growth`, and what lies beyond 9 mm not."""
    outside = np.clip((from_place(FIXED) - 3) / 6, 0, 1)[..., None]
    u = (growth - 1) * (1 - outside) * (FIXED.positions() - PLACE)
    body = np.linalg.norm(FIXED.positions(), axis=-1) < 16
    images = Image(np.ones(FIXED.shape, np.float32), FIXED), Image(np.ones(MOVING.shape, np.float32), MOVING)
    shift = np.eye(4)
    shift[:3, 3] = 2, 0, 0
    return Pair(*images, shift, ((0, 1), (0, 1)), body), DisplacementField(u, FIXED)


def test_what_is_stretched_as_no_tissue_is_found_in_the_moving_image():
    pair, field = spreading(1.7)
    region = without_counterpart(pair, field)
    far = np.linalg.norm(MOVING.positions() - PLACE - [2, 0, 0], axis=-1)
    assert region[far < 4.5].all() and not region[far > 9].any()
    # As between brains of two people.
    assert without_counterpart(*spreading(1.35)) is None


def test_what_is_left_out_joins_the_mask_of_the_moving_image():
    pair, _ = spreading(1.0)
    region = from_place(MOVING) < 4
    assert np.array_equal(left_out(pair, region).moving_mask.array, ~region)
    half = Image(np.zeros(MOVING.shape, np.int16), MOVING)
    half.array[20:] = -1
    both = left_out(Pair(**{**vars(pair), "moving_mask": half}), region).moving_mask.array
    assert np.array_equal(both != 0, (half.array != 0) & ~region)


@pytest.mark.parametrize(("too_small", "devices"), [(1, ["gpu", "cpu", "cpu"]), (2, ["gpu", "gpu", "cpu"])])
def test_a_gpu_too_small_for_either_refinement_hands_it_to_the_cpu(too_small, devices, monkeypatch):
    used = []
    refine = refinement.refine

    def limited(*arguments, device="cpu", **told):
        used.append(device)
        if device != "cpu" and len(used) == too_small:
            raise torch.OutOfMemoryError("out of memory")
        return refine(*arguments, **told)

    room = "VoxelMorphRegistrationLib.registration"
    monkeypatch.setattr(refinement, "refine", limited)
    monkeypatch.setattr(unmatched, "without_counterpart", lambda *_: from_place(MOVING) < RADIUS)
    monkeypatch.setattr(f"{room}.register.choose_device", lambda name: "gpu")
    monkeypatch.setattr(f"{room}.device.available_memory", lambda device: None)
    report = refined(deformed(FIXED), textured(MOVING), "fast").report
    assert used == devices
    assert sum("the refinement ran on the CPU" in text for text in report.warnings) == 1
    assert sum("were left out of the comparison" in text for text in report.warnings) == 1


def test_who_stops_it_without_a_region_is_told_that_it_was_stopped(monkeypatch):
    monkeypatch.setattr(unmatched, "without_counterpart", lambda *_: from_place(MOVING) < RADIUS)
    made, refine = [], refinement.refine
    monkeypatch.setattr(refinement, "refine", lambda *a, **told: made.append(a) or refine(*a, **told))
    report = register(
        deformed(FIXED),
        textured(MOVING),
        "none",
        Settings(refinement="fast", alignment="none", device="cpu"),
        lambda stage, fraction: STOP_HERE if len(made) == 2 else None,
    ).report
    assert report.stopped_at == "refining" and report.refinement["stopped"] and report.refinement["improved"]
    assert not any("were left out of the comparison" in text for text in report.warnings)
