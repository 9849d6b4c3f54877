"""Images, tables and sections to train with."""

from __future__ import annotations

import numpy as np
import torch

from grids import blobs
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.training.images import ImageSource, ImagesSection
from VoxelMorphRegistrationLib.training.pairs import StepSizes
from VoxelMorphRegistrationLib.training.supervision import Structure, Supervision

GRID = dict(size_ijk=(16, 20, 18), spacing=(1.5, 1.2, 2.0), degrees=(10.0, -5.0, 20.0), left_handed=True)


SIZES = StepSizes((18, 20, 16))


THREE = Supervision(
    [Structure(3, "left part", "sides"), Structure(7, "right part", "sides"), Structure(300, "middle", "")],
    {"left part": (3,), "right part": (7,), "middle": (300,)},
)


def labelled(grid, seed: int) -> tuple[Image, Image]:
    """An image and a map of the labels 3, 7 and 300 in it, and of an unknown one, 9."""
    image = blobs(grid, seed)
    parts = np.digitize(image.array, np.percentile(image.array, [40, 60, 80, 95]))
    return image, image.with_array(np.array([0, 3, 7, 300, 9], np.int32)[parts])


def section(where, **changes) -> ImagesSection:
    return ImagesSection(**{"folder": str(where), "image_names": "*_t1.nii.gz", "validation_share": 0.3, **changes})


def source(folder, **changes) -> ImageSource:
    return ImageSource(section(folder, label_names="*_seg.nii.gz", **changes), SIZES, 5, THREE)


def same(a, b) -> bool:
    parts = [(getattr(a, n), getattr(b, n)) for n in ("fixed", "moving", "fixed_labels", "moving_labels")]
    return all(torch.equal(x, y) for x, y in parts)


def drawn_images(pairs: ImageSource, stream: int, count: int) -> set[bytes]:
    drawn = [pairs.pair(stream, number, "cpu") for number in range(count)]
    assert not any(torch.equal(pair.fixed, pair.moving) for pair in drawn)
    return {image.numpy().tobytes() for pair in drawn for image in (pair.fixed, pair.moving)}


def write_points(path, points):
    path.write_text("x,y,z\n" + "\n".join(",".join(f"{v:.6f}" for v in p) for p in points), encoding="utf-8")
