"""What the report says of a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..fields.folding import change_of_pieces, linear_determinant
from ..fields.warp import warp_image
from ..images.ahead import Ahead
from ..images.grid import Grid, some_voxels
from ..images.image import Image, resample
from . import evaluation

if TYPE_CHECKING:
    from ..fields.displacement import DisplacementField
    from .guard import Carried
    from .inputs import Inputs
    from .linear import Linear
    from .progress import Run
    from .settings import Settings


# A field whose voxels are hardly larger than those of the fixed image, by less than this, is measured in these.
FINER = 1.3
# Of an image of three times as many voxels, every second one along each axis is compared.
COMPARED_VOXELS = 1_000_000


@dataclass(frozen=True, eq=False)
class Measures:
    """jacobian: the determinant map as the settings want it. report: entries of the Report. gains:
    mutual information before and after the linear alignment ("aligned") and the deformation ("after"), over what both
    maps carry into the moving image."""

    jacobian: Image
    report: dict
    gains: dict[str, tuple[float, float]]


def measured(
    inputs: Inputs,
    linear: Linear,
    deformation: DisplacementField,
    similarities: Similarities,
    warped_labels: Image | None,
    carried_labels: dict[str, Carried],
    settings: Settings,
    run: Run,
) -> Measures:
    """Folds, determinants, similarity, overlaps and landmark errors of a result.

    similarities: begun of the start and of the alignment. warped_labels: the moving labels on the fixed grid.
    carried_labels: the labels before, aligned and after, where both images have some.
    """
    fixed, moving, region = inputs.fixed, inputs.moving, inputs.region
    grid = fixed.grid if settings.jacobian_grid == "fixed" else own_grid(deformation, fixed.grid)
    anatomy = region_on(grid, region, fixed.grid)
    pieces = change_of_pieces(deformation, region, fixed.grid)
    determinant, inside = deformation.volume_change(anatomy, grid)
    run.report(0.3)
    similar, gains = similarities.found(deformation, linear.matrix)
    folding = {
        "inside": inside.to_dict(),
        "pieces": dict(zip(("minimum", "maximum"), pieces, strict=True)),
        "volume": {"count": int(np.count_nonzero(determinant.array <= 0)), "voxels": grid.voxel_count},
        "voxel_mm": grid.spacing.tolist(),
    }
    run.report(0.5)
    overlaps = _overlaps(inputs.fixed_labels, carried_labels, run)
    errors = _landmark_errors(inputs.fixed_points, inputs.moving_points, linear, deformation)
    factor = linear_determinant(linear.matrix, fixed.grid)
    segments = inputs.fixed_labels or warped_labels
    changes = carried_by = None
    if segments is not None:
        carried_by = evaluation.displacement(segments, deformation)
        there = determinant if grid.same_as(segments.grid) else deformation.jacobian_determinant(segments.grid)
        changes = evaluation.volume_change(segments, there, factor)
    worst = _worst_places(determinant, anatomy, inputs.fixed_points, errors)
    if settings.jacobian == "total":
        np.multiply(determinant.array, np.float32(factor), out=determinant.array)
    report = {
        "similarity": similar,
        "folding": folding,
        "largest_displacement_mm": _longest(deformation.displacement_ras),
        "tre_mm": errors,
        "volume_change_percent": changes,
        "displacement_mm": carried_by,
        "covered_percent": _covered_percent(fixed.grid, moving.grid, region, linear, deformation),
        "worst_ras": worst,
        **overlaps,
    }
    return Measures(determinant, report, gains)


def _longest(vectors: np.ndarray) -> float:
    """The largest length of vectors (K, J, I, 3)."""
    return float(np.sqrt(max(np.einsum("jia,jia->ji", part, part).max() for part in vectors)))


def own_grid(deformation: DisplacementField, fixed: Grid) -> Grid:
    """Where a field is measured: over the fixed image, at its own voxels where they are larger than those of the image.

    Between its voxels a field is linear: finer ones show nothing more.
    """
    own = deformation.grid
    if own.voxel_count >= fixed.voxel_count / FINER**fixed.dimension:
        return fixed
    corners = own.to_ijk(fixed.corners())
    start = np.where(own.size > 1, np.maximum(np.ceil(corners.min(0) - 1e-3), 0), 0).astype(int)
    stop = np.where(own.size > 1, np.minimum(np.floor(corners.max(0) + 1e-3) + 1, own.size), 1).astype(int)
    return own.cropped(start, stop - start)


def region_on(grid: Grid, region: np.ndarray, fixed: Grid) -> np.ndarray:
    """(K, J, I) bool of `grid`: where the region (K, J, I) of the fixed grid is, or a thin part of it."""
    if grid.same_as(fixed):
        return region
    part = resample(Image(region.astype(np.uint8), fixed), grid, smooth=True).array
    return part >= min(0.5, float(part.max()))


class Similarities:
    """Similarity over the part of the measured region that each map carries into the moving image, on every second
    voxel of large images; and the mutual information over the part that all carry there.

    ahead: what makes each of them beside other work.
    """

    def __init__(self, inputs: Inputs, ahead: Ahead) -> None:
        fixed = inputs.fixed
        self._moving, self._ahead = inputs.moving, ahead
        stride = max(1, round((fixed.grid.voxel_count / COMPARED_VOXELS) ** (1 / 3)))
        every = tuple(slice(None, None, stride if n > 1 else 1) for n in fixed.grid.shape)
        coarse = fixed.grid.ijk_to_ras.copy()
        coarse[:3, :3] *= [stride if n > 1 else 1 for n in fixed.grid.size]
        self._values = fixed.array[every]
        self._grid = Grid(self._values.shape, coarse)
        # The surroundings belong to it: what is bright and even inside has its contrast at the edge.
        region = _dilated(inputs.region[every], 2)
        self._region = region if region.any() else np.ones_like(region)
        self._begun: dict[str, Callable[[], _Seen]] = {}

    def begin(self, name: str, matrix: np.ndarray) -> None:
        """Of a linear map (4, 4) in RAS mm: "before", and then "aligned", but where nothing was aligned."""
        self._begun[name] = self._ahead.begin(partial(self._of_map, None, matrix))

    def found(
        self, field: DisplacementField, matrix: np.ndarray
    ) -> tuple[dict[str, dict[str, float]], dict[str, tuple[float, float]]]:
        """Of those that were begun, and of T(x) = A (x + u(x)), A = matrix (4, 4) in RAS mm, called "after"; and the
        mutual information before and after what is called "aligned" and "after".
        """
        # Here: another thread would take as much memory again as the field that it carries in voxels.
        seen = {"after": self._of_map(field, matrix), **{name: made() for name, made in self._begun.items()}}
        # Where nothing was aligned.
        seen.setdefault("aligned", seen["before"])
        pairs = {"aligned": ("before", "aligned"), "after": ("aligned", "after")}
        shared = [self._ahead.begin(partial(self._shared, seen[one], seen[other])) for one, other in pairs.values()]
        last, first = shared[1](), shared[0]()
        return {name: dict(seen[name].similar) for name in ("before", *pairs)}, dict(
            zip(pairs, (first, last), strict=True)
        )

    def _of_map(self, field: DisplacementField | None, matrix: np.ndarray) -> _Seen:
        image = warp_image(self._moving, self._grid, field, matrix, np.nan).array
        local = evaluation.local_correlation(self._values, image, self._region)
        return _Seen(image, {"local": local, **evaluation.similarity(self._values, image, self._region)})

    def _shared(self, one: _Seen, other: _Seen) -> tuple[float, float]:
        """Mutual information of both over what both see."""
        seen = [self._region & np.isfinite(each.image) for each in (one, other)]
        if np.array_equal(*seen):
            return one.similar["mi"], other.similar["mi"]
        shared = seen[0] & seen[1]
        before, after = (evaluation.similarity(self._values, each.image, shared)["mi"] for each in (one, other))
        return before, after


class _Seen(NamedTuple):
    """The moving image under a map, and its similarity with the fixed one."""

    image: np.ndarray
    similar: dict[str, float]


def _dilated(mask: np.ndarray, voxels: int) -> np.ndarray:
    """A mask (K, J, I) grown by a box of `voxels` on every side."""
    for axis in range(3):
        grown = mask.copy()
        for shift in range(1, min(voxels, mask.shape[axis] - 1) + 1):
            ahead = [slice(None)] * 3
            behind = [slice(None)] * 3
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= mask[tuple(behind)]
            grown[tuple(behind)] |= mask[tuple(ahead)]
        mask = grown
    return mask


def _overlaps(fixed_labels, carried, run) -> dict:
    """Dice and 95 % surface distance per label, before, aligned and after, of the labels carried over."""
    if fixed_labels is None:
        return {}
    dice, distance = {}, {}
    known: dict[int, dict] = {}
    for number, (name, labels) in enumerate(carried.items()):
        run.report(0.5 + number / 6)
        dice[name] = {"mean": labels.mean, "labels": labels.dice}
        if id(labels) not in known:
            surfaces = evaluation.surface_distance95(fixed_labels, labels.image, list(labels.dice))
            known[id(labels)] = {"mean": _nan_mean(surfaces.values()), "labels": surfaces}
        distance[name] = known[id(labels)]
    return {"dice": dice, "hd95_mm": distance}


def _nan_mean(values) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _landmark_errors(fixed_points, moving_points, linear, deformation) -> dict | None:
    """Landmark errors in mm before, aligned and after."""
    if fixed_points is None:
        return None
    points = np.asarray(fixed_points, dtype=np.float64)
    result = {}
    moved = {"before": (points, linear.start), "aligned": (points, linear.matrix)}
    moved["after"] = (deformation.transform_points(points), linear.matrix)
    for name, (start, matrix) in moved.items():
        errors = evaluation.target_registration_error(start @ matrix[:3, :3].T + matrix[:3, 3], moving_points)
        result[name] = {"mean": float(errors.mean()), "max": float(errors.max()), "each": errors.tolist()}
    return result


def carried(fixed: Grid, mask: np.ndarray, matrix: np.ndarray, deformation) -> np.ndarray:
    """T(x), (N, 3) in RAS mm, of some 20,000 voxels x of the measured region."""
    kji = some_voxels(mask, 20_000)
    points = deformation.transform_points(fixed.to_ras(kji[:, ::-1]))
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _covered_percent(fixed: Grid, moving: Grid, mask: np.ndarray, linear: Linear, deformation) -> float:
    """How much of the measured region T carries into the moving image, in percent."""
    return 100.0 * float(np.mean(moving.contains(carried(fixed, mask, linear.matrix, deformation))))


def _worst_places(determinant: Image, mask: np.ndarray, fixed_points, errors: dict | None) -> dict[str, list[float]]:
    """Where to look first, in fixed RAS mm: the smallest determinant of the region, the largest landmark error."""
    lowest = int(np.where(mask, determinant.array, np.inf).argmin())
    kji = np.unravel_index(lowest, determinant.grid.shape)
    result = {"determinant": determinant.grid.to_ras(np.array(kji[::-1])).tolist()}
    if errors is not None:
        worst = int(np.argmax(errors["after"]["each"]))
        result["landmark"] = np.asarray(fixed_points, np.float64)[worst].tolist()
    return result
