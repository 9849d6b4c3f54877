"""Values and voxels of any size: the same result, or a sentence."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from grids import blobs, make_grid, smooth_displacement
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.folding import change_of_pieces
from VoxelMorphRegistrationLib.images.grid import LARGEST_SHEAR, Grid, check_right_angles
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.sampling import gaussian_smooth
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.registration import evaluation
from VoxelMorphRegistrationLib.registration.inputs import usable_image
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.registration.working import network_grid

GRID = make_grid((32, 32, 32), (2, 2, 2))
REFINED = Settings(model="none", refinement="fast", alignment="none", device="cpu", similarity="mse")


def shifted(grid: Grid, mm: float) -> Grid:
    """The grid that shows an image `mm` further along x."""
    matrix = grid.ijk_to_ras.copy()
    matrix[0, 3] += mm
    return Grid(grid.shape, matrix)


@cache
def refined(scale: float = 1.0, factor: float = 1.0, origin: float = 0.0):
    """A shift by 3 mm found without a network, on voxels of `scale` times 2 mm, `origin` mm away along every axis."""
    fixed = blobs(GRID)
    move = np.diag([scale, scale, scale, 1.0])
    move[:3, 3] = origin

    def placed(grid: Grid) -> Image:
        return Image(fixed.array * np.float32(factor), grid.transformed(move), "image")

    return register(placed(GRID), placed(shifted(GRID, 3.0)), settings=REFINED), move


@pytest.mark.parametrize(
    ("scale", "factor", "origin"),
    [(1e-3, 1.0, 0.0), (5.0, 1.0, 0.0), (1.0, 1e-18, 0.0), (1.0, 1e20, 0.0), (1.0, 1.0, 1e7)],
)
def test_size_of_voxels_and_values_and_the_place_in_space_change_nothing(scale, factor, origin):
    (plain, _), (other, move) = refined(), refined(scale, factor, origin)
    points = GRID.to_ras(np.random.default_rng(0).uniform(9, 22, (50, 3)))
    moved = other.transform_points(points @ move[:3, :3].T + move[:3, 3])
    back = (moved - move[:3, 3]) / scale
    np.testing.assert_allclose(back, plain.transform_points(points), atol=0.01)
    assert np.linalg.norm(plain.transform_points(points) - points - [3, 0, 0], axis=1).mean() < 1.0


def test_field_far_from_the_origin_keeps_a_hundredth_of_a_millimetre():
    place = np.full(3, 1e7)
    near, far = (
        make_grid((24, 24, 24), (2, 2, 2), (10, 5, 0)),
        make_grid((24, 24, 24), (2, 2, 2), (10, 5, 0), center=place),
    )
    u = smooth_displacement(near.positions()).astype(np.float32)
    linear = np.eye(4)
    linear[:3, :3] = make_grid((2, 2, 2), degrees=(3, -4, 5)).directions
    there = linear.copy()
    there[:3, 3] = place - linear[:3, :3] @ place
    a, b = DisplacementField(u, near).then_linear(linear), DisplacementField(u, far).then_linear(there)
    np.testing.assert_allclose(b.displacement_ras, a.displacement_ras, atol=0.01)
    target = make_grid((20, 20, 20), (2, 2, 2))
    a = DisplacementField(u, near).inverse(target, linear)
    b = DisplacementField(u, far).inverse(
        target.transformed(np.block([[np.eye(3), place[:, None]], [0, 0, 0, 1]])), there
    )
    np.testing.assert_allclose(b.displacement_ras, a.displacement_ras, atol=0.01)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.arange(64, dtype=np.uint64) + np.uint64(2**63), "more digits than single precision has"),
        (np.arange(64) + 1e12, "more digits than single precision has"),
        (np.arange(64) * 1e300, "single precision cannot hold"),
        (np.arange(64) * 1e-40, "single precision cannot hold"),
    ],
)
def test_values_that_float32_cannot_tell_apart_are_refused(array, words):
    image = Image(array.reshape(4, 4, 4), make_grid((4, 4, 4)), "a.nii")
    with pytest.raises(InputError, match=f"moving image .a.nii. .*{words}"):
        usable_image(image, "moving image", [])


def test_outliers_do_not_spoil_the_correlation_shown():
    rng = np.random.default_rng(0)
    fixed = rng.uniform(0, 100, (20, 20, 20))
    moving = fixed + rng.normal(0, 5, fixed.shape)
    everywhere = np.ones(fixed.shape, bool)
    clean = evaluation.similarity(fixed, moving, everywhere)["ncc"]
    # Metal in one image only, in 2 % of the voxels.
    moving[:, :, 0].ravel()[:160] = 3e4
    assert evaluation.similarity(fixed, moving, everywhere)["ncc"] > clean - 0.1
    # Where the moving image is unknown, there is nothing to correlate.
    moving[10:] = np.nan
    assert evaluation.similarity(fixed, moving, everywhere)["ncc"] > clean - 0.1


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_what_is_far_from_most_values_is_so_in_any_unit(unit):
    values = np.append(np.random.default_rng(0).normal(size=1000), [9.0] * 20 + [-8.0] * 20)
    low, high = evaluation._limits(values)
    assert values.min() < low < -3 and 3 < high < values.max()
    assert evaluation._limits(unit * values) == pytest.approx((unit * low, unit * high))


@pytest.mark.parametrize("contrast", [lambda a: a, lambda a: 1 - a, lambda a: np.where(a > 0.5, 0.2, 0.9)])
def test_local_correlation_sees_edges_on_edges_in_any_contrast(contrast):
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=(1, 1, 40, 40, 40)).astype(np.float32))
    tissue = gaussian_smooth(noise, (3.0,) * 3)[0, 0].numpy() > 0
    fixed = tissue + rng.normal(0, 0.02, tissue.shape)
    moving = contrast(tissue.astype(float)) * 1000 - 500 + rng.normal(0, 10, tissue.shape)
    mask = np.zeros(tissue.shape, bool)
    mask[5:35, 5:35, 5:35] = True

    def shown(shift: int) -> float:
        return evaluation.local_correlation(fixed, np.roll(moving, shift, 0), mask)

    assert shown(0) > shown(1) + 0.05 > shown(3) + 0.1
    # Elsewhere, and where the moving image is unknown, nothing is compared.
    hidden = moving.copy()
    hidden[~mask] = 1e4
    hidden[20:25, 20:25] = np.nan
    assert evaluation.local_correlation(fixed, hidden, mask) == pytest.approx(shown(0), abs=0.03)
    assert evaluation.local_correlation(fixed[20:21], moving[20:21], mask[20:21]) > 0.3


def test_shear_has_one_tolerance_and_is_refused_by_name():
    def sheared(part: float) -> Grid:
        matrix = np.eye(4)
        matrix[1, 2] = part
        return Grid((9, 9, 9), matrix)

    for part in (3e-4, 1e-3):
        check_right_angles(sheared(part), "image")
    for part in (2 * LARGEST_SHEAR, 0.25):
        with pytest.raises(InputError, match="The fixed image .a.nrrd. has sheared axes: two of them are .* off"):
            check_right_angles(sheared(part), "fixed image (a.nrrd)")


@pytest.mark.parametrize("spacing", [1e-3, 1.0, 10.0])
def test_grids_are_compared_in_voxels(spacing):
    grid = make_grid((20, 20, 20), (spacing, spacing, 3 * spacing), (10, 20, 0))
    for voxels, same in ((0.01, True), (3.0, False)):
        moved = grid.cropped((0, 0, 0), grid.size).transformed(np.eye(4))
        matrix = moved.ijk_to_ras.copy()
        matrix[:3, 3] += voxels * matrix[:3, 0]
        assert Grid(grid.shape, matrix).same_as(grid, 0.05) == same


def test_model_for_millimetres_refuses_micrometres_in_a_sentence():
    card = ModelCard("brain", spacing_mm=(1.0, 1.0, 1.0), stride=2)
    with pytest.raises(InputError, match="0.12 mm wide, and the model 'brain' works with voxels of 1 mm"):
        network_grid(make_grid((48, 48, 48), (0.0025,) * 3), card, Settings())
    assert network_grid(make_grid((48, 48, 48), (2.0,) * 3), card, Settings()).voxel_count > 48**3


def test_change_of_pieces_sees_what_is_large_and_not_what_is_thin():
    grid = make_grid((48, 48, 48), (2, 2, 2))
    inside = np.ones(grid.shape, bool)
    x = grid.positions()[..., 0] - grid.center_ras[0]

    def stretched(where: np.ndarray) -> tuple[float, float]:
        u = np.zeros((*grid.shape, 3), np.float32)
        # Along x, by 7 in the voxels marked.
        u[..., 0] = np.cumsum(np.where(where, 12.0, 0.0), axis=2)
        return change_of_pieces(DisplacementField(u, grid), inside, grid)

    assert stretched(np.abs(x) < 12)[1] == pytest.approx(7.0, abs=0.01)
    assert stretched(np.abs(x) < 1.5)[1] < 5
    assert stretched(np.zeros(grid.shape, bool)) == pytest.approx((1.0, 1.0))


@pytest.fixture
def warned_always():
    """PyTorch warns of each thing once in a process; here, each time."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_images_and_fields_that_nobody_may_write_to_are_taken_without_a_word(warned_always):
    fixed, moving = blobs(GRID), blobs(shifted(GRID, 3.0))
    start = DisplacementField(np.zeros((*GRID.shape, 3), np.float32), GRID)
    for array in (fixed.array, moving.array, start.displacement_ras):
        array.flags.writeable = False
    settings = REFINED.replace(similarity="auto")
    register(fixed, moving, settings=settings, initial_transform=start)
    register(fixed, moving, settings=settings.replace(alignment="rigid"), inverse=True)
    start.on_grid(GRID.cropped([1, 2, 3], [9, 8, 7]))


def test_images_of_true_and_false_are_registered_as_zeros_and_ones():
    fixed = blobs(GRID)
    bright = fixed.array > 0.3 * fixed.array.max()
    results = [
        register(Image(array, GRID, "image"), Image(array.copy(), shifted(GRID, 3.0), "image"), settings=REFINED)
        for array in (bright, bright.astype(np.uint8))
    ]
    np.testing.assert_array_equal(*(result.field.displacement_ras for result in results))
    np.testing.assert_array_equal(*(result.warped.array for result in results))
