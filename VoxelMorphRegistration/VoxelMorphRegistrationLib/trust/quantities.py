"""What a pair and its registration say about the error, place by place: numbers without units.

Everything is looked at on grids of two and four times the spacing of the refinement's working grid, and lengths are
in its voxels, so that a mouse and a man give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..fields.displacement import DisplacementField
from ..fields.warp import warp_image
from ..images.boxes import pooled
from ..images.grid import Grid, working_grid
from ..images.image import Image, resample
from ..images.sampling import gaussian_smooth
from ..refinement.descriptors import descriptor_noise, mind_ssc
from ..refinement.pair import mean_extent, region_grid

if TYPE_CHECKING:
    from ..refinement.pair import Pair
    from .runs import Answers

# Spacing of the images that are looked at, and of the map, in voxels of the working grid.
SEEN, MAP = 2, 4
# Windows in voxels of the images that are looked at: near, and around.
NEAR, AROUND, WIDE = 1.5, 4.0, 8.0
# Intensities that are told apart where it is counted which ones meet.
BINS = 32
# Windows over which the answers of the ensemble are pooled, in voxels of the map: near, and around.
POOLED, POOLED_AROUND = 0.7, 2.5
# Distances to an edge count up to this many voxels of the working grid.
FAR = 16.0
# Below these, nothing is told apart: lengths in voxels, variances of values in [0, 1], of descriptors their differences
# and how far their best match lies off, in voxels.
SHORT, FLAT, ALIKE, OFF = 0.03, 1e-6, 2e-3, 0.05
# A window of which less is known than this part is hardly known.
NOTHING = 1e-3

# The way back, the starts disturbed coarsely, finely and all of them, and how far two of them end apart.
ENSEMBLE = ("back", "returned", "fine", "starts", "apart")
# How far the moving image is moved on to see whether it fits better there, in voxels of the images that are looked at:
# how much worse it is there, and where the parabola through both sides has its lowest point.
SHIFTS, PROFILE = (1, 4), ("gain", "off")
NAMES = (
    *(f"{name}_{where}" for name in ENSEMBLE for where in ("near", "around", "case")),
    *(f"{name}{step}_{where}" for step in SHIFTS for name in PROFILE for where in ("near", "around", "case")),
    "rough_case",
    "bent_case",
    "displaced_case",
    "weak_edge_near",
    "strong_edge_near",
    "weak_edge_around",
    "strong_edge_around",
    "fixed_contrast",
    "moving_contrast",
    "contrast_ratio",
    "surprise_near",
    "surprise_around",
    "surprise_wide",
    "surprise_case",
    "unexplained_near",
    "unexplained_around",
    "unexplained_case",
    "unlike_near",
    "unlike_around",
    "unlike_case",
    "noise",
    "fixed_edge",
    "moving_edge",
    "unseen_near",
    "unseen_around",
    "unseen_wide",
    "displaced",
    "bent",
    "rough",
    "descriptors",
    "flat",
)


@dataclass(frozen=True, eq=False)
class Quantities:
    """values (K, J, I, Q) float32 on `grid`, in the order of NAMES; inside (K, J, I): where the anatomy is.

    unit: mm of a voxel of the working grid, in which the lengths are.
    """

    values: np.ndarray = field(repr=False)
    inside: np.ndarray = field(repr=False)
    grid: Grid
    unit: float


def quantities(pair: Pair, found: DisplacementField, answers: Answers, similarity: str) -> Quantities:
    """found: u of T(x) = A (x + u(x)). similarity: what it was refined with."""
    region = region_grid(pair.fixed.grid, pair.mask)
    unit = float(np.min(region.spacing[region.size > 1]))
    seen, grid = working_grid(region, SEEN * unit), working_grid(region, MAP * unit)
    inside = resample(Image(pair.mask.astype(np.float32), pair.fixed.grid), grid, smooth=True).array > 0.25
    if not inside.any():
        inside[:] = True
    parts = of_answers(pair, found, answers, grid, unit, inside)
    images = _Seen(pair, found, seen, unit)
    on_map = {name: resample(Image(array, seen), grid).array for name, array in images.parts().items()}
    parts.update(on_map)
    profile, pooled_grid = images.profile()
    parts.update({name: resample(Image(array, pooled_grid), grid).array for name, array in profile.items()})
    for name in ("unexplained", "unlike", "surprise", *(f"{name}{step}" for step in SHIFTS for name in PROFILE)):
        parts[f"{name}_case"] = np.full(grid.shape, np.median(parts[f"{name}_near"][inside]))
    parts.update(_edges(pair, found, grid, unit))
    parts.update(_shape(found, grid, unit))
    for name in ("rough", "bent", "displaced"):
        parts[f"{name}_case"] = np.full(grid.shape, np.median(parts[name][inside]))
    parts["descriptors"] = np.full(grid.shape, float(similarity == "mind"))
    parts["flat"] = np.full(grid.shape, float(grid.dimension == 2))
    values = np.stack([np.broadcast_to(parts[name], grid.shape) for name in NAMES], -1).astype(np.float32)
    return Quantities(np.nan_to_num(values), inside, grid, unit)


def of_answers(
    pair: Pair, found: DisplacementField, answers: Answers, grid: Grid, unit: float, inside: np.ndarray
) -> dict[str, np.ndarray]:
    """What the other answers say, on the map's grid; 0 for those that were not made."""
    apart, parts = _apart(pair, found, answers, grid), {}
    for name in ENSEMBLE:
        squares = (apart[name] / unit) ** 2 if name in apart else np.full(grid.shape, 1.0 - SHORT**2)
        for where, sigma in (("near", POOLED), ("around", POOLED_AROUND)):
            parts[f"{name}_{where}"] = 0.5 * np.log(_smooth(squares, sigma) + SHORT**2)
        parts[f"{name}_case"] = np.full(grid.shape, np.median(parts[f"{name}_near"][inside]))
    return parts


