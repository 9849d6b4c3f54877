"""Fits the expected error on known warps: `python Testing/Calibration/fit.py FOLDER MAPS FIELDS`.

FOLDER keeps the registrations and what they tell, so that the command can be stopped and started again. MAPS: label
maps of brains; FIELDS: what `voxelmorph teach` made of them. All else comes from seeds. Writes the tables of
trust/table.py and the plot of docs/expected-error.md, and prints the figures there.

regression.py says how. An offset brings the bound to its share on kinds left out. What is told of it is measured on
kinds and seeds that no fit has seen, and on each kind by a fit without it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import label_people
import numpy as np
from collect import Sample, registered, sample
from held import SMALLEST, Held, held, told
from known_warps import FITTED, UNSEEN, Case, case
from label_people import KIND as BRAINS
from label_people import People
from plot import reliability
from regression import Data, Fitter

from VoxelMorphRegistrationLib.trust import bound
from VoxelMorphRegistrationLib.trust.runs import PLANS

TABLE = Path(bound.__file__).with_name("table.py")
PLOT = Path(__file__).parents[2] / "docs" / "images" / "expected-error.png"
# Numbers of the cases: fitted, of each kind, and those that check it, of the kinds that are fitted and of the others.
FIT, CHECK_FITTED, CHECK_UNSEEN = (*range(8), *range(10, 18)), (8, 9), (0, 1, 2, 3, 8, 9)
# Of the kinds that are fitted, the one that is not among what checks: its cases 8 and 9 were looked at before.
UNCHECKED = "misled"
# What the cases of a kind weigh together, where that is not one: registrations fail in more ways than they succeed.
# With twice as many cases of the other kinds, each case of the same weight, bounds of failed ones were too narrow.
WEIGHTS = {"astray": 2.0, BRAINS: 2.0}
# Points of a case in the fit.
POINTS = 200


def data_of(samples: list[Sample], effort: str, points: int | None = POINTS) -> Data:
    values, target, group = [], [], []
    kinds = list(dict.fromkeys(one.kind for one in samples))
    for number, one in enumerate(samples):
        chosen = np.arange(len(one.error))
        if points is not None and len(chosen) > points:
            chosen = np.sort(np.random.default_rng(number).choice(chosen, points, replace=False))
        values.append(one.values[effort][chosen])
        target.append(np.log(np.maximum(one.error[chosen], SMALLEST)))
        group.append(np.full(len(chosen), number))
    groups = np.concatenate(group)
    kind = np.array([kinds.index(one.kind) for one in samples])
    of_case = np.array([WEIGHTS.get(one.kind, 1.0) for one in samples]) / np.bincount(kind)[kind]
    weight, kind = (of_case / np.bincount(groups))[groups], kind[groups]
    return Data(np.concatenate(values).astype(np.float64), np.concatenate(target), groups, kind, weight / weight.mean())


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


def fit(samples: list[Sample], effort: str) -> tuple[dict[str, bound.Curves], list[Held]]:
    """The functions of both quantiles, each with its share of the points of kinds left out under it.

    And how well bounds hold for each case whose kind was left out.
    """
    data = data_of(samples, effort)
    fitter, found, rows = Fitter(data), {}, []
    for name, quantile in bound.QUANTILES.items():
        left = np.zeros(len(data.target))
        apart = {}
        for kind in np.unique(data.kind):
            own = data.kind == kind
            apart[kind], given = fitter.fitted(~own, quantile)
            left[own] = (data.target - given)[own]
        shift = _weighted_quantile(left, data.weight, quantile)
        curves, _ = fitter.fitted(np.ones(len(data.target), bool), quantile)
        found[name] = replace(curves, offset=curves.offset + shift)
        without = {kind: replace(one, offset=one.offset + shift) for kind, one in apart.items()}
        rows.append([without[data.kind[data.group == n][0]] for n in range(len(samples))])
    return found, [
        held(one, effort, dict(zip(bound.QUANTILES, functions, strict=True)))
        for one, functions in zip(samples, zip(*rows, strict=True), strict=True)
    ]


def _weighted_quantile(values: np.ndarray, weight: np.ndarray, part: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][np.searchsorted(total, part)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where registrations are kept")
    parser.add_argument("maps", type=Path, help="a folder of label maps of brains")
    parser.add_argument("fields", type=Path, help="a folder of fields between them, by voxelmorph teach")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    people = People(arguments.maps, arguments.fields)
    seeded = [(kind, number) for kind in FITTED for number in FIT]
    to_fit = [*seeded, *((BRAINS, number) for number in label_people.FIT)]
    to_check = [(kind, number) for kind in FITTED if kind != UNCHECKED for number in CHECK_FITTED]
    to_check += [(kind, number) for kind in UNSEEN for number in CHECK_UNSEEN]
    to_check += [(BRAINS, number) for number in label_people.CHECK]

    def make(kind: str, number: int) -> Case:
        return people.case(kind, number) if kind == BRAINS else case(kind, number)

    for kind, number in (*to_fit, *to_check):
        registered(kind, number, folder, make)
    fitted, checked = ([sample(kind, number, folder, make) for kind, number in some] for some in (to_fit, to_check))
    print(f"{len(fitted)} cases to fit, {len(checked)} to check")
    tables = {}
    for effort in PLANS:
        print(effort, flush=True)
        functions, left_out = fit(fitted, effort)
        tables[effort] = functions
        print("Kinds left out:", "", *told(left_out), sep="\n")
        print(
            "What no fit has seen:", "", *told([held(one, effort, functions) for one in checked]), sep="\n", flush=True
        )
    TABLE.write_text(table_text(tables), encoding="utf-8")
    reliability(checked, tables, PLOT)


if __name__ == "__main__":
    main()
