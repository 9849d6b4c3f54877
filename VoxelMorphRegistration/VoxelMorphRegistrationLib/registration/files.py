"""The files of one pair, read: what command line and batch give to `register`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..fields.warp import warp_labels
from ..images import landmarks
from ..images.dicom import check_series
from ..images.files import read_image
from ..images.grid import working_grid
from ..images.image import Image
from ..images.labels import on_image
from ..images.nodata import looked_through
from ..images.packed import together
from ..images.segmentations import matched_by_name, read_labels, read_mask
from ..transforms.reading import Named, read_chain


@dataclass(frozen=True)
class PairFiles:
    """Names of files. series: which DICOM series of a folder. initial_transform: a chain, as in transforms.reading.
    further_fixed, further_moving: more images of each side, in the same order.
    """

    fixed: str
    moving: str
    fixed_series: str | None = None
    moving_series: str | None = None
    fixed_labels: str | None = None
    moving_labels: str | None = None
    fixed_points: str | None = None
    moving_points: str | None = None
    fixed_mask: str | None = None
    moving_mask: str | None = None
    initial_transform: tuple[str, ...] = ()
    further_fixed: tuple[str, ...] = ()
    further_moving: tuple[str, ...] = ()

    def read_names(self) -> Iterator[tuple[str, str]]:
        """(what it is, file or folder) of everything that is read, in a fixed order."""
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "initial_transform":
                yield from ((one.name, str(Named.of(name).path)) for name in value)
            elif isinstance(value, tuple):
                yield from ((one.name, name) for name in value)
            elif value is not None and not one.name.endswith("series"):
                yield one.name, value

    def check_different(self) -> None:
        """Raise InputError where a fixed image and the moving one in its place are the same file."""
        sides = ((self.fixed, *self.further_fixed), (self.moving, *self.further_moving))
        for number, (fixed, moving) in enumerate(zip(*sides, strict=False), 1):
            # A name that is too long is no reason to fail here.
            exist = os.path.exists(fixed) and os.path.exists(moving)  # noqa: PTH110
            # A folder of several series may hold both of the first ones.
            apart = number == 1 and self.fixed_series != self.moving_series
            if exist and not apart and Path(fixed).samefile(moving):
                which = f" {number}" if number > 1 else ""
                raise InputError(f"The fixed and the moving image{which} are the same file. Give two different images.")

    def read(self) -> ReadPair:
        """Everything in memory. Raises InputError."""
        if len(self.further_fixed) != len(self.further_moving):
            raise InputError(
                f"There are {1 + len(self.further_fixed)} fixed and {1 + len(self.further_moving)} moving images. Give "
                "as many of each, in the same order."
            )
        check_series((self.fixed_series, self.moving_series), (self.fixed, self.moving))
        images: dict[str, Image] = {}

        def read(side: str, path: str, series: int | str | None) -> None:
            # Looked through here, where another thread may be loading PyTorch.
            images[side] = looked_through(read_image(path, f"{side} image", series).renamed(path))

        together(
            [
                partial(read, "fixed", self.fixed, self.fixed_series),
                partial(read, "moving", self.moving, self.moving_series),
            ]
        )
        fixed, moving = images["fixed"], images["moving"]
        fixed_points, moving_points, told = landmarks.matched(
            landmarks.read_landmarks(self.fixed_points, "fixed landmarks") if self.fixed_points else None,
            landmarks.read_landmarks(self.moving_points, "moving landmarks") if self.moving_points else None,
        )
        extras = {
            **self._labels(fixed, moving),
            "fixed_points": fixed_points,
            "moving_points": moving_points,
            "initial_transform": self._start(fixed, moving, told),
        }
        further = [
            [read_image(name, f"{side} image {number}").renamed(name) for number, name in enumerate(names, 2)]
            for side, names in (("fixed", self.further_fixed), ("moving", self.further_moving))
        ]
        extras = {name: value for name, value in extras.items() if value is not None}
        return ReadPair(fixed.with_told(told), moving, extras, *further)

    def _start(self, fixed: Image, moving: Image, told: list[str]):
        """None, a matrix (4, 4), or the displacement of what bends space."""
        if not self.initial_transform:
            return None
        chain = read_chain(self.initial_transform, fixed=fixed.grid, moving=moving.grid, told=told)
        return chain.matrix if chain.matrix is not None else chain.field_on(working_grid(fixed.grid))

    def _labels(self, fixed: Image, moving: Image) -> dict[str, Image]:
        """Labels and masks on the grids of their images; segmentations of Slicer by nearest neighbour."""
        images = {"fixed": fixed, "moving": moving}
        found = {}
        for what, read in (("labels", read_labels), ("mask", read_mask)):
            for side in images:
                if path := getattr(self, f"{side}_{what}"):
                    found[f"{side}_{what}"] = read(path, f"{side} {what}")
        if "fixed_labels" in found and "moving_labels" in found:
            found["moving_labels"] = matched_by_name(found["fixed_labels"], found["moving_labels"])
        result = {}
        for name, labels in found.items():
            side, what = name.split("_")
            image, own = images[side], labels.image.renamed(getattr(self, name))
            if labels.is_segmentation and not own.grid.same_as(image.grid):
                own = warp_labels(own, image.grid, mode="nearest").with_told(own.told)
            result[name] = on_image(own, image, f"{side} {what}", f"{side} image")
        return result


@dataclass(frozen=True, eq=False)
class ReadPair:
    """What was read. extras: the further arguments of `register` that there are, by name."""

    fixed: Image
    moving: Image
    extras: dict[str, Any] = field(default_factory=dict)
    further_fixed: list[Image] = field(default_factory=list)
    further_moving: list[Image] = field(default_factory=list)

    @property
    def sides(self) -> tuple[list[Image], list[Image]]:
        """All fixed and all moving images, the first ones first."""
        return [self.fixed, *self.further_fixed], [self.moving, *self.further_moving]
