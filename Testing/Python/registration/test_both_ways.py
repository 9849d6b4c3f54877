"""Where edges meet by chance, a refinement is made both ways, and what both have in common is kept."""

import numpy as np
import pytest

from grids import make_grid, smooth_displacement
from refinement_cases import known, other_contrast, textured
from VoxelMorphRegistrationLib.alignment.align import Alignment
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.refinement import pair as refinement_pair
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.registration import linear, refining
from VoxelMorphRegistrationLib.registration.both_ways import ONE_WAY, BothWays, both_ways, told_of
from VoxelMorphRegistrationLib.registration.progress import STOP_HERE
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings

FIXED, MOVING = make_grid((30, 28, 26), degrees=(20.0, -15.0, 35.0)), make_grid((52, 50, 54), (1.1, 1.0, 1.2))
WINDOWS = (0.0, 1.0), (0.0, 1.0)


class Reached(Exception):
    """A test has seen what it wanted."""


def matrix():
    """Turned, scaled and shifted."""
    found = np.eye(4)
    found[:3] = [[0.98, -0.17, 0.0, 3.0], [0.18, 1.05, 0.04, -2.0], [0.02, -0.05, 0.93, 1.0]]
    return found


def pair():
    fixed, moving = textured(FIXED), textured(MOVING)
    return Pair(fixed, moving, matrix(), WINDOWS, np.ones(FIXED.shape, bool))


def way_back(u):
    """The displacement of the pair the other way round that undoes x -> A (x + u(x)) exactly."""
    inverse = u.inverse(MOVING, matrix())
    return inverse.then_linear(matrix())


def on_grid(function, grid=FIXED):
    wide = grid.cropped(np.full(3, -12), grid.size + 24)
    return DisplacementField(function(wide.positions()).astype(np.float32), wide).on_grid(grid)


def wide(function):
    grid = FIXED.cropped(np.full(3, -12), FIXED.size + 24)
    return DisplacementField(function(grid.positions()).astype(np.float32), grid)


def test_two_ways_that_undo_each_other_are_kept_as_they_are():
    forward = wide(smooth_displacement)
    found = both_ways(pair(), on_grid(smooth_displacement), way_back(forward))
    assert found.agreement > 0.999
    assert np.abs(found.field.displacement_ras - on_grid(smooth_displacement).displacement_ras).max() < 0.05


def test_two_ways_with_nothing_in_common_leave_nothing():
    found = both_ways(pair(), on_grid(smooth_displacement), way_back(wide(lambda x: -smooth_displacement(x))))
    assert found.agreement < -0.99 and not found.field.displacement_ras.any()


def test_of_what_both_ways_have_in_part_a_part_of_their_mean_is_kept():
    def other(points):
        return 0.5 * smooth_displacement(points[..., [1, 2, 0]] + 40)

    first, second = (lambda x: smooth_displacement(x) + other(x)), (lambda x: smooth_displacement(x) - other(x))
    found = both_ways(pair(), on_grid(first), way_back(wide(second)))
    mean = on_grid(smooth_displacement).displacement_ras
    share = 2 * found.agreement / (1 + found.agreement)
    assert 0 < found.agreement < 0.9
    assert np.abs(found.field.displacement_ras - share * mean).max() < 0.1


def refined(monkeypatch, fixed, moving, evidence, **settings):
    """The report of a refinement after an alignment that found nothing, and says so by its evidence."""
    monkeypatch.setattr(linear, "align", lambda *a, **k: Alignment(np.eye(4), "affine", 0.0, 0.0, [], evidence))
    settings = Settings(refinement="fast", device="cpu", **settings)
    return register(fixed, moving, None, settings).report


def test_a_refinement_is_made_both_ways_where_edges_meet_by_chance_and_only_there(monkeypatch):
    fixed, moving = known()
    moving = other_contrast(moving)
    calls = []
    both = refining.both_ways
    monkeypatch.setattr(refining, "both_ways", lambda *arguments: calls.append(arguments) or both(*arguments))
    report = refined(monkeypatch, fixed, moving, 20.0)
    assert not calls and report.refinement["agreement"] is None and report.warnings == []
    report = refined(monkeypatch, fixed, moving, 2.0)
    # These two images have much in common, and both ways find it.
    assert len(calls) == 1 and report.refinement["agreement"] > 0.8 and report.refinement["improved"]
    assert report.refinement["value"]["after"] is None
    assert any("made both ways" in text for text in report.warnings)


def test_images_whose_two_ways_have_nothing_in_common_are_not_bent(monkeypatch):
    fixed, moving = known()
    # Moved on by the way back, and not back.
    unlike = wide(smooth_displacement)
    monkeypatch.setattr(
        refining, "both_ways", lambda pair, forward, backward: both_ways(pair, on_grid(smooth_displacement), unlike)
    )
    report = refined(monkeypatch, fixed, other_contrast(moving), 2.0)
    agreement = report.refinement["agreement"]
    assert agreement <= 0 and not report.refinement["improved"]
    assert report.largest_displacement_mm == 0 and not report.checks["refinement"]["kept"]
    # Told once, and not as if it had been found to be worse.
    assert [text for text in report.warnings if "refinement" in text] == [told_of(BothWays(None, agreement))]


@pytest.mark.parametrize("similarity", ["lncc", "mse"])
def test_one_contrast_is_compared_one_way(monkeypatch, similarity):
    assert refined(monkeypatch, *known(), 2.0, similarity=similarity).refinement["agreement"] is None


def test_where_nobody_looked_at_edges_the_refinement_is_made_one_way(monkeypatch):
    fixed, moving = known()
    report = refined(monkeypatch, fixed, other_contrast(moving), None)
    assert report.refinement["similarity"] == "mind" and report.refinement["agreement"] is None


def test_the_memory_of_the_way_back_is_asked_for_before_anything_is_refined(monkeypatch):
    """Its grid is that of the moving image, which may be the larger one."""
    fixed, moving = known()
    shapes = []
    bytes_of = refinement_pair.memory_bytes
    monkeypatch.setattr(
        refinement_pair, "memory_bytes", lambda pair: shapes.append(pair.fixed.grid.shape) or bytes_of(pair)
    )

    def not_yet(*arguments, **named):
        assert shapes == [fixed.grid.shape, moving.grid.shape]
        raise Reached

    monkeypatch.setattr(refining, "_refined", not_yet)
    with pytest.raises(Reached):
        refined(monkeypatch, fixed, other_contrast(moving), 2.0)


def test_whoever_stops_on_the_way_back_is_told_that_one_way_was_kept(monkeypatch):
    fixed, moving = known()
    monkeypatch.setattr(linear, "align", lambda *a, **k: Alignment(np.eye(4), "affine", 0.0, 0.0, [], 2.0))
    made, refine = [], refining._refined
    monkeypatch.setattr(refining, "_refined", lambda *a, **k: made.append(a) or refine(*a, **k))
    report = register(
        fixed,
        other_contrast(moving),
        None,
        Settings(refinement="fast", device="cpu"),
        lambda stage, fraction: STOP_HERE if len(made) == 2 else None,
    ).report
    assert report.stopped_at == "refining" and report.refinement["improved"] and report.refinement["stopped"]
    assert ONE_WAY in report.warnings
