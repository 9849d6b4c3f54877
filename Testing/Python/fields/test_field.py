import numpy as np
import pytest
import SimpleITK as sitk
import torch

from grids import KINDS, make_grid, rotation, smooth_displacement, smooth_function, smooth_image
from VoxelMorphRegistrationLib.errors import FieldError, InputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import read_field, write_field
from VoxelMorphRegistrationLib.fields.inverse import INVERSE_TOLERANCE
from VoxelMorphRegistrationLib.fields.jacobian import voxel_determinant
from VoxelMorphRegistrationLib.fields.velocity import integrate_velocity
from VoxelMorphRegistrationLib.fields.warp import warp_image, warp_labels
from VoxelMorphRegistrationLib.images.files import set_sitk_geometry, to_sitk
from VoxelMorphRegistrationLib.images.grid import reoriented
from VoxelMorphRegistrationLib.images.image import Image

ODD = "oblique, anisotropic, left-handed"


def known_field(kind=ODD, scale=1.0) -> DisplacementField:
    grid = make_grid(**KINDS[kind])
    return DisplacementField(scale * smooth_displacement(grid.positions()).astype(np.float32), grid)


def linear_field(grid, matrix) -> DisplacementField:
    positions = grid.positions()
    return DisplacementField((positions @ (matrix - np.eye(3)).T).astype(np.float32), grid)


@pytest.mark.parametrize("kind", KINDS)
def test_network_voxels_and_millimetres_convert_both_ways(kind):
    field = known_field(kind)
    back = DisplacementField.from_voxels(field.to_voxels(), field.grid)
    np.testing.assert_allclose(back.displacement_ras, field.displacement_ras, atol=1e-5)