def _smooth(array: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian means, sigma in voxels; not across a slice."""
    sigmas = tuple(sigma if n > 1 else 0.0 for n in array.shape)
    volume = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
    return gaussian_smooth(volume, sigmas)[0, 0].numpy()


def _apart(pair: Pair, found: DisplacementField, answers: Answers, grid: Grid) -> dict[str, np.ndarray]:
    """How far the other answers lie from the one in question, in mm of the fixed image, (K, J, I)."""
    own, result = found.on_grid(grid).displacement_ras, {}
    if answers.back is not None:
        x = grid.positions()
        there = (x + own).reshape(-1, 3) @ pair.matrix[:3, :3].T + pair.matrix[:3, 3]
        back = np.linalg.inv(pair.matrix)
        home = answers.back.transform_points(there) @ back[:3, :3].T + back[:3, 3]
        result["back"] = np.linalg.norm(home.reshape(x.shape) - x, axis=-1)
    ends, distances = [], []
    for name, some in (("returned", answers.returned), ("fine", answers.fine)):
        there = [one.on_grid(grid).displacement_ras for one in some]
        squares = [((end - own) ** 2).sum(-1) for end in there]
        if squares:
            result[name] = np.sqrt(np.mean(squares, axis=0))
        ends += there
        distances += squares
    if distances:
        result["starts"] = np.sqrt(np.mean(distances, axis=0))
    if len(ends) > 1:
        result["apart"] = np.linalg.norm(ends[0] - ends[1], axis=-1) / np.sqrt(2.0)
    return result


class _Seen:
    """Both images on the grid that is looked at, the moving one as the answer carries it."""

    def __init__(self, pair: Pair, found: DisplacementField, grid: Grid, unit: float) -> None:
        windows = [(low, scale) for low, scale in pair.windows]
        margin = int(np.ceil(0.08 * mean_extent(grid) / (SEEN * unit)))
        margins = np.where(grid.size > 1, margin, 0)
        wide = grid.cropped(-margins, grid.size + 2 * margins)
        fixed = resample(pair.fixed, grid, None, np.nan, smooth=True).array
        moving = resample(pair.moving, wide, pair.matrix, np.nan, smooth=True)
        warped = warp_image(moving, grid, found, None, np.nan).array
        known = np.isfinite(fixed) & np.isfinite(warped)
        self.known = known.astype(np.float32)
        self.grid = grid
        # The axis of a slice, or none.
        self.flat = tuple(axis for axis, n in enumerate(grid.shape) if n == 1)
        self._descriptors: tuple[torch.Tensor, ...] | None = None
        self.fixed, self.warped = (
            np.clip(np.where(known, (values - low) * scale, 0.0), 0, 1).astype(np.float32)
            for values, (low, scale) in zip((fixed, warped), windows, strict=True)
        )

    def parts(self) -> dict[str, np.ndarray]:
        f, w, known = self.fixed, self.warped, self.known
        noise = max(_noise(f), _noise(w))
        result: dict[str, np.ndarray] = {"noise": np.full(f.shape, np.log(noise + FLAT), np.float32)}
        seen = {}
        for where, sigma in (("near", NEAR), ("around", AROUND)):
            weight = _smooth(known, sigma) + NOTHING
            mean_f, mean_w, ff, ww, fw = (_smooth(a * known, sigma) / weight for a in (f, w, f * f, w * w, f * w))
            var_f, var_w, cov = ff - mean_f**2, ww - mean_w**2, fw - mean_f * mean_w
            var_f, var_w = np.maximum(var_f, 0), np.maximum(var_w, 0)
            left = 1.0 - np.minimum(cov**2 / (var_f * var_w + FLAT**2), 1.0)
            seen[where] = var_f, var_w, left
            result[f"unexplained_{where}"] = np.log(left + 0.01)
        var_f, var_w, _ = seen["near"]
        result["fixed_contrast"] = np.log(var_f + noise + FLAT)
        result["moving_contrast"] = np.log(var_w + noise + FLAT)
        result["contrast_ratio"] = np.abs(result["fixed_contrast"] - result["moving_contrast"])
        surprise = self._surprise()
        for where, sigma in (("near", NEAR), ("around", AROUND), ("wide", WIDE)):
            part = np.minimum(_smooth(known, sigma), 1.0)
            result[f"surprise_{where}"] = _smooth(surprise, sigma) / (part + NOTHING)
            result[f"unseen_{where}"] = 1.0 - part
        unlike = self._unlike()
        for where, sigma in (("near", NEAR), ("around", AROUND)):
            result[f"unlike_{where}"] = np.log(_smooth(unlike, sigma) + 1e-3)
        # A structure tensor of both images together: where either shows nothing, nothing can be matched.
        for where, sigma in (("near", NEAR), ("around", AROUND)):
            var_f, var_w, left = seen[where]
            own, other = _least_and_largest(f, sigma), _least_and_largest(w, sigma)
            least = [np.minimum(*ends) for ends in zip(own, other, strict=True)]
            # How far off the best match may be, in voxels: what is unexplained over how fast the image changes
            # (the bound of Cramer and Rao).
            unexplained = left * var_f + noise
            for name, value in zip(("weak", "strong"), least, strict=True):
                result[f"{name}_edge_{where}"] = 0.5 * np.log((unexplained + FLAT) / (value + FLAT))
        return result

    def _surprise(self) -> np.ndarray:
        """How much less often than by chance such intensities meet, (K, J, I); 0 where nothing is known."""
        known = self.known > 0
        f, w = (np.minimum((values * BINS).astype(int), BINS - 1) for values in (self.fixed, self.warped))
        counts = np.bincount((f * BINS + w)[known], minlength=BINS * BINS).reshape(BINS, BINS).astype(np.float32)
        joint = _smooth(counts[None], 1.0)[0] + 1e-9
        joint /= joint.sum()
        expected = joint.sum(1)[:, None] * joint.sum(0)
        # A count of one or so is no measure.
        floor = 1.0 / max(known.sum(), 1)
        told = np.log((expected + floor) / (joint + floor)).astype(np.float32)
        return np.where(known, told[f, w], np.float32(0))

    def _described(self) -> tuple[torch.Tensor, ...]:
        """Descriptors (C, *S) of both images, without the axis of a slice."""
        if self._descriptors is None:
            volumes = [torch.from_numpy(a.squeeze(self.flat)) for a in (self.fixed, self.warped)]
            noise = descriptor_noise(*volumes)
            self._descriptors = tuple(mind_ssc(volume, noise=noise) for volume in volumes)
        return self._descriptors

    def _unlike(self) -> np.ndarray:
        first, second = self._described()
        return np.expand_dims((first - second).square_().mean(0).numpy(), self.flat) * self.known

    def profile(self) -> tuple[dict[str, np.ndarray], Grid]:
        """How the difference of the descriptors changes where the moving image is moved on, and the grid of that, of
        twice the spacing."""
        first, second = self._described()
        known = torch.from_numpy(self.known.squeeze(self.flat))
        dims = first.dim() - 1

        def windows(values: torch.Tensor) -> list[torch.Tensor]:
            halved = pooled(values[None], 2)[None]
            return [gaussian_smooth(halved, (sigma / 2,) * dims)[0, 0] for sigma in (NEAR, AROUND)]

        weights = windows(known)
        here = [
            value / (weight + NOTHING) + ALIKE
            for value, weight in zip(windows(_squares(first, second, known)), weights, strict=True)
        ]

        def differences(axis: int, step: int) -> list[torch.Tensor]:
            """Near and around; as without moving where it would come from beyond what is known."""
            moved, seen = _moved(second, axis + 1, step), _moved(known, axis, step) * known
            found = zip(windows(_squares(first, moved, seen)), windows(seen), here, strict=True)
            return [(value + NOTHING * (own - ALIKE)) / (weight + NOTHING) + ALIKE for value, weight, own in found]

        out = {}
        for step in SHIFTS:
            ends = [[differences(axis, sign * step) for axis in range(dims)] for sign in (-1, 1)]
            for n, where in enumerate(("near", "around")):
                low, high = (torch.stack([one[n] for one in side]) for side in ends)
                rise = (low + high) / 2 - here[n]
                out[f"gain{step}_{where}"] = torch.log1p(rise.mean(0) / here[n])
                # Half the difference over the curvature; where that is small, the place of the best match is open.
                curved = (2 * rise).clamp_min_(0) + 0.1 * here[n]
                reach = step * SEEN
                off = (0.5 * reach * (low - high) / curved).clamp_(-reach, reach)
                out[f"off{step}_{where}"] = torch.log(off.norm(dim=0) + OFF)
        matrix, double = self.grid.ijk_to_ras.copy(), np.where(self.grid.size > 1, 2.0, 1.0)
        matrix[:3, 3] = self.grid.to_ras((double - 1) / 2)
        matrix[:3, :3] *= double
        arrays = {name: np.expand_dims(values.numpy(), self.flat) for name, values in out.items()}
        return arrays, Grid(next(iter(arrays.values())).shape, matrix)


def _squares(first: torch.Tensor, second: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (first - second).square_().mean(0).mul_(known)


def _moved(values: torch.Tensor, axis: int, step: int) -> torch.Tensor:
    """Of each place what lies `step` voxels further along the axis, 0 beyond the border."""
    n = values.shape[axis]
    result = torch.zeros_like(values)
    count = max(n - abs(step), 0)
    result.narrow(axis, max(-step, 0), count).copy_(values.narrow(axis, max(step, 0), count))
    return result


def _noise(values: np.ndarray) -> float:
    """Variance of the noise, from the second differences in the flatter half of what is no background."""
    second = []
    for axis, n in enumerate(values.shape):
        if n > 2:
            middle = np.moveaxis(values, axis, 0)
            second.append(np.abs(middle[2:] - 2 * middle[1:-1] + middle[:-2]).ravel() / np.sqrt(6.0))
    found = np.concatenate(second)
    found = found[found > 1e-6]
    return float(np.percentile(found, 25) / 0.319) ** 2 if found.size else 0.0


def _least_and_largest(values: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest eigenvalue (K, J, I) of the structure tensor along the axes with more than one voxel.

    Of three by three by the trigonometric solution of the characteristic equation (Smith, Comm. ACM 1961).
    """
    axes = [axis for axis, n in enumerate(values.shape) if n > 1]
    slopes = [np.gradient(values, axis=axis) for axis in axes]
    part = {
        (a, b): _smooth(slopes[a] * slopes[b], sigma).astype(np.float64) for a in range(len(axes)) for b in range(a + 1)
    }
    middle = sum(part[a, a] for a in range(len(axes))) / len(axes)
    if len(axes) == 2:
        half = np.hypot((part[0, 0] - part[1, 1]) / 2, part[1, 0])
        return np.maximum(middle - half, 0.0), middle + half
    x, y, z = (part[a, a] - middle for a in range(3))
    u, v, w = part[1, 0], part[2, 0], part[2, 1]
    spread = np.sqrt((x * x + y * y + z * z + 2 * (u * u + v * v + w * w)) / 6)
    determinant = x * (y * z - w * w) - u * (u * z - w * v) + v * (u * w - y * v)
    angle = np.arccos(np.clip(determinant / np.maximum(2 * spread**3, 1e-300), -1, 1)) / 3
    largest = middle + 2 * spread * np.cos(angle)
    return np.maximum(middle + 2 * spread * np.cos(angle + 2 * np.pi / 3), 0.0), largest


def _edges(pair: Pair, found: DisplacementField, grid: Grid, unit: float) -> dict[str, np.ndarray]:
    """How far it is to the edge of either field of view: 0 far inside, 1 at the edge, 2 far outside."""
    x = grid.positions()
    there = (x + found.on_grid(grid).displacement_ras).reshape(-1, 3) @ pair.matrix[:3, :3].T + pair.matrix[:3, 3]
    result = {}
    for name, image, points in (("fixed_edge", pair.fixed, x.reshape(-1, 3)), ("moving_edge", pair.moving, there)):
        used = image.grid.size > 1
        ijk = image.grid.to_ijk(points)[:, used]
        size, spacing = image.grid.size[used], image.grid.spacing[used]
        within = np.minimum(ijk + 0.5, size - 0.5 - ijk) * spacing / unit
        result[name] = 1.0 - np.clip(within.min(1) / FAR, -1.0, 1.0).reshape(grid.shape)
    return result


def _shape(found: DisplacementField, grid: Grid, unit: float) -> dict[str, np.ndarray]:
    """Of the displacement: its size, its change from place to place, and its roughness."""
    u = found.on_grid(grid).displacement_ras / unit
    slopes = [np.gradient(u, axis=axis) for axis in range(3) if u.shape[axis] > 1]
    bent = np.sqrt(sum((slope**2).sum(-1) for slope in slopes)) / MAP
    smooth = np.stack([_smooth(u[..., n], 1.5) for n in range(3)], -1)
    return {
        "displaced": np.log(np.linalg.norm(u, axis=-1) + 0.1),
        "bent": np.log(bent + 0.01),
        "rough": np.log(np.linalg.norm(u - smooth, axis=-1) + SHORT),
    }
