"""What is registered in the comparison: pairs of a data folder, and pairs with a known answer made from any image.

A known warp is a chain of plane waves, x -> x + a sin(k.x + p), each invertible because |a.k| < 1, so that the chain
is a diffeomorphism whose value and inverse are exact at any point: nothing is interpolated on the way to the truth.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from resources import BenchmarkError

from VoxelMorphRegistrationLib.fields.warp import warp_labels
from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.images.grid import Grid, reoriented, working_grid
from VoxelMorphRegistrationLib.images.image import Image, resample

POINTS = 2000
# The largest |a.k| of one wave; each alone changes volumes by at most this part.
STEEPEST = 0.6


# --- known warps ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """x -> x + amplitude sin(wave.x + phase). amplitude (3,) mm, wave (3,) radians a mm, both in RAS."""

    amplitude: np.ndarray
    wave: np.ndarray
    phase: float

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Positions (..., 3) in RAS mm to positions."""
        return points + np.sin(points @ self.wave + self.phase)[..., None] * self.amplitude

    def backward(self, points: np.ndarray) -> np.ndarray:
        """The inverse: s = wave.x + phase moves by (amplitude.wave) sin(s), which Newton's method undoes."""
        steepness = float(self.amplitude @ self.wave)
        target = points @ self.wave + self.phase
        s = target.copy()
        for _ in range(50):
            step = (s + steepness * np.sin(s) - target) / (1 + steepness * np.cos(s))
            # Newton may overshoot where the map is steep; half a period is never too little.
            s -= np.clip(step, -1.5, 1.5)
            if np.abs(step).max(initial=0.0) < 1e-13:
                break
        return points - np.sin(s)[..., None] * self.amplitude


@dataclass(frozen=True)
class KnownWarp:
    """Waves one after the other.

    forward: from moving to fixed positions, what the moving image is sampled by; backward: the answer of the
    registration, from fixed to moving positions.
    """

    waves: tuple[Wave, ...]

    def forward(self, points: np.ndarray) -> np.ndarray:
        for wave in self.waves:
            points = wave.forward(points)
        return points

    def backward(self, points: np.ndarray) -> np.ndarray:
        for wave in reversed(self.waves):
            points = wave.backward(points)
        return points

    def largest(self, points: np.ndarray) -> float:
        """The largest displacement at points (N, 3), mm."""
        return float(np.linalg.norm(self.forward(points) - points, axis=-1).max())


def random_warp(rng: np.random.Generator, grid: Grid, points: np.ndarray, largest_mm: float, count: int = 16):
    """A KnownWarp that moves `points` (N, 3) by up to `largest_mm`.

    Wavelengths from a quarter to the whole of the smallest extent of `grid`; long waves are higher. Within the plane
    of a slice. Raises BenchmarkError when so large a motion of this grid would be too steep.
    """
    axes = [axis for axis in range(3) if grid.size[axis] > 1]
    basis = grid.directions[:, axes]
    extent = float((grid.size * grid.spacing)[axes].min())
    lengths = extent * np.exp(rng.uniform(np.log(0.25), 0.0, count))
    waves = [2 * np.pi / length * basis @ _direction(rng, len(axes)) for length in lengths]
    amplitudes = [length * rng.uniform(0.5, 1.0) * basis @ _direction(rng, len(axes)) for length in lengths]
    phases = rng.uniform(0, 2 * np.pi, count)

    def scaled(scale: float) -> KnownWarp:
        parts = zip(amplitudes, waves, phases, strict=True)
        return KnownWarp(tuple(Wave(scale * amplitude, wave, float(phase)) for amplitude, wave, phase in parts))

    low, high = 0.0, STEEPEST / max(abs(a @ k) for a, k in zip(amplitudes, waves, strict=True))
    if scaled(high).largest(points) < largest_mm:
        raise BenchmarkError(f"A motion of {largest_mm} mm is too steep for an image of {extent:.0f} mm.")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).largest(points) < largest_mm else (low, middle)
    return scaled(low)


