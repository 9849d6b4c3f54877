"""Fits the expected error on seeded known warps: `python Testing/Calibration/fit.py FOLDER`.

FOLDER keeps the registrations, so that the command can be stopped and started again. Writes the tables of
trust/table.py and the figures and the plot of docs/expected-error.md. Nothing but seeds goes in.

Each quantile of the logarithm of the error is a sum of piecewise linear functions (trust.bound), fitted by the
asymmetric absolute loss (Koenker and Bassett, "Regression quantiles", Econometrica 1978) with weighted least squares
again and again. Which quantities count is found one by one, by the squared error on cases left out. An offset then
brings the bound to its share on cases left out. What is told of it is measured on kinds and seeds that no fit has
seen.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from collect import Sample, sample
from held import SMALLEST, held, told
from known_warps import FITTED, UNSEEN
from plot import reliability

from VoxelMorphRegistrationLib.trust import bound
from VoxelMorphRegistrationLib.trust.quantities import NAMES
from VoxelMorphRegistrationLib.trust.runs import PLANS

TABLE = Path(bound.__file__).with_name("table.py")
PLOT = Path(__file__).parents[2] / "docs" / "images" / "expected-error.png"
# Numbers of the cases: fitted, of each kind, and those that check it, of the kinds that are fitted and of the others.
FIT, CHECK_FITTED, CHECK_UNSEEN = (0, 1, 2, 3), (8,), (0, 1, 2, 8)
# Where the functions bend, as quantiles of a quantity.
KNOTS = (0.02, 0.15, 0.4, 0.6, 0.85, 0.98)
# Most quantities that count, and the least that one must bring on cases left out, as a part of the squared error.
MOST, LEAST_GAIN = 14, 0.004
# Of the bends, so that few points do not draw them.
STIFF = 0.02
# Points of a case in the fit, and the share of cases' points under the bound that is aimed at.
POINTS, AIM = 150, 0.93


@dataclass(frozen=True, eq=False)
class Data:
    """values (N, Q), target (N,): log error, group (N,): number of the case, weight (N,): each case the same."""

    values: np.ndarray
    target: np.ndarray
    group: np.ndarray
    weight: np.ndarray


def data_of(samples: list[Sample], effort: str, points: int | None = POINTS) -> Data:
    values, target, group = [], [], []
    for number, one in enumerate(samples):
        chosen = np.arange(len(one.error))
        if points is not None and len(chosen) > points:
            chosen = np.sort(np.random.default_rng(number).choice(chosen, points, replace=False))
        values.append(one.values[effort][chosen])
        target.append(np.log(np.maximum(one.error[chosen], SMALLEST)))
        group.append(np.full(len(chosen), number))
    groups = np.concatenate(group)
    weight = 1.0 / np.bincount(groups)[groups]
    return Data(np.concatenate(values).astype(np.float64), np.concatenate(target), groups, weight / weight.mean())


def table_text(tables: dict[str, dict[str, bound.Curves]]) -> str:
    """The table as a Python file."""
    lines = [
        '"""The tables of bound.py, made by Testing/Calibration/fit.py: do not edit."""',
        "",
        "# By effort and quantile: the offset, and by quantity its knots and the heights there.",
        "TABLE: dict[str, dict[str, tuple[float, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]]]] = {",
    ]
    for effort, functions in tables.items():
        lines.append(f'    "{effort}": {{')
        for name, one in functions.items():
            lines += [f'        "{name}": (', f"            {one.offset:.4f},", "            {"]
            for quantity, knots in one.knots.items():
                lines.append(f'                "{quantity}": (')
                for numbers in (knots, one.heights[quantity]):
                    lines.append(f"                    ({', '.join(f'{number:.4f}' for number in numbers)}),")
                lines.append("                ),")
            lines += ["            },", "        ),"]
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


# --- one quantile ---


def knots_of(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of the quantities that vary."""
    found = {}
    for n, name in enumerate(NAMES):
        knots = np.unique(np.quantile(values[:, n], KNOTS))
        if len(knots) == 1:
            knots = np.unique(values[:, n])[:2]
        if len(knots) > 1:
            found[name] = knots
    return found


