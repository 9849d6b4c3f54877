"""What a stage sees: volumes of both images on its grids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..images.boxes import box_sum, pooled
from ..images.grid import Grid, working_grid
from ..images.image import Image, resample
from .descriptors import descriptor_noise, mind_ssc
from .levels import CORRELATION_WEIGHT, REACH
from .pair import margin_of
from .terms import WINDOW_RADIUS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..images.ahead import Ahead
    from .levels import Level, Options, Stage
    from .pair import Channel, Pair


# Up to where values in [0, 1] are background.
BACKGROUND = 0.02


class Volumes(NamedTuple):
    """fixed, moving: (C, *S). valid: where the moving ones are known (None: everywhere); weight: where the fixed ones
    count; both (*S). margin: by how many voxels the moving ones begin before the fixed ones, along each axis.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    valid: torch.Tensor | None
    weight: torch.Tensor
    margin: int


@dataclass(frozen=True, eq=False)
class View:
    """A pair as it is seen on a device at one level.

    base: finest spacing in mm. grid: of the field; images: of the images, as fine or twice as fine.
    """

    pair: Pair
    device: str
    flat: int | None
    base: float
    level: Level
    grid: Grid
    images: Grid

    @staticmethod
    def of(pair: Pair, region: Grid, level: Level, device: str) -> View:
        base = float(np.min(region.spacing[region.size > 1]))
        grid = working_grid(region, base * level.spacing * level.field_ratio)
        return View(pair, device, region.flat_axis, base, level, grid, _split(grid, level.field_ratio))

    def same_as(self, other: View) -> bool:
        """Whether both see the same voxels."""
        return self.level.spacing == other.level.spacing and self.images.same_as(other.images)

    def wide(self, grid: Grid, spacing: float) -> tuple[Grid, int]:
        """A grid with a margin for what the field brings in from outside, and the margin in voxels."""
        margin = margin_of(grid, spacing)
        margins = np.where(grid.size > 1, margin, 0)
        return grid.cropped(-margins, grid.size + 2 * margins), margin

    def volumes(self, channel: Channel, similarity: str, decorrelated: bool) -> Volumes:
        """Those of a channel, for a similarity. decorrelated: of descriptors, see mind_ssc."""
        pair, spacing = self.pair, self.level.spacing
        wide, margin = self.wide(self.images, self.base * spacing)
        # Descriptors see the images twice as fine as the field, but no finer than they are.
        pool = 2 if similarity == "mind" and spacing > 1 else 1
        seen, goal = _split(self.images, pool), _split(wide, pool)
        fixed, _ = self._volume(channel.fixed, seen, None, channel.windows[0], None)
        moving, valid = self._volume(channel.moving, goal, pair.matrix, channel.windows[1], pair.moving_mask)
        if similarity == "mind":
            noise = descriptor_noise(fixed, moving)
            fixed, moving = (mind_ssc(volume, pool, noise, decorrelated) for volume in (fixed, moving))
            if valid is not None:
                valid = pooled(_alone(valid, REACH["mind"]), pool)[0]
        else:
            fixed, moving = fixed[None], moving[None]
            # At the edge the volume drops to zero, which is no slope of the image.
            valid = None if valid is None else _alone(valid, 1)[0]
        return Volumes(fixed, moving, valid, self._weight(self.images), margin)

    def _volume(self, image: Image, grid: Grid, matrix, window, mask: Image | None):
        """The image on a grid with values in [0, 1], and where it is known (None: everywhere)."""
        low, scale = window
        outside = low if matrix is None or _ends_in_background(image, window) else np.nan
        seen = resample(image, grid, matrix, outside, smooth=True).array
        valid = np.isfinite(seen)
        seen -= np.float32(low)
        seen *= np.float32(scale)
        if not valid.all():
            seen[~valid] = 0.0
        if mask is not None:
            valid &= resample(mask.with_array((mask.array > 0).astype(np.uint8)), grid, matrix).array >= 0.5
        np.clip(seen, 0, 1, out=seen)
        return self.tensor(seen), None if valid.all() else self.tensor(valid.astype(np.float32))

    def _weight(self, grid: Grid) -> torch.Tensor:
        """The mask, and what correlation windows in it see."""
        inside = resample(Image(self.pair.mask.astype(np.uint8), self.pair.fixed.grid), grid).array >= 0.5
        return (box_sum(self.tensor(inside.astype(np.float32))[None], WINDOW_RADIUS)[0] > 0).float()

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """(K, J, I) to a tensor of the image's own dimension."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        return torch.from_numpy(array if self.flat is None else array.squeeze(self.flat)).to(self.device)


def compared_of(pair: Pair, stage: Stage, options: Options) -> list[tuple[Channel, str, float]]:
    """The channels that a stage compares, each by which similarity and with which weight.

    What leads the similarity compares all images by the same one; then each channel has its own.
    """
    own = stage.similarity == options.similarity
    found = [(one, (one.similarity if own else None) or stage.similarity, one.weight) for one in pair.channels]
    if stage.kind == "joined":
        found += [(one, "lncc", CORRELATION_WEIGHT * one.weight) for one, named, _ in list(found) if named == "mind"]
    return found


class Coming:
    """Volumes of stages to come, made beside the coarsest one, on which one thread works; on processors.

    Descriptors are left out, which cost more and may not be needed. ahead: what makes them; without it nothing is.
    """

    def __init__(self, pair: Pair, region: Grid, options: Options, device: str, ahead: Ahead | None) -> None:
        self._pair, self._region, self._options, self._device = pair, region, options, device
        # On a GPU they do not lie beside anything.
        self._ahead = ahead if device == "cpu" and ahead is not None and ahead.has_thread else None
        self._begun: list[tuple[View, list[Callable[[], Volumes]]]] = []

    def begin(self, stage: Stage) -> None:
        compared = compared_of(self._pair, stage, self._options)
        if self._ahead is None or any(named == "mind" for _, named, _ in compared):
            return
        view = View.of(self._pair, self._region, stage.level, self._device)
        if not any(view.same_as(other) for other, _ in self._begun):
            made = [self._ahead.begin(partial(view.volumes, one, named, False)) for one, named, _ in compared]
            self._begun.append((view, made))

    def volumes(self, view: View, compared: list[tuple[Channel, str, float]]) -> list[Volumes]:
        """Those that were begun of a view, handed out once; none where none were, or for others."""
        for number, (other, made) in enumerate(self._begun):
            if view.same_as(other) and not any(named == "mind" for _, named, _ in compared):
                del self._begun[number]
                return [one() for one in made]
        return []


def _ends_in_background(image: Image, window: tuple[float, float]) -> bool:
    """Whether all of its outermost voxels are background: then there is nothing beyond them either."""
    low, scale = window
    faces = [image.array.take(end, axis) for axis in range(3) if image.array.shape[axis] > 1 for end in (0, -1)]
    return all(((face - low) * scale <= BACKGROUND).all() for face in faces)


def _alone(valid: torch.Tensor, reach: int) -> torch.Tensor:
    """(1, *S): 1 where nothing within `reach` voxels of one is invalid (*S)."""
    return (box_sum(1 - valid[None], reach) == 0).float()


def _split(grid: Grid, parts: int) -> Grid:
    """`parts` times as fine: the new voxels parts * p ... parts * p + parts - 1 fill the voxel p of `grid`."""
    used = grid.size > 1
    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 3] = grid.to_ras(np.where(used, 0.5 / parts - 0.5, 0.0))
    matrix[:3, :3] *= np.where(used, 1.0 / parts, 1.0)
    return Grid(tuple(int(n * (parts if n > 1 else 1)) for n in grid.shape), matrix)