def _direction(rng: np.random.Generator, dimension: int) -> np.ndarray:
    vector = rng.normal(size=dimension)
    return vector / np.linalg.norm(vector)


def sample_nearest(labels: Image, grid: Grid, warp: KnownWarp) -> Image:
    """Labels on `grid`, the label of the voxel nearest to warp.forward(x); 0 outside."""
    out = np.zeros(grid.shape, labels.array.dtype)
    for rows, positions in _positions(grid, labels.grid, warp):
        index = np.rint(positions).astype(np.intp)
        inside = ((index >= 0) & (index < labels.grid.size)).all(-1)
        i, j, k = index[inside].T
        out[rows][inside] = labels.array[k, j, i]
    return Image(out, grid, labels.name)


def sample_linear(image: Image, grid: Grid, warp: KnownWarp) -> Image:
    """The image on `grid`, interpolated at warp.forward(x), float32; its minimum outside."""
    import torch

    volume = torch.from_numpy(np.ascontiguousarray(image.array, np.float32))[None, None]
    out = np.empty(grid.shape, np.float32)
    for rows, positions in _positions(grid, image.grid, warp):
        places = torch.from_numpy(positions.astype(np.float32))
        values = sampling.sample(volume, places[None])[0, 0]
        values[~sampling.inside(places, image.grid.shape)] = float(image.array.min())
        out[rows] = values.numpy()
    return Image(out, grid, image.name)


def _positions(grid: Grid, source: Grid, warp: KnownWarp) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of k, warp.forward of the voxel centres of `grid` there, in voxels i, j, k of `source`)."""
    for rows in sampling.slabs(grid.shape, 300_000):
        part = grid.cropped((0, 0, rows.start), (grid.size[0], grid.size[1], rows.stop - rows.start))
        yield rows, source.to_ijk(warp.forward(part.positions()))


def changed_intensity(image: Image, rng: np.random.Generator, noise: float = 0.02) -> Image:
    """Another gamma (0.7 to 1.4), a bias field (up to about 15 %) and Gaussian noise, float32.

    Gamma and bias act on the range between the percentiles 0.1 and 99.9; noise: standard deviation, part of it.
    """
    low, high = np.percentile(image.array, [0.1, 99.9])
    values = np.clip((image.array.astype(np.float32) - low) / (high - low), 0, None)
    gamma = np.exp(rng.uniform(np.log(0.7), np.log(1.4)))
    extent = image.grid.size * image.grid.spacing
    waves = 2 * np.pi * rng.uniform(0.3, 0.8, 3) / extent
    positions = (image.grid.positions() - image.grid.center_ras) @ image.grid.directions
    bias = np.sin((positions * waves + rng.uniform(0, 2 * np.pi, 3)).astype(np.float32)).mean(-1)
    values = values**gamma * np.exp(0.15 * bias) + noise * rng.normal(size=values.shape)
    return image.with_array((low + (high - low) * values).astype(np.float32))


def foreground(image: Image) -> np.ndarray:
    """Voxels clearly above the background: more than 5 % of the range between the percentiles 0.5 and 99.5.

    Not of the darkest value: resampling has left some far below the background.
    """
    low, high = (float(value) for value in np.percentile(image.array, [0.5, 99.5]))
    return image.array > low + 0.05 * (high - low)


# --- pairs and cases -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and what is known about them.

    labels: by name, the maps of the fixed and of the moving image; the first are those that a table calls Dice.
    fixed_points, moving_points: corresponding positions (N, 3) in RAS mm. Raises BenchmarkError when a fixed map is
    empty.
    """

    fixed: Image
    moving: Image
    labels: dict[str, tuple[Image, Image]] = field(default_factory=dict)
    fixed_points: np.ndarray | None = None
    moving_points: np.ndarray | None = None

    def __post_init__(self) -> None:
        empty = [name for name, (fixed, _) in self.labels.items() if not fixed.array.any()]
        if empty:
            raise BenchmarkError(f"The fixed label map '{empty[0]}' holds no label.")