def hats(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(N, K): how much of each knot's height counts at a value."""
    return np.stack([np.interp(values, knots, row) for row in np.eye(len(knots))], -1)


def stiffness(knots: np.ndarray) -> np.ndarray:
    """(K, K): of the second differences and a little of the heights."""
    second = np.diff(np.eye(len(knots)), 2, axis=0) if len(knots) > 2 else np.zeros((1, len(knots)))
    return second.T @ second + 0.05 * np.eye(len(knots))


class Fitter:
    """Fits sums of functions of chosen quantities to one quantile of some rows."""

    def __init__(self, data: Data, knots: dict[str, np.ndarray], quantile: float) -> None:
        self.data, self.knots, self.quantile = data, knots, quantile
        self._hats = {name: hats(data.values[:, NAMES.index(name)], k) for name, k in knots.items()}

    def fitted(self, names: list[str], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients, and what they give for all rows."""
        matrix = np.concatenate([np.ones((len(self.data.target), 1)), *(self._hats[name] for name in names)], 1)
        penalty = np.zeros((matrix.shape[1],) * 2)
        at = 1
        for name in names:
            size = len(self.knots[name])
            penalty[at : at + size, at : at + size] = stiffness(self.knots[name])
            at += size
        x, y, weight = matrix[rows], self.data.target[rows], self.data.weight[rows]
        penalty *= STIFF * weight.sum()
        found = np.zeros(matrix.shape[1])
        found[0] = np.quantile(y, self.quantile)
        for _ in range(25):
            left = y - x @ found
            scale = weight * np.where(left > 0, self.quantile, 1 - self.quantile) / np.maximum(np.abs(left), 0.05)
            system = x.T @ (x * scale[:, None]) + penalty
            found = np.linalg.solve(system + 1e-9 * np.eye(len(system)), x.T @ (scale * y))
        return found, matrix @ found

    def curves(self, names: list[str], rows: np.ndarray) -> bound.Curves:
        found, _ = self.fitted(names, rows)
        heights, at = {}, 1
        for name in names:
            heights[name] = found[at : at + len(self.knots[name])]
            at += len(heights[name])
        return bound.Curves({name: self.knots[name] for name in names}, heights, float(found[0]))


def folds(group: np.ndarray, count: int = 4) -> list[np.ndarray]:
    """Masks of the rows that are left out, whole cases at a time."""
    order = np.random.default_rng(3).permutation(group.max() + 1) % count
    return [order[group] == n for n in range(count)]


def chosen(data: Data, knots: dict[str, np.ndarray]) -> list[str]:
    """The quantities that count, the best first: each is what lowers the squared error of cases left out most."""
    parts = {name: hats(data.values[:, NAMES.index(name)], k) for name, k in knots.items()}
    matrix = np.concatenate([np.ones((len(data.target), 1)), *parts.values()], 1)
    places, at = {}, 1
    for name, part in parts.items():
        places[name] = np.arange(at, at + part.shape[1])
        at += part.shape[1]
    penalty = np.zeros((at, at))
    for name, place in places.items():
        penalty[np.ix_(place, place)] = stiffness(knots[name])
    sums = []
    for mask in folds(data.group):
        x, y, w = matrix[mask], data.target[mask], data.weight[mask]
        sums.append((x.T @ (x * w[:, None]), x.T @ (w * y), float(w @ (y * y)), float(w.sum())))
    gram, right = sum(one[0] for one in sums), sum(one[1] for one in sums)
    total = sum(one[3] for one in sums)

    def left_out(names: list[str]) -> float:
        own = np.concatenate([[0], *(places[name] for name in names)])
        square = np.ix_(own, own)
        error = 0.0
        for out, out_right, out_square, weight in sums:
            system = (gram - out)[square] + STIFF * (total - weight) * penalty[square] + 1e-9 * np.eye(len(own))
            found = np.linalg.solve(system, (right - out_right)[own])
            error += out_square - 2 * found @ out_right[own] + found @ out[square] @ found
        return error / total

    names: list[str] = []
    best = left_out([])
    while len(names) < MOST:
        tried = {name: left_out([*names, name]) for name in knots if name not in names}
        name = min(tried, key=lambda one: tried[one])
        if tried[name] > best * (1 - LEAST_GAIN):
            break
        print(f"    {name}: {best:.4f} -> {tried[name]:.4f}", flush=True)
        best = tried[name]
        names.append(name)
    return names


def fit(samples: list[Sample], effort: str) -> dict[str, bound.Curves]:
    """The functions of both quantiles; the bound's offset such that AIM of the points of cases left out lie under."""
    data = data_of(samples, effort)
    knots = knots_of(data.values)
    names = chosen(data, knots)
    found = {}
    for name, quantile in bound.QUANTILES.items():
        fitter = Fitter(data, knots, quantile)
        left = np.zeros(len(data.target))
        for mask in folds(data.group):
            left[mask] = (data.target - fitter.fitted(names, ~mask)[1])[mask]
        aim = AIM if name == bound.BOUND else quantile
        curves = fitter.curves(names, np.ones(len(data.target), bool))
        shift = _weighted_quantile(left, data.weight, aim)
        found[name] = bound.Curves(curves.knots, curves.heights, curves.offset + shift)
    return found


def _weighted_quantile(values: np.ndarray, weight: np.ndarray, part: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][np.searchsorted(total, part)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where registrations are kept")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    fitted = [sample(kind, number, arguments.folder) for kind in FITTED for number in FIT]
    checks = [(kind, number) for kind in FITTED for number in CHECK_FITTED]
    checks += [(kind, number) for kind in UNSEEN for number in CHECK_UNSEEN]
    checked = [sample(kind, number, arguments.folder) for kind, number in checks]
    print(f"{len(fitted)} cases to fit, {len(checked)} to check")
    tables = {}
    for effort in PLANS:
        print(effort, flush=True)
        functions = fit(fitted, effort)
        tables[effort] = functions
        print("\n".join(told([held(one, effort, functions) for one in checked])), flush=True)
    TABLE.write_text(table_text(tables), encoding="utf-8")
    reliability(checked, tables, PLOT)


if __name__ == "__main__":
    main()
