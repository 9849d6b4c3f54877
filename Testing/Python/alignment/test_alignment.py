"""The linear alignment finds known motions of an analytic head and says plainly when it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignment_cases import FIXED_GRID, VOXEL, axial, distance, grid_of, head, motion_of, picture
from VoxelMorphRegistrationLib.alignment.align import align
from VoxelMorphRegistrationLib.alignment.edges import Edges
from VoxelMorphRegistrationLib.alignment.fit import Sitk
from VoxelMorphRegistrationLib.alignment.judging import SMALLEST_EVIDENCE, fault_of
from VoxelMorphRegistrationLib.alignment.motion import rotation_matrices
from VoxelMorphRegistrationLib.alignment.pair import Pair, _Verdict
from VoxelMorphRegistrationLib.errors import Cancelled, InputError, SettingsError
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image

pytestmark = pytest.mark.usefixtures("few_points")


@pytest.fixture(scope="module")
def fixed() -> Image:
    return picture(FIXED_GRID, name="fixed image")


# --- centres and given matrices ---------------------------------------------------------------------------


def test_none_is_the_identity_and_an_initial_matrix_is_the_answer(fixed):
    assert np.array_equal(align(fixed, fixed, "none").matrix, np.eye(4))
    initial = motion_of((0.1, 0, 0.2), (5, -3, 8))
    result = align(fixed, picture(FIXED_GRID, initial), "none", initial=initial)
    assert np.allclose(result.matrix, initial, atol=1e-9)
    assert result.similarity_after == result.similarity_before > 0.5


def test_centers_joins_the_middles_of_the_fields_of_view(fixed):
    far = grid_of((30, 36, 22), (4, 4, 6), (0.3, 0.2, -0.4), (300, -200, 90))
    matrix = align(fixed, picture(far), "centers").matrix
    assert np.allclose(matrix[:3, 3], [300, -200, 90], atol=1e-6)
    assert np.allclose(matrix[:3, :3], np.eye(3))


def test_mass_joins_the_foreground_wherever_the_field_of_view_is(fixed):
    motion = motion_of(shift=(260, 30, -45))
    matrix = align(
        fixed, picture(grid_of((39, 33, 36), (VOXEL, VOXEL, VOXEL), center=(240, 45, -60)), motion), "mass"
    ).matrix
    # A voxel of the reduced copies is 5.3 mm; a foreground of thousands of them is located far better.
    assert distance(matrix, motion) < 0.5


def test_an_initial_matrix_comes_after_what_is_found(fixed):
    quarter = motion_of((0, 0, np.pi / 2))
    motion = motion_of((0, 0, np.pi / 2), (10, 20, -8))
    moving = picture(grid_of((33, 30, 30), (VOXEL, VOXEL, VOXEL), center=(10, 20, -8)), motion)
    assert distance(align(fixed, moving, "centers", initial=quarter).matrix, motion) < 1e-6


# --- rigid and affine -------------------------------------------------------------------------------------


def test_rigid_finds_a_large_motion_on_an_oblique_anisotropic_left_handed_grid(fixed):
    motion = motion_of((0.35, -0.3, 0.45), (70, -40, 50))
    linear = rotation_matrices(np.array([0.2, 0.5, -0.3])) * [-1, 1, 1]
    moving = picture(grid_of((45, 48, 22), (4, 3.75, 8), center=(76, -44, 46), linear=linear), motion)
    result = align(fixed, moving, "rigid")
    assert distance(result.matrix, motion) < 0.5
    assert np.allclose(result.matrix[:3, :3] @ result.matrix[:3, :3].T, np.eye(3), atol=1e-6)
    assert result.similarity_after > result.similarity_before
    assert result.warnings == []


def test_similarity_finds_one_scale_and_keeps_angles(fixed):
    motion = motion_of((0.2, -0.1, 0.15), (15, -10, 20), (1.12, 1.12, 1.12))
    moving = picture(grid_of((45, 45, 45), (4.67, 4.67, 4.67), center=(15, -10, 20)), motion)
    result = align(fixed, moving, "similarity")
    assert distance(result.matrix, motion) < 1.0
    gram = result.matrix[:3, :3] @ result.matrix[:3, :3].T
    assert np.allclose(gram, gram[0, 0] * np.eye(3), atol=1e-6)


def test_affine_finds_scales_under_another_contrast_on_a_sheared_grid(fixed):
    motion = motion_of((0.1, 0.2, -0.15), (12, -9, 14), (1.12, 0.92, 1.05))
    sheared = [[1, 0.25, 0], [0, 1, 0.15], [0.1, 0, 1]]
    moving = picture(grid_of((42, 42, 42), (4.67, 4.67, 4.67), center=(12, -9, 14), linear=sheared), motion)
    # Brighter outside, reversed inside: no brightness of one image has a single meaning in the other.
    moving = moving.with_array(3 * np.minimum(moving.array, 30) - moving.array)
    assert distance(align(fixed, moving, "affine").matrix, motion) < 1.0


def test_fields_of_view_that_overlap_by_half_are_aligned(fixed):
    motion = motion_of((0.1, -0.1, 0.2), (15, 10, -20))
    upper = picture(grid_of((30, 33, 15), (VOXEL, VOXEL, VOXEL), center=(15, 10, 20)), motion)
    assert distance(align(fixed, upper, "rigid").matrix, motion) < 0.7


def test_a_mask_keeps_what_lies_outside_it_from_counting():
    motion = motion_of((0, 0, 0.15), (8, 6, 0))
    clean = axial(name="fixed slice")
    # A bright bar beside the head of the fixed image only.
    spoiled = clean.array.copy()
    spoiled[:, :, :14] = 300
    inside = (clean.grid.positions()[..., 0] > -40).astype(np.uint8)
    result = align(clean.with_array(spoiled), axial(motion), "rigid", fixed_mask=Image(inside, clean.grid, "mask"))
    assert distance(result.matrix, motion) < 0.5


def test_a_rigid_refinement_starts_from_the_initial_matrix(fixed):
    motion = motion_of((0, 0, 2.6), (20, -10, 5))
    near = motion_of((0, 0, 2.5), (15, -8, 8))
    moving = picture(grid_of((33, 33, 33), (VOXEL, VOXEL, VOXEL)), motion)
    assert distance(align(fixed, moving, "rigid", initial=near).matrix, motion) < 0.5


def test_the_result_is_never_worse_than_the_start():
    slice_ = axial()
    result = align(slice_, slice_, "affine")
    assert result.similarity_after >= result.similarity_before
    assert distance(result.matrix, np.eye(4)) < 0.2
    noise = np.random.default_rng(3).normal(size=slice_.array.shape)
    unrelated = align(slice_, slice_.with_array(noise), "affine")
    assert unrelated.similarity_after >= unrelated.similarity_before
    assert np.linalg.svd(unrelated.matrix[:3, :3], compute_uv=False).min() >= 0.5


def test_a_failed_refinement_leaves_the_start_and_says_so(fixed, monkeypatch):
    monkeypatch.setattr(Sitk, "refined", lambda *arguments: np.diag([3.0, 1.0, 1.0, 1.0]))
    result = align(fixed, fixed, "rigid", initial=motion_of(shift=(2, 0, 0)))
    assert np.array_equal(result.matrix, motion_of(shift=(2, 0, 0)))
    assert result.similarity_after == result.similarity_before
    assert any("kept" in warning for warning in result.warnings)
    assert any("scales the image by a factor of 1.00 to 3.00" in warning for warning in result.warnings)


def blobs_elsewhere(grid: Grid, seed: int) -> Image:
    """Soft blobs that have nothing to do with the head."""
    rng = np.random.default_rng(seed)
    positions = grid.positions()
    places = zip(rng.uniform(-60, 60, (25, 3)), rng.uniform(8, 18, 25), rng.uniform(-60, 60, 25), strict=True)
    total = sum(height * np.exp(-(((positions - place) / width) ** 2).sum(-1)) for place, width, height in places)
    return Image(total.astype(np.float32), grid, "moving image")


def test_what_may_be_chance_is_not_used_and_the_safer_start_is_kept(fixed):
    unrelated = blobs_elsewhere(grid_of((30, 30, 27), (VOXEL, VOXEL, VOXEL), center=(30, -20, 10)), 5)
    result = align(fixed, unrelated, "affine")
    safe = (np.eye(4), align(fixed, unrelated, "centers").matrix)
    assert any(np.allclose(result.matrix, start) for start in safe)
    assert len(result.warnings) == 1
    assert "hardly better than by chance" in result.warnings[0]


def test_a_given_start_is_what_is_kept_when_the_result_may_be_chance(fixed):
    given = motion_of((0, 0, 0.1), (12, 4, 0))
    result = align(fixed, blobs_elsewhere(FIXED_GRID, 6), "rigid", initial=given)
    assert np.allclose(result.matrix, given)
    assert "the given start was kept" in result.warnings[-1]


def test_edges_tell_a_right_map_from_displaced_ones_whatever_the_contrast(fixed):
    moving = fixed.with_array(3 * np.minimum(fixed.array, 30) - fixed.array)
    pair = Pair.of(fixed, moving, np.eye(4), None, 0)
    edges = Edges.of(pair, 0)
    assert edges.evidence(np.eye(4)) > SMALLEST_EVIDENCE
    wrong = motion_of((0.5, 0.2, -0.3), (25, -20, 15))
    assert edges.evidence(wrong) < SMALLEST_EVIDENCE
    assert edges.agreement(np.eye(4))[0] > edges.agreement(wrong)[0]


@pytest.mark.parametrize("dimension", [3, 2])
def test_a_map_is_compared_with_copies_of_it_that_are_clearly_elsewhere(fixed, dimension):
    image = fixed if dimension == 3 else axial()
    edges = Edges.of(Pair.of(image, image, np.eye(4), None, 0), 0)
    motions = np.array(edges._displacements())
    center = np.append(edges.points.mean(0), 1.0)
    shifts = ((motions @ center - center)[:, :3] / np.maximum(edges.extent, 1e-9))[:, :dimension]
    lengths = np.linalg.norm(shifts, axis=1)
    assert 0.2 <= lengths.min() < 0.25 and 0.35 < lengths.max() <= 0.4
    degrees = np.degrees(np.arccos((np.trace(motions[:, :3, :3], axis1=1, axis2=2) - 1) / 2))
    assert 20 <= degrees.min() < 23 and 45 < degrees.max() <= 50
    if dimension == 2:
        assert np.allclose(motions[:, 2], [0, 0, 1, 0])


def test_slices_are_compared_alike_whatever_their_thickness():
    thin, thick = (picture(grid_of((56, 60, 1), (3, 3, height))) for height in (0.1, 80.0))
    spacings = [Pair.of(image, image, np.eye(4), None, 0).spacing for image in (thin, thick)]
    assert spacings[0] == pytest.approx(spacings[1])


def test_a_scale_that_edges_speak_against_is_dropped(fixed, monkeypatch):
    pair = Pair.of(fixed, fixed, np.eye(4), None, 0)
    edges = Edges.of(pair, 0)
    monkeypatch.setattr(Pair, "judge", lambda pair, found: _Verdict(float(found[0, 0]), 1.0))
    larger = motion_of(scales=(1.2, 1.2, 1.2))
    assert "edges" in fault_of(pair, edges, larger, np.eye(4), "similarity")
    assert fault_of(pair, edges, larger, np.eye(4), "rigid") is None


def test_a_bright_rim_round_the_head_is_no_trap():
    def rimmed(grid, motion, name):
        image = picture(grid, motion, name)
        back = np.linalg.inv(motion)
        distance = np.sqrt((((grid.positions() @ back[:3, :3].T + back[:3, 3]) / (58, 70, 62)) ** 2).sum(-1))
        return image.with_array(image.array + 150 * np.exp(-(((distance - 1) / 0.067) ** 2)))

    motion = motion_of((0.25, -0.2, 0.3), (30, -25, 20))
    fixed = rimmed(grid_of((36, 39, 36), (4.67, 4.67, 4.67)), np.eye(4), "fixed image")
    moving = rimmed(grid_of((36, 39, 36), (4.67, 4.67, 4.67), center=(28, -22, 18)), motion, "moving image")
    # Dark inside where the other is bright; the rim is bright in both.
    moving = moving.with_array(np.where(moving.array > 75, moving.array, 75 - moving.array))
    # 0.5 mm; 1.6 mm, a third of a voxel, without another pass.
    seen: list[float] = []
    assert distance(align(fixed, moving, "rigid", progress=seen.append).matrix, motion) < 1.0
    assert seen == sorted(seen) and max(seen) <= 1


def test_not_a_number_and_infinity_do_no_harm():
    motion = motion_of(shift=(9, -6, 0))
    moving = axial(motion)
    moving.array[:, 0] = np.nan
    moving.array[:, :, 0] = np.inf
    assert distance(align(axial(), moving, "rigid").matrix, motion) < 0.5


def test_the_same_input_gives_exactly_the_same_answer_for_any_number_of_threads():
    fixed, moving = axial(name="fixed slice"), axial(motion_of((0, 0, 0.3), (9, -7, 0)))
    first = align(fixed, moving, "affine", seed=5).matrix
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert np.array_equal(first, align(fixed, moving, "affine", seed=5).matrix)
    finally:
        torch.set_num_threads(threads)


# --- slices -----------------------------------------------------------------------------------------------


def test_slices_are_aligned_in_their_plane_and_carried_onto_each_other():
    motion = motion_of((0, 0, 0.4), (15, -12, 40))
    # The moving slice has its axes in another order, with the flat one first.
    linear = np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]])
    moving = picture(grid_of((1, 64, 60), (4, 3, 3), center=(15, -12, 40), linear=linear), motion)
    result = align(axial(name="fixed slice"), moving, "rigid")
    assert distance(result.matrix, motion) < 0.5
    assert np.allclose(result.matrix @ [7, -5, 0, 1], [*(result.matrix @ [7, -5, 0, 1])[:2], 40, 1], atol=1e-6)


def test_slices_get_six_parameters_from_affine(monkeypatch):
    # All points, as users have it: a slice has few, and six parameters want them.
    monkeypatch.undo()
    motion = motion_of((0, 0, 0.2), (6, 9, 0), (1.1, 0.9, 1))
    moving = axial(motion)
    found = align(axial(name="fixed slice"), moving, "affine").matrix
    points = axial().grid.positions().reshape(-1, 3)
    points = points[head(points) > 30]
    assert np.linalg.norm(points @ (found - motion)[:3, :3].T + (found - motion)[:3, 3], axis=1).mean() < 1.0
    assert np.allclose(found[2], [0, 0, 1, 0], atol=1e-9)


def test_none_carries_a_slice_onto_the_other_plane_along_the_normal():
    tilted = rotation_matrices(np.array([0.05, 0, 0]))
    moving = picture(grid_of((56, 60, 1), (3, 3, 5), center=(0, 0, 25), linear=tilted))
    matrix = align(axial(name="fixed slice"), moving, "none").matrix
    corners = axial().grid.positions()[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    carried = moving.grid.to_ijk(corners @ matrix[:3, :3].T + matrix[:3, 3])
    assert np.allclose(carried[:, 2], 0, atol=1e-6)


def test_slices_that_are_not_parallel_are_refused():
    across = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    coronal = picture(grid_of((56, 60, 1), (3, 3, 5), linear=across))
    with pytest.raises(InputError, match="not parallel: their planes differ by 90 degrees"):
        align(axial(), coronal, "none")


def test_a_slice_and_a_volume_are_refused(fixed):
    with pytest.raises(InputError, match="moving slice is a single slice and the fixed image a volume"):
        align(fixed, axial(), "none")


# --- what cannot work -------------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [None, motion_of(shift=(0, -600, 0))])
def test_images_that_do_not_overlap_are_refused_without_alignment(fixed, initial):
    away = picture(grid_of((40, 44, 40), (4, 4, 4), center=(0, 400, 0)))
    with pytest.raises(InputError, match="do not overlap"):
        align(fixed, away, "none", initial=initial)


@pytest.mark.parametrize("method", ["mass", "rigid", "affine"])
def test_constant_images_are_refused_where_contrast_is_needed(fixed, method):
    flat = Image(np.full(FIXED_GRID.shape, 7.0), FIXED_GRID, "moving image")
    with pytest.raises(InputError, match="moving image is constant"):
        align(fixed, flat, method)


def test_other_bad_input_is_refused_in_plain_words(fixed):
    with pytest.raises(SettingsError, match="'elastic' is unknown"):
        align(fixed, fixed, "elastic")
    with pytest.raises(InputError, match="initial transform is singular"):
        align(fixed, fixed, "none", initial=np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(InputError, match="The moving image has no usable values"):
        align(fixed, fixed.with_array(np.full(FIXED_GRID.shape, np.nan), "moving image"), "none")
    with pytest.raises(InputError, match="fixed mask"):
        align(fixed, fixed, "rigid", fixed_mask=Image(np.zeros(FIXED_GRID.shape), FIXED_GRID, "mask"))


# --- progress and cancelling ------------------------------------------------------------------------------


def test_progress_rises_from_nothing_to_one():
    seen: list[float] = []
    align(axial(), axial(motion_of(shift=(9, 0, 0))), "affine", progress=seen.append)
    assert seen[0] == 0 and seen[-1] == 1
    assert seen == sorted(seen)
    assert len(seen) > 30


@pytest.mark.parametrize("moment", [0.0, 0.15, 0.5, 0.8])
def test_what_progress_raises_ends_the_alignment_and_reaches_the_caller(moment):
    late: list[float] = []

    def cancel(fraction: float) -> None:
        if fraction >= moment:
            late.append(fraction)
            raise Cancelled

    with pytest.raises(Cancelled):
        align(axial(), axial(motion_of(shift=(9, 0, 0))), "affine", progress=cancel)
    assert len(late) == 1
