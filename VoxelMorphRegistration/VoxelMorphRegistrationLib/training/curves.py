"""The curves of a training run as one picture, from the tables that the trainer writes.

Drawn with matplotlib's objects, not with pyplot, whose global state is not for libraries. matplotlib is optional.
"""

from __future__ import annotations

import csv
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_NAME = "curves.png"
HOW_TO_GET = 'pip install ".[plots]"'
# Dark enough on white, and apart for colour-blind eyes (Okabe and Ito's palette).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
PARTS = ("similarity", "dice", "smoothness", "displacement", "landmarks", "heatmap")
# Drawing takes some tenths of a second of the training's time.
INTERVAL_S = 20.0
# A running mean over this part of the rows.
SMOOTHING = 0.05


def has_matplotlib() -> bool:
    """Whether plots can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


class Curves:
    """curves.png of the run in `folder`; without matplotlib, one line that says how to get it."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._drawn = time.monotonic()
        self._told = False

    def draw(self, report: Callable[[str], None], last: bool = False) -> None:
        """Draw the picture anew, unless that was done a moment ago and this is not the `last` time."""
        if has_matplotlib():
            if last or time.monotonic() - self._drawn > INTERVAL_S:
                write_curves(self.folder)
                self._drawn = time.monotonic()
        elif not self._told:
            report(f"No {CURVES_NAME} is drawn: matplotlib is not installed. Get it with {HOW_TO_GET}.")
            self._told = True


def write_curves(folder: Path | str) -> Path:
    """Draw steps.csv and validation.csv of the run in `folder` as curves.png, and return its path.

    Losses raw (faint) and as a running mean, the Dice (or, without labels, the NCC) of the held-out pairs before and
    after registration, and their folds. Columns without a number are left out. Needs matplotlib.
    """
    folder = Path(folder)
    steps, validation = (read_columns(folder / name) for name in ("steps.csv", "validation.csv"))
    figure = new_figure(10.0, 3.2)
    left, middle, right = figure.subplots(1, 3)
    _draw_losses(left, steps)
    _draw_quality(middle, validation)
    _draw_folds(right, validation)
    for axes in (left, middle, right):
        axes.set_xlabel("step")
    figure.suptitle(f"{folder.resolve().name}, step {_last_step(steps, validation)}", fontsize=10)
    path = folder / CURVES_NAME
    save_figure(figure, path)
    return path


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file of numbers; NaN for what is empty. No columns where there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    values = [[float(value or "nan") for value in row] for row in rows]
    return dict(zip(header, np.array(values).reshape(len(rows), len(header)).T, strict=True))


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the finite ones of the last `width` values (fewer at the start), NaN where there is none."""
    finite = np.isfinite(values)
    sums, counts = (np.cumsum(np.insert(part, 0, 0.0)) for part in (np.where(finite, values, 0.0), finite))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    with np.errstate(invalid="ignore"):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all: somebody may be looking at the one before."""
    partial = path.with_suffix(".part")
    figure.savefig(partial, format="png", dpi=100)
    partial.replace(path)


def plain(axes: Axes) -> Axes:
    """Axes without a frame at the top and right, and with a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    return axes


def _draw_losses(axes: Axes, steps: dict[str, np.ndarray]) -> None:
    plain(axes).set_title("training loss, parts unweighted", fontsize=9)
    positive = False
    for name, colour in zip(PARTS, COLOURS, strict=False):
        values = steps.get(name, np.empty(0))
        if not np.isfinite(values).any():
            continue
        width = max(1, round(SMOOTHING * len(values)))
        if width > 1:
            axes.plot(steps["step"], values, color=colour, alpha=0.25, linewidth=0.8)
        smooth = running_mean(values, width)
        axes.plot(steps["step"], smooth, color=colour, linewidth=1.5, label=name, **_marker(values))
        positive = positive or bool((smooth > 0).any())
    if positive:
        # The parts differ by orders of magnitude.
        axes.set_yscale("log")
        axes.legend(fontsize=8, frameon=False)


def _draw_quality(axes: Axes, validation: dict[str, np.ndarray]) -> None:
    """Dice where the held-out pairs have labels, else the correlation of the images."""
    measured = np.isfinite(validation.get("dice_after", np.empty(0))).any()
    name, title = ("dice", "Dice (soft)") if measured else ("ncc", "squared local correlation")
    plain(axes).set_title(f"held-out pairs: {title}", fontsize=9)
    for when, colour, style in (("before", "#555555", "--"), ("after", COLOURS[0], "-")):
        values = validation.get(f"{name}_{when}", np.empty(0))
        if np.isfinite(values).any():
            axes.plot(validation["step"], values, style, color=colour, label=when, **_marker(values))
    if axes.lines:
        axes.legend(fontsize=8, frameon=False)


def _draw_folds(axes: Axes, validation: dict[str, np.ndarray]) -> None:
    plain(axes).set_title("held-out pairs: folded voxels, %", fontsize=9)
    values = validation.get("folds_percent", np.empty(0))
    if np.isfinite(values).any():
        axes.plot(validation["step"], values, color=COLOURS[1], **_marker(values))
        # A run without any fold shows a line at 0, not a magnified rounding error.
        axes.set_ylim(0.0, max(0.01, 1.1 * float(np.nanmax(values))))


def _marker(values: np.ndarray) -> dict:
    """Few points are marked, so that a single one is seen."""
    return {"marker": "o", "markersize": 3} if len(values) <= 20 else {}


def _last_step(*tables: dict[str, np.ndarray]) -> int:
    return max((int(table["step"][-1]) for table in tables if len(table.get("step", ()))), default=0)
