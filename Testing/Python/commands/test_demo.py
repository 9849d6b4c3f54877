"""The demo's known answer: it is exact, it can be inverted, and the error measured against it is a real one."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from grids import make_grid
from VoxelMorphRegistrationLib.commands import demo_case as demo
from VoxelMorphRegistrationLib.errors import InputError, OutputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import save_model
from VoxelMorphRegistrationLib.networks.unet import UNet
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.results import outputs

GRID = make_grid((50, 58, 48), (3.5, 3.5, 3.5), center=(2.0, -15.0, 10.0))


@pytest.fixture(scope="module")
def template():
    """A textured ellipsoid of a brain's size, 0 outside."""
    place = GRID.positions() - GRID.center_ras
    inside = np.linalg.norm(place / [68, 84, 64], axis=-1) < 1
    texture = 0.6 + 0.2 * np.sin(place[..., 0] / 9) + 0.15 * np.cos(place[..., 1] / 8 + place[..., 2] / 11)
    return Image(np.where(inside, texture, 0).astype(np.float32), GRID, "template")


@pytest.fixture(scope="module")
def truth():
    return demo.make_truth(GRID)


@pytest.fixture(scope="module")
def points(template):
    return demo.sample_points(template, 3000)


def a_registration(linear, field):
    """A result that holds only what the error is measured from."""
    report = Report({}, {}, 0.0, linear.tolist())
    return Registration(field, linear, None, None, report)


def test_known_deformation_and_its_inverse_agree(truth, points):
    moving = truth.to_moving(points)
    # The tolerance is 1e-3 mm in moving space; the linear part stretches by less than two.
    assert np.abs(truth.to_fixed(moving) - points).max() < 2e-3
    assert np.abs(truth.to_moving(truth.to_fixed(points)) - points).max() < 2e-3


def test_known_deformation_is_large_smooth_and_one_to_one(truth):
    size = np.linalg.norm(truth.displacement.displacement_ras, axis=-1)
    assert size.max() == pytest.approx(demo.LARGEST_MM, rel=1e-3)
    assert truth.displacement.jacobian_determinant().array.min() > 0
    assert truth.lipschitz < 1
    low, high = truth.displacement.grid.corners().min(0), truth.displacement.grid.corners().max(0)
    random = np.random.default_rng(0)
    a = random.uniform(low, high, (5000, 3))
    b = a + random.normal(scale=2.0, size=a.shape)
    steepness = np.linalg.norm(truth.displacement.at(a) - truth.displacement.at(b), axis=1)
    assert (steepness <= truth.lipschitz * np.linalg.norm(a - b, axis=1) + 1e-5).all()


def test_too_large_a_deformation_is_lowered_until_it_is_one_to_one():
    strong = demo.make_truth(GRID, largest_mm=200.0)
    assert strong.lipschitz == pytest.approx(0.8)
    assert strong.displacement.jacobian_determinant().array.min() > 0


def test_same_seed_gives_the_same_pair(template, truth):
    again = demo.make_truth(GRID)
    np.testing.assert_array_equal(again.linear, truth.linear)
    np.testing.assert_array_equal(again.displacement.displacement_ras, truth.displacement.displacement_ras)
    first, second = (demo.make_moving(template, truth) for _ in range(2))
    np.testing.assert_array_equal(first.array, second.array)


def test_moving_image_shows_the_template_where_the_truth_says(template, truth, points):
    moving = demo.make_moving(template, truth)
    places = truth.to_moving(points)
    assert moving.grid.contains(places).all()
    ijk = np.rint(moving.grid.to_ijk(places)).astype(int)
    shown = moving.array[ijk[:, 2], ijk[:, 1], ijk[:, 0]].astype(float)
    fixed_ijk = np.rint(GRID.to_ijk(points)).astype(int)
    expected = template.array[fixed_ijk[:, 2], fixed_ijk[:, 1], fixed_ijk[:, 0]]
    # Gamma, bias field, noise and nearest voxels are between them; 6 mm aside the texture is another one.
    assert np.corrcoef(shown, expected)[0, 1] > 0.85
    assert np.corrcoef(shown, np.roll(expected, 7))[0, 1] < 0.5


def test_moving_grid_is_oblique_left_handed_and_anisotropic(template, truth):
    grid = demo.make_moving(template, truth).grid
    assert np.linalg.det(grid.directions) < 0
    assert np.abs(grid.directions).max() < 0.999
    assert np.ptp(grid.spacing) > 0.2 * grid.spacing.min()


