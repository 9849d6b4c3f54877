import json

import numpy as np
import pytest
import torch

from grids import KINDS, make_grid, rotation
from registration_cases import SHIFT, SMALL, ball, ball_labels, pair, settings
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.errors import Cancelled, DeviceError, SettingsError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import load_model
from VoxelMorphRegistrationLib.registration import guard
from VoxelMorphRegistrationLib.registration.intensity import measured_region, white_matter_level
from VoxelMorphRegistrationLib.registration.passes import flow_grid, run_network
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.registration.warnings import SMALLEST_COVERAGE
from VoxelMorphRegistrationLib.registration.working import SURROUNDING_VOXELS

# The two grids meet in RAS only: each kind once on either side for each orientation that a network may ask for.
PAIRS = [
    (fixed_kind, list(KINDS)[(number + step) % len(KINDS)], orientation)
    for number, fixed_kind in enumerate(KINDS)
    for step, orientation in ((1, None), (3, "LIA"))
]


@pytest.mark.parametrize(("fixed_kind", "moving_kind", "orientation"), PAIRS)
def test_known_shift_is_found_on_every_kind_of_grid(fixed_kind, moving_kind, orientation, tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", orientation=orientation)
    fixed, moving = pair(fixed_kind, moving_kind)
    result = register(fixed, moving, settings=settings(path))
    # The centroid of a ball sampled at 2.5 mm or finer is good to a small part of a voxel.
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], SHIFT, atol=0.15)
    assert result.warped.grid is fixed.grid
    assert result.report.similarity["after"]["ncc"] > 0.97
    np.testing.assert_allclose(result.jacobian.array, 1.0, atol=1e-4)


@pytest.mark.parametrize(("scale", "alignment"), [(2, "centers"), (2, "corners"), (1, "centers")])
@pytest.mark.parametrize("output", ["velocity", "displacement"])
def test_flow_units_and_integration(scale, alignment, output, tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", scale=scale, output=output, flow_alignment=alignment)
    fixed, moving = pair()
    result = register(fixed, moving, settings=settings(path))
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], SHIFT, atol=0.15)


def test_flow_grid_covers_pairs_of_voxels_or_joins_corners():
    grid = make_grid((16, 12, 8), (1, 2, 3), (10, 20, 30))
    centers = flow_grid(grid, (4, 6, 8), ModelCard("x", flow_alignment="centers"))
    np.testing.assert_allclose(centers.to_ras([2, 3, 1]), grid.to_ras([4.5, 6.5, 2.5]))
    corners = flow_grid(grid, (4, 6, 8), ModelCard("x", flow_alignment="corners"))
    np.testing.assert_allclose(corners.to_ras([7, 5, 3]), grid.to_ras([15, 11, 7]))
    np.testing.assert_allclose(corners.to_ras([0, 0, 0]), grid.to_ras([0, 0, 0]))


def test_field_reaches_beyond_every_fixed_voxel(model):
    fixed, moving = pair("oblique")
    grid = register(fixed, moving, settings=settings(model)).field.grid
    ijk = grid.to_ijk(fixed.grid.corners())
    assert (ijk >= 0).all() and (ijk <= grid.size - 1).all()


def test_linear_part_and_field_combine_as_documented(model):
    fixed, moving = pair()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((5, 0, 10)) * 1.1
    matrix[:3, 3] = (1, 1, 0)
    result = register(fixed, moving, settings=settings(model), initial_transform=matrix)
    np.testing.assert_allclose(result.linear, matrix)
    points = np.random.default_rng(0).uniform(-9, 9, (50, 3))
    np.testing.assert_allclose(
        result.total_field().transform_points(points), result.transform_points(points), atol=1e-3
    )
    assert result.jacobian.array.mean() == pytest.approx(1.331, abs=1e-3)
    deformable = register(fixed, moving, settings=settings(model, jacobian="deformable"), initial_transform=matrix)
    assert deformable.jacobian.array.mean() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["plain", "oblique"])
