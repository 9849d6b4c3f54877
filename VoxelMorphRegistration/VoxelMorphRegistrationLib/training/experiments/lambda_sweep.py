"""`experiment lambda`: how the weight of the smoothness, λ, decides the Dice, for MSE and NCC (Balakrishnan
et al., IEEE TMI 2019). Unsupervised: the segmentations are used for the evaluation only.
"""

from __future__ import annotations

from argparse import Namespace

import numpy as np

from ...errors import SettingsError
from ..config import TrainingConfig
from .plots import band, before_line, column, from_zero, legend, steps_of, titled
from .study import Run, Study, changed
from .tables import Row, folds, mean, spread

SIZE = (8.0, 4.8)
CAPTION = "Bands: one standard deviation over the pairs."
SIMILARITIES = ("mse", "ncc")


def runs(config: TrainingConfig, options: Namespace) -> list[Run]:
    """One training for each similarity and λ; options.mse and options.ncc are the values of λ."""
    result = []
    for similarity in SIMILARITIES:
        values = sorted(set(getattr(options, similarity)))
        if values and values[0] < 0:
            raise SettingsError(f"Lambda must not be negative (--{similarity} {values[0]:g}).")
        for value in values:
            loss = {"similarity": similarity, "smoothness": value, "dice": 0.0}
            result.append(changed(config, f"{similarity}-{value:g}", loss=loss))
    if not result:
        raise SettingsError("Give at least one value of lambda with --mse or --ncc.")
    return result


def rows(study: Study, trainings: list[Run], _options: Namespace) -> list[Row]:
    """A row for each training."""
    result = []
    for run in trainings:
        scores = study.scores(run)
        result.append(
            {
                "similarity": run.config.loss.similarity,
                "lambda": run.config.loss.smoothness,
                **mean("dice_before", (one.before.mean() for one in scores)),
                **spread("dice", (one.after.mean() for one in scores)),
                **folds(scores),
                "pairs": len(scores),
                "steps": run.config.steps,
            }
        )
    return result


def draw(figure, table: list[Row]) -> None:
    """Dice above, folds below; a column for each similarity."""
    shown = [name for name in SIMILARITIES if any(row["similarity"] == name for row in table)]
    axes = figure.subplots(2, len(shown), squeeze=False, height_ratios=(2, 1), sharey="row")
    for place, name in enumerate(shown):
        part = [row for row in table if row["similarity"] == name]
        upper = titled(axes[0, place], f"{name.upper()} + λ |∇u|²", "", "Dice" if place == 0 else "")
        x = steps_of(upper, [row["lambda"] for row in part])
        before_line(upper, part[0]["dice_before"])
        band(upper, x, part, "dice", "registered", place)
        legend(upper, loc="lower right")
        lower = titled(axes[1, place], "", "λ", "folded voxels, %" if place == 0 else "")
        steps_of(lower, [row["lambda"] for row in part])
        band(lower, x, part, "folds_any_corner_percent", "any one-sided determinant", place, "--")
        band(lower, x, part, "folds_percent", "central differences", place)
        legend(lower, loc="upper right")
    every = np.concatenate([column(table, f"folds{kind}_percent") for kind in ("", "_any_corner")])
    from_zero(axes[1, 0], every)
