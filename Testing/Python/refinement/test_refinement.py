from dataclasses import replace

import numpy as np
import pytest
import torch

from grids import make_grid, rotation
from refinement_cases import (
    GRIDS,
    INNER,
    deformed,
    displacement,
    found,
    inner,
    known,
    other_contrast,
    refined,
    textured,
)
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.errors import Cancelled, DeviceError, InputError, SettingsError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement.levels import REAL_DETAIL, Level, Options, Stage
from VoxelMorphRegistrationLib.refinement.pair import Pair, memory_bytes
from VoxelMorphRegistrationLib.refinement.problem import Problem
from VoxelMorphRegistrationLib.refinement.refine import refine
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings


def level_of(fixed, moving, grid, ratio=1, similarity="lncc"):
    """One level of a refinement on `grid`."""
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(grid.shape, bool))
    stage = Stage(Level(1, ratio, 1), similarity)
    return Problem(pair, grid, stage, None, Options(similarity=similarity), "cpu")


def errors(result, grid):
    """Distance to the truth in mm within the body, before and after."""
    points = inner(grid)
    truth = points + displacement(points)
    return np.linalg.norm(points - truth, axis=1), np.linalg.norm(result.transform_points(points) - truth, axis=1)


@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_known_deformation_is_found_without_a_network(number):
    (fixed, _), result = known(number), found("default", number)
    before, after = errors(result, fixed.grid)
    # Interpolation and windows of five voxels blur the answer by a part of a voxel.
    assert before.mean() > 2.2 and after.mean() < 0.17 * before.mean()
    assert result.report.folding["inside"]["any_corner_count"] == 0
    assert result.report.model["name"] == "none" and result.report.refinement["preset"] == "default"


def test_no_network_can_be_asked_for_in_the_call_as_in_the_settings():
    fixed, moving = known()
    settings = Settings(refinement="fast", alignment="none", device="cpu")
    result = register(fixed, moving, "none", settings)
    assert result.report.model["name"] == "none" and result.report.settings["model"] == "none"
    with pytest.raises(SettingsError, match="nothing to do when refinement is off"):
        register(fixed, moving, "none", settings.replace(refinement="off"))


def test_apple_gpu_leaves_the_refinement_to_the_cpu_and_says_so(monkeypatch):
    for user in ("register", "working"):
        monkeypatch.setattr(f"VoxelMorphRegistrationLib.registration.{user}.choose_device", lambda name: "mps")
    report = refined(*known(), "fast").report
    assert any("The refinement ran on the CPU" in text for text in report.warnings)


def test_each_preset_is_at_least_as_good_as_the_one_before():
    grid = known()[0].grid
    means = [errors(found(preset), grid)[1].mean() for preset in ("fast", "default", "accurate")]
    assert means[1] < means[0] * 1.02 and means[2] < means[1] * 1.02


def test_linear_part_stays_in_front_of_the_field():
    fixed, moving = known()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((0, 0, 20))
    matrix[:3, 3] = (5, -3, 2)
    moved = Image(moving.array, moving.grid.transformed(matrix), "moved")
    result = register(
        fixed,
        moved,
        settings=Settings(model="none", refinement="default", alignment="none", device="cpu"),
        initial_transform=matrix,
    )
    points = inner(fixed.grid)
    truth = (points + displacement(points)) @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.linalg.norm(result.transform_points(points) - truth, axis=1).mean() < 0.5


def test_refinement_goes_on_from_the_network(tmp_path):
    path = save_centroid_model(tmp_path / "m.pt")
    fixed, moving = known()
    settings = Settings(model=str(path), alignment="none", device="cpu", refinement="off")
    network = register(fixed, moving, settings=settings)
    both = register(fixed, moving, settings=settings.replace(refinement="default"))
    assert errors(both, fixed.grid)[1].mean() < 0.5 * errors(network, fixed.grid)[1].mean()
    assert both.report.model["name"] == "centroid" and {"registering", "refining"} <= set(both.report.seconds)


def test_equal_images_stay_where_they_are():
    image = textured(make_grid((36, 36, 36)))
    result = refined(image, image.with_array(image.array.copy()))
    points = inner(image.grid)
    assert np.linalg.norm(result.transform_points(points) - points, axis=1).mean() < 0.2


def noisy(image, deviation, seed):
    noise = np.random.default_rng(seed).normal(0, deviation, image.array.shape)
    return image.with_array((image.array + noise).astype(np.float32))


