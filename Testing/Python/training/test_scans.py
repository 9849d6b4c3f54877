"""Training pairs from real scans of one person, mixed with those from label maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import anatomy_cases
from VoxelMorphRegistrationLib.errors import InputError, SettingsError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.sampling import gaussian_smooth, warp
from VoxelMorphRegistrationLib.training.anatomy import AnatomySection, AnatomySource
from VoxelMorphRegistrationLib.training.config import config_from_dict, with_data, with_scans
from VoxelMorphRegistrationLib.training.pairs import TRAINING_STREAM, VALIDATION_STREAM, StepSizes
from VoxelMorphRegistrationLib.training.scans import ScanSource, ScansSection, WithScans
from VoxelMorphRegistrationLib.training.shapes import doubled
from VoxelMorphRegistrationLib.training.supervision import Supervision


def scan(seed, size=48):
    """A smooth random image inside a ball, on a left-handed grid of 1.5 mm."""
    grid = Grid((size,) * 3, np.diag([1.5, -1.5, 1.5, 1.0]))
    noise = torch.randn((1, 1, size, size, size), generator=torch.Generator().manual_seed(seed))
    values = gaussian_smooth(noise, (2.5,) * 3)[0, 0].numpy()
    values = 100.0 + 50.0 * values / values.std()
    inside = np.linalg.norm(grid.positions() - grid.center_ras, axis=-1) < 0.45 * 1.5 * size
    return Image(np.where(inside, np.clip(values, 1.0, None), 0.0).astype(np.float32), grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "scans"
    path.mkdir()
    for number in range(2):
        write_image(scan(number), path / f"scan_{number}.nii.gz")
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return anatomy_cases.write_maps(tmp_path_factory.mktemp("data") / "maps", [np.eye(4), *anatomy_cases.affines(4)])


def source_of(folder, maps, shape=(32, 32, 32), recipe=None, share=1.0, **section):
    structures = anatomy_cases.STRUCTURES
    maps = AnatomySource(
        AnatomySection(folder=str(maps), outside=(anatomy_cases.OUTSIDE,), spacing_mm=(1.5, 1.5)),
        recipe or anatomy_cases.still(),
        Supervision(structures, {s.name: (s.label,) for s in structures}),
        StepSizes(shape),
        3,
    )
    return WithScans(maps, ScanSource(ScansSection(folder=str(folder), share=share, **section), maps, Path()))


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 32)])
def test_the_true_displacement_brings_one_copy_onto_the_other(folder, maps, shape):
    recipe = anatomy_cases.still(displacement=(0.8, 1.2), related=1.0)
    source = source_of(folder, maps, shape, recipe)
    before, after = 0.0, 0.0
    for number in range(4):
        pair = source.pair(TRAINING_STREAM, number, "cpu")
        assert pair.fixed.shape == (1, 1, *shape) and pair.fixed_labels is None
        assert float(pair.fixed.min()) >= 0.0 and float(pair.fixed.max()) <= 1.0
        # Within the person: at the border of the step's grid, the moving copy may show what lies outside of it.
        inside = doubled(pair.visible, shape) / 2.0 > 0.99
        moved = warp(pair.moving, doubled(pair.displacement, shape))
        before += float((pair.fixed - pair.moving)[inside].square().mean())
        after += float((pair.fixed - moved)[inside].square().mean())
    # Each copy has its own blur and its own percentiles.
    assert after < 0.5 * before


def test_mixtures_show_other_contrasts_than_single_scans(folder, maps):
    def contrasts(**section):
        source = source_of(folder, maps, recipe=anatomy_cases.still(related=0.0), **section)
        pairs = [source.pair(TRAINING_STREAM, number, "cpu") for number in range(6)]
        values = [np.corrcoef(p.fixed[p.fixed * p.moving > 0], p.moving[p.fixed * p.moving > 0])[0, 1] for p in pairs]
        return np.array(values)

    assert (contrasts(single=0.0, inverted=1.0, share=1.0) > -0.9).all()
    alike = contrasts(single=1.0)
    # Two scans: the same one twice, or two that have nothing in common.
    assert all(value > 0.99 or abs(value) < 0.5 for value in alike)
    assert any(0.5 < abs(value) < 0.99 for value in contrasts(single=0.0))


def test_a_share_of_the_pairs_is_from_scans_and_none_of_the_validation(folder, maps):
    source = source_of(folder, maps, (16, 16, 16), share=0.5)
    training = [source.pair(TRAINING_STREAM, number, "cpu") for number in range(60)]
    real = sum(pair.fixed_labels is None for pair in training)
    # Binomial, 60 draws of a half: 5 standard deviations.
    assert abs(real - 30) < 5 * np.sqrt(60 * 0.25)
    assert all(source.pair(VALIDATION_STREAM, number, "cpu").fixed_labels is not None for number in range(8))
    again = source_of(folder, maps, (16, 16, 16), share=0.5)
    for number, pair in enumerate(training[:5]):
        for part in dataclasses.fields(pair):
            first, second = getattr(pair, part.name), getattr(again.pair(TRAINING_STREAM, number, "cpu"), part.name)
            assert (first is None and second is None) or torch.equal(first, second)


def test_scans_are_named_by_the_configuration_or_the_command_line(folder, maps):
    values = {"name": "brains", "source": "anatomy", "shape": [16, 16, 16], "steps": 2}
    values["network"] = {"encoder": [4, 4], "decoder": [4, 4, 4]}
    config = with_data(config_from_dict(values | {"scans": {"folder": "elsewhere", "share": 0.25}}), maps)
    config = with_scans(config, folder)
    assert "for 25 % of the pairs 2 real scans of one person" in config.pairs().facts
    # The place of the data on this computer is nobody else's business.
    assert config.to_dict()["scans"]["folder"] == "scans"
    with pytest.raises(SettingsError, match="no section"):
        with_scans(config_from_dict(values), folder)


@pytest.mark.parametrize("case", ["missing", "none", "grid", "slice", "empty"])
def test_unusable_scans_are_told_with_their_name(tmp_path, maps, case):
    path = tmp_path / "scans"
    messages = {
        "missing": "There is no folder",
        "none": "There is no image in",
        "grid": "scan_1.nii.gz is on another grid than scan_0.nii.gz",
        "slice": "scan_0.nii.gz is a slice",
        "empty": "no voxel that is other than 0",
    }
    if case != "missing":
        path.mkdir()
    if case in ("grid", "empty"):
        image = scan(0, 16)
        write_image(image.with_array(image.array * (case == "grid")), path / "scan_0.nii.gz")
    if case == "grid":
        write_image(scan(1, 18), path / "scan_1.nii.gz")
    if case == "slice":
        image = scan(0, 16)
        write_image(Image(image.array[:1], image.grid.cropped([0, 0, 0], [16, 16, 1])), path / "scan_0.nii.gz")
    with pytest.raises(InputError, match=messages[case]):
        source_of(path, maps)


@pytest.mark.parametrize("section", [{"share": 0.5}, {"folder": "scans"}, {"folder": "scans", "share": 1.5}])
def test_a_section_that_makes_no_sense_is_refused(section):
    with pytest.raises(SettingsError, match="scans"):
        ScansSection(**section)
