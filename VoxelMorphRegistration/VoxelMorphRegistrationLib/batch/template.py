"""An unbiased average of a group (Guimond et al., Computer Vision and Image Understanding 77, 2000).

Each round registers all images to the template so far, a batch of its own, and then moves on: T_i carries a position x
of the template to image i, R_i is the rigid part of T_i, and D(x) = mean of R_i^-1 T_i(x) is where the group has x on
average. The next template has at y the mean of what the images have at T_i(D^-1(y)), one interpolation each, so that
the mean displacement of the group from it is zero, whichever image it began with. How people lay in the scanner (R_i)
is no shape, and is left out of the mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, OutputError, VoxelMorphError
from ..fields.displacement import DisplacementField, grid_over
from ..fields.files import read_field
from ..images.files import read_image, write_image
from ..images.grid import Grid, working_grid
from ..images.image import Image, resample
from ..images.nodata import filled
from ..images.places import check_place
from ..images.segmentations import read_labels
from ..registration.choice import resolved
from ..registration.intensity import intensity_window, measured_region
from ..registration.settings import Settings
from ..results import outputs
from ..transforms.chain import Chain
from ..transforms.frames import Frames
from ..transforms.parts import Bent
from ..transforms.resampling import carried
from .places import Places, write_text
from .running import run
from .table import table_of

TEMPLATE, LABELS, REPORT, ROUNDS = "template.nii.gz", "template_labels.nii.gz", "report.json", "rounds"
# Where the shapes are compared: about so many positions.
_POINTS = 20_000


@dataclass
class Round:
    """bias_mm: mean length of the group's mean displacement from the template, its pose left out. change: root mean
    square of what the template changed, of its range. sharpness: mean gradient, of its range a mm.
    """

    bias_mm: float
    change: float
    sharpness: float
    similarity: float


@dataclass
class Result:
    """folder: of template, transforms (pairs/ID) and report. rounds: what each did; bias_mm: of the last template."""

    folder: Path
    rounds: list[Round] = field(default_factory=list)
    bias_mm: float = 0.0
    sharpness: float = 0.0
    dice: float | None = None


def with_labels(images: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Each image once, and its label map, by names in the same order; several images may have the same map.

    Where there are more or fewer maps, they are left to `build`. Raises InputError for an image with two of them.
    """
    if len(labels) != len(images):
        return list(dict.fromkeys(images)), list(labels)
    found: dict[str, str] = {}
    for image, label in zip(images, labels, strict=True):
        if found.setdefault(image, label) != label:
            raise InputError(
                f"The image {image} is named twice, with the label maps {found[image]} and {label}. Name it once, with "
                "its own."
            )
    return list(found), list(found.values())


def build(
    images: Sequence[str],
    output: str | Path,
    *,
    labels: Sequence[str] = (),
    start: str | None = None,
    spacing: float | None = None,
    rounds: int = 4,
    settings: Settings | None = None,
    told: Callable[[str], object] = lambda text: None,
    **options: Any,
) -> Result:
    """Build a template; what is done already stays (see running.run, which gets `options`).

    labels: of the images, in their order: the template gets the label that most have at each voxel. start: the image
    whose grid and pose the template gets (the first when None). spacing: of the template in mm (None: that image's).
    Raises errors of this library.
    """
    settings, output = settings or Settings(), Path(output)
    if len(images) < 2 or len(set(images)) < len(images):
        raise InputError("A template needs at least two images, each once.")
    if labels and len(labels) != len(images):
        raise InputError(
            f"The number of label maps is {len(labels)}, and that of images {len(images)}. Give one each, or none."
        )
    if not 1 <= rounds <= 20:
        raise InputError(f"There are {rounds} rounds; give 1 to 20.")
    read = [*images, *labels, *([start] if start else [])]
    for path in read:
        # Told before hours have gone into the others.
        check_place(Path(path), "image")
    _check_inputs(read, output)
    result = Result(output)
    current = _first(images, start, spacing)
    for path in labels:
        read_labels(path, f"label map {path}")
    for number in range(1, rounds + 1):
        place = output / ROUNDS / str(number)
        _write(current, place / TEMPLATE)
        told(f"Round {number} of {rounds}")
        # Nobody looks at the errors of a template on the way.
        group = _registered(images, (), place, settings.replace(expected_error="off"), options)
        mean, lengths = _mean_displacement(group, current)
        following = _average(group, mean, current)
        result.rounds.append(
            Round(lengths, _change(current, following), sharpness(following), _similarity(group)),
        )
        current = following
    _write(current, output / TEMPLATE)
    told("The images onto the template")
    group = _registered(images, labels, output, settings, options)
    result.bias_mm, result.sharpness = _mean_displacement(group, current)[1], sharpness(current)
    if labels:
        maps = [read_image(output / "pairs" / name / outputs.LABELS, "labels") for name in group.names]
        _write(most_of(maps), output / LABELS)
        result.dice = mean_pairwise_dice(maps)
    _report(result, images, settings)
    return result


