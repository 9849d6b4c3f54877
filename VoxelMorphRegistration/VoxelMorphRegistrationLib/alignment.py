"""The linear step before the network: centres, rigid or affine by mutual information, or a matrix from a file.

A matrix here is (4, 4) float64 and maps fixed RAS mm to moving RAS mm, as the deformation that follows it does.

How rigid and affine work: both images are reduced to about `WORK_VOXELS` voxels and brought into one frame (fixed
RAS about the fixed centre; for slices the fixed plane), on grids with right angles even where a parent transform
shears the image. A coarse search over rotations and shifts proposes starts, the best of which SimpleITK's Mattes
mutual information refines as a rigid, similarity and affine transform. A step that leads to an implausible or a
worse result is dropped, and a warning says so.

Mutual information always finds some map that it likes, also between images in which it sees nothing in common. So the
answer is checked by a measure that took no part in finding it, whether edges meet edges of the same direction: unless
it stands out there among displaced copies of itself, it may be chance, and the start is kept (`_Edges`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import InputError, OutputError, SettingsError
from .geometry import LPS_FROM_RAS, Grid, Image, check_matrix, resample, working_grid

METHODS = ("none", "centers", "mass", "rigid", "similarity", "affine")

Progress = Callable[[float], None]

# Size of the reduced copies, in voxels (3D) or pixels (2D); 250,000 voxels are 3 mm for a head.
WORK_VOXELS = 250_000
WORK_PIXELS = 60_000
# Points at which similarity is measured and their grey levels: to judge a result, and in the coarse search.
SAMPLES, BINS = 40_000, 32
COARSE_PART, COARSE_SAMPLES, COARSE_BINS = 0.08, 3_000, 20
# Below this part of the smaller field of view, similarity falls with the square of the overlap: slivers match by luck.
TRUSTED_OVERLAP = 0.6
SMALLEST_OVERLAP = 0.2
LARGEST_SCALE = 2.0
LARGEST_TILT_DEGREES = 5.0
# The coarse search: rotations on a lattice, shifts by this part of the field of view, the best refined.
ROTATION_STEP, ROTATION_LIMIT = math.radians(22.5), math.radians(51.0)
SHIFT_STEP = 0.2
# Part of the similarity that a start loses for each radian of rotation.
ROTATION_DOUBT = 0.15
REFINED_STARTS, FINAL_STARTS = 16, 3
SEARCH_ROUNDS = 12
# The check by edges: points and displaced copies (parts of the field of view, degrees), and by how many standard
# deviations of the copies' agreement a map must exceed their mean. Measured: wrong maps reach 4.7 (rigid or scaled, of
# prostate MR and ultrasound, head and abdomen), right ones exceed 7.9 (other contrast, other person, half the field of
# view, skull against none).
EDGE_POINTS, EDGE_COPIES = 8_000, 60
COPY_SHIFTS, COPY_DEGREES = (0.2, 0.4), (20.0, 50.0)
SMALLEST_EVIDENCE = 6.0
# The rigid refinement is repeated while its last stage, then its last pass, moves the image by more than this, in work
# voxels: where bright edges outweigh what lies within, the steps shrink before the answer is reached.
MORE_PASSES, CONVERGED = 3, 0.15
# A scale or shear is taken only if it costs no more than this part of the agreement of edges.
EDGE_TOLERANCE = 0.005


@dataclass(frozen=True)
class Alignment:
    """A linear alignment.

    matrix: (4, 4), fixed RAS mm to moving RAS mm. method: the one asked for. similarity_before, similarity_after:
    at `initial` (identity if there is none) and at `matrix`, from 0 (unrelated, or no overlap) to 1: the entropy
    correlation coefficient 2 I(f, m) / (H(f) + H(m)) over the overlap of the fields of view (Maes et al. 1997),
    lowered where less than `TRUSTED_OVERLAP` of the smaller one overlaps.
    """

    matrix: np.ndarray
    method: str
    similarity_before: float
    similarity_after: float
    warnings: list[str] = field(default_factory=list)


def align(
    fixed: Image,
    moving: Image,
    method: str = "affine",
    *,
    initial: np.ndarray | None = None,
    fixed_mask: Image | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Alignment:
    """Find the linear map from fixed RAS mm to moving RAS mm.

    method: "none" (identity), "centers" (of the fields of view), "mass" (centres of the bright foreground),
    "rigid", "similarity" (rigid with one scale) or "affine" (mutual information, so the modalities may differ).
    initial: (4, 4), the start for every method; with "none" it is the answer. What is found is applied before it,
    matrix = initial @ found; the last three then start from there alone, instead of searching. fixed_mask: its
    voxels > 0 are where these three measure the similarity. seed: of the sampling; the same input and seed give the
    same answer. progress: called with the part done, 0 to 1; what it raises ends the alignment and reaches the
    caller.

    When what these three find may be chance, the answer is `initial`, or without it the images as they lie or their
    centres, whichever is more similar, and a warning says so.

    Two single slices are aligned within their plane. Where a slice lies along its normal cannot be seen in it, so
    every method, "none" included, also carries the fixed plane onto the moving one (a shift along the normal, and
    the few degrees by which they may be tilted); otherwise what follows would look past the moving slice.

    Raises SettingsError for an unknown method; InputError when the images do not overlap, are constant where
    contrast is needed, are one slice and one volume, or are two slices that are not parallel.
    """
    if method not in METHODS:
        raise SettingsError(f"The alignment '{method}' is unknown. Choose one of {', '.join(METHODS)}.")
    if fixed.grid.dimension != moving.grid.dimension:
        flat, solid = (fixed, moving) if fixed.grid.dimension == 2 else (moving, fixed)
        raise InputError(
            f"The {flat.name} is a single slice and the {solid.name} a volume. Give two slices or two volumes."
        )
    report = progress or (lambda fraction: None)
    report(0.0)
    start = np.eye(4) if initial is None else check_matrix(initial, "initial transform")
    pair = _Pair.of(fixed, moving, start, fixed_mask, seed)
    report(0.1)
    if method == "none":
        found, warnings = np.eye(4), []
    elif method == "centers":
        found, warnings = _shift(pair.moving_center - pair.fixed_center), []
    elif method == "mass":
        _check_contrast(pair)
        found, warnings = _shift(_mass_center(pair.moving) - _mass_center(pair.fixed)), []
    else:
        _check_contrast(pair)
        edges = _Edges.of(pair, seed)
        found, rigid, warnings = _registered(pair, edges, method, initial is None, seed, report)
        if method == "similarity":
            found = _with_one_scale(pair, edges, found, seed, report)
        judged = pair.judge(found)
        if judged.overlap > 0 and judged.similarity <= pair.judge(np.eye(4)).similarity:
            found = rigid = np.eye(4)
            warnings.append(f"The {method} alignment found nothing better than the start, which was kept.")
        trusted, doubt = _trusted(pair, edges, method, found, rigid, initial is None)
        if doubt is not None:
            found, warnings = trusted, [doubt]
    before, after = pair.judge(np.eye(4)), pair.judge(found)
    if after.overlap == 0:
        raise InputError(
            f"The {fixed.name} and the {moving.name} do not overlap in space. "
            "Choose the alignment 'centers' (or rigid, affine), or give an initial transform that brings them together."
        )
    report(1.0)
    return Alignment(pair.to_ras(found), method, before.similarity, after.similarity, warnings)


# --- the two images in one frame --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Verdict:
    """How well a map fits: similarity as in Alignment, and overlap as a part of the smaller field of view."""

    similarity: float
    overlap: float


@dataclass(frozen=True, eq=False)
class _Pair:
    """Both images reduced and in one frame, so that every map sought below goes from the frame to itself.

    frame: (4, 4), frame to fixed RAS. after: (4, 4) in RAS, follows the map sought. fixed, moving: on grids with
    right angles in the frame, values 0 to 1, NaN where unknown. mask: (K, J, I) bool, where fixed is compared.
    fixed_center, moving_center: of the fields of view, in the frame. spacing: mm of the reduced copies.
    In 2D the frame's third axis is the common normal, and every position in both images has 0 there.
    """

    frame: np.ndarray
    after: np.ndarray
    fixed_center: np.ndarray
    moving_center: np.ndarray
    fixed: Image
    moving: Image
    mask: np.ndarray
    spacing: float
    samples: _Samples
    coarse_samples: Callable[[], _Samples]

    @staticmethod
    def of(fixed: Image, moving: Image, start: np.ndarray, mask: Image | None, seed: int) -> _Pair:
        if fixed.grid.dimension == 2:
            fixed, moving = _squared(fixed), _squared(moving)
            start = start @ _onto_plane(fixed, moving, start)
        frame = _frame(fixed.grid)
        fixed_grid = fixed.grid.transformed(np.linalg.inv(frame))
        # The moving image as the start shows it in the fixed space.
        moving_grid = moving.grid.transformed(np.linalg.inv(start @ frame))
        originals = Image(fixed.array, fixed_grid, fixed.name), Image(moving.array, moving_grid, moving.name)
        centers = fixed_grid.center_ras, moving_grid.center_ras

        def at_scale(part: float, count: int, bins: int) -> tuple:
            spacing = _work_spacing(fixed_grid, moving_grid, part)
            # Two different lattices: on equal ones, both images blur alike wherever voxels meet voxels.
            small = [_reduced(image, spacing * f) for image, f in zip(originals, (1.0, 0.9), strict=True)]
            usable = _usable(small[0], mask, frame)
            return *small, usable, spacing, _Samples.of(small[0], usable, small[1], count, bins, seed)

        return _Pair(
            frame,
            start,
            *centers,
            *at_scale(1.0, SAMPLES, BINS),
            lambda: at_scale(COARSE_PART, COARSE_SAMPLES, COARSE_BINS)[-1],
        )

    @property
    def dimension(self) -> int:
        return self.fixed.grid.dimension

    def to_ras(self, found: np.ndarray) -> np.ndarray:
        """A map in the frame as one from fixed RAS to moving RAS."""
        return self.after @ self.frame @ found @ np.linalg.inv(self.frame)

    def judge(self, found: np.ndarray) -> _Verdict:
        similarity, overlap = self.samples.score(found[None])
        return _Verdict(float(similarity[0]), float(overlap[0]))


def _frame(grid: Grid) -> np.ndarray:
    """Frame to RAS: origin at the grid's centre; axes as RAS, for a slice the in-plane axes and the normal."""
    frame = np.eye(4)
    frame[:3, 3] = grid.center_ras
    if grid.dimension == 2:
        flat = 2 - grid.flat_axis
        first, second = (axis for axis in range(3) if axis != flat)
        normal = grid.directions[:, flat]
        along = grid.directions[:, first]
        across = np.cross(normal, along)
        across *= np.sign(across @ grid.directions[:, second])
        frame[:3, :3] = np.stack([along, across, normal], 1)
    return frame


