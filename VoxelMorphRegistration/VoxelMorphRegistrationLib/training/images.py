"""Training pairs from image files, with or without segmentations and landmarks.

Every image is brought onto its working grid once, with the intensities that a registration gives a network, and kept
in memory: as float16, its labels as 8 bits. What is drawn at each step is a pair, a slice, a crop and its changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..alignment.align import METHODS
from ..errors import InputError, SettingsError
from ..images import sampling
from .augment import (
    AugmentationSection,
    changed_intensities,
    drawn_flips,
    flipped,
    flipped_points,
    moved_points,
    random_warp,
)
from .files import Case, ListedPair, cases_in_folder, cases_in_table, is_table_of_pairs, pairs_in_table
from .pairs import TRAINING_STREAM, StepSizes, TrainingPair
from .shapes import Source
from .stored import SLICES, Reader, Stored, StoredPair, across_axis
from .supervision import Supervision, SupervisionSection

# Draws that must not repeat those of a step.
SPLIT_STREAM = 7


@dataclass(frozen=True)
class ImagesSection:
    """[images]: pairs from image files, either of `folder` or as `table` lists them.

    folder: any two different images in it make a pair. image_names, label_names: patterns with one `*` for the names
    of the images and of their label maps, which have the same text there; no labels when label_names is empty.
    table: a CSV file with the columns image[,labels], any two of which make a pair, or with the columns
    fixed,moving[,fixed_labels,moving_labels][,fixed_points,moving_points], each line a pair.

    align: how images are aligned when they are loaded, to the first one, or in a table of pairs the moving to the
    fixed image: none, centers, mass, rigid or affine. spacing_mm: voxel size along i, j(, k) of the working grid,
    or one for all axes; that of the first image when empty. orientation: directions of i, j, k such as "LIA", or those
    of the first image. The grid has the sizes of the training's `shape`, about the middle of the first image, or of
    each pair's fixed image. percentiles: grey values that become 0 and 1.

    slices: "sagittal", "coronal" or "axial" to train a 2D network on slices of volumes, each with percentiles of its
    own. slice_range_mm: lowest and highest distance of the slices from the middle, growing to the right, front or top.

    validation: file names (as written in a table) of the images that are held out, or validation_share, the part
    that is drawn. A pair of a table is held out with its moving image; other pairs with that image are not used.
    training_images: at most so many images (lines of a table of pairs) are trained with, 0 for all.
    """

    folder: str = ""
    image_names: str = "*"
    label_names: str = ""
    table: str = ""
    align: str = "none"
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    percentiles: tuple[float, float] = (0.5, 99.5)
    slices: str = ""
    slice_range_mm: tuple[float, ...] = ()
    validation: tuple[str, ...] = ()
    validation_share: float = 0.1
    training_images: int = 0
    augmentation: AugmentationSection = field(default_factory=AugmentationSection)

    def __post_init__(self) -> None:
        if self.folder and self.table:
            raise SettingsError("Give either images.folder or images.table, not both.")
        if self.align not in METHODS:
            raise SettingsError(f"images.align must be one of {', '.join(METHODS)}, not '{self.align}'.")
        if self.slices not in ("", *SLICES):
            raise SettingsError(f"images.slices must be one of {', '.join(SLICES)} or empty, not '{self.slices}'.")
        if len(self.spacing_mm) > 3 or any(not s > 0 for s in self.spacing_mm):
            raise SettingsError("images.spacing_mm must be one positive number, or one for each axis.")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise SettingsError("images.percentiles must be two rising numbers from 0 to 100.")
        low_high = self.slice_range_mm
        if low_high and (len(low_high) != 2 or not low_high[0] <= low_high[1] or not self.slices):
            raise SettingsError("images.slice_range_mm must be [lowest, highest], and goes with images.slices.")
        if not 0 < self.validation_share < 1:
            raise SettingsError("images.validation_share must lie between 0 and 1.")
        if self.training_images < 0 or self.training_images == 1:
            raise SettingsError("images.training_images must be 0 (all), or 2 or more.")


class ImageSource:
    """Pairs of real images; every image is read and checked when the source is made.

    grid: the working grid of the first image. warnings: what was mended while reading.
    """

    def __init__(
        self,
        section: ImagesSection,
        sizes: StepSizes,
        seed: int = 0,
        supervision: Supervision | None = None,
        base: Path | str = ".",
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """base: where relative paths of the section start. report: told each image that is read.

        Raises InputError, which names the file, and SettingsError.
        """
        self.section, self.sizes, self.seed = section, sizes, seed
        self.supervision = supervision or Supervision.of(SupervisionSection())
        if any(size % 2 for size in sizes.largest):
            raise SettingsError("The sizes of a training grid must be even.")
        reader = Reader(section, len(sizes.largest), sizes.largest, self.supervision, report)
        table = Path(base) / section.table
        # Those trained with and those held out, of one of the two kinds.
        self._subjects: list[list[Stored]] = []
        self._pairs: list[list[StoredPair]] = []
        if section.table and is_table_of_pairs(table):
            self._pairs = [reader.pairs(part) for part in _split_pairs(pairs_in_table(table), section, seed)]
        elif section.table or section.folder:
            cases = (
                cases_in_table(table)
                if section.table
                else cases_in_folder(Path(base) / section.folder, section.image_names, section.label_names)
            )
            parts = _split_cases(cases, section, seed)
            self._subjects = [reader.subjects(part, cases[0]) for part in parts]
        else:
            raise SettingsError("[images] needs a folder or a table.")
        assert reader.first_grid is not None, "no image"
        self.grid, self._normalization = reader.first_grid, reader.card.normalization
        # An image that was read twice warns twice.
        self.warnings = list(dict.fromkeys(reader.warnings))

    @property
    def counts(self) -> tuple[int, int]:
        """How many images (or listed pairs) are trained with, and how many are held out."""
        trained, held = (len(part) for part in self._pairs or self._subjects)
        return trained, held

    @property
    def facts(self) -> str:
        """The data in a few words, for the card of a model."""
        trained, held = self.counts
        what = "pairs of images" if self._pairs else "images"
        first = self._pairs[0][0].fixed if self._pairs else self._subjects[0][0]
        labels = f", {self.supervision.count} structures of their segmentations" if first.labels is not None else ""
        slices = f", {self.section.slices} slices" if self.section.slices else ""
        return f"{trained} {what}{slices}{labels}; {held} more for validation"

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size of the working grid along i, j(, k), without the axis across a slice."""
        across = across_axis(self.grid, self.section.slices)
        return tuple(float(s) for axis, s in enumerate(self.grid.spacing) if axis != across)

    @property
    def normalization(self) -> dict:
        """How grey values become [0, 1], as a model's card states it."""
        return dict(self._normalization)

    def pair(
        self, stream: int, number: int, device: torch.device | str, supervision: Supervision | None = None
    ) -> TrainingPair:
        """The pair that belongs to (seed, stream, number), changed at random in the training stream only.

        supervision: other channels for the labels than those trained with. In a small crop without any landmark the
        points are None.
        """
        source = Source(torch.device(device), np.random.default_rng((self.seed, stream, number)))
        chosen = self._chosen(stream, number, source)
        images, labels, points = self._cropped(chosen, stream, number, source)
        if stream == TRAINING_STREAM:
            images, labels, points = self._changed(images, labels, points, source)
        channels = supervision or self.supervision
        fixed, moving = (None if part is None else channels.probabilities(part) for part in labels)
        return TrainingPair(images[0], images[1], fixed, moving, fixed_points=points[0], moving_points=points[1])

    def label_maps(self, stream: int, number: int, device: torch.device | str) -> list[torch.Tensor | None]:
        """The label maps (1, 1, *S), fixed and moving, of a pair before any change: whole numbers as in the files."""
        source = Source(torch.device(device), np.random.default_rng((self.seed, stream, number)))
        return self._cropped(self._chosen(stream, number, source), stream, number, source)[1]

    def _chosen(self, stream: int, number: int, source: Source) -> StoredPair:
        part = 0 if stream == TRAINING_STREAM else 1
        if self._pairs:
            pairs = self._pairs[part]
            # Validation takes them in turn, so that none is missed.
            return pairs[source.numbers.integers(len(pairs)) if part == 0 else number % len(pairs)]
        subjects = self._subjects[part]
        count = len(subjects)
        if part == 0:
            first, second = source.numbers.choice(count, 2, replace=False)
        else:
            order = np.random.default_rng((self.seed, SPLIT_STREAM, 1)).permutation(count * (count - 1))
            first, rest = divmod(int(order[number % len(order)]), count - 1)
            second = rest + (rest >= first)
        return StoredPair(subjects[first], subjects[second])

    def _cropped(self, pair: StoredPair, stream: int, number: int, source: Source):
        """Images and labels (1, 1, *S) of both sides on the device, and points (1, P, d), each a list of two."""
        row = int(source.numbers.choice(pair.slices))
        shape = self.sizes.of(self.seed, stream, number)
        spare = [size - part for size, part in zip(pair.fixed.image.shape[1:], shape, strict=True)]
        start = [int(source.numbers.integers(n + 1)) for n in spare]
        box: Any = (row, *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
        sides = (pair.fixed, pair.moving)
        images = [side.image[box].to(source.device).float()[None, None] for side in sides]
        labels = [None if s.labels is None else s.labels[box].to(source.device).long()[None, None] for s in sides]
        if pair.fixed_points is None or pair.moving_points is None:
            return images, labels, [None, None]
        points = torch.stack([pair.fixed_points, pair.moving_points]) - torch.tensor(start, dtype=torch.float32)
        inside = ((points > -0.5) & (points < torch.tensor(shape) - 0.5)).all(-1).all(0)
        if not inside.any():
            return images, labels, [None, None]
        return images, labels, list(points[:, inside].to(source.device).split(1))

    def _changed(self, images, labels, points, source: Source):
        """The pair with the random changes of the section."""
        section, shape = self.section.augmentation, tuple(images[0].shape[2:])
        axes = drawn_flips(section, len(shape), source)
        images = [flipped(image, axes) for image in images]
        labels = [None if part is None else flipped(part, axes) for part in labels]
        points = [None if part is None else flipped_points(part, axes, shape) for part in points]
        displacement = random_warp(section, shape, source)
        if displacement is not None:
            images[1] = sampling.warp(images[1], displacement)
            if labels[1] is not None:
                # Labels as floats: nearest sampling of small integers is exact.
                positions = sampling.voxel_positions(displacement)
                labels[1] = sampling.sample(labels[1].float(), positions, mode="nearest").long()
            if points[1] is not None:
                points[1] = moved_points(points[1], displacement)
        return [changed_intensities(section, image, source) for image in images], labels, points


def _split_cases(cases: list[Case], section: ImagesSection, seed: int) -> tuple[list[Case], list[Case]]:
    """The images to train with and the held-out ones, two or more of each."""
    held = _held_out([case.name for case in cases], section, seed, 2)
    order = np.random.default_rng((seed, SPLIT_STREAM)).permutation(len(cases))
    trained = [cases[n] for n in order if cases[n].name not in held]
    # The first of one order, so that fewer images are a part of more.
    trained = trained[: section.training_images or None]
    rest = [case for case in cases if case.name in held]
    if len(trained) < 2 or len(rest) < 2:
        raise InputError(
            f"There are {len(cases)} images, {len(rest)} of them held out. At least two to train with and two for "
            "validation are needed, since a pair is of different images."
        )
    return trained, rest


def _split_pairs(
    pairs: list[ListedPair], section: ImagesSection, seed: int
) -> tuple[list[ListedPair], list[ListedPair]]:
    """The pairs to train with, which have no held-out image, and those with a held-out moving image."""
    held = _held_out(sorted({pair.moving.name for pair in pairs}), section, seed, 1)
    order = np.random.default_rng((seed, SPLIT_STREAM)).permutation(len(pairs))
    trained = [pairs[n] for n in order if not held & {pairs[n].fixed.name, pairs[n].moving.name}]
    trained = sorted(trained[: section.training_images or None], key=lambda pair: str(pair.fixed.image))
    rest = [pair for pair in pairs if pair.moving.name in held]
    if not trained or not rest:
        raise InputError(
            f"Of {len(pairs)} pairs {len(trained)} are left to train with and {len(rest)} for validation, when images "
            "of the one are kept out of the other. List more pairs, or set images.validation."
        )
    return trained, rest


def _held_out(names: list[str], section: ImagesSection, seed: int, least: int) -> set[str]:
    """The names of the images that are kept for validation."""
    if section.validation:
        unknown = sorted(set(section.validation) - set(names))
        if unknown:
            raise InputError(
                f"images.validation names {unknown[0]}, which is not among the images: {', '.join(names[:5])}, ..."
            )
        return set(section.validation)
    count = max(least, round(section.validation_share * len(names)))
    order = np.random.default_rng((seed, SPLIT_STREAM, 2)).permutation(len(names))
    return {names[n] for n in order[:count]}