def test_oracle_has_no_error(truth, points):
    """The field of the truth itself; what remains is its linear interpolation on a 4 mm grid, h^2 / 8 of the second
    derivative: at most 0.3 mm for 8 mm waves of 45 mm length.
    """
    grid = make_grid((52, 62, 50), (4.0, 4.0, 4.0), center=GRID.center_ras)
    positions = grid.positions().reshape(-1, 3)
    # T(x) = A (x + u(x)) with A the inverse of L.
    bent = truth.to_moving(positions) @ truth.linear[:3, :3].T + truth.linear[:3, 3]
    field = DisplacementField((bent - positions).reshape(*grid.shape, 3), grid)
    errors = demo.measure_errors(a_registration(np.linalg.inv(truth.linear), field), truth, points)
    assert errors["after"].mean() < 0.06
    assert errors["after"].max() < 0.3
    assert errors["aligned"].mean() > 1.0
    assert errors["before"].mean() > errors["aligned"].mean()


def test_identity_has_the_known_displacement_as_its_error(truth, points):
    errors = demo.measure_errors(a_registration(np.eye(4), DisplacementField.identity(GRID)), truth, points)
    known = np.linalg.norm(truth.to_moving(points) - points, axis=1)
    for stage in ("before", "aligned", "after"):
        np.testing.assert_allclose(errors[stage], known, atol=1e-6)


def test_error_is_measured_in_the_brain_only(template):
    points = demo.sample_points(template, 500)
    ijk = np.rint(GRID.to_ijk(points)).astype(int)
    assert (template.array[ijk[:, 2], ijk[:, 1], ijk[:, 0]] > 0).all()
    assert len(np.unique(ijk, axis=0)) == 500


def test_missing_nilearn_is_told_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(InputError, match="pip install"):
        demo.load_template()


# --- the whole demo, with a network that does nothing ---------------------------------------------------------------


@pytest.fixture(scope="module")
def still_model(tmp_path_factory):
    """A model file whose network returns no displacement."""
    network = UNet(3, [4, 4], [4, 4, 4])
    torch.nn.init.zeros_(network.flow.weight)
    path = tmp_path_factory.mktemp("model") / "still.pt"
    save_model(network, ModelCard("still", target_voxels=20_000, stride=4, output_scale=2.0), path)
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, template, still_model):
    folder = tmp_path_factory.mktemp("demo") / "output"
    stages = []
    result = demo.run(
        folder,
        model=still_model,
        settings=Settings(alignment="centers", refinement="off"),
        template=template,
        progress=lambda stage, fraction: stages.append(stage),
    )
    return result, folder, stages


def test_demo_writes_its_images_and_all_results(finished, template):
    result, folder, stages = finished
    assert {p.name for p in folder.iterdir()} == {demo.FIXED, demo.MOVING, *outputs.output_names(False)}
    fixed, moving = (read_image(folder / name) for name in (demo.FIXED, demo.MOVING))
    assert fixed.grid.same_as(template.grid)
    # What was written is the pair that was registered: warped again, the moving image is the warped one.
    again = warp_image(moving, fixed.grid, result.registration.field, result.registration.linear)
    assert np.abs(again.array - result.registration.warped.array).max() < 1
    assert stages[0] == "making the images"
    assert stages[-1] == "writing"


def test_demo_reports_no_gain_for_a_network_that_does_nothing(finished):
    result, folder, _ = finished
    np.testing.assert_allclose(result.errors_mm["after"], result.errors_mm["aligned"], atol=1e-4)
    text = str(result)
    rows = {line.split("  ")[1].strip(): line.split() for line in text.splitlines() if line.startswith("  ")}
    assert rows["after centers"][-5:] == rows["after the network"][-5:]
    assert f"{result.errors_mm['before'].mean():.2f}" in rows["before"]
    assert str(folder / outputs.OVERVIEW) in text
    assert "on cpu" in text


def test_demo_does_not_replace_files_unasked(finished, template, still_model):
    _, folder, _ = finished
    with pytest.raises(OutputError, match="already holds"):
        demo.run(folder, model=still_model, template=template)


def test_demo_does_not_replace_images_unasked(tmp_path, template, still_model):
    (tmp_path / demo.MOVING).write_bytes(b"mine")
    with pytest.raises(OutputError, match=demo.MOVING):
        demo.run(tmp_path, model=still_model, template=template)
    assert (tmp_path / demo.MOVING).read_bytes() == b"mine"


def test_demo_table_says_what_stays_wrong(finished):
    result, folder, _ = finished
    report = replace(result.registration.report, warnings=["The deformation folds."])
    text = str(replace(result, registration=replace(result.registration, report=report)))
    assert "Warning: The deformation folds." in text