def _squared(image: Image) -> Image:
    """A slice whose flat axis is made the normal of its plane; its voxels stay where they are."""
    grid = image.grid
    flat = 2 - grid.flat_axis
    matrix = grid.ijk_to_ras.copy()
    normal = np.cross(*(grid.directions[:, axis] for axis in range(3) if axis != flat))
    normal /= np.linalg.norm(normal)
    matrix[:3, flat] = normal * np.sign(normal @ matrix[:3, flat]) * grid.spacing[flat]
    return Image(image.array, Grid(grid.shape, matrix), image.name)


def _onto_plane(fixed: Image, moving: Image, start: np.ndarray) -> np.ndarray:
    """(4, 4) in fixed RAS: the smallest motion that carries the fixed plane onto the moving one, seen through start."""
    shown = _squared(Image(moving.array, moving.grid.transformed(np.linalg.inv(start)), moving.name)).grid
    center = fixed.grid.center_ras
    normal = fixed.grid.directions[:, 2 - fixed.grid.flat_axis]
    target = shown.directions[:, 2 - shown.flat_axis]
    target = target * (1.0 if target @ normal >= 0 else -1.0)
    tilt = math.degrees(math.acos(min(1.0, float(target @ normal))))
    if tilt > LARGEST_TILT_DEGREES:
        raise InputError(
            f"The {fixed.name} and the {moving.name} are single slices that are not parallel: their planes differ by "
            f"{tilt:.0f} degrees. Give slices of the same plane, or an initial transform that makes them parallel."
        )
    # The cross product has the length of the sine; at such small angles arcsin cannot be ambiguous.
    axis = np.cross(normal, target)
    sine = float(np.linalg.norm(axis))
    motion = _about(_rotation(axis * (math.asin(min(1.0, sine)) / sine if sine > 0 else 1.0)), center, center)
    motion[:3, 3] += ((shown.center_ras - center) @ target) * target
    return motion


