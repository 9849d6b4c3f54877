"""The plot of the comparison: accuracy against CPU time, one panel for each kind of case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compare_rows import ALIGNED, BEFORE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STARTS = (BEFORE, ALIGNED)
OURS, PEERS, START = "#c0392b", "#2c5f8a", "#777777"


def write_plot(rows: Iterable[Row], path: Path) -> None:
    """Mean rows as PNG: TRE where a group has known points, else Dice, against CPU seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    shown = {name: found for name, found in groups.items() if any(row.cpu_s for row in found)}
    if not shown:
        return
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.7 * lines), squeeze=False, dpi=130)
    panels = [_panel(place, *group) for place, group in zip(axes.ravel(), shown.items(), strict=False)]
    for place in axes.ravel()[len(shown) :]:
        place.axis("off")
    figure.tight_layout()
    figure.canvas.draw()
    for place, (points, measure) in zip(axes.ravel(), panels, strict=False):
        _write_names(place, points, measure)
    figure.savefig(path)
    plt.close(figure)


def _panel(axes: Axes, title: str, rows: Sequence[Row]) -> tuple[list[Row], str]:
    """Draw everything but the names; returns the rows shown and the column they are shown by."""
    measure = "tre_mm" if any(row.tre_mm is not None for row in rows) else "dice"
    rows = [row for row in rows if getattr(row, measure) is not None]
    most = max(map(_count, rows))
    for row in (row for row in rows if row.method in STARTS):
        axes.axhline(
            getattr(row, measure), color=START, linestyle=":" if row.method == STARTS[0] else "--", linewidth=1
        )
    points = [row for row in rows if row.method not in STARTS]
    for row in points:
        marker = "o" if _is_ours(row) else "s"
        axes.plot(row.cpu_s, getattr(row, measure), marker, color=_colour(row), markersize=6)
    axes.set_xscale("log")
    axes.set_title(f"{title}, {most} case{'' if most == 1 else 's'}", fontsize=10)
    axes.set_xlabel("CPU seconds", fontsize=8)
    axes.set_ylabel("TRE in mm (less is better)" if measure == "tre_mm" else "mean Dice (more is better)", fontsize=8)
    _set_range(axes, [row.cpu_s for row in points], [getattr(row, measure) for row in rows])
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return rows, measure


def _count(row: Row) -> int:
    """Of the cases in a mean row: "brain (3)"."""
    return int(row.case.rpartition("(")[2].rstrip(")"))


def _is_ours(row: Row) -> bool:
    return row.method.startswith("ours")


def _colour(row: Row) -> str:
    return START if row.method in STARTS else OURS if _is_ours(row) else PEERS


def _set_range(axes: Axes, seconds: Sequence[float], values: Sequence[float]) -> None:
    """Whole decades are too few ticks: 1, 2, 5 and so on; room for the names on the right."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xlim(min(seconds) / 1.6, max(seconds) * (max(seconds) / min(seconds)) ** 0.45 * 2.2)
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), 1e-3)
    axes.set_ylim(low - room, high + room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _write_names(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    """The names beside the points, those of the lines at the right edge, pushed apart until none covers another."""
    box, renderer = axes.get_window_extent(), axes.figure.canvas.get_renderer()
    most = max(map(_count, rows))
    markers = [_pixels(axes, row, measure) for row in rows if row.method not in STARTS]
    taken = [(x - 6, x + 6, y - 6, y + 6) for x, y in markers]
    lines = [axes.transData.transform((1, getattr(row, measure)))[1] for row in rows if row.method in STARTS]
    taken += [(box.x0, box.x1, y - 1, y + 1) for y in lines]
    for row in sorted(rows, key=lambda row: (row.method not in STARTS, getattr(row, measure))):
        name = row.method if _count(row) == most else f"{row.method} ({_count(row)} of {most})"
        text = axes.text(0, 0, name, fontsize=7, color=_colour(row), transform=None, va="center")
        size = text.get_window_extent(renderer)
        half = size.height / 2
        if row.method in STARTS:
            x, y = box.x1 - size.width, axes.transData.transform((1, getattr(row, measure)))[1] + half + 2
        else:
            x, y = _pixels(axes, row, measure)
            x += 9
        x, y = _free_place(x, y, size.width, half, taken)
        taken.append((x, x + size.width, y - half, y + half))
        text.set_position((x, y))


def _pixels(axes: Axes, row: Row, measure: str) -> tuple[float, float]:
    x, y = axes.transData.transform((row.cpu_s, getattr(row, measure)))
    return float(x), float(y)


def _free_place(x: float, y: float, width: float, half: float, taken: Sequence[tuple]) -> tuple[float, float]:
    """The place nearest above or below (x, y) where a text covers nothing that is `taken` (x0, x1, y0, y1)."""
    for step in range(60):
        for candidate in (y + step * half / 2, y - step * half / 2):
            if not any(
                x < right and left < x + width and candidate - half < top and bottom < candidate + half
                for left, right, bottom, top in taken
            ):
                return x, candidate
    return x, y
