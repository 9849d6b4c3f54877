"""`experiment runtime`: seconds and Dice of this project's network, alone and refined, of SyN and of NiftyReg on the
same pairs. Every registration is a process of its own on the CPU.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ...errors import VoxelMorphError
from ..config import TrainingConfig
from ..curves import COLOURS
from .peers import Method, all_methods
from .plots import column, dots, legend, titled
from .scores import PairScores, score_pair, scores_from_dict
from .study import Run, Study, changed
from .tables import Row, folds, mean, spread

SIZE = (9.0, 3.0)
CAPTION = (
    f"CPU seconds (user + system) of one pair's whole process on a machine with {os.cpu_count()} cores; darker: "
    "without the start of the program. SyN: the settings of antsRegistrationSyN.sh without the linear stages; "
    "NiftyReg: the defaults of reg_f3d. Lines at the dots: one standard deviation over the pairs."
)


@dataclass(frozen=True)
class Timed:
    """One pair by one method, with the seconds of peers.Found."""

    scores: PairScores
    cpu_s: float
    wall_s: float
    registration_cpu_s: float


def runs(config: TrainingConfig, _options: Namespace) -> list[Run]:
    """The network that takes part, trained as the configuration says."""
    return [changed(config, "network")]


def rows(study: Study, trainings: list[Run], options: Namespace) -> list[Row]:
    """A row for each method; status says what kept one from taking part."""
    run = trainings[0]
    study.held_out(run.config, 0)
    return [_row(study, run, method) for method in all_methods(study.exported(run), options.niftyreg)]


def _row(study: Study, run: Run, method: Method) -> Row:
    timed, status = [], "ok"
    if method.missing:
        status = f"not found: {method.missing}"
        study.report(f"{method.title} was {status}.")
    else:
        try:
            timed = [_timed(study, run, method, number) for number in range(run.config.validation.pairs)]
        except VoxelMorphError as error:
            status = f"failed: {error}"
            study.report(f"Warning: {error}")
    scores = [one.scores for one in timed]
    return {
        "method": method.title,
        "pairs": len(scores),
        **mean("dice_before", (one.before.mean() for one in scores)),
        **spread("dice", (one.after.mean() for one in scores)),
        **folds(scores),
        **mean("cpu_s", (one.cpu_s for one in timed)),
        **mean("registration_cpu_s", (one.registration_cpu_s for one in timed)),
        **mean("wall_s", (one.wall_s for one in timed)),
        "status": status,
    }


def _timed(study: Study, run: Run, method: Method, number: int) -> Timed:
    """One pair by one method, kept so that it is not done twice."""
    path = study.folder / run.name / f"scores-{method.name}-{number}.json"
    if path.exists():
        return _read(path)
    study.check_time()
    study.report(f"{method.title}: pair {number + 1} of {run.config.validation.pairs}")
    pair, maps = study.held_out(run.config, number)
    arrays = [image[0, 0].cpu().numpy() for image in (pair.fixed, pair.moving)]
    found = method.run(arrays[0], arrays[1], study.images(run.config).spacing_mm)
    displacement = torch.from_numpy(found.displacement)[None].to(pair.fixed.device)
    scores = score_pair(number, pair, maps, displacement, None)
    timed = Timed(scores, found.cpu_s, found.wall_s, found.registration_cpu_s)
    path.write_text(json.dumps(asdict(timed), indent=1), encoding="utf-8")
    return timed


def _read(path: Path) -> Timed:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Timed(**(values | {"scores": scores_from_dict(values["scores"])}))


def draw(figure, table: list[Row]) -> None:
    """Bars of Dice and of CPU seconds, a line for each method."""
    y = np.arange(len(table))[::-1]
    left, right = figure.subplots(1, 2, sharey=True)
    values, whole = column(table, "dice"), column(table, "cpu_s")
    # From top to bottom as in the table.
    dots(titled(left, "Dice", "", ""), values[::-1], column(table, "dice_sd")[::-1], upright=False)
    left.set_yticks(y, [row["method"] for row in table])
    left.set_ylim(-0.6, len(table) - 0.4)
    for place, row in zip(y, table, strict=True):
        if row["status"] != "ok":
            text, where = str(row["status"]).split(":")[0], left.get_yaxis_transform()
            left.text(0.05, place, text, transform=where, va="center", fontsize=8, color="#555555")
    for row in table:
        if np.isfinite(row["dice"]):
            left.axvline(row["dice_before"], color="#555555", linestyle="--", linewidth=1.0, label="before")
            legend(left, loc="lower right")
            break
    titled(right, "CPU seconds a pair", "", "").barh(y, whole, color=COLOURS[5], height=0.6)
    right.barh(y, column(table, "registration_cpu_s"), color=COLOURS[0], height=0.6)
    for place, seconds in zip(y, whole, strict=True):
        if np.isfinite(seconds):
            right.text(seconds, place, f" {seconds:.1f}", va="center", fontsize=8)
    right.margins(x=0.15)
