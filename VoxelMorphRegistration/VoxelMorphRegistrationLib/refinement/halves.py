"""Detail of small volumes: what half of the voxels tell of it, the other half is asked for.

Means over two voxels a side leave too little of a small volume for a trial to see, and what a trial on the voxels
themselves gains, it may have fitted to their noise. So both images are divided like a chessboard. In each half a voxel
of the other one is the mean of its neighbours, so that the noise of a voxel is in one half only. A trial with little
smoothing begins where the smooth motion ended, sees one half, and is asked by the other, and the other way round.

Structure that each image has for itself is in both halves. Where it is fitted, pieces of the anatomy change more than
they do between people, for less that is explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..fields.folding import POSSIBLE, change_of_pieces
from ..fields.unfolding import unfolded
from .detail import unexplained
from .problem import Problem

if TYPE_CHECKING:
    import torch

    from ..fields.displacement import DisplacementField
    from ..images.image import Image
    from .levels import Stage
    from .pair import Pair
    from .steps import Compared

# Least parts that a trial must explain: of what was left to the local correlation in the half that it saw, and in the
# other one; and of what no curve over the other image's intensities explained in the other one. 29 of 34 pairs of
# brains with voxels of 3 to 5 mm, nine with noise: at least .10, .06 and .12; the other five have noise of 5 % and
# more, or voxels of 5 mm. Smooth known warps with noise of 2 to 10 %, a voxel's own: .053 and less in the other half,
# but for one that gained (1.96 to 1.65 mm). Noise that neighbours share explains the same in both halves, .05 to .09.
SEEN, UNSEEN, BY_CURVE = 0.1, 0.05, 0.05
# Outside these changes of pieces of the anatomy (fields.folding), so much must be explained. Below it, between people
# .27 to 3.05; of drawn shapes with structure of their own .25 and less, or 3.3 and more.
CHANGES, PLAIN = (0.25, 3.1), 0.25


def with_detail(
    pair: Pair,
    field: DisplacementField,
    stages: list[Stage],
    problem_of: Callable[[Pair, Stage], Problem],
    descend: Callable[[Problem, torch.Tensor, Stage], int],
) -> tuple[DisplacementField, list[int]] | None:
    """The field with detail and the steps made at each stage, or None where detail is not real.

    field: the smooth motion. stages: with little smoothing, the trial first. descend(problem, flow, stage): improves
    `flow` in place, and gives the number of steps.
    """
    explained = _explained([problem_of(half, stages[0]) for half in halves(pair)], field, stages[0], descend)
    if explained is None:
        return None
    made = []
    for stage in stages:
        problem = problem_of(pair, stage)
        flow = problem.flow_of(field)
        made.append(descend(problem, flow, stage))
        field = problem.field_of(unfolded(flow))
    least, most = CHANGES if explained < PLAIN else POSSIBLE
    smallest, largest = change_of_pieces(field, pair.mask, pair.fixed.grid)
    return (field, made) if smallest >= least and largest <= most else None


def _explained(
    both: list[Problem],
    field: DisplacementField,
    stage: Stage,
    descend: Callable[[Problem, torch.Tensor, Stage], int],
) -> float | None:
    """The part that trials in both halves explain of what the other half left, or None where that is no detail."""
    least = 1.0
    for seen, unseen in (both, both[::-1]):
        smooth = seen.flow_of(field)
        detailed = smooth.clone()
        descend(seen, detailed, stage)
        left = (unexplained(unseen.images, flow) for flow in (smooth, detailed))
        by_curve = min(1 - now / max(once, 1e-12) for once, now in zip(*left, strict=True))
        own, other = (_part_explained(half.images, smooth, detailed) for half in (seen, unseen))
        if own < SEEN or other < UNSEEN or by_curve < BY_CURVE:
            return None
        least = min(least, other)
    return least


def _part_explained(images: Compared, smooth: torch.Tensor, detailed: torch.Tensor) -> float:
    before, after = (float(images.similarity(flow)) for flow in (smooth, detailed))
    return (after - before) / max(images.term.best - before, 1e-12)


def halves(pair: Pair) -> tuple[Pair, Pair]:
    """The pair with each half of its voxels."""
    first, second = (
        replace(pair, fixed=fixed, moving=moving)
        for fixed, moving in zip(_halves(pair.fixed), _halves(pair.moving), strict=True)
    )
    return first, second


def _halves(image: Image) -> tuple[Image, Image]:
    """The image with the voxels of which i + j + k is even, and with the others; those in between are means of their
    neighbours along the axes, near ones counting more.
    """
    values = image.array.astype(np.float32)
    total, weights = np.zeros_like(values), np.zeros_like(values)
    for axis in range(3):
        weight = np.float32(image.grid.spacing[2 - axis] ** -2)
        for to, of in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            np.moveaxis(total, axis, 0)[to] += weight * np.moveaxis(values, axis, 0)[of]
            np.moveaxis(weights, axis, 0)[to] += weight
    between = total / weights
    k, j, i = np.ogrid[tuple(slice(0, size) for size in values.shape)]
    odd = (k + j + i) % 2 == 1
    return image.with_array(np.where(odd, between, values)), image.with_array(np.where(odd, values, between))
