"""Instance optimisation: improve a displacement field, or find one from nothing, for the pair at hand.

A greedy diffeomorphic descent, coarse to fine: an update of a fraction of a voxel is composed with the field so far,
and the field is smoothed a little, which keeps it invertible (Avants et al., Medical Image Analysis 2008; Yushkevich
et al., "Fast automatic segmentation of hippocampal subfields ... with greedy diffeomorphic registration", 2016).

The update of correlation and mutual information is their smoothed gradient, scaled to a step. Sums of squares
(descriptors, equal intensities, labels) take Gauss-Newton steps: in a Gaussian window around each voxel, the least
squares displacement by the slopes of the fixed volumes, which do not change, so that the normal equations are solved
once a level (Baker and Matthews, IJCV 2004). These steps shrink by themselves and need about a third as many. With
descriptors (see descriptors.mind_ssc) they also find large displacements first, before the correlation.

How smooth the displacement is depends on what lies between the images: one person's breath is smooth, and finer
detail is only noise; different people differ down to the last gyrus. So correlation and descriptors work with much
smoothing first, and then try less of it. Where that explains a good part of what was left, it is kept, and the
correlation goes on with less; windows of several centimetres then lead it along with the small ones. Where one
image is much like the other's negative, the correlation, to which that is the same, then joins the descriptors of
different people; those of one person's images are compared decorrelated.

At the finest level the field lives on a grid of twice the image's spacing: a smooth one has nothing to hold on a finer
one, and each step costs an eighth there. Where detail is real, a last level has a field as fine as the image. Where it
is not, and the images are of one modality, the smooth motion is solved for as a whole at the end (see settling). In
small volumes a trial sees too little of real detail; there it is asked for once more after that (see halves).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..fields.displacement import DisplacementField
from ..fields.folding import POSSIBLE, change_of_pieces
from ..fields.unfolding import unfolded
from ..images import sampling
from ..images.grid import working_grid
from ..images.slabs import Box, boxes_of, each, grown, threads_for, within
from ..images.smoothing import Smoother
from . import detail, halves
from .choice import like_negatives, of_one_person
from .levels import LEAST_CORRELATED, stages_of
from .pair import region_grid
from .problem import Problem
from .settling import can_settle, settled
from .volumes import Coming

if TYPE_CHECKING:
    from ..images.ahead import Ahead
    from ..images.grid import Grid
    from .levels import Options, Stage
    from .pair import Pair


class Enough(Exception):
    """Raised by the progress callback of `refine`: it ends with what it has."""


@dataclass(frozen=True)
class Refined:
    """field: on a grid that covers the fixed image. similarity: as the options name it, at start and end, at its
    second finest stage. steps: made at each stage, coarse to fine, 0 where one was left out. detailed: whether little
    smoothing was worth it for the correlation or the descriptors (None: another similarity). improved: False when the
    start was returned as the better one. stopped: whether it ended early, as it was asked to. decorrelated: whether
    descriptors were compared so, as of one person's images.
    """

    field: DisplacementField
    similarity_before: float
    similarity_after: float
    steps: tuple[int, ...]
    detailed: bool | None
    improved: bool
    stopped: bool = False
    decorrelated: bool = False


def refine(
    pair: Pair,
    start: DisplacementField | None,
    options: Options,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
    preview: Callable[[DisplacementField], None] | None = None,
    in_detail: bool | None = None,
    ahead: Ahead | None = None,
) -> Refined:
    """Find u such that moving(A (x + u(x))) looks like fixed(x).

    start: the field to improve (zero when None). progress(fraction) is called at every step and may raise to cancel,
    or `Enough` to end with what there is. preview(field) is called with the field so far after a stage that is not
    the last, when a tenth of the work has been done since it was called before. in_detail: whether little smoothing is
    worth it, where that is known of the pair already. ahead: what makes volumes of later stages beside the coarsest.
    """
    region = region_grid(pair.fixed.grid, pair.mask)
    coming = Coming(pair.thin, region, options, device, ahead)
    seen = pair.thin
    stages = stages_of(options, region)
    if stages[0].kind == "coarse":
        for later in stages[1:]:
            if later.cost(None, False, False):
                coming.begin(later)
            if later.unseen is not None and in_detail is None:
                coming.begin(later.unseen)
    decorrelated: bool | None = None if options.similarity == "mind" else False
    own = [
        n
        for n, stage in enumerate(stages)
        if stage.similarity == options.similarity and stage.level.steps and stage.kind != "joined"
    ]
    judge = own[-2] if len(own) > 1 else own[-1]
    field = earlier = start
    problem: Problem | None = None
    finer: Problem | None = None
    scores: Problem | None = None
    made: list[int] = []
    detailed: bool | None = None
    lead, joins, unlike, stopped, done = True, False, False, False, 0.0
    shown = -1.0
    for number, stage in enumerate(stages):
        if decorrelated is None and number:
            # Large displacements hide what the images have in common.
            decorrelated = of_one_person(pair, field)
            joins = not decorrelated and like_negatives(pair, field)
        elif stage.kind == "joined":
            joins = bool(detailed) and not decorrelated and like_negatives(pair, field)
        # By what is known so far of what is still to do.
        costs = [later.cost(detailed, lead, joins) for later in stages[number:]]
        if not costs[0]:
            made.append(0)
            continue
        share = (1.0 - done) * costs[0] / sum(costs)
        voxels = stage.level.field_voxels(region)
        with threads_for(voxels):
            one_before = finer or problem
            problem = Problem(
                seen, region, stage, detailed, options, device, unlike, one_before, bool(decorrelated), coming
            )
        finer = None
        if number == judge:
            scores = problem
        flow = problem.flow_of(field)
        if any(float(one.similarity(flow)) < LEAST_CORRELATED for one in problem.joined):
            made.append(0)
            continue
        # The voxels have to agree.
        unseen = stage.unseen if in_detail is None else None
        asked = detail.VOLUME if problem.flat is None else detail.SLICE
        least = stage.least_explained if unseen is None else asked.explained
        before = float(problem.images.similarity(flow)) if least else 0.0
        if stage.anew:
            flow = problem.flow_of(earlier)
        earlier = field
        steps, count = stage.steps(detailed), 0
        try:
            with threads_for(voxels):
                for made_steps in _descend(problem, flow, steps):
                    count = made_steps
                    try:
                        progress(done + share * count / steps)
                    except Enough:
                        # The last step of all cuts nothing short.
                        if count < steps or any(costs[1:]):
                            raise
        except Enough:
            stopped = True
        made.append(count)
        done += share
        if stopped:
            # Whether a trial is worth it is known at its end only.
            if stage.kind != "trial":
                field = problem.field_of(unfolded(flow))
            scores = scores or problem
            break
        if least:
            worth = float(problem.images.similarity(flow)) - before >= least * (problem.images.term.best - before)
            if stage.kind == "coarse":
                lead = worth
                # A network has explained a part before: that what is left is little says nothing.
                unlike = not worth and start is None
            else:
                if worth and unseen is not None:
                    # What comes next sees these voxels.
                    finer = Problem(seen, region, unseen, None, options, device, unlike, coming=coming)
                    worth = detail.real_detail(problem, finer, problem.flow_of(earlier), flow, asked)
                # What no tissue does is no detail: where something has no counterpart, all else is drawn there.
                detailed = worth and _possible(pair, problem.field_of(flow)) if in_detail is None else in_detail
                if not detailed:
                    continue
        field = problem.field_of(unfolded(flow))
        if preview is not None and done < 1.0 and done - shown >= 0.1:
            shown = done
            preview(field)
    # At least one stage has steps.
    assert problem is not None and scores is not None
    if not stopped and detailed is False and can_settle(problem):
        flow = problem.flow_of(field)

        def tell() -> None:
            progress(done)

        try:
            found = settled(problem, flow, tell)
            field = field if found is flow else problem.field_of(unfolded(found))
            if in_detail is None and field is not None and any(stage.sees_all for stage in stages):
                real = _with_detail(seen, region, stages, field, tell, options, device, unlike)
                if real is not None:
                    (field, more), detailed = real, True
                    made = [more.get(n, count) for n, count in enumerate(made)]
        except Enough:
            stopped = True
    if field is None:
        field = problem.field_of(problem.flow_of(None))
    whole = working_grid(pair.fixed.grid, float(np.min(field.grid.spacing[field.grid.size > 1])))
    (first, before_all), (last, after_all) = (scores.scores(scores.flow_of(f)) for f in (start, field))
    before, after = float(first), float(last)
    if after_all < before_all:
        kept = start if start is not None else DisplacementField.identity(whole)
        return Refined(kept, before, before, tuple(made), detailed, False, stopped, bool(decorrelated))
    return Refined(field.on_grid(whole), before, after, tuple(made), detailed, True, stopped, bool(decorrelated))


def _with_detail(
    seen: Pair,
    region: Grid,
    stages: list[Stage],
    field: DisplacementField,
    tell: Callable[[], None],
    options: Options,
    device: str,
    unlike: bool,
) -> tuple[DisplacementField, dict[int, int]] | None:
    """The smooth field of a small volume with detail, and the steps made at the stages that find it, by their places;
    None where it is not real. tell: called at every step, and may raise.
    """
    places = [n for n, stage in enumerate(stages) if stage.in_detail(True)]

    def problem_of(pair: Pair, stage: Stage) -> Problem:
        with threads_for(stage.level.field_voxels(region)):
            return Problem(pair, region, stage, True, options, device, unlike)

    def descend(problem: Problem, flow: torch.Tensor, stage: Stage) -> int:
        count = 0
        with threads_for(stage.level.field_voxels(region)):
            for made in _descend(problem, flow, stage.steps(True)):
                count = made
                tell()
        return count

    found = halves.with_detail(seen, field, [stages[n] for n in places], problem_of, descend)
    return None if found is None else (found[0], dict(zip(places, found[1], strict=True)))


def _descend(problem: Problem, flow: torch.Tensor, steps: int) -> Iterator[int]:
    """Improve `flow` in place; yields the number of each step made. Where they led downhill, it ends as it began.

    Whether a step is worth it is asked after each one on a processor. A GPU would have to be waited for: there all
    steps are made, those after the last that was worth it change nothing, and it is asked once, at the end.
    """
    values: list[Any] = []
    start = flow.clone()
    asking = _answers_at_once(flow.device)
    ended: Any = False
    field, moved = flow[0], torch.empty_like(flow[0])
    shape = field.shape[1:]
    smoother = Smoother(shape, (problem.field_sigma,) * len(shape), flow.device)
    others = range(1, len(shape))
    # Outside the boxes nothing moves.
    whole = boxes_of(shape, flow.device)

    def across_only(box: Box) -> None:
        smoother.across(within(field, box), box, within(moved, box))

    each(across_only, whole)
    for number in range(1, steps + 1):
        value, update = problem.step(flow)
        values.append(float(value) if asking else value)
        ended = ended | _converged(problem, values)
        if asking and ended:
            break

        def across(box: Box, update=update) -> None:
            wide, inner = grown(box, smoother.radius, shape, others)
            place = (slice(None), slice(None), *wide[1:])
            near = field[place]
            smoother.across(sampling.moved_rows(near, update(wide), box[0]), wide, within(moved, box), inner)

        def along(box: Box, ended=ended) -> None:
            own = within(field, box)
            found = own if ended is False else torch.empty_like(own)
            smoother.along(moved, box, found)
            if ended is not False:
                own.copy_(torch.where(ended, own, found))

        each(across, problem.boxes)
        each(along, problem.boxes)
        yield number
    if not asking:
        values = torch.stack(values).tolist()
        made = next((n for n in range(len(values)) if _converged(problem, values[: n + 1])), len(values))
        values = values[: made + 1]
        yield made
    if values[-1] < values[0]:
        flow.copy_(start)


def _answers_at_once(device: torch.device) -> bool:
    return device.type == "cpu"


def _converged(problem: Problem, values: list[Any]) -> Any:
    """Whether the last steps gained too little to go on."""
    if len(values) <= problem.patience:
        return False
    return values[-1] - values[-1 - problem.patience] < problem.smallest_gain * abs(values[-1])


def _possible(pair: Pair, field: DisplacementField) -> bool:
    """Whether a field does nothing to pieces of the anatomy that no tissue does."""
    smallest, largest = change_of_pieces(field, pair.thin.mask, pair.thin.fixed.grid)
    return smallest >= POSSIBLE[0] and largest <= POSSIBLE[1]
