"""Changes of training images at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grids import blobs, make_grid
from image_cases import THREE, drawn_images, same, section, source
from VoxelMorphRegistrationLib.errors import SettingsError
from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.images.sampling import gaussian_smooth
from VoxelMorphRegistrationLib.training.augment import AugmentationSection, changed_intensities
from VoxelMorphRegistrationLib.training.images import ImageSource
from VoxelMorphRegistrationLib.training.pairs import StepSizes
from VoxelMorphRegistrationLib.training.shapes import Source


def test_labels_are_moved_and_mirrored_with_their_image(tmp_path):
    grid = make_grid((24, 28, 26))
    for number in range(4):
        array = (blobs(grid, number, radius=(3.0, 5.0)).array > 60).astype(np.uint8)
        write_image(Image(array * 100, grid), tmp_path / f"{number}_t1.nii.gz")
        write_image(Image(array * 3, grid), tmp_path / f"{number}_seg.nii.gz")
    augmentation = AugmentationSection(rotation=6, scaling=0.1, translation=2, warp=0.8, flip=0.5)
    sizes = StepSizes((26, 28, 24))
    options = {"label_names": "*_seg.nii.gz"}
    changed = ImageSource(section(tmp_path, augmentation=augmentation, **options), sizes, 1, THREE)
    plain = ImageSource(section(tmp_path, **options), sizes, 1, THREE)
    for number in range(4):
        pair, before = changed.pair(0, number, "cpu"), plain.pair(0, number, "cpu")
        for image, shares in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
            halves = torch.nn.functional.avg_pool3d(image, 2)
            # Linear against nearest interpolation of the same shapes: they differ at the edges only.
            assert float((halves - shares[:, :1]).abs().mean()) < 0.05
            assert float(((halves > 0.75) & (shares[:, :1] < 0.25)).float().mean()) < 1e-3
        assert float((pair.moving - before.moving).abs().mean()) > 0.05
        # The fixed image is mirrored at most.
        assert torch.equal(pair.fixed.flatten().sort().values, before.fixed.flatten().sort().values)


@pytest.mark.parametrize("name", ["gamma", "bias", "contrast", "noise"])
def test_each_change_of_grey_values_works_alone_keeps_black_and_the_range(name):
    image = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    image[..., :8] = 0.0
    strength = AugmentationSection(**{name: 0.3})
    changed = changed_intensities(strength, image, Source(torch.device("cpu"), np.random.default_rng(3)))
    assert float((changed - image).abs().mean()) > 1e-3
    assert float(changed[..., :8].max()) == 0.0
    assert float(changed.min()) >= 0.0 and float(changed.max()) <= 1.0
    if name in ("gamma", "contrast"):
        # The order of grey values stays.
        order = image.flatten().argsort()
        assert bool((changed.flatten()[order].diff() >= -1e-6).all())
    if name == "bias":
        ratio = (changed / image)[..., 8:]
        free = (changed[..., 8:] < 1).float()
        smooth = gaussian_smooth(ratio * free, (2.0, 2.0)) / gaussian_smooth(free, (2.0, 2.0)).clamp_min(1e-6)
        assert float(((ratio - smooth) * free).abs().max()) < 0.2


def test_nothing_changes_at_strength_zero(folder):
    image = torch.rand(1, 1, 8, 8)
    assert torch.equal(
        changed_intensities(AugmentationSection(), image, Source(torch.device("cpu"), np.random.default_rng(0))), image
    )
    pairs = source(folder)
    stored = {part.image.float().numpy().tobytes() for part in pairs._subjects[0]}
    assert drawn_images(pairs, 0, 20) == stored


def test_validation_is_never_changed(folder):
    strong = AugmentationSection(rotation=10, warp=2, flip=1, gamma=0.5, noise=0.2)
    assert same(source(folder, augmentation=strong).pair(1, 0, "cpu"), source(folder).pair(1, 0, "cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"noise": -0.1}, "noise must not be negative"), ({"flip": 1.5}, "flip must not exceed 1")],
)
def test_a_wrong_strength_is_named(changes, message):
    with pytest.raises(SettingsError, match=message):
        AugmentationSection(**changes)
