from types import SimpleNamespace

import numpy as np
import pytest

from grids import make_grid
from refinement_cases import known, textured
from registration_cases import SHIFT, ball, ball_labels, pair, settings
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_labels
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement.levels import SIMILARITIES
from VoxelMorphRegistrationLib.refinement.refine import Refined
from VoxelMorphRegistrationLib.registration import guard
from VoxelMorphRegistrationLib.registration.inputs import Inputs
from VoxelMorphRegistrationLib.registration.intensity import measured_region
from VoxelMorphRegistrationLib.registration.refining import pair_of
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings

GRID = make_grid((36, 36, 36))


def shift(grid, mm):
    return DisplacementField(np.broadcast_to(np.asarray(mm, np.float32), (*grid.shape, 3)).copy(), grid)


def judge_of(fixed, moving, mask=None, moving_mask=None):
    mask = measured_region(fixed, None) if mask is None else mask
    return guard.Judge(pair_of(Inputs(fixed, moving, mask, moving_mask=moving_mask), np.eye(4)))


def unlike(image):
    """Another contrast: neither rising nor falling with the first."""
    value = np.clip(image.array / 700, 0, 1)
    body = 1 / (1 + np.exp(-(value - 0.12) * 40))
    return image.with_array((1000 * body * (0.5 + 0.4 * np.sin(9 * value))).astype(np.float32))


def halves(image):
    """Labels of the two halves of the space, the same whatever the image shows."""
    return Image((image.grid.positions()[..., 0] > 0).astype(np.uint8) + 1, image.grid, "labels")


# --- the measures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", SIMILARITIES)
@pytest.mark.parametrize("voxels", [300_000, 20_000])
def test_a_field_that_aligns_is_better_and_one_that_pushes_away_is_worse(measure, voxels, monkeypatch):
    monkeypatch.setattr(guard, "VOXELS", voxels)
    monkeypatch.setattr(guard, "DESCRIPTOR_VOXELS", voxels)
    fixed, moving = textured(GRID), textured(make_grid((44, 44, 44)), center=SHIFT)
    if measure in ("mi", "mind"):
        moving = unlike(moving)
    judge = judge_of(fixed, moving)
    good, bad = shift(GRID, SHIFT), shift(GRID, -SHIFT)
    assert all(not found.worse and found.after > found.before for found in judge.compare(measure, None, good))
    assert all(found.worse for found in judge.compare(measure, good, shift(GRID, (0, 0, 0))))
    assert any(found.worse for found in judge.compare(measure, good, bad))


@pytest.mark.parametrize("measure", SIMILARITIES)
def test_the_same_field_again_is_no_worse(measure):
    fixed, moving = textured(GRID), textured(make_grid((44, 44, 44)), center=SHIFT)
    field = shift(GRID, 0.3 * SHIFT)
    for found in judge_of(fixed, moving).compare(measure, field, field.padded(2)):
        assert not found.worse and found.after == pytest.approx(found.before, abs=1e-5)
        assert found.covered == 1.0


def test_only_what_both_fields_carry_into_the_moving_image_counts():
    fixed = textured(GRID)
    # The moving image shows half of the body, and would fit where it shows it.
    half = Image(fixed.array[:, :, :20], GRID.cropped([0, 0, 0], [20, 36, 36]), "half")
    found = judge_of(fixed, half).compare("lncc", shift(GRID, (2, 0, 0)), shift(GRID, (0, 0, 0)))[0]
    # 0.9998 and 0.855.
    assert found.after > 0.95 > 0.9 > found.before and not found.worse


def test_a_field_that_carries_the_anatomy_out_of_the_moving_image_is_worse():
    fixed, moving = textured(GRID), textured(make_grid((38, 38, 38)), center=SHIFT)
    found = judge_of(fixed, moving).compare("lncc", None, shift(GRID, (40, 0, 0)))[0]
    assert found.covered < guard.LEAST_COVERED and found.worse
    assert "of the anatomy seen in the moving image before" in str(found)


@pytest.mark.parametrize("largest", [6_000_000, 6_000])
def test_what_a_moving_mask_leaves_out_does_not_count(largest, monkeypatch):
    """Of an image that is larger than what a refinement looks at, too."""
    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.pair.LARGEST_GRID", largest)
    fixed = textured(GRID)
    spoilt = fixed.array.copy()
    spoilt[:, :, 18:] = np.random.default_rng(0).uniform(0, 800, spoilt[:, :, 18:].shape)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[:, :, :18] = 1
    moving = Image(spoilt, GRID, "moving")
    plain = judge_of(fixed, moving).compare("lncc", None, shift(GRID, (0, 0, 0)))[0]
    masked = judge_of(fixed, moving, moving_mask=Image(mask, GRID)).compare("lncc", None, shift(GRID, (0, 0, 0)))[0]
    # Not 1, since flat windows count as unlike.
    assert masked.before > 0.93 > 0.85 > plain.before