def test_jacobian_is_on_the_voxels_of_a_coarse_field_unless_asked_otherwise(kind, tmp_path):
    """A field of half the resolution has no more to say than at its voxels."""
    path = save_centroid_model(tmp_path / "m.pt", scale=2)
    fixed, moving = pair(kind)
    own, whole = (register(fixed, moving, settings=settings(path, jacobian_grid=name)) for name in ("field", "fixed"))
    assert whole.jacobian.grid.same_as(fixed.grid)
    grid = own.jacobian.grid
    assert grid.voxel_count < whole.jacobian.grid.voxel_count / 3
    # At voxels of the field, and none of them beyond the fixed image.
    place = own.field.grid.to_ijk(grid.to_ras([1, 2, 3]))
    np.testing.assert_allclose(place, np.rint(place), atol=1e-4)
    assert fixed.grid.contains(grid.positions()).all()
    for result in (own, whole):
        inside = result.report.folding["inside"]
        assert inside["count"] == 0
        assert inside["voxels"] * np.prod(result.report.folding["voxel_mm"]) == pytest.approx(
            measured_region(fixed, None).sum() * np.prod(fixed.grid.spacing), rel=0.1
        )


def test_passes_are_composed(tmp_path):
    path = save_centroid_model(tmp_path / "half.pt", part=0.5)
    fixed, moving = pair()
    for passes, part in ((1, 0.5), (2, 0.75), (3, 0.875)):
        result = register(fixed, moving, settings=settings(path, passes=passes))
        np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], part * SHIFT, atol=0.15)
        assert result.report.passes == passes


def test_model_s_own_number_of_passes_is_the_default(tmp_path):
    path = save_centroid_model(tmp_path / "half.pt", part=0.5, passes=2)
    assert register(*pair(), settings=settings(path)).report.passes == 2


@pytest.mark.parametrize("shape", [(32, 32, 32), (64, 48, 56)])
def test_model_locked_to_one_shape_sees_the_whole_fixed_image(shape, tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", shape=shape)
    fixed, moving = pair("oblique")
    result = register(fixed, moving, settings=settings(path))
    assert tuple(result.report.working_grid["shape_kji"]) == shape
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], SHIFT, atol=0.2)


def test_scale_free_model_gets_about_its_number_of_voxels(tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", spacing_mm=None, target_voxels=8000)
    result = register(*pair("plain"), settings=settings(path))
    assert 5000 < np.prod(result.report.working_grid["shape_kji"]) < 14000


@pytest.mark.parametrize("kind", ["plain", "oblique", "left-handed"])
def test_the_network_sees_the_foreground_and_the_field_covers_the_whole_image(kind, model):
    grid = make_grid(**{**SMALL[kind], "center": (0, 0, 0)})
    margin = np.ceil(20 / grid.spacing).astype(int)
    wide = grid.cropped(-margin, grid.size + 2 * margin)
    result = register(ball(wide), pair()[1], settings=settings(model))
    seen = result.report.working_grid
    size = np.array(seen["shape_kji"][::-1]) * np.linalg.norm(np.array(seen["ijk_to_ras"])[:3, :3], axis=0)
    # The ball is bright for about 10 mm around its centre; some voxels are added, and at most a stride.
    assert (size < 2 * (12 + SURROUNDING_VOXELS) + 6).all()
    assert result.field.grid.contains(wide.to_ras(np.array([[0, 0, 0], wide.size - 1]))).all()
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], SHIFT, atol=0.2)


@pytest.mark.parametrize("last", [1.0, 0.5])
def test_passes_may_have_grids_of_their_own_finer_than_the_image_too(last, tmp_path):
    path = save_centroid_model(tmp_path / "half.pt", part=0.5, passes=3, pass_scales=(2.0, last))
    fixed, moving = pair()
    result = register(fixed, moving, settings=settings(path))
    spacing = np.linalg.norm(np.array(result.report.working_grid["ijk_to_ras"])[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, last)
    np.testing.assert_allclose(result.field.grid.spacing, last)
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], 0.875 * SHIFT, atol=0.15)


