"""Training pairs synthesised from label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anatomy_cases import BALLS, OUTSIDE, STRUCTURES, affines, ball_map, still, write_maps
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.sampling import warp
from VoxelMorphRegistrationLib.training.anatomy import AnatomySection, AnatomySource
from VoxelMorphRegistrationLib.training.config import config_from_dict, with_data
from VoxelMorphRegistrationLib.training.export import export_checkpoint
from VoxelMorphRegistrationLib.training.losses import soft_dice
from VoxelMorphRegistrationLib.training.pairs import TRAINING_STREAM, VALIDATION_STREAM, StepSizes
from VoxelMorphRegistrationLib.training.shapes import ShapeRecipe
from VoxelMorphRegistrationLib.training.supervision import Supervision
from VoxelMorphRegistrationLib.training.trainer import CHECKPOINT_NAME, Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_maps(tmp_path_factory.mktemp("data") / "maps", [np.eye(4), *affines(4)])


def source_of(folder, shape=(32, 32, 32), recipe=None, **section):
    values = {"folder": str(folder), "outside": (OUTSIDE,), "spacing_mm": (1.5, 1.5)} | section
    supervision = Supervision(STRUCTURES, {s.name: (s.label,) for s in STRUCTURES})
    return AnatomySource(AnatomySection(**values), recipe or ShapeRecipe(), supervision, StepSizes(shape), seed=3)


@pytest.mark.parametrize("shape", [(32, 48), (32, 16, 32)])
def test_a_pair_has_images_in_range_and_belongs_to_its_number(folder, shape):
    source = source_of(folder, shape)
    half = tuple(n // 2 for n in shape)
    for number in range(4):
        pair, again = (source.pair(TRAINING_STREAM, number, "cpu") for _ in range(2))
        assert torch.equal(pair.fixed, again.fixed)
        assert torch.equal(pair.moving_labels, again.moving_labels)
        for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
            assert image.shape == (1, 1, *shape)
            assert float(image.min()) >= 0.0 and float(image.max()) <= 1.0
            assert labels.shape == (1, len(BALLS), *half)
    assert not torch.equal(source.pair(TRAINING_STREAM, 0, "cpu").fixed, source.pair(VALIDATION_STREAM, 0, "cpu").fixed)


def test_maps_of_other_size_and_place_are_aligned_by_their_structures(folder):
    # The maps are affine copies of each other: aligned, they differ by the voxels at the surfaces only.
    source = source_of(folder, recipe=still(), same=0.0)
    for number in range(4):
        pair = source.pair(TRAINING_STREAM, number, "cpu")
        assert float(soft_dice(pair.moving_labels, pair.fixed_labels)) < 0.06


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 32)])
def test_two_copies_of_one_map_come_with_the_displacement_between_them(folder, shape):
    recipe = ShapeRecipe(displacement=(1.0, 2.0), noise=(0.0, 0.0))
    source = source_of(folder, shape, recipe, same=1.0)
    before, after = [], []
    for number in range(6):
        pair = source.pair(TRAINING_STREAM, number, "cpu")
        before.append(float(soft_dice(pair.moving_labels, pair.fixed_labels)))
        after.append(float(soft_dice(warp(pair.moving_labels, pair.displacement), pair.fixed_labels)))
    assert sum(after) < 0.5 * sum(before)


def test_what_is_outside_the_organ_is_black_when_stripped(folder):
    stripped = source_of(folder, recipe=still(), strip=1.0, same=0.0, rotation=0.0)
    whole = source_of(folder, recipe=still(), strip=0.0, same=0.0, rotation=0.0)
    black = [float((s.pair(TRAINING_STREAM, 1, "cpu").fixed < 1e-3).float().mean()) for s in (stripped, whole)]
    assert black[0] > black[1] + 0.1


def test_typical_intensities_are_those_of_the_tissues(folder):
    section = {"tissues": ((5,), (1, 2, 3, 4)), "typical": (0.9, 0.3), "typical_share": 1.0, "spread": 0.0}
    source = source_of(folder, (32, 32, 32), still(related=1.0), same=0.0, strip=1.0, **section)
    pair = source.pair(TRAINING_STREAM, 0, "cpu")
    image = torch.nn.functional.avg_pool3d(pair.fixed, 2)
    organ, balls = (image[labels > 0.99].mean() for labels in (pair.fixed_labels[:, 4:], pair.fixed_labels[:, :1]))
    # Percentiles stretch and texture blurs them; their order and rough distance stay.
    assert float(organ) > 2 * float(balls)


def test_a_network_trains_on_label_maps_by_configuration(folder, tmp_path):
    (tmp_path / "labels.csv").write_text("label,name\n1,one\n2,two\n5,organ\n")
    values = {"name": "balls", "source": "anatomy", "shape": [16, 16, 16], "steps": 2}
    values["network"] = {"encoder": [4, 4], "decoder": [4, 4, 4]}
    values["supervision"] = {"table": "labels.csv"}
    values["validation"] = {"pairs": 2}
    config = with_data(config_from_dict(values), folder)
    source = config.pairs(tmp_path)
    trainer = Trainer(config, tmp_path / "run", source=source)
    trainer.run(report=lambda line: None)
    result = trainer.validate()
    assert 0.0 < result.dice_before <= 1.0
    assert "3 label maps with 6 labels" in source.facts
    # The place of the data on this computer is nobody else's business.
    assert str(folder.parent).encode() not in (tmp_path / "run" / CHECKPOINT_NAME).read_bytes()
    card = export_checkpoint(tmp_path / "run" / CHECKPOINT_NAME, tmp_path / "model.pt")
    assert card.training["config"]["anatomy"]["folder"] == folder.name
    assert card.training["data"] == source.facts


@pytest.mark.parametrize("case", ["missing", "few", "empty", "fraction", "slice", "unknown", "apart"])
def test_unusable_maps_are_told_with_their_name(tmp_path, case):
    folder = tmp_path / "maps"
    matrices = list(affines(2 if case == "few" else 4))
    if case != "missing":
        write_maps(folder, matrices)
    path = folder / "map_1.nii.gz"
    image = ball_map(matrices[0])
    messages = {
        "missing": "There is no folder",
        "few": "holds 2 label maps",
        "empty": "map_1.nii.gz is empty",
        "fraction": "map_1.nii.gz holds values that are not whole",
        "slice": "map_1.nii.gz is a slice",
        "unknown": "None of the structures",
        "apart": "too few structures",
    }
    if case == "empty":
        write_image(image.with_array(0 * image.array), path)
    elif case == "fraction":
        write_image(image.with_array(image.array + np.float32(0.5)), path)
    elif case == "slice":
        write_image(Image(image.array[20:21], image.grid.cropped((0, 0, 20), (40, 40, 1))), path)
    elif case == "apart":
        write_image(image.with_array((image.array == 1).astype(np.uint8)), path)
    section = {"outside": tuple(BALLS)} if case == "unknown" else {}
    with pytest.raises(InputError, match=messages[case]):
        source_of(folder, **section)