def test_the_measure_is_chosen_as_the_refinement_chooses_it():
    fixed, moving = known()
    assert judge_of(fixed, moving).choose() == "lncc"
    assert judge_of(fixed, unlike(moving)).choose() == "mind"


def test_of_a_smooth_motion_between_one_person_s_images_a_small_part_of_what_its_start_gained_may_be_lost():
    fixed = textured(GRID)
    moving = unlike(textured(make_grid((44, 44, 44)), center=SHIFT))
    judge, start = judge_of(fixed, moving), shift(GRID, SHIFT)

    def worse(part, smooth, before=start):
        return [found.worse for found in judge.compare("mind", before, shift(GRID, part * SHIFT), smooth)]

    # Mutual information 1.055, 1.027 and, where nothing is displaced, 0.2.
    assert worse(0.96, False)[1] and worse(0.96, True) == [False, False]
    assert worse(0.5, True) == [True, True]
    # Nothing was gained by nothing.
    assert any(worse(-0.1, True, None))
    plain, decorrelated = (judge.compare("mind", start, start, smooth) for smooth in (False, True))
    assert plain[0].before != decorrelated[0].before and plain[1].before == decorrelated[1].before


# --- the verdict ------------------------------------------------------------------------------------------------

BETTER, WORSE = guard.Comparison("lncc", 0.4, 0.5, 1.0), guard.Comparison("lncc", 0.5, 0.4, 1.0)


@pytest.mark.parametrize(
    ("comparison", "dice", "guided", "kept"),
    [
        (BETTER, None, False, True),
        (WORSE, None, False, False),
        (BETTER, (0.70, 0.65), False, False),
        (BETTER, (0.70, 0.65), True, False),
        (BETTER, (0.70, 0.70), False, True),
        (WORSE, (0.70, 0.705), False, False),
        (WORSE, (0.70, 0.705), True, True),
        (WORSE, (0.70, 0.75), False, True),
        (BETTER, (float("nan"), float("nan")), False, True),
        (WORSE, (float("nan"), float("nan")), False, False),
    ],
)
def test_labels_decide_before_images(comparison, dice, guided, kept):
    assert (guard.verdict((comparison,), dice, guided).reason == "") == kept


@pytest.mark.parametrize(
    ("pieces", "kept"), [((0.19, 2.7), True), ((0.35, 11.0), False), ((0.09, 6.0), True), ((0.04, 2.0), False)]
)
def test_what_lies_between_two_brains_is_kept_and_what_a_resection_draws_in_is_not(pieces, kept):
    """The first two are measured: between brains of two people, and where a resection was. The third is told only, as
    between a young brain and an old one; the last is believed of nothing.
    """
    assert (guard.verdict((BETTER,), pieces=pieces).reason == "") == kept


def test_moving_labels_that_the_fixed_map_lacks_do_not_count():
    fixed = ball_labels(ball(GRID))
    moving = fixed.with_array(np.where(GRID.positions()[..., 0] > 12, 7, fixed.array))
    assert guard.Overlap(fixed, moving, "nearest").carried(np.eye(4)).dice == {1: 1.0}