def test_asked_working_spacing_is_used(model):
    result = register(*pair(), settings=settings(model, working_spacing_mm=2.0))
    matrix = np.array(result.report.working_grid["ijk_to_ras"])
    np.testing.assert_allclose(np.linalg.norm(matrix[:3, :3], axis=0), 2.0)


def test_sheared_fixed_image_is_registered_on_a_straight_grid(model):
    shear = np.eye(4)
    shear[0, 2] = 0.25
    fixed = ball(make_grid((28, 30, 26)).transformed(shear))
    moving = ball(make_grid((30, 30, 30)), SHIFT)
    result = register(fixed, moving, settings=settings(model))
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], SHIFT, atol=0.2)
    assert result.field.grid.is_orthogonal


@pytest.mark.parametrize("flat", ["k", "j", "i"])
def test_slices_register_with_a_2d_model_in_any_plane(flat, tmp_path):
    size = {"k": (30, 34, 1), "j": (30, 1, 34), "i": (1, 30, 34)}[flat]
    shift = np.where(np.array(size) == 1, 0.0, SHIFT)
    path = save_centroid_model(tmp_path / "m.pt", dimension=2)
    fixed, moving = ball(make_grid(size)), ball(make_grid(size), shift)
    result = register(fixed, moving, settings=settings(path))
    np.testing.assert_allclose(result.transform_points(np.zeros((1, 3)))[0], shift, atol=0.15)
    assert result.warped.array.shape == fixed.array.shape
    assert result.report.similarity["after"]["ncc"] > 0.97
    np.testing.assert_allclose(result.total_field().at(np.zeros((1, 3)))[0], shift, atol=0.15)


# --- intensities ------------------------------------------------------------------------------------------------


def brain_like(grid, seed=0):
    """Dark outside; grey, white and fluid inside, with noise."""
    rng = np.random.default_rng(seed)
    radius = np.linalg.norm(grid.positions(), axis=-1)
    array = np.select([radius < 5, radius < 11, radius < 15], [30.0, 105.0, 75.0], 0.0)
    return Image(np.where(array > 0, array + rng.normal(0, 3, grid.shape), 0).astype(np.float32), grid)


def test_white_matter_is_found_at_any_intensity_scale():
    image = brain_like(make_grid((34, 34, 34)))
    level = white_matter_level(image)
    assert level == pytest.approx(105, rel=0.03)
    for factor in (7, 1 / 255):
        scaled = image.with_array(image.array * np.float32(factor))
        assert white_matter_level(scaled) == pytest.approx(factor * level, rel=1e-5)