def _about(linear: np.ndarray, center: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(4, 4) of x -> linear (x - center) + image."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = image - linear @ center
    return matrix


def _shift(vector: np.ndarray) -> np.ndarray:
    return _about(np.eye(3), np.zeros(3), vector)


def _rotation(vectors: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) (Rodrigues)."""
    vectors = np.asarray(vectors, dtype=np.float64)
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vectors.shape, 3)
    # np.sinc(t / pi) = sin(t) / t, defined at 0.
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (cross @ cross)


def _extent(grid: Grid) -> float:
    """Volume of a grid in mm3; area in mm2 of a slice."""
    volume = abs(np.linalg.det(grid.ijk_to_ras[:3, :3])) * grid.voxel_count
    return volume / grid.spacing[2 - grid.flat_axis] if grid.dimension == 2 else volume


def _work_spacing(fixed: Grid, moving: Grid, part: float) -> float:
    """Spacing in mm at which the smaller image has `part` of the work voxels and the larger at most four times that."""
    wanted = part * (WORK_PIXELS if fixed.dimension == 2 else WORK_VOXELS)
    small, large = sorted((_extent(fixed), _extent(moving)))
    return (max(small, large / 4) / wanted) ** (1 / fixed.dimension)


def _reduced(image: Image, spacing: float) -> Image:
    """`image` with voxels of at least `spacing` mm on right angles; 0 to 1 between robust limits, NaN outside."""
    array = image.array.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.any():
        raise InputError(f"The {image.name} has no voxel with a finite value. Check the file.")
    if not finite.all():
        array[~finite] = array[finite].min()
    # Means over whole blocks first: much cheaper than smoothing every voxel.
    image = _block_means(Image(array, image.grid, image.name), spacing)
    flat = -1 if image.grid.dimension == 3 else 2 - image.grid.flat_axis
    wanted = [s if axis == flat else max(s, spacing) for axis, s in enumerate(image.grid.spacing)]
    small = resample(image, working_grid(image.grid, tuple(wanted)), background=math.nan, smooth=True)
    low, high = np.nanpercentile(small.array, [0.1, 99.8])
    if high <= low:
        low, high = np.nanmin(small.array), np.nanmax(small.array)
    scale = 1.0 / (high - low) if high > low else 0.0
    return small.with_array(np.clip((small.array - low) * np.float32(scale), 0.0, 1.0))


def _block_means(image: Image, spacing: float) -> Image:
    """Means over blocks of whole voxels that stay finer than `spacing` mm; the last block repeats the border."""
    factors = np.maximum(np.floor(spacing / image.grid.spacing + 1e-6).astype(int), 1)
    factors = np.where(image.grid.size == 1, 1, factors)
    if factors.max() == 1:
        return image
    size = -(-image.grid.size // factors)
    array = np.pad(image.array, [(0, n) for n in (size * factors - image.grid.size)[::-1]], mode="edge")
    for axis in range(3):
        shape = (*array.shape[:axis], -1, int(factors[2 - axis]), *array.shape[axis + 1 :])
        array = array.reshape(shape).mean(axis + 1)
    matrix = image.grid.ijk_to_ras.copy()
    matrix[:3, :3] *= factors
    matrix[:3, 3] = image.grid.to_ras((factors - 1) / 2)
    return Image(array, Grid(array.shape, matrix), image.name)


def _usable(fixed: Image, mask: Image | None, frame: np.ndarray) -> np.ndarray:
    """Where the reduced fixed image may be compared, (K, J, I) bool. Raises InputError for an empty mask."""
    usable = np.isfinite(fixed.array)
    if mask is None:
        return usable
    inside = Image((mask.array > 0).astype(np.float32), mask.grid, mask.name)
    usable &= resample(inside, fixed.grid, frame, smooth=True).array > 0.25
    if np.count_nonzero(usable) < 50:
        raise InputError(
            f"The fixed mask ({mask.name}) marks almost nothing of the {fixed.name}. "
            "Check that it lies over the image, or leave it out."
        )
    return usable


def _foreground(image: Image) -> np.ndarray:
    """Voxels brighter than Otsu's threshold (1979), (K, J, I) bool."""
    counts, edges = np.histogram(image.array[np.isfinite(image.array)], 128, (0.0, 1.0))
    middle = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * middle)
    spread = (moment[-1] * below / total - moment) ** 2 / np.maximum(below * (total - below), 1)
    return image.array > edges[1:][np.argmax(spread)]


def _mass_center(image: Image) -> np.ndarray:
    """Centre of the foreground in the frame, each voxel weighted by its intensity."""
    chosen = np.argwhere(_foreground(image))
    weights = image.array[tuple(chosen.T)].astype(np.float64)
    return image.grid.to_ras((weights[:, None] * chosen[:, ::-1]).sum(0) / weights.sum())


