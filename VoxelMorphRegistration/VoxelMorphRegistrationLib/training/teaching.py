"""The making of a teacher's displacement fields between label maps, for `teacher.TeacherSource`.

Both maps of a pair are drawn alike. The refinement of this project, which needs no network, first registers images with
the usual intensities of the tissues. Then labels guide it: from there it goes on, with less smoothing, with further
images in which labels differ by chance, so that every border between two labels shows in some of them.

For networks of slices, fields are made between slices: of planes through the fixed map, somewhere in the organ, and of
the moving map after the affine map between both.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

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
from .shapes import Source
from .slices import slices_between
from .teacher import ENDING, file_of

TABLE = "fields.csv"
# Voxel size in mm of the images with usual intensities, and of those by chance and the fields.
IMAGE_MM, FIELD_MM = 1.0, 2.0
# How many images have intensities by chance, and what lies around the organ, in mm.
BY_CHANCE, MARGIN_MM = 2, 8.0
# From the first to the second stage, the Dice of two brains rose from .792 to .812. Gauss-Newton steps on the squared
# difference of the images, in small windows or large, found nothing better than the first stage.
FIRST, THEN = Options("fast", "lncc"), Options("labels", "lncc", smoothness=0.5)
# Of slices, in which there is little to compute, the first stage is finer, and the second as fine as the images. Mean
# Dice of eight pairs of slices of brains: .40 under the affine map, .63 after the first stage, .67 after the second.
# With half of the smoothing .65; with the overlap of the labels as a term, too, .72, but volumes changed half as much
# again, and no image shows why.
FIRST_OF_SLICES, SLICE_MM = Options("default", "lncc"), 1.0
WINDOW = ((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True)
class Made:
    """A field that was made: mean Dice of the structures under the affine map and under the field as it is kept, voxels
    of the organ that fold, by central differences and by any corner, and the time it took on the processor. file: its
    name.
    """

    fixed: str
    moving: str
    dice_before: float
    dice_after: float
    folds: int
    folds_corner: int
    sd_log_j: float
    cpu_seconds: float
    file: str


def make_fields(
    maps: AnatomySource, folder: Path, count: int, seed: int = 0, report: Callable[[str], None] = print
) -> int:
    """Make the fields of the first `count` ordered pairs of the maps that are trained with, in an order by `seed`.

    Between slices, where slices are trained with: one of each pair of maps, then another one of each, and so on. Those
    that are there are kept; each is written whole or not at all, and gets a line in fields.csv. Returns how many of the
    `count` there are then. Raises InputError and OutputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    wanted = wanted_fields(maps, count, seed)
    for number, (fixed, moving, of_pair) in enumerate(wanted, start=1):
        path = file_of(folder, fixed, moving, of_pair)
        if path.exists():
            continue
        start = time.process_time()
        field, made = field_between(maps, fixed, moving, np.random.default_rng((seed, number)))
        partial = path.with_name(f"{path.name.removesuffix(ENDING)}.part{ENDING}")
        try:
            write_field(field, partial)
            partial.replace(path)
            seconds = round(time.process_time() - start, 1)
            made = Made(**(asdict(made) | {"cpu_seconds": seconds, "file": path.name}))
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


def wanted_fields(maps: AnatomySource, count: int, seed: int) -> list[tuple[LabelMap, LabelMap, int | None]]:
    """The fixed and the moving map of each of at most `count` fields, and of slices, which of the pair's it is."""
    pairs = ordered_pairs(maps.training_maps, seed)
    if len(maps.sizes.largest) == 3:
        return [(*pair, None) for pair in pairs[:count]]
    return [(*pairs[n % len(pairs)], n // len(pairs) + 1) for n in range(count)]


def ordered_pairs(maps: list[LabelMap], seed: int) -> list[tuple[LabelMap, LabelMap]]:
    """All pairs of two maps, either one fixed, in an order by the seed."""
    pairs = [(fixed, moving) for fixed in maps for moving in maps if fixed is not moving]
    return [pairs[n] for n in np.random.default_rng(seed).permutation(len(pairs))]


def field_between(
    maps: AnatomySource, fixed: LabelMap, moving: LabelMap, numbers: np.random.Generator
) -> tuple[DisplacementField, Made]:
    """The displacement from RAS mm of the fixed to RAS mm of the moving map, on a grid of FIELD_MM around the fixed
    organ, or of SLICE_MM in a slice of it, and how good it is.
    """
    # matrix: fixed to moving RAS mm, as the label images lie that are registered.
    affine = matrix = moving.to_own @ np.linalg.inv(fixed.to_own)
    seen: tuple[Image, Image] = _organ(maps, fixed), _organ(maps, moving)
    stages, kept_mm = ((IMAGE_MM, FIRST), (FIELD_MM, THEN)), FIELD_MM
    if len(maps.sizes.largest) == 2:
        source = Source(torch.device("cpu"), numbers)
        seen, matrix = slices_between(maps, seen, (fixed, moving), source, MARGIN_MM), np.eye(4)
        stages, kept_mm = ((SLICE_MM, FIRST_OF_SLICES), (SLICE_MM, THEN)), SLICE_MM
    usual, *by_chance = _intensities(maps, numbers)
    found = None
    for (spacing, options), drawn in zip(stages, ([usual], [usual, *by_chance]), strict=True):
        pair = _pair(seen, matrix, drawn, spacing)
        found = refine(pair, found, options).field
    assert found is not None, "no stage"
    kept = found.on_grid(working_grid(seen[0].grid, kept_mm))
    within = resample(seen[0].with_array((seen[0].array > 0).astype(np.uint8)), kept.grid).array >= 0.5
    folds = kept.folding(within)
    present = set(np.unique(seen[0].array).tolist())
    observed = [n for n, label in enumerate(maps.names) if label in maps.supervision.observed and n in present]
    overlaps = [
        mean_dice(dice(seen[0], warp_labels(seen[1], seen[0].grid, field, matrix, mode="nearest"), observed))
        for field in (None, kept)
    ]
    before, after, spread = (round(value, 4) for value in (*overlaps, folds.sd_log))
    corner = folds.any_corner_count
    quality = Made(fixed.name, moving.name, before, after, folds.count, corner, spread, cpu_seconds=0.0, file="")
    return kept.then_linear(affine), quality


def _pair(seen: tuple[Image, Image], affine: np.ndarray, drawn: list[np.ndarray], spacing_mm: float) -> Pair:
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
