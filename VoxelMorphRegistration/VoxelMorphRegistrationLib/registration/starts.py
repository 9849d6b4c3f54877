"""Slices refined from several starts: from nothing, and from what each shipped network makes of them.

A slice has less to hold on to than a volume, and a refinement from nothing ends more often beside what belongs
together, while its networks take little. So all are made, and the result is kept under which the images are most alike
by local correlation, which a refinement of one modality raises itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeviceError, InputError
from ..networks.model import read_card
from ..networks.shelf import find_model, model_names
from .memory import STARTS_VOXEL_BYTES, network_bytes
from .passes import deform
from .working import network_and_grids, pass_grids

if TYPE_CHECKING:
    from ..fields.displacement import DisplacementField
    from ..images.grid import Grid
    from ..networks.card import ModelCard
    from ..refinement.pair import Pair
    from ..refinement.refine import Refined
    from .guard import Comparison, Judge
    from .inputs import Inputs
    from .progress import Run
    from .settings import Settings

# What the report calls the start of a refinement that was given none.
NOTHING = "nothing"


@dataclass(frozen=True, eq=False)
class Starts:
    """Networks whose fields a slice is refined from as well.

    matrix: A (4, 4), fixed to moving RAS mm. settings: resolved. cards: of the networks, by name.
    """

    inputs: Inputs
    matrix: np.ndarray
    settings: Settings
    cards: Mapping[str, ModelCard]

    @property
    def parts(self) -> int:
        """Of the progress: the refinement from nothing, and each network and the refinement of its field."""
        return 1 + 2 * len(self.cards)

    def field(self, name: str, run: Run) -> DisplacementField | None:
        """What a network makes of the pair, or None where it cannot: what it would see is too small for its voxels,
        or its grid too large for the memory.
        """
        try:
            chosen = with_start(self.settings, name, self.cards[name])
            network, grids = network_and_grids(None, self.inputs, chosen, [])
        except (InputError, DeviceError):
            return None
        assert network is not None
        field, *_ = deform(self.inputs, self.matrix, grids, network, self.settings.precision, run)
        return field.covering(self.inputs.fixed.grid)


def starts_of(
    asked: Settings, settings: Settings, inputs: Inputs, work: Pair, start: DisplacementField | None
) -> Starts | None:
    """Where the refinement of a pair begins beside nothing; None where it has a start, or labels, landmarks or further
    images guide it. asked: the settings before they were resolved. work: the pair with what guides it.
    """
    guided = work.labels is not None or work.points is not None or len(work.channels) > 1
    cards = starting_networks(asked, inputs.fixed.grid)
    if start is not None or guided or not cards:
        return None
    return Starts(inputs, work.matrix, settings, cards)


def starting_networks(settings: Settings, fixed: Grid) -> dict[str, ModelCard]:
    """The networks that images are refined from as well, with their cards: the shipped ones for slices, where the
    refinement is the default one and nobody decided about networks. None that works with pixels of its own where all of
    its passes have smaller ones than the image: of CT of 3 mm, brain-2d led four of 35 slices away.

    settings: as they were asked, before `choice.resolved`.
    """
    preset = settings.refinement
    default = preset == "default" or (preset == "auto" and settings.quality == "best")
    if fixed.dimension != 2 or not default or settings.model != "auto":
        return {}
    cards = {name: read_card(find_model(name)) for name in model_names()}
    pixel = float(np.min(fixed.spacing[fixed.size > 1]))
    return {
        name: card
        for name, card in cards.items()
        if card.dimension == fixed.dimension
        and (card.spacing_mm is None or pixel <= max(card.spacing_mm) * max(card.pass_scales))
    }


def with_start(settings: Settings, name: str, card: ModelCard) -> Settings:
    """Settings by which a network makes a start: without its finer passes, unless their number is set by name."""
    coarse = sum(card.scale_of(number) >= 1 for number in range(card.passes))
    return settings.replace(model=name, passes=settings.passes or max(coarse, 1))


def networks_bytes(cards: Mapping[str, ModelCard], settings: Settings, seen: Grid) -> int:
    """What the largest network of the starts takes. seen: the part of the fixed grid that networks see."""
    largest = 0
    for name, card in cards.items():
        # One that sees too little is left out.
        with suppress(InputError):
            grids = pass_grids(seen, card, with_start(settings, name, card))
            largest = max(largest, network_bytes(card, max(grid.voxel_count for grid in grids)))
    return largest


def held_bytes(fixed: Grid, region: np.ndarray) -> int:
    """What the results of several starts take beside the refinement. region: (K, J, I), where images are compared."""
    from ..refinement.pair import region_grid

    return STARTS_VOXEL_BYTES * region_grid(fixed, region).voxel_count


def best_of(
    first: Refined,
    starts: Starts,
    refined: Callable[[DisplacementField, bool | None], Refined],
    judge: Judge,
    run: Run,
) -> tuple[list[tuple[str, Refined]], list[dict]]:
    """The starts' names and results that are at least as good as the one from nothing, best first, and what the report
    says of each network.

    first: from nothing. refined: the refinement of a field, with little smoothing, with much (False), or as it decides
    itself (None). Whoever stops it keeps those that were finished.

    With less smoothing images are always more alike. So where it was worth it from nothing, the others have it as well;
    and where it was not, it has to explain as much of what that left.
    """
    from ..refinement.levels import REAL_DETAIL
    from .guard import verdict

    ranked, tried = [(0.0, NOTHING, first)], []

    def compared(found: Refined) -> Comparison:
        return judge.compare("lncc", first.field, found.field)[0]

    for number, name in enumerate(starts.cards, 1):
        if run.cut_short():
            break
        with run.part(2 * number - 1, starts.parts):
            field = starts.field(name, run)
        if field is None or run.cut_short():
            continue
        with run.part(2 * number, starts.parts):
            found = refined(field, first.detailed or None)
            if found.detailed and not first.detailed and not found.stopped:
                one = compared(found)
                if one.after - one.before < REAL_DETAIL["lncc"] * (1 - one.before):
                    found = refined(field, False)
        if found.stopped:
            run.cut_short()
            break
        one = compared(found)
        tried.append({"name": name, "local_from_nothing": one.before, "local": one.after})
        believed = not verdict((one,), pieces=judge.pieces(found.field)).reason
        if believed and one.after > one.before:
            kept = replace(found, similarity_before=first.similarity_before, improved=True)
            ranked.append((one.after - one.before, name, kept))
    ranked.sort(key=lambda one: one[0], reverse=True)
    return [(name, replace(found, stopped=run.stopped_at is not None)) for _, name, found in ranked], tried
