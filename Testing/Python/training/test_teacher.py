"""Training pairs of different people with a teacher's displacement between them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import anatomy_cases
from VoxelMorphRegistrationLib.errors import InputError, SettingsError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import write_field
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.sampling import warp
from VoxelMorphRegistrationLib.training.anatomy import AnatomySection, AnatomySource, LabelMap
from VoxelMorphRegistrationLib.training.config import config_from_dict, with_data, with_teacher
from VoxelMorphRegistrationLib.training.losses import soft_dice
from VoxelMorphRegistrationLib.training.pairs import TRAINING_STREAM, VALIDATION_STREAM, StepSizes
from VoxelMorphRegistrationLib.training.shapes import Source
from VoxelMorphRegistrationLib.training.supervision import Supervision
from VoxelMorphRegistrationLib.training.teacher import Answer, TeacherSection, TeacherSource, WithTeacher

# Short enough that no affine map between the balls follows it.
WAVE = 4.0


def bent(points, amount=WAVE, length=3.5):
    """RAS mm to RAS mm: a wave along x that runs along y; `amount` of the other sign is the inverse."""
    out = np.array(points, float)
    out[..., 0] += amount * np.sin(out[..., 1] / length)
    return out


def bent_field(amount, size=36, spacing=2.0):
    grid = Grid((size,) * 3, np.diag([-spacing, spacing, spacing, 1.0]))
    grid = grid.transformed(anatomy_cases.translation(-grid.center_ras))
    positions = grid.positions()
    return DisplacementField((bent(positions, amount) - positions).astype(np.float32), grid)


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Two people: the second one is the first one bent."""
    folder = tmp_path_factory.mktemp("people") / "maps"
    folder.mkdir()
    first = anatomy_cases.ball_map(np.eye(4))
    write_image(first, folder / "map_0.nii.gz")
    seen = np.rint(first.grid.to_ijk(bent(first.grid.positions()).reshape(-1, 3))).astype(int)
    i, j, k = np.clip(seen, 0, first.grid.size - 1).T
    labels = first.array[k, j, i].reshape(first.grid.shape)
    write_image(Image(labels, first.grid), folder / "map_1.nii.gz")
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people") / "fields"
    folder.mkdir()
    # The second map shows at y what the first one shows at bent(y).
    write_field(bent_field(-WAVE), folder / "map_0--map_1.nii")
    write_field(bent_field(WAVE), folder / "map_1--map_0.nii")
    return folder


def source_of(maps, answers, shape=(32, 32, 32), share=1.0, recipe=None, **section):
    values = {"folder": str(maps), "outside": (anatomy_cases.OUTSIDE,), "validation": 0, "same": 0.0} | section
    structures = anatomy_cases.STRUCTURES
    people = AnatomySource(
        AnatomySection(**values),
        recipe or anatomy_cases.still(),
        Supervision(structures, {s.name: (s.label,) for s in structures}),
        StepSizes(shape),
        3,
    )
    return WithTeacher(people, TeacherSource(TeacherSection(folder=str(answers), share=share), people, Path()))


def affine(linear, offset):
    matrix = anatomy_cases.translation(offset)
    matrix[:3, :3] += np.array(linear)
    return matrix


