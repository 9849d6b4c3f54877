"""The linear part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..alignment.align import align
from ..fields.displacement import DisplacementField
from .start import start_matrix

if TYPE_CHECKING:
    from .inputs import Inputs
    from .measures import Similarities
    from .progress import Run
    from .settings import Settings


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear maps (4, 4), fixed to moving RAS mm: where the images lay at first, and the alignment.

    evidence: for the latter, as in Alignment.
    """

    start: np.ndarray
    matrix: np.ndarray
    evidence: float | None = None


def linear_part(inputs: Inputs, settings: Settings, run: Run, similarities: Similarities) -> Linear:
    """The alignment of the settings; its warnings go to the run's. A deformable start stands in for it. similarities:
    of where the images lay at first are begun beside it.
    """
    initial = start_matrix(inputs.initial_transform, inputs.fixed.grid, inputs.region)
    start = np.eye(4) if initial is None else initial
    similarities.begin("before", start)
    bent = isinstance(inputs.initial_transform, DisplacementField)
    result = align(
        inputs.fixed,
        inputs.moving,
        "none" if bent else settings.alignment,
        initial=initial,
        fixed_mask=inputs.fixed_mask,
        seed=settings.seed,
        progress=run.report,
        quick=settings.refinement == "coarse",
    )
    advice = "Check the overlay; if it is wrong, bring the images together by hand and choose alignment 'none'."
    run.warnings.extend(f"{warning} {advice}" for warning in result.warnings)
    return Linear(start, result.matrix, result.evidence)