@dataclass(frozen=True)
class Case:
    """One row of the data. alignment: "none" (the images are aligned), "centers" or "affine" (this project's, the same
    for all), or "own" (methods with a linear stage do the whole road, the others get this project's affine).
    """

    name: str
    group: str
    load: Callable[[], Pair] = field(repr=False)
    dimension: int = 3
    anatomy: str = "any"
    one_modality: bool = True
    alignment: str = "none"


def known_pair(fixed: Image, moving: Image, labels: Image | None, rng: np.random.Generator, largest_mm: float) -> Pair:
    """A pair with exact truth: `moving`, aligned with `fixed`, is warped and changed in intensity.

    The points lie in the labels, or in the foreground where there are none, and within the moving image.
    """
    mask = foreground(fixed) if labels is None else labels.array > 0
    voxels = np.argwhere(mask)
    chosen = voxels[rng.choice(len(voxels), min(3 * POINTS, len(voxels)), replace=False)][:, ::-1]
    points = fixed.grid.to_ras(chosen + rng.uniform(-0.5, 0.5, chosen.shape) * (fixed.grid.size > 1))
    warp = random_warp(rng, moving.grid, points, largest_mm)
    warped = changed_intensity(sample_linear(moving, moving.grid, warp), rng)
    truth = warp.backward(points)
    kept = np.flatnonzero(moving.grid.contains(truth) & fixed.grid.contains(points))[:POINTS]
    maps = {} if labels is None else {labels.name: (labels, sample_nearest(labels, moving.grid, warp))}
    return Pair(fixed, warped, maps, points[kept], truth[kept])


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one case: they do not depend on the other cases of the run."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def read(path: Path, name: str) -> Image:
    if not path.is_file():
        raise BenchmarkError(f"The data folder has no {path.name} ({path}).")
    return read_image(path, name)


def read_labels(path: Path, name: str) -> Image:
    image = read(path, name)
    return image.with_array(np.rint(image.array).astype(np.int32))


# --- the groups of cases -------------------------------------------------------------------------------------------

BRAIN_PAIRS = (("1012", "1013"), ("1014", "1015"), ("1017", "1018"))
NATIVE_PAIRS = (("1014", "1018"), ("1018", "1019"), ("1019", "1014"))


def _brain(folder: Path, fixed: str, moving: str, labels: tuple[str, ...]) -> Pair:
    maps = {
        number: tuple(
            read_labels(folder / f"{name}_labels{number}.nii.gz", f"{name} labels") for name in (fixed, moving)
        )
        for number in labels
    }
    images = (read(folder / f"{name}_t1.nii.gz", name) for name in (fixed, moving))
    return Pair(*images, maps)


def brain(data: Path, seed: int, warps: int) -> list[Case]:
    """T1 brains of different people, affinely aligned."""
    return [
        Case(f"brain {a}<-{b}", "brain", partial(_brain, data / "brain", a, b, ("30", "138")), anatomy="brain")
        for a, b in BRAIN_PAIRS
    ]


def brain_native(data: Path, seed: int, warps: int) -> list[Case]:
    """T1 brains as they come, not aligned: the whole road."""
    folder = data / "brain_native"
    return [
        Case(
            f"native {a}<-{b}",
            "brain_native",
            partial(_brain, folder, a, b, ("138",)),
            anatomy="brain",
            alignment="own",
        )
        for a, b in NATIVE_PAIRS
    ]


