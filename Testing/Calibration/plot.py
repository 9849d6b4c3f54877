"""The reliability plot of docs/expected-error.md, drawn by fit.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from held import SMALLEST
from matplotlib import pyplot

from VoxelMorphRegistrationLib.trust import bound
from VoxelMorphRegistrationLib.trust.quantities import NAMES

# Points of a bin that are told of.
FEWEST = 150


def reliability(checked, tables, path: Path) -> None:
    """For each effort: the error that 90 % of the points stay under, against the bound that was told; and the percent
    of each case's points under its bound. checked: samples that no fit has seen."""
    mpl.use("Agg")
    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.9), dpi=90)
    colours = {"quick": "#d9822b", "full": "#1f4e79"}
    edges = np.geomspace(0.2, 20, 13)
    for effort, functions in tables.items():
        told, true, parts = [], [], []
        for one in checked:
            found = bound.error_quantiles(one.values[effort].astype(np.float64), NAMES, functions)[bound.BOUND]
            told.append(found)
            true.append(np.maximum(one.error, SMALLEST))
            parts.append(100 * np.mean(one.error <= found))
        told, true = np.concatenate(told), np.concatenate(true)
        place = np.digitize(told, edges)
        bins = [place == n for n in range(1, len(edges)) if np.sum(place == n) >= FEWEST]
        rows = [(np.median(told[one]), np.quantile(true[one], (0.5, 0.9))) for one in bins]
        x, y = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
        axes[0].plot(x, y[:, 1], "o-", color=colours[effort], label=f"{effort}: 90 % of the errors are below")
        axes[0].plot(x, y[:, 0], ":", color=colours[effort], label=f"{effort}: half of them")
        axes[1].plot(np.sort(parts), np.linspace(0, 100, len(parts)), color=colours[effort], label=effort)
    axes[0].plot([0.2, 20], [0.2, 20], color="#999999", lw=0.8)
    axes[0].set(xscale="log", yscale="log", xlim=(0.2, 20), ylim=(0.05, 20))
    axes[0].set(xlabel="bound told, voxels", ylabel="true error, voxels")
    axes[1].axvline(90, color="#999999", lw=0.8)
    axes[1].set(xlim=(40, 100), xlabel="points of a case under its bound, %", ylabel="cases, %")
    for axis in axes:
        axis.legend(fontsize=7, frameon=False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