def test_channel_c_of_a_network_flow_moves_along_array_axis_c():
    grid = make_grid((6, 7, 8), (1, 2, 3), (0, 0, 90))
    flow = np.zeros((3, *grid.shape), np.float32)
    flow[0] = 1.0
    moved = DisplacementField.from_voxels(flow, grid).transform_points(grid.to_ras([[2, 3, 4]]))
    np.testing.assert_allclose(moved, grid.to_ras([[2, 3, 5]]), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_values_at_grid_points_are_exact(kind):
    field = known_field(kind)
    points = field.grid.to_ras([[1, 2, 3], [10, 8, 7]])
    np.testing.assert_allclose(field.at(points), smooth_displacement(points), atol=1e-5)


def test_border_value_repeats_outside():
    field = known_field()
    far = field.grid.to_ras([[-50, 4, 5]])
    np.testing.assert_allclose(field.at(far), field.displacement_ras[5, 4, 0][None], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_on_another_grid_agrees_with_sampling_at_points(kind):
    field = known_field()
    other = make_grid(**KINDS[kind])
    sampled = field.on_grid(other).displacement_ras.reshape(-1, 3)
    np.testing.assert_allclose(sampled, field.at(other.positions().reshape(-1, 3)), atol=1e-3)


@pytest.mark.parametrize("reference", KINDS)
@pytest.mark.parametrize("moving", KINDS)
def test_warped_image_shows_the_moving_image_at_the_moved_positions(reference, moving):
    field = known_field()
    image = smooth_image(make_grid(**KINDS[moving]))
    grid = make_grid(**KINDS[reference])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((4, -6, 3)) * 1.04
    matrix[:3, 3] = (1, 2, -1)
    warped = warp_image(image, grid, field, matrix, background=np.nan).array
    positions = field.transform_points(grid.positions().reshape(-1, 3)) @ matrix[:3, :3].T + matrix[:3, 3]
    ijk = image.grid.to_ijk(positions)
    inner = np.all((ijk > 0.01) & (ijk < image.grid.size - 1.01), axis=1)
    assert inner.sum() > 1000
    error = np.abs(warped.ravel() - smooth_function(positions))[inner]
    assert error.max() < sum(160 / 36 * h**2 / 8 for h in image.grid.spacing)


def test_warped_image_equals_simpleitk_under_the_same_field():
    field = known_field()
    image = smooth_image(make_grid(**KINDS["oblique"]))
    reference = make_grid((20, 22, 24), (0.8, 0.8, 0.8), (5, 5, 5), center=(4, -6, 2))
    vectors = sitk.GetImageFromArray(field.displacement_ras.astype(float) * [-1, -1, 1], isVector=True)
    set_sitk_geometry(vectors, field.grid)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(to_sitk(image), to_sitk(smooth_image(reference)), sitk.DisplacementFieldTransform(vectors))
    )
    warped = warp_image(image, reference, field, background=0.0).array
    inside = (expected != 0) & (warped != 0)
    assert inside.mean() > 0.9
    assert np.abs(warped - expected)[inside].max() < 1e-3 * np.ptp(image.array)


def test_outside_takes_the_background():
    image = smooth_image(make_grid((10, 10, 10)))
    far = make_grid((4, 4, 4), center=(100, 0, 0))
    assert (warp_image(image, far, background=-7).array == -7).all()
    assert (warp_image(image, far).array == image.array.min()).all()


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_labels_move_with_the_field_and_no_label_is_invented(mode):
    grid = make_grid((40, 40, 40))
    ras = grid.positions()
    labels = np.where(np.linalg.norm(ras, axis=-1) < 14, 300, 0)
    labels[(labels > 0) & (ras[..., 0] > 0)] = 7
    shift = np.zeros((*grid.shape, 3), np.float32)
    shift[..., 0] = 3.0
    warped = warp_labels(Image(labels, grid), grid, DisplacementField(shift, grid), mode=mode)
    assert set(np.unique(warped.array)) == {0, 7, 300}
    assert warped.array.dtype == labels.dtype
    np.testing.assert_array_equal(warped.array[..., :-3], labels[..., 3:])


def test_label_aware_linear_matches_the_one_hot_definition():
    rng = np.random.default_rng(3)
    source = make_grid((9, 8, 7))
    labels = rng.integers(0, 4, source.shape)
    target = make_grid((14, 13, 12), (0.5, 0.5, 0.5), (10, 20, 5))
    result = warp_labels(Image(labels, source), target, mode="linear").array
    votes = np.stack(
        [warp_image(Image((labels == n).astype(np.float32), source), target, background=0).array for n in range(4)]
    )
    inside = source.contains(target.positions())
    chosen = np.take_along_axis(votes, result[None].astype(int), 0)[0]
    assert (votes.max(0) - chosen)[inside].max() < 1e-4


def test_linear_labels_keep_a_smooth_boundary_better_than_nearest():
    coarse = make_grid((20, 20, 20), (2, 2, 2))
    fine = make_grid((40, 40, 40))

    def ball(grid):
        return (np.linalg.norm(grid.positions(), axis=-1) < 12).astype(np.uint8)

    wrong = {
        mode: np.count_nonzero(warp_labels(Image(ball(coarse), coarse), fine, mode=mode).array != ball(fine))
        for mode in ("nearest", "linear")
    }
    assert wrong["linear"] < wrong["nearest"]


def test_composition_applies_the_other_field_first():
    first, second = known_field("plain"), known_field("oblique", 0.5)
    points = np.random.default_rng(0).uniform(-8, 8, (100, 3))
    expected = first.transform_points(second.transform_points(points))
    # Both fields are linear between voxels; their composition is not, by less than h^2/8 times its curvature.
    assert np.abs(first.compose(second).transform_points(points) - expected).max() < 0.02


def test_linear_part_folded_into_a_field():
    field = known_field()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((10, 5, -20)) @ np.diag([1.1, 0.9, 1.05])
    matrix[:3, 3] = (4, -2, 7)
    points = field.grid.to_ras([[3, 3, 3], [20, 15, 10]])
    expected = field.transform_points(points) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(field.then_linear(matrix).transform_points(points), expected, atol=1e-4)


def test_padding_repeats_the_border_and_moves_nothing():
    field = known_field()
    padded = field.padded(2)
    points = field.grid.corners() * 1.02
    np.testing.assert_allclose(padded.at(points), field.at(points), atol=1e-5)
    assert padded.grid.contains(field.grid.corners()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_brings_points_back(kind):
    field = known_field(kind)
    inverse = field.inverse()
    middle = field.grid.to_ras((field.grid.size - 1) * np.random.default_rng(1).uniform(0.25, 0.75, (200, 3)))
    back = field.transform_points(inverse.transform_points(middle))
    # The inverse is exact at its grid points, and linear between them.
    assert np.abs(back - middle).max() < 0.05


@pytest.mark.parametrize("slope", [-0.95, -0.5, 0.9, 3.0])
def test_inverse_of_steep_fields_is_exact(slope):
    # T is a stretch along x by 1 + slope, and its inverse known; the fixed point alone would diverge or creep.
    grid = make_grid((30, 20, 18), (1.0, 1.5, 2.0), (20, -10, 30), left_handed=True)
    field = linear_field(grid, np.diag([1 + slope, 1, 1]))
    target = make_grid((9, 9, 9), (1 + slope, 1, 1))
    back = target.positions() + field.inverse(target).displacement_ras
    # The residual is bounded, and T^-1 stretches it by 1 / (1 + slope).
    allowed = INVERSE_TOLERANCE * max(1.0, 1 / (1 + slope)) + 1e-4
    np.testing.assert_allclose(back, target.positions() / [1 + slope, 1, 1], atol=allowed)


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_with_a_linear_part_undoes_both_at_its_voxels(kind):
    field = known_field(kind)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((10, 5, -20)) @ np.diag([1.1, 0.9, 1.05])
    matrix[:3, 3] = (4, -2, 7)
    grid = make_grid((12, 10, 9), (2, 2, 3), (0, 30, 0), center=(4, -2, 7))
    back = grid.positions().reshape(-1, 3) + field.inverse(grid, matrix).displacement_ras.reshape(-1, 3)
    again = field.transform_points(back) @ matrix[:3, :3].T + matrix[:3, 3]
    # A stretches the error by at most its largest singular value; positions are rounded to float32.
    assert np.abs(again - grid.positions().reshape(-1, 3)).max() < 1.1 * INVERSE_TOLERANCE + 1e-4


def test_inverse_on_a_large_grid_is_as_exact(monkeypatch):
    field, grid = known_field(), make_grid((40, 40, 40), (0.7, 0.7, 0.7), (10, 0, 20))
    whole = field.inverse(grid).displacement_ras
    for user in ("displacement", "folding"):
        monkeypatch.setattr(f"VoxelMorphRegistrationLib.fields.{user}.BLOCK_VOXELS", 1000)
    np.testing.assert_allclose(field.inverse(grid).displacement_ras, whole, atol=5 * INVERSE_TOLERANCE)
    again = field.transform_points((grid.positions() + field.inverse(grid).displacement_ras).reshape(-1, 3))
    assert np.abs(again - grid.positions().reshape(-1, 3)).max() < INVERSE_TOLERANCE + 1e-4


def test_folded_field_has_no_inverse():
    grid = make_grid((30, 12, 12))
    ras = grid.positions()
    u = np.zeros((*grid.shape, 3), np.float32)
    u[..., 0] = -8 * np.sin(ras[..., 0] / 2)
    with pytest.raises(FieldError, match="cannot be inverted"):
        DisplacementField(u, grid).inverse()


@pytest.mark.parametrize("kind", KINDS)
def test_determinant_of_a_linear_field_is_exact_on_any_grid(kind):
    matrix = rotation((10, -5, 8)) @ np.diag([1.1, 1.1, 1.1])
    field = linear_field(make_grid(**KINDS[kind]), matrix)
    np.testing.assert_allclose(field.jacobian_determinant().array, 1.331, atol=2e-4)
    folding = field.folding()
    assert folding.count == folding.any_corner_count == 0
    assert folding.sd_log < 1e-3


def test_determinant_in_voxels_is_that_of_the_matrix():
    generator = torch.Generator().manual_seed(0)
    matrix = 0.2 * torch.randn((3, 3), generator=generator)
    positions = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (4, 5, 6)], indexing="ij"))
    flow = torch.einsum("ab,b...->a...", matrix, positions)
    expected = torch.linalg.det(torch.eye(3) + matrix).expand(4, 5, 6)
    torch.testing.assert_close(voxel_determinant(flow), expected)


