"""`experiment trainsize`: Dice against the number of training images, with and without instance optimisation
(Balakrishnan et al., IEEE TMI 2019). All networks make the same number of steps; fewer images are a part of more.
"""

from __future__ import annotations

from argparse import Namespace

from ...errors import SettingsError
from ..config import TrainingConfig
from .plots import band, before_line, legend_above, titled
from .study import Run, Study, changed
from .tables import Row, folds, mean, spread

SIZE = (7.0, 3.4)
CAPTION = (
    "The number of training images is that of the horizontal axis. Both curves by the whole registration without "
    "alignment; instance optimisation: the refinement 'fast', which does not see the labels. "
    "Bands: one standard deviation over the pairs."
)
REFINEMENTS = {"": "off", "_refined": "fast"}
MOST_SIZES = 6


def default_sizes(available: int) -> list[int]:
    """All images, half of them, and so on down to two."""
    return sorted({max(2, available >> halvings) for halvings in range(MOST_SIZES)})


def runs(config: TrainingConfig, options: Namespace) -> list[Run]:
    """One training for each number of images in options.sizes; options.available: how many there are."""
    sizes = sorted(set(options.sizes)) if options.sizes else default_sizes(options.available)
    if not 2 <= sizes[0] <= sizes[-1] <= options.available:
        raise SettingsError(
            f"--sizes must lie between 2 and {options.available}, the number of images that are not held out."
        )
    loss = {"dice": 0.0}
    return [changed(config, f"images-{size}", images={"training_images": size}, loss=loss) for size in sizes]


def rows(study: Study, trainings: list[Run], _options: Namespace) -> list[Row]:
    """A row for each training."""
    result = []
    for run in trainings:
        scores = {suffix: study.pipeline_scores(run, preset) for suffix, preset in REFINEMENTS.items()}
        row = {
            "images": run.config.images.training_images,
            **mean("dice_before", (one.before.mean() for one in scores[""])),
        }
        for suffix, found in scores.items():
            row |= spread(f"dice{suffix}", (one.after.mean() for one in found))
        for suffix, found in scores.items():
            row |= folds(found, "refined_" if suffix else "")
        result.append({**row, "pairs": len(scores[""]), "steps": run.config.steps})
    return result


def draw(figure, table: list[Row]) -> None:
    """Both curves over the number of images."""
    axes = titled(figure.subplots(), "", "training images", "Dice")
    x = [row["images"] for row in table]
    axes.set_xscale("log")
    axes.set_xticks(x, [str(size) for size in x])
    axes.minorticks_off()
    before_line(axes, table[0]["dice_before"])
    band(axes, x, table, "dice", "network alone")
    band(axes, x, table, "dice_refined", "with instance optimisation", 1)
    legend_above(axes)
