"""Detail of small volumes, which one half of the voxels finds and the other one confirms."""

import numpy as np
import pytest

from grids import make_grid
from refinement_cases import brightness, motion_error, noisy_bodies
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.refinement import halves
from VoxelMorphRegistrationLib.refinement.levels import Options, stages_of
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.refinement.refine import Enough, refine

# mm, of voxels of 1 mm: the body, and within which radius errors are looked at.
SIZE, RADIUS, INNER = 44, 18.0, 14.0


def tissue(points):
    """The body with borders as sharp as those between tissues, at positions (..., 3) from its middle."""
    inside = 1 / (1 + np.exp(np.linalg.norm(points, axis=-1) - RADIUS))
    waves = brightness(points, radius=RADIUS) / (50 * np.maximum(inside, 1e-6)) - 8
    return 400 * inside * (1.5 + np.tanh(waves))


def wave(points, length, height):
    x, y, z = np.moveaxis(points, -1, 0)
    return height * np.stack([np.sin(y / length), np.sin(z / length + 0.5), np.sin(x / length + 1)], -1)


def rough(points):
    return wave(points, 2.5, 1.0)


def smooth(points):
    return wave(points, 9.0, 2.5)


def noisy_pair(motion, noise, finer=1.0):
    return noisy_bodies((SIZE, SIZE, SIZE), motion, tissue, noise, 0, finer)


def error(pair, motion, result):
    return motion_error(pair, motion, result, INNER)


@pytest.fixture(scope="module")
def rough_pair():
    return noisy_pair(rough, 3.0)


@pytest.fixture(scope="module")
def without(rough_pair):
    """Its refinement with much smoothing."""
    return refine(rough_pair, None, Options(), in_detail=False)


def test_real_detail_of_a_small_volume_is_found_through_noise(rough_pair, without):
    found = refine(rough_pair, None, Options())
    assert found.detailed and without.steps[-1] == 0 < found.steps[-1]
    assert error(rough_pair, rough, found) < 0.85 * error(rough_pair, rough, without)


@pytest.mark.parametrize(("noise", "finer"), [(20.0, 1.0), (100.0, 1.0), (50.0, 1.25)])
def test_noise_of_a_small_volume_is_no_detail(noise, finer):
    """Also where it was interpolated, so that both halves have a part of it."""
    assert refine(noisy_pair(smooth, noise, finer), None, Options()).detailed is False


def test_what_changes_pieces_more_than_people_differ_must_explain_much(rough_pair, without, monkeypatch):
    monkeypatch.setattr(halves, "CHANGES", (0.95, 1.05))
    monkeypatch.setattr(halves, "PLAIN", 0.0)
    assert refine(rough_pair, None, Options()).detailed
    monkeypatch.setattr(halves, "PLAIN", 1.0)
    found = refine(rough_pair, None, Options())
    assert found.detailed is False and found.steps[-1] == 0
    assert np.array_equal(found.field.displacement_ras, without.field.displacement_ras)


def test_stopping_while_detail_is_tried_keeps_the_smooth_motion(rough_pair, without, monkeypatch):
    trying, with_detail = [], halves.with_detail

    def tried(*arguments):
        trying.append(True)
        return with_detail(*arguments)

    def progress(_):
        if trying:
            raise Enough

    monkeypatch.setattr(halves, "with_detail", tried)
    found = refine(rough_pair, None, Options(), progress=progress)
    assert trying and found.stopped and found.detailed is False
    assert np.array_equal(found.field.displacement_ras, without.field.displacement_ras)


@pytest.mark.parametrize(("size", "asked"), [(63, True), (64, False)])
def test_halves_are_asked_in_small_volumes_alone(size, asked):
    region = make_grid((80, size, 90))
    assert any(stage.sees_all for stage in stages_of(Options(), region)) is asked


def test_noise_of_a_voxel_is_in_one_half_only():
    grid = make_grid((7, 6, 5), (1.0, 1.0, 3.0))
    i, j, k = np.moveaxis(grid.to_ijk(grid.positions()), -1, 0)
    image = Image((10 + 3 * i - 2 * j + k).astype(np.float32), grid)
    louder = image.array.copy()
    louder[2, 3, 3] += 90.0
    louder[2, 3, 4] += 9.0
    pairs = [halves.halves(whole(image.with_array(array))) for array in (image.array, louder)]
    (even, odd), (even_louder, odd_louder) = ([half.fixed.array for half in both] for both in pairs)
    # Where nothing is beyond an edge, means of neighbours are what was there.
    within = (slice(1, -1),) * 3
    assert np.allclose(even[within], image.array[within]) and np.allclose(odd[within], image.array[within])
    # i + j + k is 8 of the first voxel: its neighbours in the other half do not show it, those of this half do.
    assert even_louder[2, 3, 3] == louder[2, 3, 3] and odd_louder[2, 3, 4] == louder[2, 3, 4]
    assert np.isclose(odd_louder[2, 3, 3] - odd[2, 3, 3], 9.0 / (4 + 2 / 9))
    assert np.isclose(even_louder[2, 3, 2] - even[2, 3, 2], 90.0 / (4 + 2 / 9))
    # A slice is three times as far.
    assert np.isclose(even_louder[3, 3, 3] - even[3, 3, 3], 10.0 / (4 + 2 / 9))


def whole(image):
    return Pair(image, image, np.eye(4), ((0.0, 1.0), (0.0, 1.0)), np.ones(image.grid.shape, bool))
