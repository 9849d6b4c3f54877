"""The making of a teacher's displacement fields between label maps, for `teacher.TeacherSource`.

Both maps of a pair are drawn alike. The refinement of this project, which needs no network, first registers images with
the usual intensities of the tissues. Then labels guide it: from there it goes on, with less smoothing, with further
images in which labels differ by chance, so that every border between two labels shows in some of them.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ..errors import OutputError
from ..fields.displacement import DisplacementField
from ..fields.files import write_field
from ..fields.warp import warp_labels
from ..images.grid import Grid, working_grid
from ..images.image import Image, resample
from ..refinement.levels import Options
from ..refinement.pair import Channel, Pair
from ..refinement.refine import refine
from ..registration.evaluation import dice, mean_dice
from .anatomy import AnatomySource, LabelMap
from .teacher import ENDING, file_of

TABLE = "fields.csv"
# Voxel size in mm of the images with usual intensities, and of those by chance and the fields.
IMAGE_MM, FIELD_MM = 1.0, 2.0
# How many images have intensities by chance, and what lies around the organ, in mm.
BY_CHANCE, MARGIN_MM = 2, 8.0
# From the first to the second stage, the Dice of two brains rose from .792 to .812. Gauss-Newton steps on the squared
# difference of the images, in small windows or large, found nothing better than the first stage.
FIRST, THEN = Options("fast", "lncc"), Options("labels", "lncc", smoothness=0.5)
WINDOW = ((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True)
class Made:
    """A field that was made: mean Dice of the structures under the affine map and under the field as it is kept, voxels
    of the organ that fold, by central differences and by any corner, and the time it took on the processor.
    """

    fixed: str
    moving: str
    dice_before: float
    dice_after: float
    folds: int
    folds_corner: int
    sd_log_j: float
    cpu_seconds: float


def make_fields(
    maps: AnatomySource, folder: Path, count: int, seed: int = 0, report: Callable[[str], None] = print
) -> int:
    """Make the fields of the first `count` ordered pairs of the maps that are trained with, in an order by `seed`.

    Those that are there are kept; each is written whole or not at all, and gets a line in fields.csv. Returns how many
    of the `count` there are then. Raises OutputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    wanted = ordered_pairs(maps.training_maps, seed)[:count]
    for number, (fixed, moving) in enumerate(wanted, start=1):
        path = file_of(folder, fixed, moving)
        if path.exists():
            continue
        start = time.process_time()
        field, made = field_between(maps, fixed, moving, np.random.default_rng((seed, number)))
        partial = path.with_name(f"{path.name.removesuffix(ENDING)}.part{ENDING}")
        try:
            write_field(field, partial)
            partial.replace(path)
            made = Made(**(asdict(made) | {"cpu_seconds": round(time.process_time() - start, 1)}))
            _append(folder / TABLE, made)
        except OSError as error:
            raise OutputError(f"The field {path} cannot be written: {error.strerror}.") from error
        finally:
            partial.unlink(missing_ok=True)
        report(
            f"{number}/{len(wanted)}  {path.name}  Dice {made.dice_before:.3f} -> {made.dice_after:.3f}, "
            f"{made.folds} folds, {made.cpu_seconds:.0f} CPU s"
        )
    return len(wanted)


def ordered_pairs(maps: list[LabelMap], seed: int) -> list[tuple[LabelMap, LabelMap]]:
    """All pairs of two maps, either one fixed, in an order by the seed."""
    pairs = [(fixed, moving) for fixed in maps for moving in maps if fixed is not moving]
    return [pairs[n] for n in np.random.default_rng(seed).permutation(len(pairs))]


