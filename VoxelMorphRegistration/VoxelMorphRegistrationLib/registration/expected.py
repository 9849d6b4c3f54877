"""How long a registration will take here, told before it begins: from the sizes and a speed measured on this device.

The unit is the time of `probe_seconds`, a few smoothings and warps of a small volume, which are what a refinement is
made of. How many of these a registration takes was measured; Testing/Benchmarks/expected.py repeats it.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import InputError
from ..images.grid import bounding_box
from ..networks.model import has_bfloat16, has_int8
from ..refinement.size import LARGEST_GRID, grid_bytes
from .choice import resolved
from .memory import network_bytes
from .starts import starting_networks, with_start
from .working import pass_grids, surroundings

if TYPE_CHECKING:
    import numpy as np

    from ..images.grid import Grid
    from ..networks.card import ModelCard
    from .settings import Settings

PROBE_SIZE, PROBE_ROUNDS = 64, 3
# Units of the probe: what the alignment takes, reduced to a fixed size; a million voxels of the box around the anatomy
# refined; a million voxels of a network's pass; a million voxels of the fixed image read, warped, measured and written,
# the first ten and those behind: large images are measured on the voxels of the displacement. By whole commands on an
# idle processor, brains of two people at 1 mm and a smooth motion in a CT of 73 million voxels: affine 28 and 131, the
# latter searched for, default 61 and 143, written 12 and 4; docs/quality.md has what is told by
# these. The others are scaled by what a bent ball at 64 and 128 voxels a side took.
ALIGNMENT_UNITS = {"none": 3.0, "centers": 3.0, "mass": 3.0, "rigid": 40.0, "similarity": 60.0, "affine": 60.0}
REFINED_UNITS = {"off": 0.0, "coarse": 3.0, "fast": 21.0, "default": 75.0, "accurate": 112.0}
WRITTEN_UNITS, WRITTEN_LARGE, LARGE_MILLIONS = 11.0, 4.0, 10.0
# Those of a pass by the arithmetic of its convolutions: brain-3d on a pair of brains, in whole commands with one thread
# (bfloat16: a third of the convolutions' time in float32, on another processor).
PASS_UNITS = {"float32": 14.0, "bfloat16": 6.0, "int8": 7.0}
# A million voxels of the box around the anatomy for the expected error: as parts of the default refinement, which took
# some 30 CPU seconds of a pair of brains where the full map took 25; the quick one takes .23 of it.
ERROR_UNITS = {"off": 0.0, "quick": 11.5, "full": 50.0}
# What a further image of each side adds to a refinement, as a part of it: .62 to .87 of two pairs of brains at 1.5 mm,
# with one and two more.
FURTHER_PART = 0.8
# What each further start of a slice takes beside its passes and its refinement, whatever the size: six slices of
# brains, in whole commands, took 4.1 instead of 3.5 CPU s by two of them.
START_UNITS = 4.0
# Of the fixed image that is in the box around the anatomy, where that is not known yet.
USUAL_PART = 0.7
# Millions of voxels refined at most.
MOST_REFINED = LARGEST_GRID / 1e6


def probe_seconds(device: str = "cpu") -> float:
    """Seconds of the probe on a device, at the number of threads that torch has now: by the best of its rounds."""
    import torch

    from ..images import sampling

    volume = torch.rand(1, 1, *[PROBE_SIZE] * 3, device=device)
    field = torch.rand(1, 3, *[PROBE_SIZE] * 3, device=device)

    def once() -> float:
        start = time.perf_counter()
        sampling.warp(volume, sampling.gaussian_smooth(field, (1.3, 1.3, 1.3)))
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return PROBE_ROUNDS * min(once() for _ in range(PROBE_ROUNDS))


def network_arithmetic() -> str:
    """What networks compute with on this processor where the settings allow it: a key of PASS_UNITS."""
    return "bfloat16" if has_bfloat16() else "int8" if has_int8() else "float32"


def expected_seconds(
    settings: Settings,
    fixed: Grid,
    probe: float,
    region: np.ndarray | None = None,
    card: ModelCard | None = None,
    further: int = 0,
    arithmetic: str = "float32",
) -> float:
    """About how long `register` will take.

    probe: of `probe_seconds` on the device of the settings. region: (K, J, I), where the fixed image has anatomy, if
    that is known. card: of the network that is named, if one is. further: how many more images of each side.
    arithmetic: `network_arithmetic` of the device.
    """
    # Slices are refined from these as well, unless something guides them, which is not known here.
    starts = {} if further else starting_networks(settings, fixed)
    settings = resolved(settings)
    part = USUAL_PART
    if region is not None and region.any():
        part = math.prod(side.stop - side.start for side in bounding_box(region)) / region.size
    millions = fixed.voxel_count / 1e6
    written = min(millions, LARGE_MILLIONS)
    units = ALIGNMENT_UNITS[settings.alignment] + WRITTEN_UNITS * written + WRITTEN_LARGE * (millions - written)
    refined = min(millions * part, MOST_REFINED)
    refining = REFINED_UNITS[settings.refinement] * (1 + FURTHER_PART * further)
    units += (refining + ERROR_UNITS[settings.expected_error]) * refined
    for name, start in starts.items():
        # One that sees too little is left out.
        with suppress(InputError):
            passes = _network_units(start, fixed, region, part, with_start(settings, name, start), arithmetic)
            units += START_UNITS + passes + refining * refined
    if card is not None:
        units += _network_units(card, fixed, region, part, settings, arithmetic)
    elif settings.refinement == "off":
        # One coarse pass of each shipped model, then those of one of them.
        units += PASS_UNITS[arithmetic] * 3 * millions * part
    return probe * units


def _network_units(
    card: ModelCard, fixed: Grid, region: np.ndarray | None, part: float, settings: Settings, arithmetic: str
) -> float:
    """Units of all passes of a network. part: of the fixed image that is in the box around the anatomy."""
    if region is not None and region.any():
        fixed, part = surroundings(fixed, region), 1.0
    counts = [part * grid.voxel_count / 1e6 for grid in pass_grids(fixed, card, settings)]
    first, later = _pass_units(card, settings, arithmetic)
    return first * counts[0] + later * sum(counts[1:])


def _pass_units(card: ModelCard, settings: Settings, arithmetic: str) -> tuple[float, float]:
    """Units of a million voxels of the first pass and of a later one."""
    facts = card.architecture
    if settings.precision != "auto" or not facts.get("bfloat16", False):
        arithmetic = "float32"
    if arithmetic == "int8" and (card.dimension == 2 or not facts.get("symmetric", False)):
        arithmetic = "float32"
    first = PASS_UNITS["float32" if arithmetic == "int8" else arithmetic]
    # Of one direction only, where it is not symmetric.
    ways = 1.0 if facts.get("symmetric", True) else 0.5
    return ways * first, ways * PASS_UNITS[arithmetic]


def expected_bytes(settings: Settings, fixed: Grid, card: ModelCard | None = None, further: int = 0) -> int:
    """About how much memory the device needs: what the larger of refinement and network takes.

    further: how many more images of each side. The networks of a slice's starts are left out: one that is too large for
    the device runs on the processor, and the refinement stays.
    """
    settings = resolved(settings)
    refined = min(int(USUAL_PART * fixed.voxel_count), LARGEST_GRID)
    needed = 0 if settings.refinement == "off" else grid_bytes(refined, further)
    if card is not None:
        largest = max(grid.voxel_count for grid in pass_grids(fixed, card, settings))
        needed = max(needed, network_bytes(card, largest))
    return needed


def in_words(seconds: float) -> str:
    """A duration as it is told: "about 8 s", "about 2 minutes"."""
    if seconds < 90:
        step = 1 if seconds < 10 else 5
        return f"about {max(step, step * round(seconds / step))} s"
    return f"about {round(seconds / 60)} minutes"
