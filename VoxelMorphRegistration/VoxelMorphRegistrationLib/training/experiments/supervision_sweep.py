"""`experiment supervision`: Dice of the structures that training saw and of the others against the weight of the Dice
loss, γ, for one structure, half of them, all, and coarse groups (Balakrishnan et al., IEEE TMI 2019).

With coarse groups the observed Dice is that of the groups, and no single structure was observed.
"""

from __future__ import annotations

from argparse import Namespace

from ...errors import SettingsError
from ..config import TrainingConfig
from ..curves import COLOURS
from ..supervision import Supervision
from .plots import band, before_line, legend_above, steps_of, titled
from .scores import PairScores
from .study import Run, Study, changed
from .tables import Row, folds, mean, spread

SIZE = (10.0, 3.4)
CAPTION = (
    "Gamma: weight of the Dice loss beside the similarity; 0 is one network for all. One and half were drawn by the "
    "seed. Coarse: the observed are the groups, the unobserved all single structures."
)
CHOICES = ("one", "half", "all", "coarse")
WITHOUT = "unsupervised"


def runs(config: TrainingConfig, options: Namespace) -> list[Run]:
    """One training without labels, and one for each choice of structures and γ in options.gammas."""
    gammas = sorted(set(options.gammas))
    if not gammas or gammas[0] <= 0:
        raise SettingsError("--gammas must be positive; 0, without labels, is always a part of the experiment.")
    result = [changed(config, WITHOUT, loss={"dice": 0.0})]
    for choice in _choices(options):
        for gamma in gammas:
            supervision = {"structures": choice, "labels": ()}
            result.append(changed(config, f"{choice}-{gamma:g}", supervision=supervision, loss={"dice": gamma}))
    return result


def rows(study: Study, trainings: list[Run], options: Namespace) -> list[Row]:
    """For each choice of structures a row at γ = 0 and one at each γ."""
    if "coarse" in options.seen and study.coarse(trainings[0].config) is None:
        raise SettingsError("Coarse groups need a table of structures with a column group: leave out coarse.")
    scores = {run.name: study.scores(run) for run in trainings}
    result = []
    for choice in _choices(options):
        of_choice = [run for run in trainings if run.config.supervision.structures == choice and run.name != WITHOUT]
        seen = Supervision.of(of_choice[0].config.supervision, of_choice[0].config.seed, study.base)
        result += [_row(choice, seen, run, scores[run.name]) for run in (trainings[0], *of_choice)]
    return result


def _choices(options: Namespace) -> list[str]:
    return [choice for choice in CHOICES if choice in options.seen]


def _row(choice: str, seen: Supervision, run: Run, scores: list[PairScores]) -> Row:
    coarse = choice == "coarse"
    others = set(seen.observed) if coarse else set(seen.unobserved)
    row = {"structures": choice, "gamma": run.config.loss.dice, "observed": seen.count, "unobserved": len(others)}
    for suffix, when in (("_before", "before"), ("", "after")):
        overlaps = [getattr(one, when) for one in scores]
        observed = [o.mean_of_groups() if coarse else o.mean(set(seen.observed)) for o in overlaps]
        measure = spread if when == "after" else mean
        row |= measure(f"dice_observed{suffix}", observed)
        row |= measure(f"dice_unobserved{suffix}", (o.mean(others) for o in overlaps))
        row |= measure(f"dice{suffix}", (o.mean() for o in overlaps))
    return {**row, **folds(scores), "pairs": len(scores), "steps": run.config.steps}


def draw(figure, table: list[Row]) -> None:
    """A panel for each choice of structures: observed and unobserved Dice over γ."""
    shown = [choice for choice in CHOICES if any(row["structures"] == choice for row in table)]
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for place, (axes, choice) in enumerate(zip(panels, shown, strict=True)):
        part = [row for row in table if row["structures"] == choice]
        what = "groups" if choice == "coarse" else "observed"
        titled(axes, f"{choice} ({part[0]['observed']} {what})", "γ", "" if place else "Dice")
        x = steps_of(axes, [row["gamma"] for row in part])
        for number, kind in enumerate(("observed", "unobserved")):
            if part[0][kind]:
                band(axes, x, part, f"dice_{kind}", kind, number)
                before_line(axes, part[0][f"dice_{kind}_before"], f"{kind}, before", COLOURS[number])
        if place == 0:
            legend_above(axes)