@pytest.mark.parametrize(
    "method", [{"method": "white-matter", "target": 0.43}, {"method": "percentile", "low": 1, "high": 99}]
)
def test_rescaled_images_give_the_same_field(method, tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", normalization=method)
    fixed, moving = brain_like(make_grid((34, 34, 34))), brain_like(make_grid((34, 36, 38), degrees=(5, 0, 0)), 1)
    first = register(fixed, moving, settings=settings(path))
    second = register(fixed, moving.with_array(moving.array * 7), settings=settings(path))
    np.testing.assert_allclose(second.field.displacement_ras, first.field.displacement_ras, atol=1e-4)


def test_few_nan_voxels_are_replaced_and_reported(model):
    fixed, moving = pair()
    array = moving.array.copy()
    array[0, 0, :2] = np.nan, np.inf
    result = register(fixed, moving.with_array(array), settings=settings(model))
    assert any("no data in 2 of its" in text and "(NaN, infinite)" in text for text in result.report.warnings)
    assert np.isfinite(result.warped.array).all()


# --- report, settings, progress, device ---------------------------------------------------------------------------


def test_report_measures_labels_and_landmarks(model):
    fixed, moving = pair()
    points = np.array([[0.0, 0, 0], [2, 3, 1]])
    result = register(
        fixed,
        moving,
        settings=settings(model),
        fixed_labels=ball_labels(fixed),
        moving_labels=ball_labels(moving),
        fixed_points=points,
        moving_points=points + SHIFT,
    )
    report = result.report
    assert report.dice["before"]["mean"] < 0.6 < 0.85 < report.dice["after"]["mean"]
    assert report.hd95_mm["after"]["mean"] < report.hd95_mm["before"]["mean"]
    assert report.tre_mm["before"]["mean"] == pytest.approx(np.linalg.norm(SHIFT))
    assert report.tre_mm["after"]["max"] < 0.25
    assert report.folding["inside"]["count"] == report.folding["volume"]["count"] == 0
    assert set(report.seconds) >= {"aligning", "registering", "warping", "measuring", "total"}
    assert report.largest_displacement_mm == pytest.approx(np.linalg.norm(SHIFT), abs=0.2)
    assert json.loads(report.to_json())["settings"]["alignment"] == "none"


def test_moving_labels_alone_are_carried_over(model):
    fixed, moving = pair()
    result = register(fixed, moving, settings=settings(model), moving_labels=ball_labels(moving))
    assert result.warped_labels.array.shape == fixed.array.shape and result.report.dice is None


def test_settings_survive_json():
    original = Settings(model="a.pt", alignment="rigid", passes=3, seed=5, background=-1000.0)
    assert Settings.from_json(original.to_json()) == original
    assert Settings.from_json("{}") == Settings()


def test_limits_of_settings_are_allowed():
    lowest = dict(passes=1, smoothness=0.2, label_weight=0, landmark_weight=0, seed=0)
    highest = dict(passes=10, smoothness=5, label_weight=100, landmark_weight=100)
    for given in (lowest, highest):
        assert vars(Settings(**given)).items() >= given.items()
    for changes in (dict(passes=11), dict(smoothness=5.1), dict(label_weight=-0.1), dict(landmark_weight=100.1)):
        with pytest.raises(SettingsError, match=f"setting {next(iter(changes))} is"):
            Settings(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ('{"colour": 9}', "no setting named colour.$"),
        ('{"refine": "off"}', "no setting named refine. Do you mean refinement"),
        ('{"alignment": "magic"}', "alignment is 'magic'"),
        ('{"refinement": "best"}', "refinement is 'best'"),
        ('{"model": "none", "refinement": "off"}', "nothing to do when refinement is off"),
        ('{"passes": 0}', "passes is 0"),
        ('{"passes": true}', "passes is True"),
        ('{"seed": -1}', "seed is -1"),
        ('{"working_spacing_mm": 0}', "working_spacing_mm is 0"),
        ('{"background": "dark"}', "background is 'dark'"),
        ('{"background": 1%s}' % ("0" * 400), "background is 10"),
        ('{"smoothness": NaN}', "smoothness is nan"),
        ('{"model": ""}', "setting model"),
        ('{"device": "tpu"}', "device is 'tpu'"),
    ],
)
def test_bad_settings_are_told(text, message):
    with pytest.raises(SettingsError, match=message):
        Settings.from_json(text)


def test_progress_names_the_stages_in_order(model):
    seen = []
    register(*pair(), settings=settings(model), progress=lambda stage, fraction: seen.append((stage, fraction)))
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == ["checking", "loading the model", "aligning", "registering", "warping", "measuring"]
    assert all(0 <= fraction <= 1 for _, fraction in seen)


@pytest.mark.parametrize("stage", ["checking", "loading the model", "aligning", "registering", "warping", "measuring"])
@pytest.mark.parametrize("how", ["false", "raise"])
def test_cancelling_works_in_every_stage(stage, how, model):
    def progress(now, fraction):
        if now == stage:
            if how == "raise":
                raise Cancelled
            return False
        return True

    with pytest.raises(Cancelled, match="cancelled"):
        register(*pair(), settings=settings(model), progress=progress)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_missing_device_is_told(device, model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="was found. Choose device 'auto' or 'cpu'"):
        register(*pair(), settings=settings(model, device=device))


