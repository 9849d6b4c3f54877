"""Training pairs from real scans of one person: any mixture of their contrasts, warped twice by known displacements.

Images synthesised from label maps lack what lies between labels: partial volume, gradual changes within a tissue,
vessels, lesions, artefacts. A share of pairs from real scans shows a network those, with the true displacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError, SettingsError
from ..images.files import read_image
from ..images.grid import bounding_box
from ..images.sampling import sample
from .anatomy import AnatomySource, grid_of_box, placement, seen_voxels
from .files import SUFFIXES
from .pairs import TRAINING_STREAM, TrainingPair
from .shapes import Source, degraded, two_warps
from .teacher import WithTeacher

# Grey values that become 0 and 1, and the deviations in voxels of the blur: real scans have their own.
PERCENTILES, BLUR = (0.2, 99.8), (0.0, 0.6)
# Keeps these pairs' random numbers apart from those of the label maps.
DRAW = 9


@dataclass(frozen=True)
class ScansSection:
    """[scans]: a share of the pairs of "anatomy" from the images in `folder`: scans of one person on one grid.

    single: how often an image shows one of the scans; else it shows a random mixture of all. inverted: how often a
    mixture is turned round, bright for dark. Voxels that are 0 in any scan are outside.
    """

    folder: str = ""
    share: float = 0.0
    single: float = 0.6
    inverted: float = 0.15

    def __post_init__(self) -> None:
        for name in ("share", "single", "inverted"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"scans.{name} is a share between 0 and 1, not {getattr(self, name):g}.")
        if bool(self.folder) != (self.share > 0):
            raise SettingsError("scans.folder and scans.share go together: give both, or none.")


class ScanSource:
    """Pairs from the scans of one person."""

    def __init__(self, section: ScansSection, maps: AnatomySource, base: Path) -> None:
        """maps: whose grids, warps and contrasts are drawn alike. Raises InputError when the scans cannot be used."""
        self.section, self.maps = section, maps
        self._volumes, self._from_ras, self._box = _read_scans(base / section.folder)
        self._copies: dict[torch.device, torch.Tensor] = {}

    @property
    def count(self) -> int:
        return len(self._volumes) - 1

    def pair(self, shape: tuple[int, ...], source: Source) -> TrainingPair:
        """A pair on a grid of `shape`, by the random numbers of `source`."""
        recipe = self.maps.recipe
        to_ras = placement(self.maps.section, self._box, shape, source)
        fixed_warp, moving_warp, truth = two_warps(recipe, shape, source)
        fixed_mix = self._mixture(source)
        moving_mix = fixed_mix if source.chance(recipe.related) else self._mixture(source)
        fixed, seen = self._image(fixed_warp, to_ras, fixed_mix, source)
        moving, _ = self._image(moving_warp, to_ras, moving_mix, source)
        pool = F.avg_pool3d if len(shape) == 3 else F.avg_pool2d
        return TrainingPair(fixed, moving, displacement=truth, visible=pool(seen.float(), 2))

    def _mixture(self, source: Source) -> tuple[np.ndarray, bool]:
        """The weight of each scan, and whether bright is to be dark."""
        if source.chance(self.section.single):
            return np.eye(self.count)[source.numbers.integers(self.count)], False
        return source.numbers.dirichlet(np.ones(self.count)), source.chance(self.section.inverted)

    def _image(
        self, warp: torch.Tensor, to_ras: np.ndarray, mixture: tuple[np.ndarray, bool], source: Source
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is seen through a warp (1, d, *S) in voxels of the step's grid, and where the person is (1, 1, *S)."""
        device, d = warp.device, warp.shape[1]
        ijk = seen_voxels(self._from_ras, warp, to_ras).reshape(1, 1, 1, -1, 3)
        if device not in self._copies:
            self._copies[device] = self._volumes.to(device)
        volumes = sample(self._copies[device][None], ijk).reshape(1, -1, *warp.shape[2:])
        seen = volumes[:, -1:] > 0.5
        parts, inverted = mixture
        weights = torch.as_tensor(parts, dtype=torch.float32, device=device).reshape(1, -1, *[1] * d)
        image = (volumes[:, :-1] * weights).sum(1, keepdim=True)
        # A little above the brightest, so that it does not become the black of the outside.
        image = 1.05 - image if inverted else image
        return degraded(self.maps.recipe, image, ~seen, BLUR, source), seen


class WithScans:
    """Pairs from label maps, and a share of them from scans. Validation has label maps only."""

    def __init__(self, maps: AnatomySource | WithTeacher, scans: ScanSource) -> None:
        self.maps, self.scans = maps, scans

    @property
    def facts(self) -> str:
        share = 100 * self.scans.section.share
        return f"{self.maps.facts}, and for {share:g} % of the pairs {self.scans.count} real scans of one person"

    def pair(self, stream: int, number: int, device: torch.device | str) -> TrainingPair:
        """The pair that belongs to (seed, stream, number)."""
        maps = self.maps
        if stream == TRAINING_STREAM:
            source = Source(torch.device(device), np.random.default_rng((maps.seed, stream, number, DRAW)))
            if source.chance(self.scans.section.share):
                return self.scans.pair(maps.sizes.of(maps.seed, stream, number), source)
        return maps.pair(stream, number, device)


def _read_scans(folder: Path) -> tuple[torch.Tensor, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The scans in [0, 1] and where all of them are other than 0 (C + 1, K, J, I), RAS mm to their voxels, and the
    box of the person in RAS mm (lowest, highest).
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} with scans (setting scans.folder).")
    paths = sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))
    if not paths:
        raise InputError(f"There is no image in {folder} (setting scans.folder).")
    images = [read_image(path) for path in paths]
    grid = images[0].grid
    for path, image in zip(paths, images, strict=True):
        if image.array.shape != images[0].array.shape or not np.allclose(
            image.grid.ijk_to_ras, grid.ijk_to_ras, atol=1e-3
        ):
            raise InputError(
                f"{path} is on another grid than {paths[0].name}; the scans must be resampled to one grid."
            )
    if grid.dimension != 3:
        raise InputError(f"{paths[0]} is a slice; scans of volumes are needed (2D pairs are cut from them).")
    arrays = np.stack([image.array.astype(np.float32) for image in images])
    seen = (arrays != 0).all(0)
    if not seen.any():
        raise InputError(f"The scans in {folder} have no voxel that is other than 0 in all of them.")
    for array in arrays:
        low, high = np.percentile(array[seen], PERCENTILES)
        array[:] = np.where(seen, np.clip((array - low) / max(high - low, 1e-6), 0, 1), 0)
    box = bounding_box(seen)
    cropped = grid_of_box(grid, box)
    corners = cropped.to_ras(np.array([[0, 0, 0], cropped.size - 1]))
    within = (slice(None), *box)
    volumes = np.concatenate([arrays, seen[None]])[within]
    return (
        torch.from_numpy(np.ascontiguousarray(volumes, np.float32)),
        cropped.ras_to_ijk,
        (corners.min(0), corners.max(0)),
    )
