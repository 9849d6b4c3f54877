"""The model and the grids on which it sees the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..images.grid import Grid, bounding_box, working_grid
from ..networks.card import ModelCard
from ..networks.model import Model, load_model, read_card
from ..networks.shelf import find_model, model_names
from .device import choose_device, with_memory

if TYPE_CHECKING:
    from .inputs import Inputs
    from .settings import Settings


# The network sees this much around what is brighter than the background: a part of its longest side (5 mm of a brain),
# and at least some of the image's smallest voxel sides.
SURROUNDINGS, SURROUNDING_VOXELS = 0.03, 5
# A network has nothing to see in an image of fewer of its voxels than this, along the longest axis.
SMALLEST_WIDTH = 4.0


def surroundings(grid: Grid, mask: np.ndarray) -> Grid:
    """The part of the grid around the mask: a network has nothing to see in an empty background."""
    box = bounding_box(mask)
    sides = grid.spacing * [part.stop - part.start for part in box[::-1]]
    around = max(SURROUNDINGS * sides.max(), SURROUNDING_VOXELS * float(np.min(grid.spacing[grid.size > 1])))
    margin = np.where(grid.size > 1, np.ceil(around / grid.spacing - 1e-6), 0).astype(int)
    start = np.maximum(np.array([part.start for part in box])[::-1] - margin, 0)
    stop = np.minimum(np.array([part.stop for part in box])[::-1] + margin, grid.size)
    return grid.cropped(start, stop - start)


def network_and_grids(
    model: Model | None, inputs: Inputs, settings: Settings, warnings: list[str], trust: bool = False
) -> tuple[Model | None, list[Grid]]:
    """The network on a device that has the memory for it, and the grid of each pass; None and no grid without one, or
    where one is to be picked later.
    """
    if model is None and settings.model in ("none", "auto"):
        return None, []
    network = loaded(model, settings, inputs.fixed.grid.dimension, trust)
    grids = pass_grids(surroundings(inputs.fixed.grid, inputs.region), network.card, settings)
    largest = max(grids, key=lambda grid: grid.voxel_count)
    return with_memory(network, largest, (inputs.fixed.grid, inputs.moving.grid), settings, warnings), grids


def loaded(model: Model | None, settings: Settings, dimension: int, trust: bool = False) -> Model:
    device = choose_device(settings.device)
    if model is not None:
        if model.device != device and model.path is not None:
            model = load_model(model.path, device, settings.precision, trust=model.trusted)
    else:
        path = find_model(settings.model)
        _check_dimension(read_card(path), dimension)
        model = load_model(path, device, settings.precision, trust=trust)
    _check_dimension(model.card, dimension)
    return model


def _check_dimension(card: ModelCard, dimension: int) -> None:
    if card.dimension != dimension:
        fitting = [n for n in model_names() if read_card(find_model(n)).dimension == dimension]
        advice = (
            f"Shipped {dimension}D models: {', '.join(fitting)}."
            if fitting
            else (f"No {dimension}D model is shipped; give a {dimension}D model file.")
        )
        raise InputError(
            f"The images are {dimension}D, but the model '{card.name}' is for {card.dimension}D images. {advice}"
        )


def network_grid(fixed: Grid, card: ModelCard, settings: Settings, scale: float = 1.0) -> Grid:
    """The working grid for a model: its spacing (or one that fits its number of voxels) times `scale`, its stride and
    orientation.
    """
    spacing: float | tuple[float, ...] | None = settings.working_spacing_mm
    if spacing is None and card.spacing_mm is not None:
        spacing = card.spacing_mm
        if card.dimension == 2:
            spacing = _spread(card.spacing_mm, fixed)
    if spacing is None:
        extents = [s * n for s, n in zip(fixed.spacing, fixed.size, strict=True) if n > 1]
        fitting = (np.prod(extents) / (card.target_voxels or 1_000_000)) ** (1 / len(extents))
        # Finer than the image itself shows the network nothing new.
        spacing = max(fitting, min(s for s, n in zip(fixed.spacing, fixed.size, strict=True) if n > 1))
    wide = max(s * n / own for s, n, own in zip(fixed.spacing, fixed.size, np.broadcast_to(spacing, (3,)), strict=True))
    if wide < SMALLEST_WIDTH:
        raise InputError(
            f"The fixed image's anatomy is {wide * float(np.max(spacing)):.3g} mm wide, and the model '{card.name}' "
            f"works with voxels of {float(np.max(spacing)):g} mm: it would see {wide:.1f} of them. Choose a general "
            "model, which works at any scale, or set the working spacing."
        )
    if card.shape_kji is not None:
        return _locked_grid(fixed, card, spacing)
    return working_grid(fixed, np.asarray(spacing) * scale, card.stride, card.orientation)


def pass_grids(fixed: Grid, card: ModelCard, settings: Settings) -> list[Grid]:
    """The working grid of each pass; the same object where two passes share one. Raises InputError where the model is
    for slices and the image a volume, or the other way round.
    """
    _check_dimension(card, fixed.dimension)
    passes = settings.passes or card.passes
    if card.shape_kji is not None:
        return [network_grid(fixed, card, settings)] * passes
    known: dict[float, Grid] = {}
    for scale in set(card.pass_scales):
        known[scale] = network_grid(fixed, card, settings, scale)
    return [known[card.scale_of(number)] for number in range(passes)]


def _spread(spacing: tuple[float, ...], grid: Grid) -> tuple[float, ...]:
    """Two in-plane spacings as three, with the grid's own across the plane."""
    pair = iter(spacing)
    return tuple(float(own) if n == 1 else next(pair) for own, n in zip(grid.spacing, grid.size, strict=True))


def _locked_grid(fixed: Grid, card: ModelCard, spacing) -> Grid:
    """A grid of the model's own shape centred on the fixed image, its spacing enlarged where the image is larger."""
    base = working_grid(fixed, spacing, 1, card.orientation)
    wanted = list(card.shape_kji or ())
    if fixed.dimension == 2:
        wanted.insert(2 - base.across, 1)
    count = np.array(wanted[::-1])
    factor = np.maximum(base.size / count, 1.0)
    start = (base.size - 1) / 2 - factor * (count - 1) / 2
    # Whole voxels where the spacing is kept, so that nothing is interpolated there.
    start = np.where(factor == 1.0, np.floor(start), start)
    matrix = base.ijk_to_ras.copy()
    matrix[:3, 3] = base.to_ras(start)
    matrix[:3, :3] *= factor
    return Grid(tuple(wanted), matrix)