# --- the pipeline -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [False, True])
def test_network_that_pushes_the_wrong_way_is_left_out_and_the_report_says_so(labelled, tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", part=-1.0)
    fixed, moving = pair("plain", "plain")
    labels = dict(fixed_labels=ball_labels(fixed), moving_labels=ball_labels(moving)) if labelled else {}
    result = register(fixed, moving, settings=settings(path), **labels)
    report = result.report
    assert report.largest_displacement_mm == 0 and not report.checks["network"]["kept"]
    assert report.similarity["after"] == pytest.approx(report.similarity["aligned"])
    (warning,) = [text for text in report.warnings if "network" in text]
    assert "made things worse and was undone" in warning
    if labelled:
        found = report.checks["network"]["dice"]
        assert f"mean Dice {found['before']:.4f} before, {found['after']:.4f} after" in warning
        assert report.dice["after"] == report.dice["aligned"]
        np.testing.assert_array_equal(
            result.warped_labels.array,
            warp_labels(labels["moving_labels"], fixed.grid).array,
        )
    else:
        assert "the images are less similar" in warning


def test_refinement_starts_from_zero_where_the_network_was_left_out(tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", part=-1.0)
    fixed, moving = textured(GRID), textured(make_grid((44, 44, 44)), center=SHIFT)
    both = settings(path, refinement="fast")
    result, alone = register(fixed, moving, settings=both), register(fixed, moving, "none", both)
    assert not result.report.checks["network"]["kept"] and result.report.checks["refinement"]["kept"]
    np.testing.assert_allclose(result.field.displacement_ras, alone.field.displacement_ras, atol=1e-4)


def test_refinement_that_follows_the_images_against_the_labels_is_undone():
    fixed, moving = textured(GRID), textured(make_grid((44, 44, 44)), center=SHIFT)
    plain = Settings(model="none", refinement="fast", alignment="none", device="cpu")
    free = register(fixed, moving, settings=plain).report
    assert free.checks["refinement"]["kept"] and free.largest_displacement_mm > 3
    # The labels fit as the images lie, so that every motion along x parts them.
    labels = dict(fixed_labels=halves(fixed), moving_labels=halves(moving))
    report = register(fixed, moving, settings=plain, **labels).report
    found = report.checks["refinement"]
    assert not found["kept"] and not report.refinement["improved"] and report.largest_displacement_mm == 0
    assert found["similarity"][0]["after"] > found["similarity"][0]["before"]
    assert report.dice["after"]["mean"] == report.dice["before"]["mean"] == found["dice"]["before"] == 1.0
    assert any("The refinement made things worse and was undone: the given labels" in w for w in report.warnings)


@pytest.fixture(scope="module")
def model_that_is_right(tmp_path_factory):
    return save_centroid_model(tmp_path_factory.mktemp("models") / "centroid.pt")


def refine_to(mm, monkeypatch, detailed=None, decorrelated=False):
    """A refinement that believes in a shift by `mm`."""
    refined = Refined(shift(GRID, mm), 0.5, 0.6, (1,), detailed, True, decorrelated=decorrelated)
    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.refine.refine", lambda *_, **__: refined)


def test_network_s_field_is_kept_where_its_refinement_is_undone(model_that_is_right, monkeypatch):
    refine_to(-SHIFT, monkeypatch)
    fixed, moving = textured(GRID), textured(make_grid((44, 44, 44)), center=SHIFT)
    chosen = settings(model_that_is_right, refinement="fast", similarity="lncc")
    result = register(fixed, moving, settings=chosen)
    alone = register(fixed, moving, settings=chosen.replace(refinement="off"))
    assert result.report.checks["network"]["kept"] and not result.report.checks["refinement"]["kept"]
    np.testing.assert_array_equal(result.field.displacement_ras, alone.field.displacement_ras)
    facts = result.report.refinement
    assert not facts["improved"] and facts["value"]["before"] == facts["value"]["after"]


@pytest.mark.parametrize(
    ("detailed", "decorrelated", "started", "kept"),
    [
        (False, True, True, True),
        (False, False, True, False),
        (True, True, True, False),
        (None, True, True, False),
        (False, True, False, False),
    ],
)
def test_smooth_motion_of_one_person_s_images_may_be_a_little_less_similar_than_its_start(
    detailed, decorrelated, started, kept, monkeypatch, model_that_is_right
):
    """A network's field fits noise as well."""
    refine_to(0.96 * SHIFT if started else -0.5 * SHIFT, monkeypatch, detailed, decorrelated)
    fixed, moving = textured(GRID), unlike(textured(make_grid((44, 44, 44)), center=SHIFT))
    chosen = settings(model_that_is_right if started else "none", refinement="fast", similarity="mind")
    monkeypatch.setattr(guard.Checks, "network", lambda self, *_: shift(GRID, SHIFT))
    found = register(fixed, moving, settings=chosen).report.checks["refinement"]
    assert found["similarity"][1]["after"] < found["similarity"][1]["before"] and found["kept"] == kept


@pytest.mark.parametrize("guided", [False, True])
def test_refinement_that_landmarks_guide_may_cost_similarity(guided, monkeypatch):
    refine_to((3.0, 0, 0), monkeypatch)
    image = textured(GRID)
    points = np.array([[0.0, 0, 0], [6, 0, 0], [0, 6, 0]])
    chosen = Settings(
        model="none", refinement="fast", alignment="none", device="cpu", landmark_weight=1.0 if guided else 0.0
    )
    moving = image.with_array(image.array.copy())
    report = register(image, moving, settings=chosen, fixed_points=points, moving_points=points + [3.0, 0, 0]).report
    found = report.checks["refinement"]
    assert found["similarity"][0]["after"] < found["similarity"][0]["before"] and found["kept"] == guided
    assert report.tre_mm["after"]["mean"] == pytest.approx(0.0 if guided else 3.0, abs=1e-5)


def test_alignment_that_parts_the_labels_is_undone(monkeypatch, model_that_is_right):
    fixed, moving = pair("plain", "plain")
    wrong = np.eye(4)
    wrong[:3, 3] = -SHIFT
    monkeypatch.setattr(
        "VoxelMorphRegistrationLib.registration.linear.align",
        lambda *_, **__: SimpleNamespace(matrix=wrong, warnings=(), evidence=None),
    )
    labels = dict(fixed_labels=ball_labels(fixed), moving_labels=ball_labels(moving))
    result = register(fixed, moving, settings=settings(model_that_is_right, alignment="rigid"), **labels)
    np.testing.assert_array_equal(result.linear, np.eye(4))
    report = result.report
    assert not report.checks["alignment"]["kept"]
    assert report.dice["aligned"] == report.dice["before"] and report.dice["after"]["mean"] > 0.85
    assert any("The alignment made things worse and was undone: the given labels" in w for w in report.warnings)