def test_too_little_memory_is_told_before_computing(model, monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.device.available_memory", lambda device: 1000)
    with pytest.raises(DeviceError, match="Set a coarser working spacing, or crop"):
        register(*pair(), settings=settings(model))


def test_gpu_out_of_memory_falls_back_to_the_cpu_and_says_so(model, monkeypatch):
    gpu = load_model(model)
    gpu.device = "gpu"
    run = run_network

    def limited(network, *arguments):
        if network.device != "cpu":
            raise torch.OutOfMemoryError("out of memory")
        return run(network, *arguments)

    for user in ("register", "working"):
        monkeypatch.setattr(f"VoxelMorphRegistrationLib.registration.{user}.choose_device", lambda name: "gpu")
    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.device.available_memory", lambda device: None)
    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.passes.run_network", limited)
    report = register(*pair(), gpu, settings(model)).report
    assert report.device == "cpu"
    assert any("the network ran on the CPU" in text for text in report.warnings)


def test_same_input_gives_the_same_answer(tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", dimension=2)
    images = [ball(make_grid((30, 34, 1)), center) for center in (np.zeros(3), SHIFT * [1, 1, 0])]
    first, second = (register(*images, settings=settings(path, alignment="rigid")) for _ in range(2))
    np.testing.assert_array_equal(first.field.displacement_ras, second.field.displacement_ras)
    np.testing.assert_array_equal(first.linear, second.linear)


def test_result_that_did_not_improve_is_warned_about(tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", part=0.0)
    report = register(*pair("plain", "plain"), settings=settings(path)).report
    assert any("no more similar after" in text for text in report.warnings)


def test_report_tells_volume_change_coverage_and_the_worst_places(model):
    fixed, moving = pair("plain", "plain")
    labels = ball_labels(fixed), ball_labels(moving)
    initial = np.diag([1.1, 1.0, 1.0, 1.0])
    landmarks = np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]])
    moved = landmarks + SHIFT + [[0, 0, 0], [0, 0, 5], [1, 0, 0]]
    report = register(
        fixed,
        moving,
        settings=settings(model),
        fixed_labels=labels[0],
        moving_labels=labels[1],
        fixed_points=landmarks,
        moving_points=moved,
        initial_transform=initial,
    ).report
    # The deformation is a shift: all change of volume is that of the linear part.
    assert report.volume_change_percent == {1: pytest.approx(10.0, abs=0.1)}
    # Of the deformation, which comes before the linear part.
    length = pytest.approx(np.linalg.norm(SHIFT / [1.1, 1.0, 1.0]), abs=0.1)
    assert report.displacement_mm == {1: {"mean": length, "p95": length}}
    assert report.covered_percent == 100.0
    assert report.worst_ras["landmark"] == [2, 0, 0]
    inside = measured_region(fixed, None)
    k, j, i = np.rint(fixed.grid.to_ijk(np.array(report.worst_ras["determinant"])))[::-1].astype(int)
    assert inside[k, j, i]


def test_fixed_anatomy_outside_the_moving_image_is_warned_about(model):
    fixed, moving = pair("plain", "plain")
    # A moving image that shows a slab of the ball only.
    start = np.rint(moving.grid.to_ijk(SHIFT + [-2.0, -40, -40])).astype(int).clip(0)
    stop = np.rint(moving.grid.to_ijk(SHIFT + [3.0, 40, 40])).astype(int).clip(0, moving.grid.size)
    part = moving.grid.cropped(start, stop - start)
    box = tuple(slice(a, b) for a, b in zip(start[::-1], stop[::-1], strict=True))
    report = register(fixed, Image(moving.array[box], part, "slab"), settings=settings(model)).report
    assert 0 < report.covered_percent < SMALLEST_COVERAGE
    assert any(f"Only {report.covered_percent:.0f} % of the fixed anatomy" in text for text in report.warnings)


