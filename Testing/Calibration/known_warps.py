"""Seeded pairs whose true displacement is known, of many kinds: what the expected error is fitted on and checked with.

A case is a kind and a number; it is the same every time. Images are drawn from maps of random shapes and warped twice
by known displacements (training.shapes); then what happens in life is done to one of them or both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from unlike_people import people_pair

from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid, working_grid
from VoxelMorphRegistrationLib.images.image import Image, resample
from VoxelMorphRegistrationLib.training.shapes import ShapeRecipe, random_pair

# What the fit sees, and what it never sees. Seeds go by the place in KINDS: new ones are put at its end.
KINDS = (
    "plain",
    "contrast",
    "noisy",
    "resection",
    "cut",
    "thick",
    "unlike",
    "large",
    "rough",
    "slice",
    "preview",
    "mixed",
    "ultrasound",
    "half",
    "grown",
    "strange",
    "people",
    "astray",
    "strangers",
    "lost",
    "operated",
    "misled",
)
UNSEEN = ("half", "grown", "strange", "strangers", "lost")
FITTED = tuple(kind for kind in KINDS if kind not in UNSEEN)
_RECIPE = ShapeRecipe(related=1.0, noise=(0.0, 0.03), displacement=(0.2, 1.6), labels=(6, 24))


@dataclass(frozen=True, eq=False)
class Case:
    """fixed and moving, the truth between them (u of moving(x + u(x)) = fixed(x), RAS mm), the refinement, and where
    the truth is known (everywhere where None).
    """

    fixed: Image
    moving: Image
    truth: DisplacementField
    preset: str = "default"
    known: Image | None = None


def case(kind: str, number: int) -> Case:
    """The case that belongs to a kind and a number."""
    seed = (19, KINDS.index(kind), number)
    numbers = np.random.default_rng((*seed, 7))
    recipe, shape = _RECIPE, _shape(numbers)
    if numbers.random() < 0.25:
        recipe = replace(recipe, related=0.0)
    if kind in ("contrast", "ultrasound"):
        recipe = replace(recipe, related=0.0, ultrasound=float(kind == "ultrasound"))
    if kind in ("noisy", "mixed"):
        recipe = replace(recipe, noise=(0.05, 0.2))
    if kind == "large":
        recipe = replace(recipe, displacement=(1.6, 4.0), rotation=6.0, translation=4.0)
    if kind == "rough":
        recipe = replace(recipe, displacement=(0.8, 2.0), roughness=(0.3, 0.9))
    if kind in ("astray", "lost"):
        # Beyond what a refinement can find: some are found, some fail.
        recipe = replace(recipe, related=0.5, rotation=25.0, translation=14.0, scaling=0.2)
    if kind == "lost":
        recipe = replace(recipe, ultrasound=0.5, noise=(0.0, 0.15))
    if kind == "misled":
        # Neither contrasts nor positions agree, as of MR and ultrasound of a small field of view.
        recipe = replace(
            recipe, related=0.0, ultrasound=0.6, noise=(0.0, 0.1), rotation=15.0, translation=10.0, scaling=0.12
        )
    if kind == "slice":
        n = int(numbers.integers(48, 97))
        shape = (2 * n, 2 * int(numbers.integers(48, 97)))
    if kind in ("people", "strangers", "operated"):
        recipe = replace(recipe, related=0.7)
        pair = people_pair(recipe, shape, seed)
    else:
        pair = random_pair(recipe, shape, seed)
    arrays = [volume[0, 0].numpy() for volume in (pair.fixed, pair.moving)]
    flow = pair.displacement[0].numpy()
    if len(shape) == 2:
        arrays = [array[None] for array in arrays]
    grid = _grid(arrays[0].shape, numbers)
    truth = DisplacementField.from_voxels(flow, working_grid(grid, 2 * grid.spacing))
    fixed, moving = (
        Image(np.ascontiguousarray(array * 1000.0), grid, name)
        for array, name in zip(arrays, ("fixed", "moving"), strict=True)
    )
    do = {"resection", "cut", "thick", "unlike"} & {kind}
    if kind == "operated":
        do = {"resection" if numbers.random() < 0.5 else "cut"}
    if kind == "mixed":
        do = set(numbers.choice(["resection", "cut", "thick", "unlike"], int(numbers.integers(1, 4)), replace=False))
    if kind == "strange":
        do = {"resection", "unlike", "cut"}
    if kind == "strangers":
        do = set(numbers.choice(["resection", "cut", "thick", "unlike"], 2, replace=False))
    if kind == "misled":
        do = set(numbers.choice(["cut", "thick", "unlike"], int(numbers.integers(0, 3)), replace=False))
    if "unlike" in do:
        fixed, moving = (_with_own_structure(image, numbers) for image in (fixed, moving))
    if kind == "grown":
        moving = _with_growth(moving, numbers)
    if "resection" in do:
        fixed, moving = _one_of(fixed, moving, numbers, lambda image: _with_hole(image, numbers))
    if "thick" in do:
        fixed, moving = _one_of(fixed, moving, numbers, lambda image: _thick(image, numbers))
    if "cut" in do or kind == "half":
        share = (0.5, 0.5) if kind == "half" else (0.1, 0.45)
        fixed, moving = _one_of(fixed, moving, numbers, lambda image: _cut(image, numbers, share))
    return Case(fixed, moving, truth, "coarse" if kind == "preview" else "default")


def _shape(numbers: np.random.Generator) -> tuple[int, int, int]:
    largest = 66 if numbers.random() < 0.9 else 90
    return tuple(2 * int(numbers.integers(largest // 4 + 4, largest // 2 + 1)) for _ in range(3))


def _grid(shape: tuple[int, ...], numbers: np.random.Generator) -> Grid:
    """A grid of any voxel size, since nothing here has a unit."""
    matrix = np.diag([*(float(np.exp(numbers.uniform(-1.5, 1.5))) * np.ones(3)), 1.0])
    return Grid(shape, matrix)


def _one_of(fixed: Image, moving: Image, numbers: np.random.Generator, change) -> tuple[Image, Image]:
    return (change(fixed), moving) if numbers.random() < 0.35 else (fixed, change(moving))


def _place(grid: Grid) -> np.ndarray:
    """Voxel indices (K, J, I, 3), ordered k, j, i."""
    return np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1).astype(np.float32)


def _blob(image: Image, numbers: np.random.Generator, sizes: tuple[float, float]) -> np.ndarray:
    """Signed distance-like map (K, J, I), below 1 within an ellipsoid in the anatomy."""
    size = np.array(image.grid.shape)
    inside = np.argwhere(image.array > 50)
    centre = inside[numbers.integers(len(inside))]
    radius = np.maximum(numbers.uniform(*sizes, 3) * size.max(), 1.0)
    return np.sqrt((((_place(image.grid) - centre) / radius) ** 2).sum(-1))


def _with_hole(image: Image, numbers: np.random.Generator) -> Image:
    """A cavity filled with one value."""
    edge = np.clip((1.0 - _blob(image, numbers, (0.08, 0.24))) * 6 + 0.5, 0, 1)
    value = numbers.choice([0.0, 60.0, numbers.uniform(0, 1000)]) + 20 * numbers.normal(size=image.array.shape)
    return image.with_array((image.array * (1 - edge) + np.maximum(value, 0) * edge).astype(np.float32))


def _with_growth(image: Image, numbers: np.random.Generator) -> Image:
    """Something bright and uneven that the other image does not have, in several places."""
    array = image.array
    for _ in range(int(numbers.integers(1, 4))):
        edge = np.clip((1.0 - _blob(image, numbers, (0.05, 0.16))) * 4 + 0.5, 0, 1)
        array = array * (1 - edge) + edge * (numbers.uniform(500, 1100) + 150 * _texture(image.grid.shape, 3, numbers))
    return image.with_array(np.maximum(array, 0).astype(np.float32))


def _texture(shape: tuple[int, ...], spacing: int, numbers: np.random.Generator) -> np.ndarray:
    """Noise with a grain of `spacing` voxels, of deviation 1."""
    coarse = tuple(max(2, -(-n // spacing)) if n > 1 else 1 for n in shape)
    source = Image(numbers.normal(size=coarse).astype(np.float32), Grid(coarse, np.eye(4)))
    steps = [(c - 1) / (n - 1) if n > 1 else 1.0 for c, n in zip(coarse[::-1], shape[::-1], strict=True)]
    values = resample(source, Grid(shape, np.eye(4)), np.diag([*steps, 1.0])).array
    return values / max(float(values.std()), 1e-6)


def _with_own_structure(image: Image, numbers: np.random.Generator) -> Image:
    """Detail that is this image's own, as between different people: where the anatomy is."""
    own = sum(_texture(image.grid.shape, s, numbers) for s in (2, 4, 8))
    strength = numbers.uniform(20, 120)
    return image.with_array(
        np.where(image.array > 10, np.maximum(image.array + strength * own, 0), 0).astype(np.float32)
    )


def _thick(image: Image, numbers: np.random.Generator) -> Image:
    """Thick slices: averages of voxels along one axis."""
    factor, axis = int(numbers.integers(2, 5)), int(numbers.integers(3))
    if image.array.shape[axis] // factor < 8:
        return image
    spacing = image.grid.spacing.copy()
    spacing[2 - axis] *= factor
    return resample(image, working_grid(image.grid, spacing), None, 0.0, smooth=True).renamed(image.name)


def _cut(image: Image, numbers: np.random.Generator, share: tuple[float, float]) -> Image:
    """Less of the field of view, on one side along one axis."""
    axis = int(numbers.choice([a for a, n in enumerate(image.grid.shape) if n > 1]))
    n = image.grid.shape[axis]
    gone = min(round(float(numbers.uniform(*share)) * n), n - 8)
    start, size = np.zeros(3, int), image.grid.size.copy()
    size[2 - axis] -= gone
    where = [slice(None)] * 3
    where[axis] = slice(0, n - gone)
    if numbers.random() < 0.5:
        start[2 - axis], where[axis] = gone, slice(gone, None)
    return Image(np.ascontiguousarray(image.array[tuple(where)]), image.grid.cropped(start, size), image.name)