def test_detail_is_taken_for_real_where_it_explains_what_was_left():
    fixed, moving = known()
    # One person under a smooth warp, and with noise that differs: fitting it would explain little.
    assert found().report.refinement["detailed"] is False
    smooth = refined(noisy(fixed, 20, 1), noisy(moving, 20, 2))
    assert smooth.report.refinement["detailed"] is False
    before, after = errors(smooth, fixed.grid)
    assert after.mean() < 0.2 * before.mean()
    # Across contrasts: noise hides what little detail a long wave has (0.02 explained instead of 0.18).
    waved = deformed(fixed.grid, lambda points: displacement(points / 2))
    other = other_contrast(moving)
    assert refined(waved, other, "fast", similarity="mind").report.refinement["detailed"] is True
    assert refined(noisy(waved, 60, 1), other, "fast", similarity="mind").report.refinement["detailed"] is False
    # Other similarities know no such choice.
    assert found(similarity="mse").report.refinement["detailed"] is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_detail_wide_windows_tell_apart_what_looks_alike_in_small_ones(seed):
    """Layers of tissue, shifted by more than half their width: the edge nearest to each one is a wrong one."""
    grid = make_grid((96, 16, 16))
    edges = np.arange(-43, 48, 10)
    levels = np.random.default_rng(seed).uniform(0, 1, len(edges) + 1).cumsum() % 1.0

    def layers(grid, shift):
        line = grid.positions()[..., 0] - shift
        steps = sum(step / (1 + np.exp((edge - line) / 0.5)) for step, edge in zip(np.diff(levels), edges, strict=True))
        noise = np.random.default_rng(int(shift)).normal(0, 0.005, grid.shape)
        return Image((1000 * (levels[0] + steps + noise)).astype(np.float32), grid, "layers")

    fixed, moving = layers(grid, 0.0), layers(make_grid((112, 24, 24)), 6.0)

    def pull(kind):
        """Towards where the layers went, along i."""
        pair = Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(grid.shape, bool))
        stage = Stage(Level(1, 1, 1, 1), "lncc", kind)
        problem = Problem(pair, grid, stage, None, Options(), "cpu")
        _, force = problem.images.force(torch.zeros(1, 3, *grid.shape))
        return float(force(tuple(slice(0, n) for n in grid.shape))[2, :, :, 16:-16].sum())

    assert pull("smooth") < 0 < pull("trial")


def test_what_a_start_has_explained_does_not_make_the_images_unlike(monkeypatch):
    """Wide windows lead smooth steps where the coarsest level explains little, unless a start did so before."""
    fixed, moving = known()
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(fixed.grid.shape, bool))
    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.levels.LEAD_EXPLAINED", 2.0)
    guided = []

    class Recorded(Problem):
        def __init__(self, pair, region, stage, *others):
            super().__init__(pair, region, stage, *others)
            if stage.kind == "smooth":
                guided.append(self.images.term.guide is not None)

    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.refine.Problem", Recorded)
    for start in (None, DisplacementField.identity(fixed.grid)):
        refine(pair, start, Options())
    assert guided == [True, False]


def test_noise_in_an_empty_background_is_no_structure():
    fixed, moving = known()
    fixed = fixed.with_array(np.where(fixed.array > 40, fixed.array, 0).astype(np.float32))
    for similarity in ("lncc", "mind"):
        before, after = errors(refined(fixed, noisy(moving, 20, 1), "fast", similarity=similarity), fixed.grid)
        assert after.mean() < 0.25 * before.mean() and after.max() < before.max()


def test_start_is_kept_when_nothing_better_is_found(monkeypatch):
    generator = torch.Generator().manual_seed(0)

    # A descent that only goes astray.
    def astray(problem, flow, steps):
        flow += 2 * sampling.gaussian_smooth(torch.randn(flow.shape, generator=generator), (1.0,) * 3)
        yield 1

    monkeypatch.setattr("VoxelMorphRegistrationLib.refinement.refine._descend", astray)
    image = textured(make_grid((36, 36, 36)))
    report = refined(image, image.with_array(image.array + 5)).report
    assert report.largest_displacement_mm == 0 and not report.refinement["improved"]
    # By itself, before anybody checks what it made of the images.
    pair = Pair(image, image, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(image.grid.shape, bool))
    kept = refine(pair, None, Options("fast"))
    assert not kept.improved and not kept.field.displacement_ras.any()
    start = DisplacementField(np.full((*image.grid.shape, 3), 0.1, np.float32), image.grid)
    assert refine(pair, start, Options("fast")).field is start
    # Nobody misses a deformation between images that are alike.
    assert report.warnings == []