def test_landmarks_that_got_worse_are_warned_about(model):
    fixed, moving = pair("plain", "plain")
    points = np.zeros((1, 3))
    report = register(fixed, moving, settings=settings(model), fixed_points=points, moving_points=points - SHIFT).report
    assert any("landmarks are further apart than before" in text for text in report.warnings)


def test_inverse_is_made_where_asked_for(model):
    fixed, moving = pair("oblique", "anisotropic")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((5, 0, 10)) * 1.1
    result = register(fixed, moving, settings=settings(model), initial_transform=matrix, inverse=True)
    points = moving.grid.to_ras(np.array([[0, 0, 0], moving.grid.size - 1, [10, 12, 5]]))
    # All is linear here, so that the inverse is exact between its voxels, too.
    np.testing.assert_allclose(result.transform_points(result.inverse.transform_points(points)), points, atol=5e-3)
    assert result.inverse.grid.contains(moving.grid.corners()).all()
    assert result.report.inverse["max_mm"] < 5e-3
    assert register(fixed, moving, settings=settings(model)).inverse is None


@pytest.mark.parametrize("flat", ["k", "j", "i"])
def test_inverse_of_a_slice_is_a_slice_of_three_layers(flat, tmp_path):
    size = {"k": (30, 34, 1), "j": (30, 1, 34), "i": (1, 30, 34)}[flat]
    change = np.where(np.array(size) == 1, 0.0, SHIFT)
    path = save_centroid_model(tmp_path / "m.pt", dimension=2)
    result = register(ball(make_grid(size)), ball(make_grid(size), change), settings=settings(path), inverse=True)
    assert sorted(result.inverse.grid.shape)[0] == 3
    np.testing.assert_allclose(result.inverse.at(change[None])[0], -change, atol=0.15)


def test_field_without_an_inverse_is_warned_about(model, monkeypatch):
    fixed, moving = pair("plain", "plain")
    # Folded in some of the voxels: each that has no inverse is tried to the end.
    here = np.linalg.norm(fixed.grid.positions(), axis=-1, keepdims=True) < 8
    folded = DisplacementField(15.0 * np.sin(fixed.grid.positions() / 4) * here, fixed.grid)
    monkeypatch.setattr(
        "VoxelMorphRegistrationLib.registration.register.deform", lambda *_: (folded, load_model(model), 0, 1)
    )
    monkeypatch.setattr(guard.Checks, "network", lambda self, pair, field, start=None: field)
    result = register(fixed, moving, settings=settings(model), inverse=True)
    assert result.inverse is None and result.report.inverse is None
    assert any("There is no inverse transform. The displacement field cannot" in w for w in result.report.warnings)


@pytest.mark.parametrize("asked", ["float32", "auto"])
def test_network_moved_to_the_cpu_keeps_the_precision_asked_for(asked, model, monkeypatch):
    loaded = []
    load = load_model

    def noted(path, device="cpu", precision="float32", **_):
        loaded.append((device, precision))
        return load(path, "cpu", precision)

    for user in ("device", "working"):
        monkeypatch.setattr(f"VoxelMorphRegistrationLib.registration.{user}.load_model", noted)
    for user in ("register", "working"):
        monkeypatch.setattr(f"VoxelMorphRegistrationLib.registration.{user}.choose_device", lambda name: "gpu")
    network = load(model)
    network.device = "gpu"
    monkeypatch.setattr(
        "VoxelMorphRegistrationLib.registration.device.available_memory", lambda device: 0 if device == "gpu" else None
    )
    register(*pair(), network, settings(model, precision=asked))
    assert loaded == [("cpu", asked)]


def test_grids_are_values_not_places():
    grid = make_grid((4, 5, 6))
    assert Grid(grid.shape, grid.ijk_to_ras).same_as(grid)