def test_the_composed_answer_carries_points_as_the_field_and_both_warps_do():
    # Each map in a space of its own, a field on an oblique grid with unequal voxels, a step's grid turned in the
    # common space, a wave of the fixed copy and an affine warp of the moving one: all of it known at every point.
    own_fixed = affine([[0.05, 0.1, 0.0], [-0.1, 0.02, 0.03], [0.0, 0.04, -0.03]], [12.0, -7.0, 30.0])
    own_moving = affine([[-0.04, 0.0, 0.07], [0.06, 0.03, 0.0], [0.02, -0.05, 0.05]], [-20.0, 15.0, 4.0])
    grid = Grid((60, 50, 45), affine([[1.1, 0.2, 0.0], [-0.2, 0.6, 0.1], [0.1, 0.0, 0.9]], [0.0, 0.0, 0.0]))
    grid = grid.transformed(anatomy_cases.translation(own_fixed[:3, 3] - grid.center_ras))
    across = own_moving @ np.linalg.inv(own_fixed)

    def to_moving(points):
        return bent(points @ across[:3, :3].T + across[:3, 3], 3.0, 9.0)

    positions = grid.positions()
    field = DisplacementField((to_moving(positions) - positions).astype(np.float32), grid)
    nothing = torch.zeros((1, 1, 1))
    answer = Answer.of(
        LabelMap(nothing, np.eye(4), own_fixed, "fixed"), LabelMap(nothing, np.eye(4), own_moving, "moving"), field
    )
    # Voxels of the step's grid to the common space, i mirrored.
    to_common = affine([[-2.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, -0.05, 0.1]], [16.0, -15.0, -14.0])
    half = (14, 15, 12)
    kji = np.stack(np.meshgrid(*map(np.arange, half), indexing="ij"), -1).astype(float)
    wave = np.stack([1.2 * np.sin(kji[..., 1] / 3), 0.8 * np.cos(kji[..., 2] / 4), 0.5 * np.sin(kji[..., 0] / 3)], -1)
    scale, shift = np.array([1.05, 0.95, 1.02]), np.array([0.6, -0.4, 0.3])

    def tensor(displacement):
        return torch.from_numpy(np.moveaxis(displacement, -1, 0)[None].astype(np.float32))

    back = (kji - shift) / scale - kji
    truth = answer.between(to_common[:3], tensor(wave), tensor(back))

    def common(points_kji):
        """Half-resolution voxels to the common space: voxel p of them covers 2 p and 2 p + 1."""
        return (2 * points_kji + 0.5)[..., ::-1] @ to_common[:3, :3].T + to_common[:3, 3]

    found = kji + np.moveaxis(truth[0].numpy(), 0, -1)
    seen_in_fixed = common(kji + wave) @ own_fixed[:3, :3].T + own_fixed[:3, 3]
    seen_in_moving = common(scale * found + shift) @ own_moving[:3, :3].T + own_moving[:3, 3]
    error = np.linalg.norm(seen_in_moving - to_moving(seen_in_fixed), axis=-1)
    moved = np.linalg.norm(found - kji, axis=-1)
    # The wave of the field is read from voxels of 2 mm; half a voxel of the step's grid is 0.6 mm and more.
    inside = ((found >= 1) & (found <= np.array(half) - 2)).all(-1)
    assert inside.sum() > 500 and moved[inside].mean() > 1.0
    assert error[inside].max() < 0.1


@pytest.mark.parametrize("displacement", [0.0, 1.5])
def test_the_answer_brings_one_person_onto_the_other(maps, answers, displacement):
    recipe = anatomy_cases.still(displacement=(displacement, displacement), rotation=2 * displacement)
    source = source_of(maps, answers, recipe=recipe)
    before, after = [], []
    for number in range(6):
        pair = source.pair(TRAINING_STREAM, number, "cpu")
        before.append(float(soft_dice(pair.moving_labels, pair.fixed_labels)))
        after.append(float(soft_dice(warp(pair.moving_labels, pair.displacement), pair.fixed_labels)))
    # What is left are labels cut at voxels twice.
    assert np.mean(after) < 0.4 * np.mean(before)


def test_the_answer_counts_within_the_organ_and_the_grid_only(maps, answers):
    source = source_of(maps, answers, strip=0.0, rotation=0.0, flip=False)
    for number in range(4):
        pair = source.pair(TRAINING_STREAM, number, "cpu")
        organ = pair.fixed_labels.sum(1, keepdim=True)
        assert torch.equal(pair.visible > 0, (organ > 0) & (pair.visible > 0))
        assert 0 < float(pair.visible.sum()) <= float(organ.sum())
        size = torch.tensor(pair.displacement.shape[2:]).reshape(3, 1)
        where = pair.visible[0, 0] > 0
        goal = torch.nonzero(where).T + pair.displacement[0][:, where]
        assert bool(((goal >= 0) & (goal <= size - 1)).all())


def test_a_share_of_the_pairs_has_an_answer_and_none_of_the_validation(maps, answers):
    source = source_of(maps, answers, (16, 16, 16), share=0.5)
    training = [source.pair(TRAINING_STREAM, number, "cpu") for number in range(60)]
    taught = sum(pair.displacement is not None for pair in training)
    # Binomial, 60 draws of a half: 5 standard deviations.
    assert abs(taught - 30) < 5 * np.sqrt(60 * 0.25)
    assert all(source.pair(VALIDATION_STREAM, number, "cpu").displacement is None for number in range(8))
    again = source_of(maps, answers, (16, 16, 16), share=0.5)
    for number, pair in enumerate(training[:5]):
        for part in fields(pair):
            first, second = getattr(pair, part.name), getattr(again.pair(TRAINING_STREAM, number, "cpu"), part.name)
            assert (first is None and second is None) or torch.equal(first, second)


