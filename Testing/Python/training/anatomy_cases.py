"""Label maps of a made-up anatomy."""

from __future__ import annotations

import numpy as np

from VoxelMorphRegistrationLib.images.files import write_image
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.training.shapes import ShapeRecipe
from VoxelMorphRegistrationLib.training.supervision import Structure

OUTSIDE = 99


# Centre (RAS mm) and radius of the balls that stand for structures; 5 is the organ around them.
BALLS = {5: ((0, 0, 0), 22), 1: ((-10, 2, 0), 6), 2: ((9, -4, 3), 6), 3: ((0, 10, -8), 5), 4: ((2, -6, 11), 5)}


STRUCTURES = tuple(Structure(label, f"ball {label}") for label in sorted(BALLS))


def ball_map(matrix, spacing=1.5, size=40):
    """A map of the balls moved by `matrix` (4, 4), on an oblique-free grid around them."""
    grid = Grid((size,) * 3, np.diag([-spacing, spacing, spacing, 1.0]))
    grid = grid.transformed(translation(-grid.center_ras + matrix[:3, 3]))
    position = (grid.positions() - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T
    labels = np.where(np.linalg.norm(position, axis=-1) < 27, OUTSIDE, 0).astype(np.uint8)
    for label, (centre, radius) in BALLS.items():
        labels[np.linalg.norm(position - np.array(centre), axis=-1) < radius] = label
    return Image(labels, grid)


def translation(offset):
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def write_maps(folder, matrices):
    folder.mkdir(exist_ok=True)
    for number, matrix in enumerate(matrices):
        write_image(ball_map(np.asarray(matrix, float)), folder / f"map_{number}.nii.gz")
    return folder


def affines(count):
    random = np.random.default_rng(1)
    for _ in range(count):
        matrix = translation(random.uniform(-20, 20, 3))
        matrix[:3, :3] += random.uniform(-0.08, 0.08, (3, 3))
        yield matrix


def still(**changes):
    """A recipe without random warps and without anything that hides the labels."""
    values = {"displacement": (0.0, 0.0), "rotation": 0.0, "scaling": 0.0, "translation": 0.0, "noise": (0.0, 0.0)}
    return ShapeRecipe(**(values | {"bias": 0.0, "gamma": 0.0, "blur": (0.0, 0.0)} | changes))