def test_determinant_with_a_linear_part():
    field = linear_field(make_grid(**KINDS[ODD]), 1.1 * np.eye(3))
    scale = np.diag([2.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(field.jacobian_determinant(linear=scale).array, 2.662, atol=1e-3)


def test_determinant_follows_the_analytic_derivative():
    grid = make_grid((60, 60, 60), (0.5, 0.5, 0.5), (15, 25, -10), left_handed=True)
    field = DisplacementField(smooth_displacement(grid.positions()).astype(np.float32), grid)
    ras, h = grid.positions(), 1e-5
    columns = [
        (smooth_displacement(ras + h * axis) - smooth_displacement(ras - h * axis)) / (2 * h) for axis in np.eye(3)
    ]
    expected = np.linalg.det(np.eye(3) + np.stack(columns, -1))
    inner = (slice(1, -1),) * 3
    # Central differences err by h^2/6 times the third derivative (2 / 10^3 at most) a component.
    assert np.abs(field.jacobian_determinant().array - expected)[inner].max() < 2e-3


def test_folds_are_counted_and_the_corner_count_is_stricter():
    grid = make_grid((20, 20, 20))
    u = np.zeros((*grid.shape, 3), np.float32)
    # Alternating by 1.2 along i: central differences cancel; on one side or the other, 1 - 1.2 < 0 but at the ends.
    u[..., 0] = 1.2 * (np.arange(20) % 2)
    folding = DisplacementField(u, grid).folding()
    assert folding.count == 0
    assert folding.any_corner_count == grid.voxel_count * 18 / 20
    u[..., 0] = -2.0 * np.arange(20)
    assert DisplacementField(u, grid).folding().percent == 100.0


def test_folds_are_counted_inside_the_mask_only():
    grid = make_grid((20, 20, 20))
    u = np.zeros((*grid.shape, 3), np.float32)
    u[:, :, 10:, 0] = -2.0 * np.arange(10)
    mask = np.zeros(grid.shape, bool)
    mask[:, :, :5] = True
    folding = DisplacementField(u, grid).folding(mask)
    assert (folding.voxels, folding.count, folding.any_corner_count) == (2000, 0, 0)


def test_determinant_on_large_grids_does_not_depend_on_the_slabs(monkeypatch):
    field = known_field("plain")
    whole, folds = field.jacobian_determinant().array, field.folding()
    for user in ("displacement", "folding"):
        monkeypatch.setattr(f"VoxelMorphRegistrationLib.fields.{user}.BLOCK_VOXELS", 3000)
    np.testing.assert_array_equal(field.jacobian_determinant().array, whole)
    assert field.folding() == folds


def test_integrated_constant_velocity_is_a_shift_up_to_the_border():
    grid = make_grid(**KINDS[ODD])
    velocity = DisplacementField(np.full((*grid.shape, 3), 2.5, np.float32), grid)
    # With the border replicated, and not zero, nothing but the shift can come out.
    np.testing.assert_allclose(integrate_velocity(velocity).displacement_ras, 2.5, atol=1e-4)


def test_integrated_linear_velocity_is_the_matrix_exponential():
    grid = make_grid((41, 41, 41))
    rate = 0.1
    velocity = DisplacementField((rate * grid.positions()).astype(np.float32), grid)
    points = np.random.default_rng(0).uniform(-10, 10, (50, 3))
    moved = integrate_velocity(velocity, 8).transform_points(points)
    # Scaling and squaring starts with an Euler step of v / 2^8: relative error rate^2 / 2^9.
    np.testing.assert_allclose(moved, points * np.exp(rate), atol=17.4 * rate**2 / 2**9 + 1e-3)


def test_backward_integration_is_the_inverse():
    velocity = known_field("plain")
    forward = integrate_velocity(velocity)
    backward = integrate_velocity(velocity, backward=True)
    points = np.random.default_rng(0).uniform(-10, 10, (100, 3))
    assert np.abs(backward.transform_points(forward.transform_points(points)) - points).max() < 0.05


@pytest.mark.parametrize("suffix", [".h5", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", KINDS)
def test_written_fields_read_back_the_same(kind, suffix, tmp_path, readers_here):
    field = known_field(kind)
    write_field(field, tmp_path / f"u{suffix}")
    back = read_field(tmp_path / f"u{suffix}")
    assert back.grid.same_as(field.grid, 1e-3)
    np.testing.assert_allclose(back.displacement_ras, field.displacement_ras, atol=1e-6)


def test_simpleitk_moves_points_alike_by_the_written_transform(tmp_path):
    field = known_field()
    write_field(field, tmp_path / "u.h5")
    transform = sitk.ReadTransform(str(tmp_path / "u.h5"))
    for point in field.grid.to_ras([[3.3, 5.1, 7.7], [20, 12.5, 9]]):
        moved = np.array(transform.TransformPoint((point * [-1, -1, 1]).tolist())) * [-1, -1, 1]
        np.testing.assert_allclose(moved, field.transform_points(point[None])[0], atol=1e-4)


def test_nifti_field_carries_the_displacement_intent(tmp_path):
    import nibabel

    write_field(known_field(), tmp_path / "u.nii.gz")
    image = nibabel.load(tmp_path / "u.nii.gz")
    assert image.header["intent_code"] == 1006
    assert image.shape[3:] == (1, 3)
    on_disk = image.get_fdata()[3, 5, 7, 0]
    np.testing.assert_allclose(on_disk, known_field().displacement_ras[7, 5, 3], atol=1e-6)


def test_file_without_a_field_is_refused(tmp_path):
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkUInt8), str(tmp_path / "a.nii"))
    with pytest.raises(InputError, match="holds no 3D displacement field"):
        read_field(tmp_path / "a.nii")
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "a.h5"))
    with pytest.raises(InputError, match="displacement field"):
        read_field(tmp_path / "a.h5")


