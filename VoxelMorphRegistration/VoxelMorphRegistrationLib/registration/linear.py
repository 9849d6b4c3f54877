"""The linear part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..alignment.align import align


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear maps (4, 4), fixed to moving RAS mm: where the images lay at first, and the alignment."""

    start: np.ndarray
    matrix: np.ndarray


def linear_part(fixed, moving, settings, initial, fixed_mask, run) -> Linear:
    result = align(
        fixed,
        moving,
        settings.alignment,
        initial=initial,
        fixed_mask=fixed_mask,
        seed=settings.seed,
        progress=run.report,
    )
    advice = "Check the overlay; if it is wrong, bring the images together by hand and choose alignment 'none'."
    run.warnings.extend(f"{warning} {advice}" for warning in result.warnings)
    return Linear(np.eye(4) if initial is None else np.asarray(initial, np.float64), result.matrix)