def test_the_folder_is_named_by_the_configuration_or_the_command_line(maps, answers):
    values = {"name": "brains", "source": "anatomy", "shape": [16, 16, 16], "steps": 2}
    values |= {"network": {"encoder": [4, 4], "decoder": [4, 4, 4]}, "anatomy": {"folder": "m", "validation": 0}}
    config = with_data(config_from_dict(values | {"teacher": {"folder": "elsewhere", "share": 0.25}}), maps)
    config = with_teacher(config, answers)
    # Numbers of structures of the brain, which the balls have, too.
    source = with_balls(config).pairs()
    assert "25 % of these pairs with 2 displacement fields of a teacher" in source.facts
    # The place of the data on this computer is nobody else's business.
    assert config.to_dict()["teacher"]["folder"] == "fields"
    with pytest.raises(SettingsError, match="no section"):
        with_teacher(config_from_dict(values), answers)


def with_balls(config):
    return replace(config, supervision=replace(config.supervision, structures="list", labels=(2, 3, 4)))


def test_fields_of_maps_that_are_kept_for_validation_are_not_used(maps, answers, tmp_path):
    more = tmp_path / "maps"
    more.mkdir()
    for name in ("map_0", "map_1"):
        (more / f"{name}.nii.gz").write_bytes((maps / f"{name}.nii.gz").read_bytes())
    # A third one comes before both, so that the last by name is kept.
    (more / "a_map.nii.gz").write_bytes((maps / "map_0.nii.gz").read_bytes())
    with pytest.raises(InputError, match="holds no displacement field.*a_map--map_0.nii"):
        source_of(more, answers, validation=1)


@pytest.mark.parametrize(
    ("case", "message"),
    [("missing", "There is no folder"), ("none", "'voxelmorph teach' makes them"), ("volumes", "slices of .*--1.nii")],
)
def test_what_cannot_be_taught_is_told(maps, answers, tmp_path, case, message):
    folder = answers if case == "volumes" else tmp_path / "fields"
    if case == "none":
        folder.mkdir()
    with pytest.raises(InputError, match=message):
        source_of(maps, folder, (32, 32) if case == "volumes" else (32, 32, 32))


# --- slices --------------------------------------------------------------------------------------------------------


def plane(centre, first, second, spacing, size):
    """A grid of one layer around `centre`, i along `first` and j along `second`."""
    matrix = np.eye(4)
    normal = np.cross(first, second)
    matrix[:3, :3] = np.stack([spacing * np.array(first), spacing * np.array(second), normal], 1)
    matrix[:3, 3] = centre - matrix[:3, :2] @ np.full(2, (size - 1) / 2)
    return Grid((1, size, size), matrix)


@pytest.fixture(scope="module")
def slice_answers(tmp_path_factory):
    """Axial slices of the first map, in which the second one is bent."""
    folder = tmp_path_factory.mktemp("people") / "slices"
    folder.mkdir()
    for number, height in enumerate((-6.0, 2.0, 9.0), start=1):
        grid = plane((0.0, 0.0, height), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 1.0, 72)
        positions = grid.positions()
        field = DisplacementField((bent(positions, -WAVE) - positions).astype(np.float32), grid)
        # As the making writes them, and as readers of transforms want them.
        write_field(field.padded(across=True) if number == 2 else field, folder / f"map_0--map_1--{number}.nii")
    return folder