def _check_contrast(pair: _Pair) -> None:
    for image in (pair.fixed, pair.moving):
        if np.nanmax(image.array) <= np.nanmin(image.array):
            raise InputError(
                f"The {image.name} is constant: there is nothing to align. "
                "Check that it is the right image, or choose the alignment 'none' or 'centers'."
            )


# --- similarity at sample points --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Samples:
    """Points of the fixed image with their grey level, and the moving image to compare them with.

    points: (N, 3) in the frame. levels: (N,) ints below `bins`. smaller: moving field of view as a part of the
    sampled one, at most 1.
    """

    points: np.ndarray
    levels: np.ndarray
    moving: _Source
    bins: int
    smaller: float

    @staticmethod
    def of(fixed: Image, usable: np.ndarray, moving: Image, count: int, bins: int, seed: int) -> _Samples:
        """Draw `count` points from the usable voxels, off the voxel centres.

        On coinciding lattices, unjittered points favour maps by whole voxels (Pluim et al. 2000).
        """
        rng = np.random.default_rng(seed)
        chosen = np.flatnonzero(usable)
        if len(chosen) > count:
            chosen = np.sort(rng.choice(chosen, count, replace=False))
        ijk = np.stack(np.unravel_index(chosen, usable.shape), -1)[:, ::-1].astype(np.float64)
        ijk += rng.uniform(-0.5, 0.5, ijk.shape) * (fixed.grid.size > 1)
        points = fixed.grid.to_ras(ijk)
        values = _Source.of(fixed).at(points, np.eye(4)[None])[0]
        known = np.isfinite(values)
        levels = np.minimum((values[known] * bins).astype(np.int64), bins - 1)
        sampled = _extent(fixed.grid) * np.count_nonzero(usable) / usable.size
        smaller = min(1.0, _extent(moving.grid) * np.isfinite(moving.array).mean() / sampled)
        return _Samples(points[known], levels, _Source.of(moving), bins, smaller)

    def score(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarity as in Alignment, and overlap as a part of the smaller field of view: (B,) of maps (B, 4, 4)."""
        batch = max(1, 1_500_000 // len(self.points))
        parts = [self._score(maps[i : i + batch]) for i in range(0, len(maps), batch)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _score(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = self.moving.at(self.points, maps)
        known = np.isfinite(values)
        position = np.where(known, values, 0.0) * (self.bins - 1)
        lower = np.minimum(position.astype(np.int64), self.bins - 2)
        upper_part = position - lower
        cell = (np.arange(len(maps))[:, None] * self.bins + self.levels) * self.bins + lower
        cells = len(maps) * self.bins**2
        joint = np.bincount(cell.ravel(), (known * (1 - upper_part)).ravel(), cells)
        joint += np.bincount(cell.ravel() + 1, (known * upper_part).ravel(), cells)[:cells]
        joint = joint.reshape(len(maps), self.bins, self.bins)
        total = joint.sum((1, 2))
        joint /= np.maximum(total, 1)[:, None, None]
        both = _entropy(joint.reshape(len(maps), -1))
        each = _entropy(joint.sum(1)) + _entropy(joint.sum(2))
        similarity = np.where(each > 1e-9, 2 * (each - both) / np.maximum(each, 1e-9), 0.0)
        overlap = np.minimum(total / len(self.points) / self.smaller, 1.0)
        return similarity * np.minimum(1.0, overlap / TRUSTED_OVERLAP) ** 2, overlap


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """In nats, of (B, N)."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)


@dataclass(frozen=True, eq=False)
class _Source:
    """An image to be looked up under many maps: its voxels within a margin of NaN, so that outside is unknown too.

    volume: (1, 1, K, J, I) tensor. to_volume: (3, 4), frame to the (i, j, k) of grid_sample, -1 to 1.
    """

    volume: object
    to_volume: np.ndarray

    @staticmethod
    def of(image: Image) -> _Source:
        import torch

        margin = [int(n > 1) for n in image.grid.shape]
        array = np.pad(image.array.astype(np.float32), [(m, m) for m in margin], constant_values=math.nan)
        scale = 2.0 / np.array(array.shape[::-1])
        to_volume = image.grid.ras_to_ijk[:3] * scale[:, None]
        to_volume[:, 3] += (np.array(margin[::-1]) + 0.5) * scale - 1.0
        return _Source(torch.from_numpy(array)[None, None], to_volume)

    def at(self, points: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Linearly interpolated values (B, N) where `maps` (B, 4, 4) take `points` (N, 3); NaN where unknown."""
        import torch
        import torch.nn.functional as F

        matrices = torch.from_numpy((self.to_volume @ maps).astype(np.float32))
        flat = torch.from_numpy(points.astype(np.float32)).expand(len(maps), -1, -1)
        positions = torch.baddbmm(matrices[:, None, :, 3], flat, matrices[:, :, :3].transpose(1, 2))
        values = F.grid_sample(self.volume, positions[None, None], padding_mode="border", align_corners=False)
        return values[0, 0, 0].numpy()


# --- the check by edges -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Edges:
    """Edges of both reduced images, to check a map by something else than what found it.

    An edge is the gradient over its length, a noise level added in squares (normalised gradient fields, Haber and
    Modersitzki 2006): its direction where there is an edge, near 0 elsewhere; its sign does not count.
    points: (N, 3) in the frame. fixed: (N, 3), edges there. moving: the components of the moving edges.
    extent: mm of the fixed field of view along the frame's axes. dimension: 2 or 3.
    """

    points: np.ndarray
    fixed: np.ndarray
    moving: tuple[_Source, ...]
    extent: np.ndarray
    dimension: int
    seed: int

    @staticmethod
    def of(pair: _Pair, seed: int) -> _Edges:
        fixed, moving = _edge_field(pair.fixed), _edge_field(pair.moving)
        chosen = np.flatnonzero(np.isfinite(fixed[..., 0]) & pair.mask)
        if len(chosen) > EDGE_POINTS:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, EDGE_POINTS, replace=False))
        kji = np.stack(np.unravel_index(chosen, pair.mask.shape), -1)
        return _Edges(
            pair.fixed.grid.to_ras(kji[:, ::-1]),
            fixed[tuple(kji.T)].astype(np.float64),
            tuple(_Source.of(pair.moving.with_array(moving[..., axis])) for axis in range(3)),
            np.ptp(pair.fixed.grid.corners(), axis=0),
            pair.dimension,
            seed,
        )

    def agreement(self, found: np.ndarray) -> tuple[float, float]:
        """How well edges meet under a map (4, 4), each 0 to 1: over all points, where an edge that meets none counts
        against the map, and over the points where both images have one. 0 with too few points in both."""
        moving = np.stack([source.at(self.points, found[None])[0] for source in self.moving], -1)
        known = np.isfinite(moving).all(-1)
        if np.count_nonzero(known) < 100:
            return 0.0, 0.0
        # A gradient is carried back by the transpose.
        moving = moving[known].astype(np.float64) @ found[:3, :3]
        fixed = self.fixed[known]
        both = (fixed * moving).sum(1) ** 2
        each = (fixed**2).sum(1), (moving**2).sum(1)
        all_points = both.mean() / max(math.sqrt((each[0] ** 2).mean() * (each[1] ** 2).mean()), 1e-9)
        return float(all_points), float(both.sum() / max((each[0] * each[1]).sum(), 1e-9))

    def evidence(self, found: np.ndarray) -> float:
        """By how many standard deviations a map agrees better than displaced copies of it, the larger of the two."""
        here = np.array(self.agreement(found))
        copies = np.array([self.agreement(found @ motion) for motion in self._displacements()])
        spread = copies.std(0)
        return float(((here - copies.mean(0)) / np.maximum(spread, 1e-6)).max())

    def _displacements(self) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        center = self.points.mean(0)
        plane = self.dimension == 2
        motions = []
        for _ in range(EDGE_COPIES):
            axis, way = rng.normal(size=(2, 3))
            if plane:
                axis[:2], way[2] = 0.0, 0.0
            turn = math.radians(rng.uniform(*COPY_DEGREES)) * axis / np.linalg.norm(axis)
            shift = rng.uniform(*COPY_SHIFTS) * self.extent * way / np.linalg.norm(way)
            motions.append(_about(_rotation(turn), center, center + shift))
        return motions


def _edge_field(image: Image) -> np.ndarray:
    """Edges (K, J, I, 3) of a reduced image in the frame, float32; NaN where a neighbour is unknown."""
    import torch

    from . import sampling

    grid = image.grid
    known = np.isfinite(image.array)
    filled = np.where(known, image.array, np.nanmedian(image.array)).astype(np.float32)
    sigma = tuple(0.7 if n > 1 else 0.0 for n in grid.shape)
    smooth = sampling.gaussian_smooth(torch.from_numpy(filled)[None, None], sigma)[0, 0].numpy()
    gradient = np.zeros((*grid.shape, 3), np.float32)
    for axis in range(3):
        if grid.shape[axis] > 1:
            gradient[..., 2 - axis] = np.gradient(smooth, axis=axis) / grid.spacing[2 - axis]
            before, after = known.copy(), np.moveaxis(known.copy(), axis, 0)
            after[1:] &= np.moveaxis(before, axis, 0)[:-1]
            after[:-1] &= np.moveaxis(before, axis, 0)[1:]
            known = np.moveaxis(after, 0, axis)
    gradient = gradient @ grid.directions.T.astype(np.float32)
    squared = (gradient**2).sum(-1, keepdims=True)
    noise = float(np.sqrt(squared[known]).mean()) if known.any() else 0.0
    edges = gradient / np.sqrt(squared + max(noise, 1e-6) ** 2)
    edges[~known] = np.nan
    return edges


# --- coarse search ----------------------------------------------------------------------------------------


def _starts(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (B, 3, 3) and the images (B, 3) of the fixed centre under every start to be tried.

    Every rotation of the lattice, about the fixed position (the images as they lie), the field's centre and the
    centre of mass, each onto its counterpart; and shifts from there for fields of view that overlap only partly.
    """
    free = (0, 1, 2) if pair.dimension == 3 else (2,)
    steps = np.arange(-2, 3) * ROTATION_STEP
    vectors = np.array([v for v in itertools.product(*(steps if a in free else [0.0] for a in range(3)))])
    vectors = vectors[np.linalg.norm(vectors, axis=1) <= ROTATION_LIMIT]
    center = pair.fixed_center
    pivots = [
        (center, center),
        (center, pair.moving_center),
        (_mass_center(pair.fixed), _mass_center(pair.moving)),
    ]
    low, high = (f(pair.fixed.grid.corners(), axis=0) for f in (np.min, np.max))
    offsets = [np.zeros(3)]
    for axis in range(pair.dimension):
        offsets += [sign * SHIFT_STEP * (high - low)[axis] * np.eye(3)[axis] for sign in (-1, 1)]
    rotations, images = [], []
    for rotation in _rotation(vectors):
        for (pivot, target), offset in itertools.product(pivots, offsets):
            rotations.append(rotation)
            images.append(rotation @ (center - pivot) + target + offset)
    return np.array(rotations), np.array(images)


def _maps(rotations: np.ndarray, images: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(B, 4, 4) of x -> rotation (x - center) + image."""
    maps = np.tile(np.eye(4), (len(rotations), 1, 1))
    maps[:, :3, :3] = rotations
    maps[:, :3, 3] = images - rotations @ center
    return maps


def _ranked(samples: _Samples, maps: np.ndarray) -> np.ndarray:
    """Similarity (B,), lowered a little by large rotations: those need evidence, small ones are likely."""
    cosine = (np.trace(maps[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    return samples.score(maps)[0] * (1 - ROTATION_DOUBT * np.arccos(np.clip(cosine, -1, 1)))


def _search(pair: _Pair, report: Progress) -> np.ndarray:
    """The most similar rigid start as a (4, 4) map, by a lattice of starts and a pattern search from the best."""
    samples = pair.coarse_samples()
    rotations, images = _starts(pair)
    center = pair.fixed_center
    scores = _ranked(samples, _maps(rotations, images, center))
    report(0.2)
    best = np.argsort(-scores, kind="stable")[:REFINED_STARTS]
    # The images as they lie, and their centres, always stay in the race.
    best = np.unique(np.append(best, np.flatnonzero(np.trace(rotations, axis1=1, axis2=2) > 3 - 1e-9)))
    rotations, images, scores = rotations[best], images[best], scores[best]
    steps = np.tile(_pattern(pair), (len(best), 1, 1))
    for round_ in range(SEARCH_ROUNDS):
        rotations, images, scores, steps = _improved(samples, center, rotations, images, scores, steps)
        report(0.2 + 0.15 * (round_ + 1) / SEARCH_ROUNDS)
    maps = _maps(rotations, images, center)[np.argsort(-scores, kind="stable")[:FINAL_STARTS]]
    return maps[np.argmax(_ranked(pair.samples, maps))]


def _pattern(pair: _Pair) -> np.ndarray:
    """First steps of the pattern search, (P, 6): rotation vector in radians, then shift in mm."""
    radius = np.linalg.norm(np.ptp(pair.fixed.grid.corners(), axis=0)) / 4
    angle = ROTATION_STEP / 2
    free = (0, 1, 2, 3, 4, 5) if pair.dimension == 3 else (2, 3, 4)
    step = np.where(np.arange(6) < 3, angle, angle * radius)
    return np.array([sign * step[a] * np.eye(6)[a] for a in free for sign in (-1, 1)])


def _improved(samples: _Samples, center, rotations, images, scores, steps):
    """One round for every candidate: the best of its neighbours, or smaller steps if none is better."""
    count, patterns = steps.shape[:2]
    tried_rotations = _rotation(steps[..., :3]) @ rotations[:, None]
    tried_images = images[:, None] + steps[..., 3:]
    maps = _maps(tried_rotations.reshape(-1, 3, 3), tried_images.reshape(-1, 3), center)
    tried = _ranked(samples, maps).reshape(count, patterns)
    which = np.argmax(tried, axis=1)
    rows = np.arange(count)
    better = tried[rows, which] > scores
    rotations = np.where(better[:, None, None], tried_rotations[rows, which], rotations)
    images = np.where(better[:, None], tried_images[rows, which], images)
    scores = np.where(better, tried[rows, which], scores)
    return rotations, images, scores, np.where(better[:, None, None], steps, steps / 2)


# --- refinement by SimpleITK ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """One optimisation: blur and first step in work voxels, sample points, largest number of iterations."""

    blur: float
    samples: int
    iterations: int
    step: float

    @property
    def cost(self) -> float:
        return float(self.samples * self.iterations)


_STAGES = {
    "rigid": (_Stage(1.5, 10_000, 60, 1.0), _Stage(0.5, 20_000, 40, 0.5)),
    "similarity": (_Stage(1.5, 10_000, 40, 0.5),),
    "affine": (_Stage(1.0, 20_000, 80, 0.5), _Stage(0.0, 40_000, 60, 0.25)),
}


def _registered(
    pair: _Pair, edges: _Edges, method: str, search: bool, seed: int, report: Progress
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The map of "rigid", or of "affine" (the way to "similarity", too), the rigid one on the way to it, and what is to
    be said of it."""
    start = _search(pair, report) if search else np.eye(4)
    if pair.judge(start).overlap == 0:
        return start, start, []
    kinds = ("rigid",) if method == "rigid" else ("rigid", "similarity", "affine")
    total = sum(stage.cost for kind in kinds for stage in _STAGES[kind])
    work = _Sitk.of(pair)
    best, rigid, kept, done, warnings = start, start, "coarse" if search else "given", 0.0, []

    def through(kind: str, spent: float, counts: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """`best` before and after the last stage of its refinement. spent: cost of what is done; counts: whether this
        adds to it, for the progress."""
        before, found = best, best
        for stage in _STAGES[kind]:
            cost = stage.cost if counts else 0.0

            def tell(fraction: float, spent: float = spent, cost: float = cost) -> None:
                report(0.35 + 0.6 * (spent + cost * fraction) / total)

            if found is not None:
                before, found = found, work.refined(found, kind, stage, seed, tell)
            spent += cost
        return before, found

    for kind in kinds:
        before, found = through(kind, done, counts=True)
        done += sum(stage.cost for stage in _STAGES[kind])
        fault = _fault(pair, edges, found, best, kind)
        if fault is None:
            best, kept = found, kind
        elif kind == method != "similarity":
            warnings.append(f"The {method} alignment was not used, because {fault}; the {kept} one was kept.")
        if kind == "rigid":
            for _ in range(MORE_PASSES):
                if fault is not None or work.moved(before, best) <= CONVERGED:
                    break
                before = best
                _, found = through(kind, done, counts=False)
                fault = _fault(pair, edges, found, best, kind)
                best = best if fault is not None else found
            rigid = best
    return best, rigid, warnings


def _safe_start(pair: _Pair, search: bool) -> tuple[np.ndarray, str]:
    """What is kept when nothing better can be trusted, and its name: the start that was given; else the images as they
    lie or their centres, whichever is more similar."""
    if not search:
        return np.eye(4), "the given start was kept"
    centers = _shift(pair.moving_center - pair.fixed_center)
    if pair.judge(centers).similarity > pair.judge(np.eye(4)).similarity:
        return centers, "only the centres of the images were aligned"
    return np.eye(4), "the images were left as they lie"


def _trusted(
    pair: _Pair, edges: _Edges, method: str, found: np.ndarray, rigid: np.ndarray, search: bool
) -> tuple[np.ndarray, str | None]:
    """`found` if it stands out from chance, else `rigid` if that does, else the safe start; and why not `found`."""
    evidence = edges.evidence(found)
    if evidence >= SMALLEST_EVIDENCE:
        return found, None
    if found is not rigid and edges.evidence(rigid) >= SMALLEST_EVIDENCE:
        trusted, kept = rigid, "the rigid one was kept"
    else:
        trusted, kept = _safe_start(pair, search)
    return trusted, (
        f"The {method} alignment was not used, because under it the edges of the images agree hardly better than by "
        f"chance ({evidence:.1f} standard deviations above displaced copies, {SMALLEST_EVIDENCE:g} are needed); {kept}."
    )


def _with_one_scale(pair: _Pair, edges: _Edges, affine: np.ndarray, seed: int, report: Progress) -> np.ndarray:
    """The similarity next to an affine map, refined. Mutual information finds the scale sooner on the way of affine."""
    center = pair.samples.points.mean(0)
    d = pair.dimension
    u, _, vt = np.linalg.svd(affine[:d, :d])
    linear = np.eye(3)
    linear[:d, :d] = abs(np.linalg.det(affine[:d, :d])) ** (1 / d) * (u @ vt)
    start = _about(linear, center, affine[:3, :3] @ center + affine[:3, 3])
    work = _Sitk.of(pair)
    for stage in _STAGES["rigid"]:
        found = work.refined(start, "similarity", stage, seed, lambda fraction: report(0.95 + 0.05 * fraction))
        if _fault(pair, edges, found, start, "rigid") is None:
            start = found
    return start


def _fault(pair: _Pair, edges: _Edges, found: np.ndarray | None, before: np.ndarray, kind: str) -> str | None:
    """What speaks against a map, in words that follow "because"; None if nothing does.

    A rigid step must raise the similarity; one that scales or shears must not lower the agreement of edges either:
    more freedom always finds more mutual information.
    """
    if found is None:
        return "it lost the overlap of the images"
    if not np.isfinite(found).all() or np.linalg.det(found[:3, :3]) <= 0:
        return "it mirrors or flattens the image"
    scales = np.linalg.svd(found[:3, :3], compute_uv=False)
    if scales.max() > LARGEST_SCALE or scales.min() < 1 / LARGEST_SCALE:
        return f"it scales the image by a factor of {scales.min():.2f} to {scales.max():.2f}"
    new, old = pair.judge(found), pair.judge(before)
    if new.overlap < min(SMALLEST_OVERLAP, 0.8 * old.overlap):
        return f"it leaves only {100 * new.overlap:.0f} % of the fields of view overlapping"
    if new.similarity < old.similarity:
        return "it made the images no more similar"
    if kind != "rigid" and edges.agreement(found)[0] < (1 - EDGE_TOLERANCE) * edges.agreement(before)[0]:
        return "the edges of the images agree less under it"
    return None


@dataclass(frozen=True, eq=False)
class _Sitk:
    """The reduced images as SimpleITK images of the frame's dimension, with masks where values are unknown."""

    fixed: object
    moving: object
    fixed_mask: object
    moving_mask: object
    center: np.ndarray
    points: np.ndarray
    spacing: float
    usable: int

    @staticmethod
    def of(pair: _Pair) -> _Sitk:
        known = np.isfinite(pair.moving.array)
        return _Sitk(
            _to_sitk(pair.fixed),
            _to_sitk(pair.moving),
            None if pair.mask.all() else _to_sitk(pair.fixed.with_array(pair.mask.astype(np.uint8))),
            None if known.all() else _to_sitk(pair.moving.with_array(known.astype(np.uint8))),
            pair.samples.points.mean(0),
            pair.samples.points[::50],
            pair.spacing,
            int(np.count_nonzero(pair.mask)),
        )

    def moved(self, before: np.ndarray, after: np.ndarray) -> float:
        """Mean distance between two maps, work voxels."""
        off = after - before
        return float(np.linalg.norm(self.points @ off[:3, :3].T + off[:3, 3], axis=1).mean()) / self.spacing

    def refined(self, start: np.ndarray, kind: str, stage: _Stage, seed: int, tell: Progress) -> np.ndarray | None:
        """The map of a kind that `stage` makes of `start`; None when SimpleITK gives up (too little overlap)."""
        import SimpleITK as sitk

        transform = _sitk_transform(kind, start, self.center, self.fixed.GetDimension())
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(BINS)
        # ITK's threads add up in the order in which they finish; one thread makes the result repeatable.
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        part = min(1.0, stage.samples / self.usable)
        if part < 1:
            method.SetMetricSamplingStrategy(method.REGULAR)
            # A seed of 0 would mean the wall clock.
            method.SetMetricSamplingPercentage(part, seed % 1_000_000 + 1)
        if self.fixed_mask is not None:
            method.SetMetricFixedMask(self.fixed_mask)
        if self.moving_mask is not None:
            method.SetMetricMovingMask(self.moving_mask)
        method.SetInterpolator(sitk.sitkLinear)
        # Plain central differences; the default gradient is of a more blurred image than the one compared.
        method.MetricUseFixedImageGradientFilterOff()
        method.MetricUseMovingImageGradientFilterOff()
        method.SetShrinkFactorsPerLevel([1])
        method.SetSmoothingSigmasPerLevel([stage.blur * self.spacing])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetOptimizerAsRegularStepGradientDescent(
            stage.step * self.spacing, 0.005 * self.spacing, stage.iterations, 0.8, 1e-9
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        return _matrix_of(transform) if _executed(method, self, stage, tell) else None


def _executed(method, work: _Sitk, stage: _Stage, tell: Progress) -> bool:
    """Run a registration; False when SimpleITK gives up. What `tell` raises stops it and is raised again."""
    import SimpleITK as sitk

    raised: list[BaseException] = []

    def iterated() -> None:
        # An exception cannot cross SimpleITK's C++ frames, so it waits here.
        try:
            tell(min(1.0, (method.GetOptimizerIteration() + 1) / stage.iterations))
        except BaseException as error:
            raised.append(error)
            method.StopRegistration()

    method.AddCommand(sitk.sitkIterationEvent, iterated)
    try:
        method.Execute(work.fixed, work.moving)
    except RuntimeError:
        if not raised:
            return False
    if raised:
        raise raised[0]
    return True


def _to_sitk(image: Image):
    """A SimpleITK image in the frame's coordinates (neither RAS nor LPS), 2D for a slice."""
    import SimpleITK as sitk

    grid = image.grid
    axes = [axis for axis in range(3) if grid.dimension == 3 or axis != 2 - grid.flat_axis]
    dimension = len(axes)
    # Unknown voxels are masked out, but blurring reaches them: the commonest value does least harm.
    array = np.nan_to_num(image.array, nan=float(np.nanmedian(image.array)))
    result = sitk.GetImageFromArray(array if dimension == 3 else array.squeeze(grid.flat_axis))
    result.SetOrigin(grid.ijk_to_ras[:dimension, 3].tolist())
    result.SetSpacing(grid.spacing[axes].tolist())
    u, _, vt = np.linalg.svd(grid.directions[:dimension][:, axes])
    result.SetDirection((u @ vt).ravel().tolist())
    return result


def _sitk_transform(kind: str, matrix: np.ndarray, center: np.ndarray, dimension: int):
    """A SimpleITK transform of the given kind that equals `matrix` as far as its kind allows."""
    import SimpleITK as sitk

    kinds = {
        "rigid": (sitk.Euler2DTransform, sitk.Euler3DTransform),
        "similarity": (sitk.Similarity2DTransform, sitk.Similarity3DTransform),
        "affine": (lambda: sitk.AffineTransform(2), lambda: sitk.AffineTransform(3)),
    }
    transform = kinds[kind][dimension - 2]()
    linear = matrix[:dimension, :dimension]
    transform.SetCenter(center[:dimension].tolist())
    if kind == "affine":
        transform.SetMatrix(linear.ravel().tolist())
    else:
        transform.SetMatrix(linear.ravel().tolist(), 1e-5)
    moved = matrix[:3, :3] @ center + matrix[:3, 3] - center
    transform.SetTranslation(moved[:dimension].tolist())
    return transform


def _matrix_of(transform) -> np.ndarray:
    """(4, 4) of a linear SimpleITK transform in its own frame; a 2D one leaves the third axis alone."""
    dimension = transform.GetDimension()
    # Points far apart, so that rounding of large translations does not reach the linear part.
    reach = 1000.0
    origin = np.array(transform.TransformPoint([0.0] * dimension))
    matrix = np.eye(4)
    for axis in range(dimension):
        point = [reach if a == axis else 0.0 for a in range(dimension)]
        matrix[:dimension, axis] = (np.array(transform.TransformPoint(point)) - origin) / reach
    matrix[:dimension, 3] = origin
    return matrix


# --- files ------------------------------------------------------------------------------------------------


def read_linear_transform(path: str | Path) -> np.ndarray:
    """A linear transform from a file as (4, 4), fixed RAS mm to moving RAS mm.

    Reads what SimpleITK reads (.tfm, .txt, .h5, .mat of ITK, ANTs or Slicer; LPS, fixed to moving on disk, also
    composites of linear ones) and plain text with four rows of four numbers (taken as RAS mm, fixed to moving).
    Raises InputError for a missing, unreadable, singular or non-linear file.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.is_file():
        raise InputError(f"The transform cannot be read: there is no file {path}.")
    rows = _rows_of_numbers(path)
    if rows is not None:
        return check_matrix(rows, f"transform in {path}")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"The transform cannot be read from {path}: it is neither a transform file known here (.tfm, .txt, .h5, "
            ".mat of ITK, ANTs or Slicer) nor a text file with a 4x4 matrix, or it is damaged."
        ) from error
    if not transform.IsLinear():
        raise InputError(
            f"The transform in {path} is not linear (it bends space). Give a linear one: rigid, affine or a 4x4 matrix."
        )
    return check_matrix(LPS_FROM_RAS @ _matrix_of(transform) @ LPS_FROM_RAS, f"transform in {path}")


def _rows_of_numbers(path: Path) -> np.ndarray | None:
    """The numbers of a small text file with four rows of four; None if it is anything else."""
    if path.stat().st_size > 10_000:
        return None
    try:
        lines = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [[float(word) for word in line] for line in lines if line and not line[0].startswith("#")]
    except ValueError:
        return None
    return np.array(rows) if len(rows) == 4 and all(len(row) == 4 for row in rows) else None


def write_linear_transform(matrix: np.ndarray, path: str | Path) -> None:
    """Write a (4, 4) matrix, fixed RAS mm to moving RAS mm, as an ITK affine transform (.tfm, .txt, .h5 or .mat; LPS).

    Raises OutputError when the file cannot be written.
    """
    import SimpleITK as sitk

    lps = LPS_FROM_RAS @ check_matrix(matrix, "linear transform") @ LPS_FROM_RAS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    try:
        sitk.WriteTransform(transform, str(path))
    except RuntimeError as error:
        raise OutputError(
            f"The linear transform could not be written to {path}: use .tfm, .txt, .h5 or .mat, and check the folder's "
            "permissions and the free space."
        ) from error
