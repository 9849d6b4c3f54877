"""A small ensemble: the pair registered again in other ways, at a coarser resolution.

Where the images say where things belong, all answers agree; where they say nothing, each ends where its smoothing or
its start left it. Five answers are compared with the one in question: the way back (the images swapped, from nothing),
and the same way from starts that are disturbed coarsely and finely. (Another similarity, from nothing, told no more.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..fields.displacement import DisplacementField
from ..images.grid import working_grid
from ..refinement.levels import Options
from ..refinement.pair import Pair, region_grid
from ..refinement.refine import refine

if TYPE_CHECKING:
    from ..images.grid import Grid

# Disturbed starts: the standard deviation of each component, and how far apart the independent disturbances lie, in
# voxels of the working grid. Larger and coarser ones (6 and 32) told little of where the errors are.
COARSELY, FINELY = (2.5, 16.0), (1.5, 8.0)


@dataclass(frozen=True)
class Plan:
    """The presets of the answers that are made, "" for none. starts, fine_starts: how many that are disturbed coarsely
    and finely."""

    back: str
    returned: str
    starts: int
    fine_starts: int


# By what the map may cost.
PLANS = {"quick": Plan("", "", 0, 0), "full": Plan("fast", "return", 2, 2)}


@dataclass(frozen=True, eq=False)
class Answers:
    """Displacements of other answers. back: of moving to fixed positions, before A^-1, None where not made. returned,
    fine: as the field's, from starts disturbed coarsely and finely."""

    back: DisplacementField | None = None
    returned: tuple[DisplacementField, ...] = ()
    fine: tuple[DisplacementField, ...] = ()


def answers(
    pair: Pair,
    field: DisplacementField,
    similarity: str,
    moving_region: np.ndarray,
    plan: Plan,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> Answers:
    """pair: without labels and points. field: the answer in question. similarity: what it was refined with.
    moving_region: (K, J, I) of the moving grid, where its anatomy is. progress may raise to cancel.
    """
    region = region_grid(pair.fixed.grid, pair.mask)
    runs: dict[object, tuple[Pair, DisplacementField | None, Options]] = {}
    if plan.back:
        runs["back"] = swapped(pair, moving_region), None, Options(plan.back, similarity)
    starts = [*(COARSELY,) * plan.starts, *(FINELY,) * plan.fine_starts]
    for seed, (size, apart) in enumerate(starts):
        runs[seed] = pair, disturbed(field, region, seed + 1, size, apart), Options(plan.returned, similarity)
    found: dict[object, DisplacementField] = {}
    for number, (name, (one, start, options)) in enumerate(runs.items()):

        def report(fraction: float, number: int = number) -> None:
            progress((number + fraction) / len(runs))

        found[name] = refine(one, start, options, device=device, progress=report).field
    ends = tuple(found[seed] for seed in range(len(starts)))
    return Answers(found.get("back"), ends[: plan.starts], ends[plan.starts :])


def swapped(pair: Pair, moving_region: np.ndarray) -> Pair:
    """The pair the other way round."""
    mask = moving_region
    if pair.moving_mask is not None:
        mask = mask & (pair.moving_mask.array > 0)
    if not mask.any():
        mask = np.ones_like(mask)
    return Pair(pair.moving, pair.fixed, np.linalg.inv(pair.matrix), pair.windows[::-1], mask)


def disturbed(field: DisplacementField, region: Grid, seed: int, size: float, apart: float) -> DisplacementField:
    """The field with smooth noise on top; the same for the same seed. size, apart: as of COARSELY."""
    unit = float(np.min(region.spacing[region.size > 1]))
    coarse = working_grid(region, apart * unit)
    noise = np.random.default_rng(seed).normal(scale=size * unit, size=(*coarse.shape, 3))
    if region.flat_axis is not None:
        across = region.directions[:, region.across]
        noise -= (noise @ across)[..., None] * across
    added = DisplacementField(noise.astype(np.float32), coarse).on_grid(field.grid)
    return DisplacementField(field.displacement_ras + added.displacement_ras, field.grid)


def without_guides(pair: Pair) -> Pair:
    """The pair as the images alone show it."""
    return replace(pair, labels=None, points=None)