def test_field_with_nan_is_refused():
    grid = make_grid((4, 4, 4))
    with pytest.raises(FieldError, match="not finite"):
        DisplacementField(np.full((4, 4, 4, 3), np.nan), grid)


@pytest.mark.parametrize(("start", "size"), [((2, 1, 3), (5, 6, 4)), ((-3, 2, -1), (40, 9, 50))])
def test_a_field_on_the_same_voxels_is_cut_and_its_border_goes_on(start, size, monkeypatch):
    field = known_field()
    grid = field.grid.cropped(start, size)
    found = field.on_grid(grid).displacement_ras
    np.testing.assert_allclose(found.reshape(-1, 3), field.at(grid.positions().reshape(-1, 3)), atol=1e-4)
    monkeypatch.setattr(DisplacementField, "_shifted", lambda *_: None)
    np.testing.assert_allclose(found, field.on_grid(grid).displacement_ras, atol=1e-4)


def test_a_field_on_voxels_that_lie_otherwise_is_interpolated():
    field = known_field()
    turned = field.grid.transformed(np.diag([1.02, 1.0, 1.0, 1.0]))
    found = field.on_grid(turned).displacement_ras.reshape(-1, 3)
    np.testing.assert_allclose(found, field.at(turned.positions().reshape(-1, 3)), atol=1e-3)


@pytest.mark.parametrize("order", ["ARS", "SAR"])
def test_a_field_on_a_cube_whose_axes_change_places_is_read_along_them(order):
    grid = make_grid((9, 9, 9))
    rng = np.random.default_rng(5)
    field = DisplacementField(rng.normal(size=(9, 9, 9, 3)).astype(np.float32), grid)
    turned = reoriented(grid, order)
    found = field.on_grid(turned).displacement_ras.reshape(-1, 3)
    np.testing.assert_allclose(found, field.at(turned.positions().reshape(-1, 3)), atol=1e-4)
