"""What a registration will take at most, told before it begins, so that several can share a computer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..images.image import Image
from ..images.nodata import filled
from .choice import resolved
from .intensity import measured_region
from .memory import BASE_BYTES, images_bytes, network_bytes
from .starts import held_bytes, networks_bytes, starting_networks
from .working import pass_grids, surroundings

if TYPE_CHECKING:
    from ..networks.model import Model
    from .settings import Settings

# What a process with a context on a graphics card takes of its memory, before any volume.
CONTEXT_BYTES = 700_000_000


def needed_bytes(
    fixed: Image,
    moving: Image,
    settings: Settings,
    device: str,
    network: Model | None = None,
    further: int = 0,
    **extras,
) -> dict[str, int]:
    """Bytes by device: of the processor, and of a graphics card where `device` is one.

    further: how many more images of each side. extras: further arguments of `register`. Upper bounds, of the parts
    that `register` checks itself.
    """
    asked, settings = settings, resolved(settings, network)
    region = measured_region(filled(fixed).image, extras.get("fixed_mask"))
    if not region.any():
        return {"cpu": BASE_BYTES}
    images, work = images_bytes(fixed.grid, moving.grid), 0
    if settings.refinement != "off":
        from ..refinement.pair import Pair, memory_bytes

        labels = extras.get("fixed_labels"), extras.get("moving_labels")
        guides = labels if settings.label_weight and labels[0] is not None and labels[1] is not None else None
        pair = Pair(fixed, moving, None, None, region, labels=guides)  # type: ignore[arg-type]
        work = memory_bytes(replace(pair, further=pair.channels * further))
        if network is None and not further and guides is None and not _guided_otherwise(settings, extras):
            cards = starting_networks(asked, fixed.grid)
            work = max(work, networks_bytes(cards, settings, surroundings(fixed.grid, region)))
            images += held_bytes(fixed.grid, region) if cards else 0
    if network is not None and network.card.dimension == fixed.grid.dimension:
        grids = pass_grids(surroundings(fixed.grid, region), network.card, settings)
        work = max(work, network_bytes(network.card, max(grid.voxel_count for grid in grids)))
    if device == "cpu":
        return {"cpu": images + work}
    return {"cpu": images, device: CONTEXT_BYTES + work}


def _guided_otherwise(settings: Settings, extras: dict) -> bool:
    """Whether landmarks guide the refinement, or it goes on from a field: slices then have no other starts."""
    start, points = extras.get("initial_transform"), (extras.get("fixed_points"), extras.get("moving_points"))
    guided = settings.landmark_weight and points[0] is not None and points[1] is not None
    return bool(guided) or (start is not None and not isinstance(start, np.ndarray))