def test_the_answer_of_a_slice_carries_points_as_the_field_and_both_warps_do():
    own_fixed = affine([[0.05, 0.1, 0.0], [-0.1, 0.02, 0.03], [0.0, 0.04, -0.03]], [12.0, -7.0, 30.0])
    own_moving = affine([[-0.04, 0.0, 0.07], [0.06, 0.03, 0.0], [0.02, -0.05, 0.05]], [-20.0, 15.0, 4.0])
    across = own_moving @ np.linalg.inv(own_fixed)
    first, second = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
    grid = plane(own_fixed[:3, 3], first, second, 0.7, 90)

    def to_moving(points):
        """A wave within the plane, then the affine map between both."""
        along = (points - own_fixed[:3, 3]) @ second
        within = points + 3.0 * np.sin(along / 9.0)[..., None] * first
        return within @ across[:3, :3].T + across[:3, 3]

    positions = grid.positions()
    field = DisplacementField((to_moving(positions) - positions).astype(np.float32), grid)
    nothing = torch.zeros((1, 1, 1))
    answer = Answer.of(
        LabelMap(nothing, np.eye(4), own_fixed, "fixed"), LabelMap(nothing, np.eye(4), own_moving, "moving"), field
    )
    section = AnatomySection(spacing_mm=(1.3, 1.3), rotation=20.0)
    half = (16, 19)
    kji = np.stack(np.meshgrid(*map(np.arange, half), indexing="ij"), -1).astype(float)
    wave = np.stack([1.2 * np.sin(kji[..., 1] / 3), 0.8 * np.cos(kji[..., 0] / 4)], -1)
    scale, shift = np.array([1.05, 0.95]), np.array([0.6, -0.4])

    def tensor(displacement):
        return torch.from_numpy(np.moveaxis(displacement, -1, 0)[None].astype(np.float32))

    turns = set()
    for number in range(12):
        source = Source(torch.device("cpu"), np.random.default_rng(number))
        to_common = answer.placement(section, (np.zeros(3), np.zeros(3)), (32, 38), source)
        columns = to_common[:3, :2]
        assert np.allclose(columns.T @ columns, 1.3**2 * np.eye(2))
        turns.add((round(float(columns[:, 0] @ first)), round(float(columns[:, 1] @ first))))

        def common(points_ji, to_common=to_common):
            """Half-resolution voxels to the common space: voxel p of them covers 2 p and 2 p + 1."""
            return (2 * points_ji + 0.5)[..., ::-1] @ to_common[:3, :2].T + to_common[:3, 3]

        in_fixed = common(kji) @ own_fixed[:3, :3].T + own_fixed[:3, 3]
        assert np.abs(grid.to_ijk(in_fixed)[..., 2]).max() < 1e-6
        truth = answer.between(to_common, tensor(wave), tensor((kji - shift) / scale - kji))
        found = kji + np.moveaxis(truth[0].numpy(), 0, -1)
        seen_in_fixed = common(kji + wave) @ own_fixed[:3, :3].T + own_fixed[:3, 3]
        seen_in_moving = common(scale * found + shift) @ own_moving[:3, :3].T + own_moving[:3, 3]
        error = np.linalg.norm(seen_in_moving - to_moving(seen_in_fixed), axis=-1)
        inside = ((found >= 1) & (found <= np.array(half) - 2)).all(-1) & grid.contains(seen_in_fixed)
        assert inside.sum() > 50
        assert error[inside].max() < 0.1
    # Turned and mirrored in all ways: i or j along the slice's first axis, to either side.
    assert turns == {(1, 0), (-1, 0), (0, 1), (0, -1)}


def test_the_answer_brings_one_slice_onto_the_other(maps, slice_answers):
    recipe = anatomy_cases.still(displacement=(1.5, 1.5), rotation=3.0)
    source = source_of(maps, slice_answers, (32, 32), recipe=recipe)
    before, after = [], []
    for number in range(12):
        pair = source.pair(TRAINING_STREAM, number, "cpu")
        assert pair.displacement.shape == (1, 2, 16, 16)
        organ = pair.fixed_labels.sum(1, keepdim=True) > 0
        assert float(pair.visible.sum()) > 0 and not bool((pair.visible > 0)[~organ].any())
        before.append(float(soft_dice(pair.moving_labels, pair.fixed_labels)))
        after.append(float(soft_dice(warp(pair.moving_labels, pair.displacement), pair.fixed_labels)))
    assert np.mean(after) < 0.5 * np.mean(before)


def test_of_a_folder_the_slices_of_both_maps_are_read(maps, slice_answers, answers, tmp_path):
    folder = tmp_path / "fields"
    folder.mkdir()
    for path in [*slice_answers.iterdir(), *answers.iterdir()]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "map_0--map_1--old.nii").write_text("no field")
    assert len(source_of(maps, folder, (32, 32)).teacher.answers) == 3
    assert len(source_of(maps, folder).teacher.answers) == 2
    (folder / "map_0--map_1--4.nii").write_bytes((answers / "map_0--map_1.nii").read_bytes())
    with pytest.raises(InputError, match="map_0--map_1--4.nii has 36 layers"):
        source_of(maps, folder, (32, 32))


@pytest.mark.parametrize("section", [{"share": 0.5}, {"folder": "fields"}, {"folder": "f", "share": 1.5}])
def test_a_section_that_makes_no_sense_is_refused(section):
    with pytest.raises(SettingsError, match="teacher"):
        TeacherSection(**section)