def _check_inputs(read: Sequence[str], output: Path) -> None:
    """Raise InputError for an input that the template, its labels, or the work of a round would replace."""
    work = [(output / name).resolve() for name in (ROUNDS, "pairs")]
    made = [made for made in (output / TEMPLATE, output / LABELS) if made.exists()]
    for one in filter(Path.exists, map(Path, read)):
        if any(path.samefile(one) for path in made) or any(folder in one.resolve().parents for folder in work):
            raise InputError(f"The input {one} would be replaced by a result. Give another folder for the template.")


@dataclass(frozen=True)
class _Group:
    """The images, and the transforms onto them from the template of a round. names: of their pairs' folders."""

    images: tuple[str, ...]
    names: tuple[str, ...]
    folder: Path

    def chain(self, number: int) -> Chain:
        """From positions in the template to those in an image."""
        return Chain((Bent(self.field(number)),))

    def field(self, number: int) -> DisplacementField:
        return read_field(self.folder / "pairs" / self.names[number] / outputs.TRANSFORM)


def _registered(
    images: Sequence[str], labels: Sequence[str], folder: Path, settings: Settings, options: dict[str, Any]
) -> _Group:
    """Every image onto the template of a folder. Raises VoxelMorphError where one fails: a mean lacks nobody."""
    rows: list[dict] = [{"fixed": [str(folder / TEMPLATE)], "moving": [image]} for image in images]
    for row, name in zip(rows, labels, strict=False):
        row["moving_labels"] = name
    table = table_of([(str(number), row) for number, row in enumerate(rows, 1)], settings)
    kept = ["transform", *(["warped_labels"] if labels else [])]
    kept += ["expected_error"] if resolved(settings).expected_error != "off" else []
    done = run(table, folder, keep=kept, **options)
    if done.failed:
        name, why = next(iter(done.failed.items()))
        raise VoxelMorphError(
            f"{len(done.failed)} of {len(images)} images do not go onto the template. {name}: {why} Leave it out, or "
            "mend it; what is done stays."
        )
    return _Group(tuple(images), tuple(pair.id for pair in table.pairs), folder)


def _first(images: Sequence[str], start: str | None, spacing: float | None) -> Image:
    """The image to begin with, on the grid of the template."""
    image = filled(read_image(start or images[0], "first image")).image
    if spacing is None:
        return image.with_array(image.array.astype(np.float32))
    grid = working_grid(image.grid, spacing)
    return resample(image, grid, background=float(image.array.min()), smooth=True)


