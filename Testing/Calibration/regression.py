"""How quantiles of the error are fitted: sums of piecewise linear functions (trust.bound), in two steps.

Where in a case the error is larger says little about how large it is in the whole case, and the other way round: a
registration that failed is wrong everywhere. So first the differences within cases are explained, by quantities that
differ from place to place, both less their means over the case (least squares). Then what is left, by what is said of
the whole case, for each quantile by the asymmetric absolute loss (Koenker and Bassett, "Regression quantiles",
Econometrica 1978), with weighted least squares again and again.

Which quantities count is found one by one: each is what lowers the squared error most for kinds that are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from VoxelMorphRegistrationLib.trust.bound import Curves
from VoxelMorphRegistrationLib.trust.quantities import NAMES

# Where the functions bend, as quantiles of a quantity.
KNOTS = (0.02, 0.15, 0.4, 0.6, 0.85, 0.98)
# Most quantities that count from place to place and of the whole case, and the least that one must bring for kinds left
# out, as a part of the squared error.
MOST, LEAST_GAIN = (14, 8), (0.001, 0.004)
# Of the bends, so that few points do not draw them.
STIFF = 0.02
# A choice looks at all quantities for the first of them and at every fourth; between, at as many of the best.
LOOKED_AT = 30


@dataclass(frozen=True, eq=False)
class Data:
    """values (N, Q), target (N,): log error, group (N,): number of the case, kind (N,): number of its kind, weight
    (N,): of a point."""

    values: np.ndarray
    target: np.ndarray
    group: np.ndarray
    kind: np.ndarray
    weight: np.ndarray


class Functions:
    """The functions of some quantities as columns (N, 1 + ...), the first one constant."""

    def __init__(self, values: np.ndarray, names: list[str]) -> None:
        """Of those of the quantities that vary."""
        self.knots: dict[str, np.ndarray] = {}
        self._places: dict[str, np.ndarray] = {}
        columns, at = [np.ones((len(values), 1))], 1
        for name in names:
            own = values[:, NAMES.index(name)]
            knots = np.unique(np.quantile(own, KNOTS))
            if len(knots) == 1:
                knots = np.unique(own)[:2]
            if len(knots) > 1:
                self.knots[name] = knots
                self._places[name] = np.arange(at, at + len(knots))
                columns.append(np.stack([np.interp(own, knots, row) for row in np.eye(len(knots))], -1))
                at += len(knots)
        self.columns = np.concatenate(columns, 1)

    def at(self, names: list[str]) -> np.ndarray:
        """Which columns the constant and these quantities have."""
        return np.concatenate([[0], *(self._places[name] for name in names)]).astype(int)

    def penalty(self) -> np.ndarray:
        """Of all columns: of the second differences and a little of the heights."""
        total = np.zeros((self.columns.shape[1],) * 2)
        for place in self._places.values():
            size = len(place)
            second = np.diff(np.eye(size), 2, axis=0) if size > 2 else np.zeros((1, size))
            total[np.ix_(place, place)] = second.T @ second + 0.05 * np.eye(size)
        return STIFF * total

    def heights(self, names: list[str], found: np.ndarray) -> dict[str, np.ndarray]:
        """Of coefficients of `at(names)`."""
        order = self.at(names).tolist()
        return {name: found[[order.index(n) for n in self._places[name]]] for name in names}


def chosen(functions: Functions, target: np.ndarray, data: Data, most: int, least_gain: float) -> list[str]:
    """The quantities that count, the best first."""
    columns, penalty = functions.columns.astype(np.float32), functions.penalty()
    sums = []
    for kind in np.unique(data.kind):
        own = data.kind == kind
        x, y, weight = columns[own], target[own], data.weight[own]
        gram = (x.T @ (x * weight[:, None].astype(np.float32))).astype(np.float64)
        sums.append((gram, x.T @ (weight * y), float(weight @ (y * y)), float(weight.sum())))
    grams, rights, squares, weights = (np.stack([one[n] for one in sums]) for n in range(4))
    others = grams.sum(0) - grams + (weights.sum() - weights)[:, None, None] * penalty
    others_right = rights.sum(0) - rights

    def left_out(names: list[str]) -> float:
        own = functions.at(names)
        system = others[:, own][:, :, own] + 1e-9 * np.eye(len(own))
        found = np.linalg.solve(system, others_right[:, own, None])[..., 0]
        error = squares.sum() - 2 * (found * rights[:, own]).sum()
        return float(error + np.einsum("gi,gij,gj->", found, grams[:, own][:, :, own], found)) / weights.sum()

    names: list[str] = []
    best, looked_at = left_out([]), list(functions.knots)
    while len(names) < most:
        pool = looked_at if len(names) > 2 and len(names) % 4 else list(functions.knots)
        tried = {name: left_out([*names, name]) for name in pool if name not in names}
        looked_at = sorted(tried, key=lambda name: tried[name])[:LOOKED_AT]
        if not looked_at or tried[looked_at[0]] > best * (1 - least_gain):
            break
        names.append(looked_at[0])
        print(f"    {names[-1]}: {best:.4f} -> {tried[names[-1]]:.4f}", flush=True)
        best = tried[names[-1]]
    return names


class Fitter:
    """Fits quantiles of the target of some data to quantities found once."""

    def __init__(self, data: Data) -> None:
        self.data, self._count = data, int(data.group.max()) + 1
        whole = [name for n, name in enumerate(NAMES) if self._constant(data.values[:, n])]
        self.places = Functions(data.values, [name for name in NAMES if name not in whole])
        self.cases = Functions(data.values, whole)
        # Within cases: all less its mean there.
        within = Functions(data.values, list(self.places.knots))
        within.columns = within.columns - self._means(within.columns)[data.group]
        within.columns[:, 0] = 1e-3
        self._within = within
        self._target = data.target - self._means(data.target[:, None])[data.group, 0]
        self.names = chosen(within, self._target, data, MOST[0], LEAST_GAIN[0])
        left = data.target - self._places_of(np.ones(len(data.target), bool))[1]
        self.case_names = chosen(self.cases, left, data, MOST[1], LEAST_GAIN[1])

    def _constant(self, values: np.ndarray) -> bool:
        first = values[np.unique(self.data.group, return_index=True)[1]]
        return bool((values == first[self.data.group]).all())

    def _means(self, columns: np.ndarray) -> np.ndarray:
        return np.stack([columns[self.data.group == n].mean(0) for n in range(self._count)])

    def _places_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients from some rows, and what they give for all rows, without the mean of a case."""
        own, weight = self._within.at(self.names), self.data.weight[rows]
        x = self._within.columns[rows][:, own]
        system = x.T @ (x * weight[:, None]) + weight.sum() * self._within.penalty()[np.ix_(own, own)]
        found = np.linalg.solve(system + 1e-9 * np.eye(len(own)), x.T @ (weight * self._target[rows]))
        found[0] = 0.0
        return found, self.places.columns[:, own] @ found

    def fitted(self, rows: np.ndarray, quantile: float) -> tuple[Curves, np.ndarray]:
        """The functions from some rows, and what they give for all rows."""
        places, given = self._places_of(rows)
        own = self.cases.at(self.case_names)
        x, y, weight = self.cases.columns[rows][:, own], (self.data.target - given)[rows], self.data.weight[rows]
        penalty = weight.sum() * self.cases.penalty()[np.ix_(own, own)] + 1e-9 * np.eye(len(own))
        found = np.zeros(len(own))
        found[0] = np.quantile(y, quantile)
        for _ in range(15):
            left = y - x @ found
            scale = weight * np.where(left > 0, quantile, 1 - quantile) / np.maximum(np.abs(left), 0.1)
            found = np.linalg.solve(x.T @ (x * scale[:, None]) + penalty, x.T @ (scale * y))
        heights = self.places.heights(self.names, places) | self.cases.heights(self.case_names, found)
        knots = {name: (self.places.knots | self.cases.knots)[name] for name in heights}
        return Curves(knots, heights, float(found[0])), given + self.cases.columns[:, own] @ found
