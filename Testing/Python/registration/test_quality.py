"""One choice instead of four: what "best" and "preview" mean, the preview while it improves, and Stop here."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from grids import make_grid
from small_models import save_centroid_model
from VoxelMorphRegistrationLib import Settings, register
from VoxelMorphRegistrationLib.errors import Cancelled, InputError
from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.sampling import gaussian_smooth
from VoxelMorphRegistrationLib.refinement.levels import LARGEST_GRID
from VoxelMorphRegistrationLib.registration.choice import resolved
from VoxelMorphRegistrationLib.registration.expected import MOST_REFINED, WRITTEN_LARGE, expected_seconds, in_words
from VoxelMorphRegistrationLib.registration.progress import STOP_HERE

GRID = make_grid((36, 36, 36))


@cache
def textured_pair(shift=3):
    """A smooth random texture, and the same one moved by some voxels along i; nobody may change their arrays."""
    noise = torch.from_numpy(np.random.default_rng(3).random((36, 36, 52), dtype=np.float32))
    texture = gaussian_smooth(noise[None, None], (2.0, 2.0, 2.0))[0, 0].numpy()
    parts = (texture[:, :, start : start + 36] for start in (8, 8 - shift))
    return tuple(
        Image(np.ascontiguousarray(part), GRID, name) for part, name in zip(parts, ("fixed", "moving"), strict=True)
    )


def settings(**changes):
    return Settings(**{"alignment": "none", "device": "cpu", **changes})


@pytest.mark.parametrize(
    ("given", "model", "refinement"),
    [
        ({}, "none", "default"),
        ({"quality": "preview"}, "none", "coarse"),
        ({"model": "brain-3d"}, "brain-3d", "default"),
        ({"model": "brain-3d", "quality": "preview"}, "brain-3d", "off"),
        ({"refinement": "off"}, "auto", "off"),
        ({"refinement": "fast"}, "none", "fast"),
        ({"quality": "preview", "refinement": "accurate"}, "none", "accurate"),
    ],
)
def test_what_is_left_open_is_decided_by_the_quality(given, model, refinement):
    found = resolved(Settings(**given))
    assert (found.model, found.refinement) == (model, refinement)


def test_report_keeps_what_was_asked_and_tells_what_was_done():
    report = register(*textured_pair(), settings=settings(quality="preview")).report
    assert report.settings["refinement"] == report.settings["model"] == "auto"
    assert report.refinement["preset"] == "coarse" and report.model["name"] == "none"


def test_without_refinement_the_shipped_model_that_suits_best_is_picked(monkeypatch, tmp_path):
    right, wrong = save_centroid_model(tmp_path / "right.pt"), save_centroid_model(tmp_path / "wrong.pt", part=-1.0)
    files = {"right": right, "wrong": wrong}
    choice = "VoxelMorphRegistrationLib.registration.choice"
    monkeypatch.setattr(f"{choice}.model_names", lambda: ["wrong", "right"])
    monkeypatch.setattr(f"{choice}.find_model", files.__getitem__)
    grid = make_grid((40, 40, 40))
    offset = np.linalg.norm(grid.positions() - grid.center_ras, axis=-1)
    fixed = Image((60.0 * (offset < 10) + 5).astype(np.float32), grid, "fixed")
    moved = np.linalg.norm(grid.positions() - grid.center_ras - [4.0, 0, 0], axis=-1)
    moving = Image((60.0 * (moved < 10) + 5).astype(np.float32), grid, "moving")
    report = register(fixed, moving, settings=settings(refinement="off")).report
    assert report.model["file"] == "right.pt"
    assert "wrong" in report.model["reason"]


def test_previews_come_before_the_result_and_end_close_to_it():
    shown = []
    fixed, moving = textured_pair()
    result = register(fixed, moving, settings=settings(), preview=shown.append)
    assert shown
    for preview in shown:
        expected = warp_image(moving, fixed.grid, preview.field, preview.linear)
        np.testing.assert_array_equal(preview.warped.array, expected.array)
    inner = (slice(7, -7),) * 3
    error = [np.abs(image.array - fixed.array)[inner].mean() for image in (moving, shown[-1].warped, result.warped)]
    assert error[1] < 0.3 * error[0]
    assert error[2] <= error[1] * 1.05


@pytest.mark.parametrize("stage", ["aligning", "refining"])
def test_stop_here_gives_a_finished_result(stage):
    stages = []

    def progress(name, fraction):
        stages.append(name)
        return STOP_HERE if name == stage and (fraction > 0.5 or stage == "aligning") else None

    fixed, moving = textured_pair()
    result = register(fixed, moving, settings=settings(refinement="accurate"), progress=progress)
    assert result.report.stopped_at == stage
    assert "measuring" in stages and result.warped.grid.same_as(fixed.grid)
    assert result.report.folding["inside"]["count"] == 0
    if stage == "refining":
        assert result.report.refinement["stopped"]
        assert result.report.similarity["after"]["ncc"] > result.report.similarity["aligned"]["ncc"]
    else:
        np.testing.assert_array_equal(result.field.displacement_ras, 0.0)


@pytest.mark.parametrize("stage", ["refining", "warping", "measuring"])
def test_who_stops_when_all_is_done_has_stopped_nothing(stage):
    fixed, moving = textured_pair()
    chosen = settings(refinement="coarse", similarity="mse")
    whole = register(fixed, moving, settings=chosen)
    heard = []

    def progress(name, fraction):
        heard.append((name, fraction))
        return STOP_HERE if name == stage and fraction > 0.999 else None

    result = register(fixed, moving, settings=chosen, progress=progress)
    # The last step of the refinement, and its end.
    assert stage != "refining" or [fraction for name, fraction in heard if name == stage][-2:] == [1.0, 1.0]
    assert result.report.stopped_at is None and not result.report.refinement["stopped"]
    np.testing.assert_array_equal(result.field.displacement_ras, whole.field.displacement_ras)


@pytest.mark.parametrize(("fraction", "error"), [(0.96, "off"), (0.999, "quick")])
def test_who_stops_before_the_last_step_or_before_the_error_is_estimated_has_stopped_it(fraction, error):
    result = register(
        *textured_pair(),
        settings=settings(refinement="coarse", similarity="mse", expected_error=error),
        progress=lambda name, done: STOP_HERE if name == "refining" and done > fraction else None,
    )
    assert result.report.stopped_at == "refining" and result.expected_error is None
    assert result.report.refinement["stopped"] is (error == "off")


def test_cancel_discards_also_while_previews_are_shown():
    def progress(name, fraction):
        return not (name == "refining" and fraction > 0.3)

    with pytest.raises(Cancelled):
        register(*textured_pair(), settings=settings(), progress=progress, preview=lambda preview: None)


def test_no_shipped_model_of_the_dimension_is_told(monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.choice.model_names", list)
    with pytest.raises(InputError, match="no 3D model is shipped"):
        register(*textured_pair(), settings=settings(refinement="off"))


def test_expected_seconds_grow_with_the_work():
    small, large = make_grid((64, 64, 64)), make_grid((128, 128, 128))
    best, preview = Settings(), Settings(quality="preview")
    assert expected_seconds(preview, small, 0.1) < expected_seconds(best, small, 0.1)
    grown = expected_seconds(best, large, 0.1) - expected_seconds(best, small, 0.1)
    per_voxel = grown / (large.voxel_count - small.voxel_count)
    region = np.zeros(large.shape, bool)
    region[:64] = True
    half = expected_seconds(best, large, 0.1, region)
    full = expected_seconds(best, large, 0.1, np.ones(large.shape, bool))
    assert half < full and per_voxel > 0
    assert expected_seconds(best, small, 0.2) == pytest.approx(2 * expected_seconds(best, small, 0.1))
    # The refinement of a large image is bounded; what is left is warped and written.
    assert MOST_REFINED == LARGEST_GRID / 1e6
    huge = [make_grid((size, 400, 400)) for size in (400, 800)]
    more = expected_seconds(best, huge[1], 0.1) - expected_seconds(best, huge[0], 0.1)
    assert more == pytest.approx(0.1 * WRITTEN_LARGE * 64)
    assert [in_words(s) for s in (0.2, 7.6, 43.0, 600.0)] == [
        "about 1 s",
        "about 8 s",
        "about 45 s",
        "about 10 minutes",
    ]