def rigid_part(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """(4, 4): the rotation and shift that bring points (N, 3) closest to `moved` (Kabsch 1976)."""
    middle, goal = points.mean(0), moved.mean(0)
    u, _, vt = np.linalg.svd((moved - goal).T @ (points - middle))
    turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, goal - turn @ middle
    return matrix


def _mean_displacement(group: _Group, template: Image) -> tuple[DisplacementField, float]:
    """D(x) - x over the template, RAS mm, and its mean length where the template has anatomy."""
    chosen = np.flatnonzero(measured_region(template, None))
    chosen = chosen[:: max(1, chosen.size // _POINTS)]
    kji = np.stack(np.unravel_index(chosen, template.grid.shape), -1)
    points = template.grid.to_ras(kji[:, ::-1])
    total: DisplacementField | None = None
    for number in range(len(group.images)):
        own = group.field(number)
        pose = rigid_part(points, own.transform_points(points))
        grid = total.grid if total is not None else _mean_grid(own, template.grid)
        bent = own.on_grid(grid).then_linear(np.linalg.inv(pose))
        total = bent if total is None else DisplacementField(total.displacement_ras + bent.displacement_ras, grid)
    assert total is not None
    mean = DisplacementField(total.displacement_ras / np.float32(len(group.images)), total.grid)
    return mean, float(np.linalg.norm(mean.transform_points(points) - points, axis=1).mean())


def _mean_grid(field: DisplacementField, template: Grid) -> Grid:
    """As fine as the field."""
    return grid_over(working_grid(template, float(np.min(field.grid.spacing[field.grid.size > 1]))), template)


def _average(group: _Group, mean: DisplacementField, template: Image) -> Image:
    """The mean of the images, each at T_i(D^-1(y)), their usual range the same."""
    back = Bent(mean, backward=True)
    total, weight = np.zeros(template.grid.shape, np.float64), 0.0
    lows, ranges = [], []
    for number, name in enumerate(group.images):
        image = filled(read_image(name, "image")).image
        low, high = intensity_window(image, 0.5, 99.5)
        values = np.clip((image.array - np.float32(low)) / np.float32(high - low), 0.0, 1.5, dtype=np.float32)
        frames = Frames.of(image.with_array(values))
        chain = Chain((back, *group.chain(number).parts))
        total += carried(frames, chain, template.grid, "linear", 0.0).values[0]
        weight += 1.0
        lows.append(low)
        ranges.append(high - low)
    values = np.mean(lows) + total / weight * np.mean(ranges)
    return Image(values.astype(np.float32), template.grid, "template")


def sharpness(image: Image) -> float:
    """Mean length of the gradient where there is anatomy, in parts of the range of intensities a mm."""
    low, high = intensity_window(image, 0.5, 99.5)
    used = [axis for axis, count in enumerate(image.array.shape) if count > 1]
    spacing = [float(image.grid.spacing[2 - axis]) for axis in used]
    slopes = np.gradient(image.array.astype(np.float32), *spacing, axis=tuple(used))
    length = np.sqrt(sum(np.square(slope) for slope in slopes))
    return float(length[measured_region(image, None)].mean() / (high - low))


def _change(former: Image, image: Image) -> float:
    low, high = intensity_window(image, 0.5, 99.5)
    return float(np.sqrt(np.mean(np.square(image.array - former.array))) / (high - low))


def _similarity(group: _Group) -> float:
    """Mean correlation of the images with the template."""
    places = Places(group.folder)
    found = [json.loads((places.folder(name) / outputs.REPORT).read_text(encoding="utf-8")) for name in group.names]
    return float(np.mean([one["similarity"]["after"]["ncc"] for one in found]))


def most_of(maps: Sequence[Image]) -> Image:
    """At each voxel the label that most of the maps have there, the smallest of several."""
    values = np.unique(np.concatenate([np.unique(one.array) for one in maps]))
    best, count = np.zeros(maps[0].grid.shape, maps[0].array.dtype), np.zeros(maps[0].grid.shape, np.int16)
    for value in values:
        votes = np.zeros(maps[0].grid.shape, np.int16)
        for one in maps:
            votes += one.array == value
        better = votes > count
        best[better], count[better] = value, votes[better]
    return maps[0].with_array(best, "template labels")


def mean_pairwise_dice(maps: Sequence[Image]) -> float:
    """Of any two maps on one grid, the mean of their labels' overlaps."""
    from itertools import combinations

    from ..registration.evaluation import dice, mean_dice

    return float(np.mean([mean_dice(dice(one, other)) for one, other in combinations(maps, 2)]))


def _write(image: Image, path: Path) -> None:
    """Replace a file at once, unless it holds the same already: it is an input of pairs that are done."""
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(image, part)
        if path.is_file() and path.read_bytes() == part.read_bytes():
            part.unlink()
        else:
            part.replace(path)
    except OSError as error:
        raise OutputError(f"Nothing can be written to {path.parent}: {error.strerror}.") from error


def _report(result: Result, images: Sequence[str], settings: Settings) -> None:
    values = asdict(result)
    values["folder"] = str(result.folder)
    values |= {"images": list(images), "settings": asdict(settings)}
    try:
        write_text(result.folder / REPORT, json.dumps(values, indent=2))
    except OSError as error:
        raise OutputError(f"The report could not be written to {result.folder}: {error.strerror}.") from error
