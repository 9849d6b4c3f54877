"""How well one held-out pair was registered: overlap of every structure, folds, similarity of the images."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ...fields.displacement import DisplacementField
from ...images import sampling
from ...images.grid import Grid
from ...images.image import Image
from ...networks.model import Model
from ...registration import evaluation
from ...registration.register import register
from ...registration.settings import Settings
from .. import losses
from ..pairs import TrainingPair
from ..shapes import doubled
from ..supervision import Supervision
from ..trainer import Trainer

# Gives for a pair the displacement (1, d, *S) in voxels of its images.
Registrar = Callable[[TrainingPair], torch.Tensor]


@dataclass(frozen=True)
class Overlap:
    """Dice of each structure in the fixed map by its label, and of each coarse group by its number."""

    structures: dict[int, float]
    groups: dict[int, float]

    def mean(self, labels: Collection[int] | None = None) -> float:
        """Mean over those of `labels` (all when None) that the fixed map has; NaN when it has none of them."""
        return _mean([value for label, value in self.structures.items() if labels is None or label in labels])

    def mean_of_groups(self) -> float:
        return _mean(list(self.groups.values()))


@dataclass(frozen=True)
class Similarity:
    """Of the moving to the fixed image, both in [0, 1]: mean squared difference, squared local correlation, SSIM."""

    mse: float
    ncc: float
    ssim: float


@dataclass(frozen=True)
class PairScores:
    """Of the held-out pair `number`. folds_percent: voxels of the whole grid with a determinant <= 0 by central
    differences; folds_any_corner_percent: by any of the one-sided ones.
    """

    number: int
    before: Overlap
    after: Overlap
    similarity_before: Similarity
    similarity: Similarity
    folds_percent: float
    folds_any_corner_percent: float


def score_pair(
    number: int,
    pair: TrainingPair,
    label_maps: Sequence[torch.Tensor],
    displacement: torch.Tensor,
    coarse: Supervision | None,
) -> PairScores:
    """Measure a displacement (1, d, *S) in voxels of the pair's images.

    label_maps: of the fixed and the moving image, (1, 1, *S). coarse: the groups of structures, None without any.
    """
    fixed, moving = label_maps
    positions = sampling.voxel_positions(displacement)
    # Labels as floats: nearest sampling of small integers is exact.
    carried = sampling.sample(moving.float(), positions, mode="nearest").long()
    warped = sampling.warp(pair.moving, displacement)
    flow = displacement[0].cpu().numpy()
    folding = DisplacementField.from_voxels(flow, pair_grid(flow.shape[1:])).folding()
    return PairScores(
        number,
        _overlap(fixed, moving, coarse),
        _overlap(fixed, carried, coarse),
        _similarity(pair.moving, pair.fixed),
        _similarity(warped, pair.fixed),
        folding.percent,
        folding.any_corner_percent,
    )


def network_registrar(trainer: Trainer) -> Registrar:
    """The trained network alone, on the grid that it was trained on."""

    def displacement(pair: TrainingPair) -> torch.Tensor:
        with torch.no_grad():
            _, found = trainer.predict(pair)
        return doubled(found, tuple(pair.fixed.shape[2:])) if trainer.config.network.half_resolution else found

    return displacement


def pipeline_registrar(model: Model, spacing_mm: Sequence[float], refinement: str) -> Registrar:
    """The whole registration of an exported network, with `refinement`; the images as they lie."""
    settings = Settings(alignment="none", refinement=refinement, device="cpu")

    def displacement(pair: TrainingPair) -> torch.Tensor:
        arrays = [image[0, 0].cpu().numpy() for image in (pair.fixed, pair.moving)]
        return torch.from_numpy(registered(arrays[0], arrays[1], spacing_mm, model, settings))[None].to(
            pair.fixed.device
        )

    return displacement


def registered(
    fixed: np.ndarray, moving: np.ndarray, spacing_mm: Sequence[float], model: Model, settings: Settings
) -> np.ndarray:
    """Register two arrays (*S) on one grid with spacing along i, j(, k): the displacement (d, *S) in voxels."""
    grid = pair_grid(fixed.shape, spacing_mm)
    images = [Image(a.reshape(grid.shape), grid, name) for a, name in ((fixed, "fixed"), (moving, "moving"))]
    return register(images[0], images[1], model, settings).field.on_grid(grid).to_voxels(in_plane=True)


def pair_grid(shape: Sequence[int], spacing_mm: Sequence[float] | None = None) -> Grid:
    """A grid of `shape` (K, J, I) or (J, I) at the origin; voxels of 1 mm when `spacing_mm` (i, j(, k)) is None."""
    spacing = np.ones(3)
    if spacing_mm is not None:
        spacing[:] = np.mean(spacing_mm)
        spacing[: len(spacing_mm)] = spacing_mm
    return Grid(tuple(shape) if len(shape) == 3 else (1, *shape), np.diag([*spacing, 1.0]))


def _overlap(fixed: torch.Tensor, carried: torch.Tensor, coarse: Supervision | None) -> Overlap:
    groups = {} if coarse is None else _dice(coarse.channels(fixed), coarse.channels(carried))
    return Overlap(_dice(fixed, carried), groups)


def _dice(fixed: torch.Tensor, carried: torch.Tensor) -> dict[int, float]:
    arrays = [labels[0, 0].cpu().numpy() for labels in (fixed, carried)]
    grid = pair_grid(arrays[0].shape)
    images = [Image(array.reshape(grid.shape), grid, "label map") for array in arrays]
    return evaluation.dice(images[0], images[1], evaluation.label_values(images[0]))


def _similarity(moving: torch.Tensor, fixed: torch.Tensor) -> Similarity:
    mse = losses.mean_squared_error(moving, fixed)
    ncc, ssim = losses.local_ncc(moving, fixed), losses.structural_similarity(moving, fixed)
    return Similarity(float(mse), 1.0 - float(ncc), 1.0 - float(ssim))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


# --- files ----------------------------------------------------------------------------------------------------------


def write_scores(scores: list[PairScores], path: Path) -> None:
    """Keep the scores as JSON, whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps([asdict(one) for one in scores], indent=1), encoding="utf-8")
    partial.replace(path)


def read_scores(path: Path) -> list[PairScores]:
    """The scores that write_scores kept."""
    return [scores_from_dict(one) for one in json.loads(path.read_text(encoding="utf-8"))]


def scores_from_dict(values: dict) -> PairScores:
    """The scores of one pair from what asdict and JSON made of them."""
    values = dict(values)
    for name in ("before", "after"):
        values[name] = Overlap(**{part: {int(k): v for k, v in dice.items()} for part, dice in values[name].items()})
    for name in ("similarity_before", "similarity"):
        values[name] = Similarity(**values[name])
    return PairScores(**values)
