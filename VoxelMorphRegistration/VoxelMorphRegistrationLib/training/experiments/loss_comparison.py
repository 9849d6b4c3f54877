"""`experiment losses`: MSE, NCC, SSIM, and the Dice of the structures alone, side by side: overlap, folds, similarity.

λ of MSE and NCC are the paper's; those of SSIM, which moves in the range of NCC but sees the flat background as
similar, and of the Dice alone are this project's own choice.
"""

from __future__ import annotations

from argparse import Namespace

import numpy as np

from ..config import TrainingConfig
from ..curves import COLOURS
from .plots import before_line, column, dots, from_zero, legend, titled
from .study import Run, Study, changed
from .tables import Row, folds, mean, spread

SIZE = (10.0, 3.2)
CAPTION = (
    "The images' similarity after registration by all three measures, whichever was trained; 'dice only' saw labels "
    "and no similarity. Lines at the dots: one standard deviation over the pairs."
)
# Similarity, its λ, and the weight of the Dice.
LOSSES = {"mse": ("mse", 0.02, 0.0), "ncc": ("ncc", 1.0, 0.0), "ssim": ("ssim", 0.2, 0.0), "dice": ("none", 1.0, 1.0)}
NAMES = {"mse": "MSE", "ncc": "NCC", "ssim": "SSIM", "dice": "Dice only"}
MEASURES = ("mse", "ncc", "ssim")


def runs(config: TrainingConfig, _options: Namespace) -> list[Run]:
    """One training for each loss."""
    result = []
    for name, (similarity, smoothness, dice) in LOSSES.items():
        loss = {"similarity": similarity, "similarity_weight": 1.0, "smoothness": smoothness, "dice": dice}
        result.append(changed(config, name, loss=loss))
    return result


def rows(study: Study, trainings: list[Run], _options: Namespace) -> list[Row]:
    """A row for the pairs before registration, and one for each training."""
    scored = {run.name: study.scores(run) for run in trainings}
    first = scored[trainings[0].name]
    start = {
        "loss": "before",
        "lambda": float("nan"),
        **spread("dice", (one.before.mean() for one in first)),
        "folds_percent": 0.0,
        "folds_any_corner_percent": 0.0,
        **{name: mean(name, (getattr(one.similarity_before, name) for one in first))[name] for name in MEASURES},
        "pairs": len(first),
        "steps": 0,
    }
    result = [start]
    for run in trainings:
        scores = scored[run.name]
        result.append(
            {
                "loss": run.name,
                "lambda": run.config.loss.smoothness,
                **spread("dice", (one.after.mean() for one in scores)),
                **folds(scores),
                **{name: mean(name, (getattr(one.similarity, name) for one in scores))[name] for name in MEASURES},
                "pairs": len(scores),
                "steps": run.config.steps,
            }
        )
    return result


def draw(figure, table: list[Row]) -> None:
    """Bars of the Dice, of the folds, and of the similarities."""
    start, trained = table[0], table[1:]
    x = np.arange(len(trained))
    names = [NAMES[row["loss"]] for row in trained]
    left, middle, right = figure.subplots(1, 3)
    dots(titled(left, "Dice", "", ""), column(trained, "dice"), column(trained, "dice_sd"))
    before_line(left, start["dice"])
    left.margins(x=0.2)
    titled(middle, "folded voxels, %", "", "")
    for shift, kind, colour in ((-0.2, "_any_corner", COLOURS[4]), (0.2, "", COLOURS[1])):
        label = "any one-sided" if kind else "central"
        middle.bar(x + shift, column(trained, f"folds{kind}_percent"), 0.38, color=colour, label=label)
    from_zero(middle, np.concatenate([column(trained, f"folds{kind}_percent") for kind in ("", "_any_corner")]))
    titled(right, "similarity (MSE: 1 - MSE / MSE before)", "", "")
    for shift, name, colour in zip((-0.25, 0.0, 0.25), MEASURES, COLOURS, strict=False):
        heights = column(trained, name)
        heights = 1.0 - heights / start["mse"] if name == "mse" else heights
        right.bar(x + shift, heights, 0.23, color=colour, label=NAMES[name])
    right.set_ylim(right.get_ylim()[0], 1.3)
    for axes in (left, middle, right):
        axes.set_xticks(x, names)
        legend(axes, loc="best" if axes is left else "upper left", ncols=1 if axes is left else 3)