def field_between(
    maps: AnatomySource, fixed: LabelMap, moving: LabelMap, numbers: np.random.Generator
) -> tuple[DisplacementField, Made]:
    """The displacement from RAS mm of the fixed to RAS mm of the moving map, on a grid of FIELD_MM around the fixed
    organ, and how good it is.
    """
    affine = moving.to_own @ np.linalg.inv(fixed.to_own)
    seen = [_organ(maps, one) for one in (fixed, moving)]
    usual, *by_chance = _intensities(maps, numbers)
    found = None
    for spacing, options, drawn in ((IMAGE_MM, FIRST, [usual]), (FIELD_MM, THEN, [usual, *by_chance])):
        pair = _pair(seen, affine, drawn, spacing)
        found = refine(pair, found, options).field
    assert found is not None, "no stage"
    total = found.then_linear(affine, working_grid(seen[0].grid, FIELD_MM))
    within = resample(seen[0].with_array((seen[0].array > 0).astype(np.uint8)), total.grid).array >= 0.5
    folds = total.folding(within)
    observed = [maps.names.index(label) for label in maps.supervision.observed if label in maps.names]
    overlaps = [
        mean_dice(dice(seen[0], warp_labels(seen[1], seen[0].grid, field, matrix, mode="nearest"), observed))
        for field, matrix in ((DisplacementField.identity(seen[0].grid), affine), (total, np.eye(4)))
    ]
    before, after, spread = (round(value, 4) for value in (*overlaps, folds.sd_log))
    corner = folds.any_corner_count
    quality = Made(fixed.name, moving.name, before, after, folds.count, corner, spread, cpu_seconds=0.0)
    return total, quality


def _pair(seen: list[Image], affine: np.ndarray, drawn: list[np.ndarray], spacing_mm: float) -> Pair:
    """Both maps (label indices) drawn with each table of intensities, on grids of `spacing_mm`."""
    grids = [working_grid(image.grid, spacing_mm) for image in seen]
    images = [
        [resample(one.with_array(means[one.array]), grid, smooth=True) for one, grid in zip(seen, grids, strict=True)]
        for means in drawn
    ]
    organ = seen[0].with_array((seen[0].array > 0).astype(np.uint8))
    mask = resample(organ, grids[0]).array >= 0.5
    (fixed, moving), *others = images
    further = tuple(Channel(one, other, WINDOW) for one, other in others)
    return Pair(fixed, moving, affine, WINDOW, mask, further=further)


def _organ(maps: AnatomySource, person: LabelMap) -> Image:
    """Label indices of the organ, 0 elsewhere, with a margin, in RAS mm of the map."""
    ijk_to_ras = person.to_own @ np.linalg.inv(person.from_common)
    labels = np.where(maps.inner(person.labels.long()).numpy(), person.labels.numpy(), 0)
    whole = Grid(labels.shape, ijk_to_ras)
    margin = np.ceil(MARGIN_MM / whole.spacing).astype(int)
    padded = np.pad(labels, [(m, m) for m in margin[::-1]])
    grid = whole.cropped(-margin, whole.size + 2 * margin)
    occupied = [np.flatnonzero(padded.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low = np.array([line[0] for line in occupied])[::-1] - margin
    high = np.array([line[-1] + 1 for line in occupied])[::-1] + margin
    k, j, i = (slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    return Image(np.ascontiguousarray(padded[k, j, i]), grid.cropped(low, high - low), person.name)


def _intensities(maps: AnatomySource, numbers: np.random.Generator) -> Iterator[np.ndarray]:
    """Mean intensities (count,) of the labels in [0, 1], that of the background 0: the usual ones, where the
    configuration has some, then those by chance.
    """
    section, count = maps.section, len(maps.names)
    chance = [numbers.permutation(np.linspace(0.15, 1.0, count)) for _ in range(BY_CHANCE + 1)]
    for usual, means in enumerate(chance):
        if usual == 0 and section.typical:
            for base, tissue in zip(section.typical, section.tissues, strict=True):
                members = [maps.names.index(label) for label in tissue if label in maps.names]
                means[members] = np.clip(base + section.spread * numbers.normal(size=len(members)), 0.05, 1.0)
        means[0] = 0.0
        yield means.astype(np.float32)


def _append(path: Path, made: Made) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [part.name for part in fields(Made)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(made))
