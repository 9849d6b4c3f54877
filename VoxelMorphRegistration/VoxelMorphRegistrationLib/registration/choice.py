"""What the settings leave open: whether a network runs and which, and how the result is refined.

The table behind it is in docs/quality.md: on a processor the refinement alone is more accurate than any shipped
network, and a network's start makes it neither more accurate nor cheaper. So a network runs where it is named, or where
there is no refinement; and in slices, where several starts are tried (see starts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from ..networks.model import Model, load_model, read_card
from ..networks.shelf import find_model, model_names
from .device import choose_device
from .passes import deform
from .working import network_grid, surroundings

if TYPE_CHECKING:
    import numpy as np

    from ..fields.displacement import DisplacementField
    from .guard import Judge
    from .inputs import Inputs
    from .progress import Run
    from .settings import Settings

# The coarse pass by which a model is picked: this many times its working spacing, an eighth of the voxels and more.
COARSER = 2.0


def resolved(settings: Settings, model: Model | None = None) -> Settings:
    """The settings with a refinement and an expected error that are not "auto", and a model that is "auto" only where
    one is to be picked.

    model: a loaded network that was given, if any.
    """
    named = model is not None or settings.model not in ("auto", "none")
    refinement, name = settings.refinement, settings.model
    if refinement == "auto":
        refinement = "default" if settings.quality == "best" else "off" if named else "coarse"
    if name == "auto" and not named and refinement != "off":
        name = "none"
    # Off by itself: on real images its widths are not sure enough (docs/expected-error.md).
    expected = "off" if settings.expected_error == "auto" else settings.expected_error
    return settings.replace(refinement=refinement, model=name, expected_error=expected)


def picked(
    inputs: Inputs,
    matrix: np.ndarray,
    judge: Judge,
    settings: Settings,
    run: Run,
    start: DisplacementField | None = None,
) -> tuple[Model, str]:
    """The shipped model whose coarse pass leaves the images most similar, and what the report says of the choice.

    matrix: A (4, 4), fixed to moving RAS mm. judge: of the pair, which measures by the similarity that suits it.
    start: the field from which it goes on, if any.
    """
    dimension = inputs.fixed.grid.dimension
    names = [name for name in model_names() if read_card(find_model(name)).dimension == dimension]
    if not names:
        raise InputError(
            f"The images are {dimension}D, and no {dimension}D model is shipped. "
            "Give a model file for such images (setting 'model'), or choose a refinement."
        )
    similarity = judge.choose() if settings.similarity == "auto" else settings.similarity
    area = surroundings(inputs.fixed.grid, inputs.region)
    device = choose_device(settings.device)
    found: list[tuple[float, str, Model]] = []
    for number, name in enumerate(names):
        run.report(number / len(names))
        model = load_model(find_model(name), device, settings.precision)
        grid = network_grid(area, model.card, settings, COARSER * model.card.pass_scales[0])
        field, model, *_ = deform(inputs, matrix, [grid], model, settings.precision, run, start)
        # The worst of what is measured counts, as it does for what is kept.
        compared = judge.compare(similarity, start, field.covering(inputs.fixed.grid))
        found.append((min((one.after - one.before) / max(abs(one.before), 1e-6) for one in compared), name, model))
    gain, name, model = max(found, key=lambda one: one[0])
    others = ", ".join(f"{other} {100 * value:+.1f} %" for value, other, _ in found if other != name)
    reason = f"Its coarse pass changes the similarity by {100 * gain:+.1f} %"
    return model, f"{reason} ({others})." if others else f"{reason}."