def test_slices_are_refined():
    grid = make_grid((64, 64, 1))
    fixed = textured(grid)
    shift = np.zeros((*grid.shape, 3), np.float32)
    shift[..., 0] = 2.0 * np.sin(grid.positions()[..., 1] / 8)
    moving = warp_image(fixed, grid, DisplacementField(shift, grid), background=0.0).renamed("moving")
    result = refined(fixed, moving)
    points = inner(grid)
    back = np.stack([points[:, 0] + 2.0 * np.sin(points[:, 1] / 8), points[:, 1], points[:, 2]], -1)
    # T carries fixed to moving: moving(x) = fixed(x + s(x)), so s after T is the identity.
    moved = result.transform_points(points)
    again = np.stack([moved[:, 0] + 2.0 * np.sin(moved[:, 1] / 8), moved[:, 1], moved[:, 2]], -1)
    start = np.linalg.norm(back - points, axis=1).mean()
    assert np.linalg.norm(again - points, axis=1).mean() < 0.3 * start
    assert np.abs(moved[:, 2] - points[:, 2]).max() < 1e-4


def test_what_lies_outside_the_moving_field_of_view_does_not_pull():
    fixed, moving = known()
    half = Image(moving.array[:, :, :27], moving.grid.cropped([0, 0, 0], [27, 44, 44]), "half")
    result = refined(fixed, half)
    points = fixed.grid.positions()
    points = points[(np.linalg.norm(points, axis=-1) < INNER) & (points[..., 0] < -3)]
    truth = points + displacement(points)
    assert np.linalg.norm(result.transform_points(points) - truth, axis=1).mean() < 0.3
    # Near the cut: 0.65 mm.
    points = inner(fixed.grid)
    truth = points + displacement(points)
    depth = half.grid.positions()[..., 0].max() - truth[:, 0]
    near = (depth > 0) & (depth < 3)
    assert np.linalg.norm(result.transform_points(points[near]) - truth[near], axis=1).mean() < 0.7


def test_cancelling_is_heard_at_every_step():
    steps = []

    def progress(stage, fraction):
        if stage == "refining":
            steps.append(fraction)
            return len(steps) < 4
        return True

    fixed, moving = known()
    settings = Settings(model="none", refinement="default", alignment="none", device="cpu")
    with pytest.raises(Cancelled):
        register(fixed, moving, settings=settings, progress=progress)
    assert len(steps) == 4 and steps == sorted(steps)


@pytest.mark.parametrize("least", [-1.0, 2.0], ids=["in detail", "smooth"])
def test_progress_rises_to_its_end_whatever_is_left_out(monkeypatch, least):
    monkeypatch.setitem(REAL_DETAIL, "lncc", least)
    seen = []
    settings = Settings(model="none", refinement="default", alignment="none", device="cpu")
    report = register(
        *known(),
        settings=settings,
        progress=lambda stage, fraction: seen.append(fraction) if stage == "refining" else None,
    ).report
    assert report.refinement["detailed"] is (least < 0) and seen == sorted(seen)
    # But for the steps that the last stage saves when it converges.
    assert 0.8 < seen[-1] <= 1.0


@pytest.mark.parametrize("known_to_be", [True, False])
def test_whether_detail_is_real_is_not_asked_where_it_is_known(known_to_be):
    grid = make_grid((44, 40, 1))
    pair = Pair(deformed(grid), textured(grid), np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(grid.shape, bool))
    alone, result = refine(pair, None, Options("fast")), refine(pair, None, Options("fast"), in_detail=known_to_be)
    assert result.detailed is known_to_be
    same = np.array_equal(result.field.displacement_ras, alone.field.displacement_ras)
    assert same is (alone.detailed is known_to_be)


