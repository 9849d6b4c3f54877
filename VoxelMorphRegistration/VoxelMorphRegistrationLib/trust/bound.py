"""From quantities to the error that is expected: quantiles of its logarithm, added up from tables.

The logarithm of a quantile of the error, in voxels of the working grid, is a sum of piecewise linear functions of
single quantities. Beyond its outermost knots a function goes on with their value: nothing is concluded from what the
fit has not seen. The tables (table.py) are made by Testing/Calibration/fit.py from known warps;
docs/expected-error.md says how well they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .table import TABLE

# The quantiles of the error that are told.
MEDIAN, BOUND = "median", "bound"
QUANTILES = {MEDIAN: 0.5, BOUND: 0.9}


@dataclass(frozen=True, eq=False)
class Curves:
    """knots, heights: for each quantity that counts, where its function bends and what it is there. offset: added."""

    knots: dict[str, np.ndarray]
    heights: dict[str, np.ndarray]
    offset: float

    def __call__(self, values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """(...,) of values (..., Q) in the order of `names`."""
        total = np.full(values.shape[:-1], self.offset)
        for name, knots in self.knots.items():
            total += np.interp(values[..., names.index(name)], knots, self.heights[name])
        return total


@cache
def curves(effort: str) -> dict[str, Curves]:
    """The functions of each quantile for an effort, "quick" or "full"."""
    return {name: _read(*TABLE[effort][name]) for name in QUANTILES}


def _read(offset: float, parts: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]) -> Curves:
    knots, heights = ({name: np.array(part[n]) for name, part in parts.items()} for n in (0, 1))
    return Curves(knots, heights, offset)


def error_quantiles(values: np.ndarray, names: tuple[str, ...], functions: dict[str, Curves]) -> dict[str, np.ndarray]:
    """Median and bound (...,) in voxels of the working grid, of values (..., Q); the bound is never the smaller."""
    found = {name: np.exp(function(values, names)) for name, function in functions.items()}
    found[BOUND] = np.maximum(found[BOUND], found[MEDIAN])
    return found
