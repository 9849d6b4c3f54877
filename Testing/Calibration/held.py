"""How well bounds hold on cases: the points under them, and whether they are large where the errors are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from collect import Sample

from VoxelMorphRegistrationLib.trust import bound
from VoxelMorphRegistrationLib.trust.quantities import NAMES

# Errors below this many voxels count as this many: the truth itself is no more exact.
SMALLEST = 0.05
# Of a case, the percent of the points under the bound below which the bound did not hold.
FEW = 75


@dataclass(frozen=True)
class Held:
    """Of one case: percent under bound and median, rank correlation of bound and error, medians in voxels."""

    kind: str
    number: int
    under_bound: float
    under_median: float
    rank: float
    bound: float
    error: float


def held(one: Sample, effort: str, functions: dict[str, bound.Curves]) -> Held:
    found = bound.error_quantiles(one.values[effort].astype(np.float64), NAMES, functions)
    error = np.maximum(one.error, SMALLEST)
    ranks = [np.argsort(np.argsort(values)) for values in (found[bound.BOUND], error)]
    return Held(
        one.kind,
        one.number,
        100.0 * float(np.mean(error <= found[bound.BOUND])),
        100.0 * float(np.mean(error <= found[bound.MEDIAN])),
        float(np.corrcoef(*ranks)[0, 1]),
        float(np.median(found[bound.BOUND])),
        float(np.median(error)),
    )


def told(rows: list[Held]) -> list[str]:
    """By kind, in Markdown, and the cases of which too few points are under the bound."""
    heads = (
        "kind",
        "cases",
        "under the bound",
        "lowest case",
        "under the median",
        "rank",
        "median error",
        "median bound",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    for kind in [*kinds, "all"]:
        own = [row for row in rows if kind in (row.kind, "all")]
        mean = {
            name: np.mean([getattr(row, name) for row in own])
            for name in ("under_bound", "under_median", "rank", "bound", "error")
        }
        lines.append(
            f"| {kind} | {len(own)} | {mean['under_bound']:.1f} % | {min(row.under_bound for row in own):.0f} % | "
            f"{mean['under_median']:.0f} % | {mean['rank']:.2f} | {mean['error']:.2f} | {mean['bound']:.2f} |"
        )
    few = [f"{row.kind} {row.number}: {row.under_bound:.0f}" for row in rows if row.under_bound < FEW]
    return [*lines, "", f"Below {FEW} %: {', '.join(few) or 'none'}."]