def test_too_little_memory_is_told(monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.device.available_memory", lambda device: 1000)
    with pytest.raises(DeviceError, match="The refinement needs about"):
        refined(*known())


def test_memory_grows_with_the_labels_that_guide():
    fixed, moving = known()
    pair = Pair(fixed, moving, np.eye(4), ((0.0, 1e-3), (0.0, 1e-3)), np.ones(fixed.grid.shape, bool))
    values = [image.with_array((image.array // 200).astype(np.uint8)) for image in (fixed, moving)]
    count = len(set(np.unique(values[0].array)) & set(np.unique(values[1].array)) - {0})
    more = memory_bytes(replace(pair, labels=tuple(values))) - memory_bytes(pair)
    # Two float32 volumes of the larger map for each channel.
    assert count > 1 and more == 8 * count * moving.array.size


@pytest.mark.parametrize(("similarity", "ratio"), [("lncc", 1), ("lncc", 2), ("mi", 1), ("mi", 2), ("mse", 1)])
def test_force_is_the_derivative_of_the_similarity(similarity, ratio):
    grid = make_grid((24, 24, 24))
    fixed, moving = deformed(grid), textured(make_grid((44, 44, 44)))
    compared = level_of(fixed, moving, grid, ratio, similarity).images
    flow = torch.zeros(1, 3, *(n // ratio for n in grid.shape))
    _, rows = compared.force(flow)
    force = rows(tuple(slice(0, n) for n in flow.shape[2:]))[None]
    factor = compared.term.factor / float(compared.weight.sum()) * (1 if ratio == 1 else 2 * 2**3)
    direction = sampling.gaussian_smooth(force, (2.0,) * 3)
    direction /= direction.abs().max()
    for half in (slice(None, grid.shape[0] // ratio // 2), slice(grid.shape[0] // ratio // 2, None)):
        part = torch.zeros_like(direction)
        part[:, :, half] = direction[:, :, half]
        step = 0.1
        change = (compared.similarity(flow + step * part) - compared.similarity(flow - step * part)) / (2 * step)
        # Not exact: the force is pooled from blocks, and its image slope is a central difference.
        assert float(change) == pytest.approx(factor * float((force * part).sum()), rel=0.15)


# --- other modalities ---


def test_known_deformation_is_found_across_contrasts_by_mutual_information():
    fixed, moving = known()
    before, after = errors(refined(fixed, other_contrast(moving), similarity="mi"), fixed.grid)
    assert after.mean() < 0.2 * before.mean()


def test_equal_intensities_are_found_by_their_difference():
    before, after = errors(found(similarity="mse"), known()[0].grid)
    assert after.mean() < 0.2 * before.mean()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda image: image.with_array(np.maximum(image.array / 700, 0) ** 1.5 * 90), "lncc"),
        (other_contrast, "mind"),
        (lambda image: image.with_array(np.where(image.array > 100, 900 - image.array, 0)), "mind"),
    ],
    ids=["gamma", "not monotone", "inverted"],
)
def test_similarity_is_chosen_by_the_contrasts_and_finds_the_deformation(change, expected):
    fixed, moving = known()
    moving = change(moving)
    result = refined(fixed, moving.with_array(moving.array.astype(np.float32)), "fast")
    # 0.18 to 0.21 of it is left.
    before, after = errors(result, fixed.grid)
    assert after.mean() < 0.25 * before.mean()
    report = result.report
    assert report.refinement["similarity"] == expected and report.settings["similarity"] == "auto"
    start = "One modality: " if expected == "lncc" else "The "
    assert report.refinement["reason"].startswith(start)
    assert report.refinement["value"]["after"] > report.refinement["value"]["before"]


def test_unrelated_images_are_compared_by_their_structure():
    grid = make_grid((36, 36, 36))
    fixed, moving = textured(grid, seed=1), textured(grid, seed=2).renamed("other")
    # Outlines are alike.
    mask = Image((np.linalg.norm(grid.positions(), axis=-1) < INNER).astype(np.uint8), grid, "mask")
    settings = Settings(model="none", refinement="fast", alignment="none", device="cpu")
    report = register(fixed, moving, settings=settings, fixed_mask=mask).report
    assert report.refinement["similarity"] == "mind" and "little in common" in report.refinement["reason"]


def test_slices_are_refined_across_contrasts():
    grid = make_grid((64, 64, 1))
    fixed = textured(grid)
    shift = np.zeros((*grid.shape, 3), np.float32)
    shift[..., 0] = 2.0
    moving = other_contrast(warp_image(fixed, grid, DisplacementField(shift, grid), background=0.0)).renamed("moving")
    result = refined(fixed, moving, similarity="mind")
    points = inner(grid)
    moved = result.transform_points(points) - points
    assert np.linalg.norm(moved - [-2, 0, 0], axis=1).mean() < 0.6 and np.abs(moved[:, 2]).max() < 1e-4


def test_more_smoothness_gives_a_smoother_field():
    fixed, moving = known()
    for similarity in ("lncc", "mind"):
        usual, smooth = (
            found("fast", similarity=similarity),
            refined(fixed, moving, "fast", similarity=similarity, smoothness=2.5),
        )
        fields = [usual.field, smooth.field]
        spread = [field.folding(np.ones(field.grid.shape, bool), field.grid).sd_log for field in fields]
        assert spread[1] < 0.8 * spread[0]


# --- guides ---


def flat_pair(radius=15):
    """Two bodies without structure, so that the images say nothing of what happens within."""
    grid = make_grid((2 * radius + 6,) * 3)
    inside = 1 / (1 + np.exp(np.linalg.norm(grid.positions(), axis=-1) - radius))
    return [Image((900 * inside).astype(np.float32), grid, name) for name in ("fixed", "moving")]


@pytest.mark.parametrize("similarity", ["lncc", "mind"])
def test_landmarks_pull_where_the_images_say_nothing(similarity):
    fixed, moving = flat_pair()
    points = np.array([[-6.0, 0, 0], [6, 2, -3]])
    goals = points + [[2.5, 0, 0], [0, 2, 1]]
    pair = dict(fixed_points=points, moving_points=goals)
    options = dict(model="none", refinement="fast", alignment="none", device="cpu", similarity=similarity)
    off = register(fixed, moving, settings=Settings(**options), **pair)
    on = register(fixed, moving, settings=Settings(**options, landmark_weight=1.0), **pair)
    assert off.report.tre_mm["after"]["mean"] > 1.5 and on.report.tre_mm["after"]["mean"] < 0.6
    assert on.report.refinement["guided_by"] == ["landmarks"] and off.report.refinement["guided_by"] == []
    assert any("no independent measure" in text for text in on.report.warnings)
    assert on.report.folding["inside"]["any_corner_count"] == 0


def test_landmarks_pull_in_slices():
    grid = make_grid((40, 40, 1), (1, 1, 4))
    inside = 1 / (1 + np.exp(np.linalg.norm(grid.positions(), axis=-1) - 15))
    fixed, moving = (Image((900 * inside).astype(np.float32), grid, name) for name in ("fixed", "moving"))
    points = np.array([[-6.0, 0, 0], [6, 2, 0]])
    goals = points + [[2.5, 0, 0], [0, 2, 0]]
    options = dict(model="none", refinement="fast", alignment="none", device="cpu", landmark_weight=1.0)
    found = register(fixed, moving, settings=Settings(**options), fixed_points=points, moving_points=goals)
    assert found.report.tre_mm["after"]["mean"] < 0.6


@pytest.mark.parametrize("similarity", ["lncc", "mind"])
def test_labels_pull_where_the_images_say_nothing(similarity):
    # So large that what moves with the labels does not reach the edge of the body, which the images hold.
    fixed, moving = flat_pair(21)
    distance = [np.linalg.norm(fixed.grid.positions() - center, axis=-1) for center in ((0, 0, 0), (3, 0, 0))]
    labels = [Image((d < 8).astype(np.uint8), fixed.grid, "labels") for d in distance]
    pair = dict(fixed_labels=labels[0], moving_labels=labels[1])
    options = dict(model="none", refinement="fast", alignment="none", device="cpu", similarity=similarity)
    on = register(fixed, moving, settings=Settings(**options, label_weight=4.0), **pair)
    assert on.report.dice["before"]["mean"] < 0.75 and on.report.dice["after"]["mean"] > 0.88
    assert on.report.refinement["guided_by"] == ["labels"]


def test_guides_that_are_missing_are_told():
    fixed, moving = flat_pair()
    for weight, words in (("label_weight", "no fixed and moving labels"), ("landmark_weight", "no fixed and moving")):
        with pytest.raises(SettingsError, match=words):
            refined(fixed, moving, **{weight: 1.0})
    with pytest.raises(SettingsError, match="from 0 to 100"):
        Settings(label_weight=-1.0)
    with pytest.raises(SettingsError, match="smoothness"):
        Settings(smoothness=0.0)


def test_labels_without_a_common_value_are_told():
    fixed, moving = flat_pair()
    labels = [Image(np.full(fixed.grid.shape, value, np.uint8), fixed.grid, "labels") for value in (1, 2)]
    settings = Settings(model="none", refinement="fast", alignment="none", device="cpu", label_weight=1.0)
    with pytest.raises(InputError, match="no label in common"):
        register(fixed, moving, settings=settings, fixed_labels=labels[0], moving_labels=labels[1])


def test_what_the_moving_mask_leaves_out_does_not_pull():
    fixed, moving = known()
    spoilt = moving.array.copy()
    left = moving.grid.positions()[..., 0] > 4
    spoilt[left] = np.random.default_rng(0).uniform(0, 1000, np.count_nonzero(left))
    settings = Settings(model="none", refinement="fast", alignment="none", device="cpu", similarity="lncc")
    points = fixed.grid.positions()
    points = points[(np.linalg.norm(points, axis=-1) < INNER) & (points[..., 0] < -3)]
    truth = points + displacement(points)
    mask = moving.with_array((~left).astype(np.uint8), "moving mask")
    errors = []
    for image in (moving, moving.with_array(spoilt)):
        result = register(fixed, image, settings=settings, moving_mask=mask)
        errors.append(np.linalg.norm(result.transform_points(points) - truth, axis=1).mean())
    assert errors[1] < 1.1 * errors[0]