def _slice(load: Callable[[], Pair], plane: str) -> Pair:
    """The middle slices of a pair, which share a grid: one voxel along k."""
    pair = load()
    orientation = {"axial": "RAS", "coronal": "RSA"}[plane]
    grid = reoriented(pair.fixed.grid, orientation)
    grid = grid.cropped((0, 0, grid.size[2] // 2), (grid.size[0], grid.size[1], 1))

    def cut(image: Image) -> Image:
        found = resample(image, grid)
        return (
            found.with_array(np.rint(found.array).astype(image.array.dtype))
            if image.array.dtype.kind in "iu"
            else found
        )

    maps = {name: tuple(cut(image) for image in both) for name, both in pair.labels.items()}
    return Pair(cut(pair.fixed), cut(pair.moving), maps)


def slices(data: Path, seed: int, warps: int) -> list[Case]:
    """The middle coronal and axial slices of the brain pairs."""
    return [
        Case(f"{plane} {a}<-{b}", plane, partial(_slice, case.load, plane), dimension=2, anatomy="brain")
        for plane in ("coronal", "axial")
        for case, (a, b) in zip(brain(data, seed, warps), BRAIN_PAIRS, strict=True)
    ]


def _abdomen(data: Path, name: str, seed: int) -> Pair:
    folder = data / "abdomen_ct"
    ct, organs = read(folder / "ct.nii.gz", "CT"), read_labels(folder / "organs.nii.gz", "organs")
    return known_pair(ct, ct, organs, generator(seed, name), 25.0)


def abdomen(data: Path, seed: int, warps: int) -> list[Case]:
    """Abdominal CT under known warps of up to 25 mm, with its organs."""
    names = [f"abdomen {n + 1}" for n in range(warps)]
    return [Case(name, "abdomen", partial(_abdomen, data, name, seed)) for name in names]


def _contrast(data: Path, name: str, seed: int, other: str) -> Pair:
    folder = data / "multimodal"
    t1, moving = (read(folder / f"p26_{contrast}.nii.gz", contrast.upper()) for contrast in ("t1", other))
    return known_pair(t1, moving, None, generator(seed, name), 8.0)


def _contrasts(other: str, data: Path, seed: int, warps: int) -> list[Case]:
    names = [f"t1_{other} {n + 1}" for n in range(warps)]
    return [
        Case(name, f"t1_{other}", partial(_contrast, data, name, seed, other), anatomy="brain", one_modality=False)
        for name in names
    ]


def _head(data: Path, name: str, seed: int) -> Pair:
    head = read(data / "head_native" / "chris_t1.nii.gz", "head")
    return known_pair(head, head, None, generator(seed, name), 15.0)


def head(data: Path, seed: int, warps: int) -> list[Case]:
    """A whole head, T1, under known warps of up to 15 mm."""
    names = [f"head {n + 1}" for n in range(warps)]
    return [Case(name, "head", partial(_head, data, name, seed)) for name in names]


def _prostate(data: Path, number: int) -> Pair:
    folder = data / "prostate_mr_us"
    images = [read(folder / f"{kind}_images_case{number:06}.nii.gz", kind.upper()) for kind in ("us", "mr")]
    glands = [_first_channel(folder / f"{kind}_labels_case{number:06}.nii.gz") for kind in ("us", "mr")]
    return Pair(*images, {"gland": tuple(glands)})


def _first_channel(path: Path) -> Image:
    import SimpleITK as sitk

    from VoxelMorphRegistrationLib.images.files import from_sitk

    if not path.is_file():
        raise BenchmarkError(f"The data folder has no {path.name} ({path}).")
    channels = sitk.ReadImage(str(path))
    image = from_sitk(channels[..., 0] if channels.GetDimension() == 4 else channels, "gland")
    return image.with_array((image.array > 0.5).astype(np.int32))


def prostate(data: Path, seed: int, warps: int) -> list[Case]:
    """Ultrasound <- MR of the prostate of one person. Both are cropped around it, so the centres are aligned."""
    count = len(list((data / "prostate_mr_us").glob("us_images_case*.nii.gz")))
    return [
        Case(f"prostate {n}", "prostate", partial(_prostate, data, n), one_modality=False, alignment="centers")
        for n in range(count)
    ]


def convention(data: Path, seed: int, warps: int) -> list[Case]:
    """Blobs moved by a known, unsymmetric shift on grids that betray every error of sign, axis or frame."""
    return [
        Case("convention 3D", "convention", partial(_shifted_blobs, (44, 36, 22), seed)),
        Case("convention 2D", "convention", partial(_shifted_blobs, (64, 48, 1), seed), dimension=2),
    ]


# In mm along i, j, k. Any other order or sign of its components, there or in RAS, is at least 0.36 of its length off.
CONVENTION_SHIFT = (-6.4, -4.4, 2.0)


def _shifted_blobs(size: tuple[int, int, int], seed: int) -> Pair:
    """Blobs on an oblique, anisotropic, left-handed grid away from the origin."""
    rng = generator(seed, "convention")
    turn, _ = np.linalg.qr(np.array([[0.9, -0.35, 0.2], [0.3, 0.85, 0.4], [-0.3, -0.3, 0.9]]))
    directions = turn * np.sign(np.diag(turn)) * [1, 1, -1]
    matrix = np.eye(4)
    matrix[:3, :3] = directions * [1.0, 1.3, 2.1]
    matrix[:3, 3] = (35.0, -60.0, 20.0)
    grid = Grid(size[::-1], matrix)
    axes = np.array(size) > 1
    extent = np.where(axes, grid.size * grid.spacing, 0)
    centers = rng.uniform(-0.3, 0.3, (30, 3)) * extent
    widths, heights = rng.uniform(3.5, 6.0, 30), rng.uniform(50.0, 200.0, 30)

    def blobs(offset: np.ndarray) -> np.ndarray:
        local = (grid.positions() - grid.center_ras) @ grid.directions - offset
        parts = zip(centers, widths, heights, strict=True)
        return sum(h * np.exp(-((local - c) ** 2).sum(-1) / (2 * w**2)) for c, w, h in parts).astype(np.float32)

    shift = np.array(CONVENTION_SHIFT) * axes
    fixed, moving = Image(blobs(np.zeros(3)), grid, "fixed"), Image(blobs(shift), grid, "moving")
    points = grid.center_ras + centers @ grid.directions.T
    return Pair(fixed, moving, {}, points, points + grid.directions @ shift)


GROUPS: dict[str, Callable[[Path, int, int], list[Case]]] = {
    "brain": brain,
    "brain_native": brain_native,
    "slices": slices,
    "abdomen": abdomen,
    "t1_t2": partial(_contrasts, "t2"),
    "t1_flair": partial(_contrasts, "flair"),
    "head": head,
    "prostate": prostate,
    "convention": convention,
}


def image_cases(path: Path, labels: Path | None, largest_mm: float, seed: int, warps: int) -> list[Case]:
    """Known warps of any image file, with or without labels."""

    def load(name: str) -> Pair:
        image = read(path, "image")
        maps = None if labels is None else read_labels(labels, "labels")
        return known_pair(image, image, maps, generator(seed, name), largest_mm)

    names = [f"{path.name} {n + 1}" for n in range(warps)]
    dimension = read(path, "image").grid.dimension
    return [Case(name, "image", partial(load, name), dimension=dimension) for name in names]


def shrunk(case: Case, factor: int) -> Case:
    """The case with voxels larger by `factor` along each axis of more than one voxel: for a quick look."""
    return case if factor == 1 else replace(case, load=lambda: _shrunk(case.load(), factor))


def _shrunk(pair: Pair, factor: int) -> Pair:
    grids = {}
    for image in (pair.fixed, pair.moving):
        grids[id(image.grid)] = working_grid(
            image.grid, tuple(image.grid.spacing * np.where(image.grid.size > 1, factor, 1))
        )

    def small(image: Image, source: Image) -> Image:
        return warp_labels(image, grids[id(source.grid)], mode="nearest")

    maps = {name: (small(a, pair.fixed), small(b, pair.moving)) for name, (a, b) in pair.labels.items()}
    fixed, moving = (resample(image, grids[id(image.grid)], smooth=True) for image in (pair.fixed, pair.moving))
    return replace(pair, fixed=fixed, moving=moving, labels=maps)


def chosen(groups: list[str], data: Path | None, seed: int, warps: int) -> list[Case]:
    """The cases of some groups. Raises BenchmarkError for an unknown group, or data that are due and not given."""
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise BenchmarkError(f"There is no case {', '.join(unknown)}. Choose among {', '.join(GROUPS)}.")
    if data is None and any(name != "convention" for name in groups):
        raise BenchmarkError("These cases need data: name the folder with --data.")
    return list(itertools.chain.from_iterable(GROUPS[name](data, seed, warps) for name in groups))
