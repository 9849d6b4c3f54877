"""Several images of each side: the first ones are registered, and further ones guide the refinement beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InputError, SettingsError
from ..images.image import Image
from .intensity import intensity_window

if TYPE_CHECKING:
    from ..fields.displacement import DisplacementField
    from ..refinement.pair import Pair
    from .inputs import Inputs
    from .settings import Settings

# The fixed and the moving image of a channel.
Two = tuple[Image, Image]


def split(fixed: Image | Sequence[Image], moving: Image | Sequence[Image]) -> tuple[Image, Image, tuple[Two, ...]]:
    """The first images, and the further ones side by side. Raises InputError where they do not go together."""
    sides = [list(side) if isinstance(side, list | tuple) else [side] for side in (fixed, moving)]
    for side, images in zip(("fixed", "moving"), sides, strict=True):
        for image in images:
            check_kind(image, f"{side} image")
    if not all(sides) or len(sides[0]) != len(sides[1]):
        raise InputError(
            f"There are {len(sides[0])} fixed and {len(sides[1])} moving images. Give as many of each, in the same "
            "order."
        )
    first, *further = zip(*sides, strict=True)
    return first[0], first[1], tuple((one, other) for one, other in further)


def check_kind(given: object, role: str) -> None:
    """Raise InputError for what is no image, such as the name of a file."""
    if not isinstance(given, Image):
        raise InputError(
            f"The {role} is given as {type(given).__name__}, and an Image is needed. Read files with read_image; an "
            "array becomes one by Image(array, grid)."
        )


def check_settings(further: Sequence[Two], settings: Settings) -> None:
    """Raise SettingsError where the settings do not fit the number of images."""
    count = 1 + len(further)
    for name in ("channel_weights", "channel_similarities"):
        given = len(getattr(settings, name))
        if given and given != count:
            raise SettingsError(
                f"The setting {name} has {given} entries for {count} image{'s' * (count > 1)} of each side."
            )
    if further and settings.refinement == "off":
        raise SettingsError("Further images guide the refinement, which is off. Choose a refinement.")


def with_channels(pair: Pair, inputs: Inputs, settings: Settings, start: DisplacementField | None) -> Pair:
    """The pair with its weight and what is compared beside it. start: the field from which it goes on, if any."""
    from ..refinement.choice import choose_similarity
    from ..refinement.pair import Channel

    if not inputs.further:
        return pair
    weights = settings.channel_weights or (1.0,) * (1 + len(inputs.further))
    wanted = settings.channel_similarities or (settings.similarity,) * (1 + len(inputs.further))
    found = []
    for (fixed, moving), weight, similarity in zip(inputs.further, weights[1:], wanted[1:], strict=True):
        windows = []
        for image in (fixed, moving):
            low, high = intensity_window(image, 0.5, 99.5)
            windows.append((low, 1.0 / (high - low)))
        channel = Channel(fixed, moving, (windows[0], windows[1]), similarity, weight)
        if similarity == "auto":
            alone = replace(pair, fixed=fixed, moving=moving, windows=channel.windows, mask=_on(inputs, fixed))
            channel = replace(channel, similarity=choose_similarity(alone, start)[0])
        found.append(channel)
    return replace(pair, weight=weights[0], further=tuple(found))


def _on(inputs: Inputs, fixed: Image):
    """The measured region on the grid of another fixed image, or all of it where they do not meet."""
    import numpy as np

    from ..images.image import resample

    if fixed.grid.same_as(inputs.fixed.grid):
        return inputs.region
    region = inputs.fixed.with_array(inputs.region.astype(np.uint8))
    found = resample(region, fixed.grid).array >= 0.5
    return found if found.any() else np.ones(fixed.grid.shape, bool)


def facts_of(pair: Pair) -> list[dict]:
    """What the report says of further images."""
    return [
        {"fixed": one.fixed.name, "moving": one.moving.name, "similarity": one.similarity, "weight": one.weight}
        for one in pair.further
    ]
