"""The plot of an experiment: axes with what all of them share, and the caption below."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..curves import COLOURS, new_figure, plain, save_figure
from .tables import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHARACTERS_PER_INCH = 19


def write_plot(draw: Callable[[Figure, list[Row]], None], rows: list[Row], caption: str, size, path: Path) -> None:
    """A figure of `size` inches drawn from the rows, with its caption, as PNG."""
    width, height = size
    lines = textwrap.wrap(caption, int(CHARACTERS_PER_INCH * width))
    figure = new_figure(width, height + 0.15 * len(lines))
    draw(figure, rows)
    figure.supxlabel("\n".join(lines), fontsize=7.5, x=0.01, ha="left", color="#444444")
    save_figure(figure, path)


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    """The numbers of a column."""
    return np.array([row[name] for row in rows], float)


def band(axes: Axes, x, rows: Sequence[Row], name: str, label: str, number: int = 0, style: str = "-") -> None:
    """A line of means with a band of one standard deviation over the pairs, where the rows have it."""
    values, colour = column(rows, name), COLOURS[number]
    axes.plot(x, values, style, marker="o", markersize=4, color=colour, label=label)
    if f"{name}_sd" in rows[0]:
        deviation = column(rows, f"{name}_sd")
        axes.fill_between(x, values - deviation, values + deviation, color=colour, alpha=0.12, linewidth=0)


def before_line(axes: Axes, value: float, label: str = "before", colour: str = "#555555") -> None:
    """Where the pairs began."""
    axes.axhline(value, color=colour, linestyle="--", linewidth=1.0, label=label)


def titled(axes: Axes, title: str, x: str, y: str) -> Axes:
    """Axes with a title and labels in small type."""
    plain(axes).set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    return axes


def dots(axes: Axes, values: np.ndarray, deviations: np.ndarray, upright: bool = True) -> None:
    """A dot with a line of one standard deviation at each of the places 0, 1, ...; of a Dice, whose 0 is far away."""
    places = np.arange(len(values))
    style: dict[str, Any] = {"fmt": "o", "color": COLOURS[0], "markersize": 6, "elinewidth": 1.5, "capsize": 3}
    if upright:
        axes.errorbar(places, values, yerr=deviations, **style)
    else:
        axes.errorbar(values, places, xerr=deviations, **style)


def legend(axes: Axes, **options) -> None:
    axes.legend(fontsize=7.5, frameon=False, **options)


def legend_above(axes: Axes) -> None:
    """One legend for the figure, in a line above it."""
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False
    )


def from_zero(axes: Axes, values: np.ndarray, least: float = 0.01) -> None:
    """The axis from 0 to above the values, with room for a legend; not magnified below `least`."""
    top = float(np.nanmax(values, initial=0.0))
    axes.set_ylim(0.0, 1.5 * max(top, least))


def steps_of(axes: Axes, values: Sequence[float]) -> np.ndarray:
    """Evenly spaced places for values of any spacing, 0 among them, with the values as ticks."""
    places = np.arange(len(values))
    axes.set_xticks(places, [f"{value:g}" for value in values])
    return places
