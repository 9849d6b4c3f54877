"""The runner of all experiments: trains each configuration of a list once, and scores it on the held-out pairs.

Each training has a folder of its own with its checkpoint and its scores, so that an experiment that was cut off goes
on where it stopped, and nothing is trained or measured twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...errors import OutputError, SettingsError
from ...networks.model import load_model
from ..beginnings import load_checkpoint
from ..config import TrainingConfig
from ..curves import CURVES_NAME
from ..export import export_checkpoint
from ..images import ImageSource
from ..pairs import VALIDATION_STREAM, TrainingPair
from ..supervision import Supervision, SupervisionSection
from ..trainer import CHECKPOINT_NAME, Trainer
from .scores import PairScores, Registrar, network_registrar, pipeline_registrar, read_scores, score_pair, write_scores

MODEL_NAME = "model.pt"
OWN_FILES = (CHECKPOINT_NAME, "steps.csv", "validation.csv", CURVES_NAME, MODEL_NAME)
Report = Callable[[str], None]


class OutOfTime(Exception):
    """The minutes that the experiment was given are over; what is done is kept."""


@dataclass(frozen=True)
class Run:
    """One training of an experiment. name: of its folder."""

    name: str
    config: TrainingConfig


class Observed:
    """The pairs of an image source with the structures of `supervision` as their labels."""

    def __init__(self, source: ImageSource, supervision: Supervision) -> None:
        self._source, self._supervision = source, supervision
        self.facts = source.facts
        self.spacing_mm, self.normalization = source.spacing_mm, source.normalization

    def pair(self, stream: int, number: int, device: torch.device | str) -> TrainingPair:
        return self._source.pair(stream, number, device, self._supervision)


class Study:
    """The trainings of one experiment under `folder`.

    base: where relative paths of the configurations start. minutes: how long the study may train, None for as long as
    it takes. Everything raises OutOfTime when they are over.
    """

    def __init__(self, folder: Path, base: Path, device: str, minutes: float | None, report: Report) -> None:
        self.folder, self.base, self.device, self.report = folder, base, device, report
        self._end = None if minutes is None else time.monotonic() + 60.0 * minutes
        # The images of the last configuration: several trainings in a row mostly use the same.
        self._images: tuple[tuple, ImageSource] | None = None

    def clear(self, runs: list[Run], go_on: bool, overwrite: bool) -> None:
        """Remove what earlier trainings left (overwrite), or raise OutputError unless the study goes on with it."""
        for run in runs:
            folder = self.folder / run.name
            if not (folder / CHECKPOINT_NAME).exists():
                continue
            if overwrite:
                for path in [folder / name for name in OWN_FILES] + sorted(folder.glob("scores*.json")):
                    path.unlink(missing_ok=True)
            elif not go_on:
                raise OutputError(
                    f"{folder} holds a training. Go on with --continue, begin anew with --overwrite, or give another "
                    "folder."
                )

    def images(self, config: TrainingConfig) -> ImageSource:
        """The images of a configuration, read once for all trainings in a row that use the same."""
        key = (config.images, config.supervision.table, config.shape, config.smallest, config.stride, config.seed)
        known = self._images
        if known is None or known[0] != key:
            every = replace(config, supervision=SupervisionSection(table=config.supervision.table))
            source = every.pairs(self.base, self.report)
            assert isinstance(source, ImageSource), "an experiment needs images"
            for warning in source.warnings:
                self.report(f"Warning: {warning}")
            known = self._images = key, source
        return known[1]

    def trained(self, run: Run) -> Trainer:
        """The trainer of `run` after its last step: from its checkpoint as far as that goes."""
        config, folder = run.config, self.folder / run.name
        source = Observed(self.images(config), Supervision.of(config.supervision, config.seed, self.base))
        checkpoint = folder / CHECKPOINT_NAME
        if checkpoint.exists():
            self._check_same(run)
            trainer = Trainer.resume(checkpoint, folder, self.device, config, source)
        else:
            trainer = Trainer(config, folder, self.device, source)
        if trainer.step < config.steps:
            trainer.run(self._minutes_left(), lambda line: self.report(f"{run.name}: {line}"))
        if trainer.step < config.steps:
            raise OutOfTime
        return trainer

    def scores(self, run: Run) -> list[PairScores]:
        """How the trained network alone registers the held-out pairs."""
        return self._scored(run, "scores.json", lambda: network_registrar(self.trained(run)))

    def pipeline_scores(self, run: Run, refinement: str) -> list[PairScores]:
        """The same pairs by the whole registration with the exported network, with `refinement`."""

        def registrar() -> Registrar:
            model = load_model(self.exported(run))
            return pipeline_registrar(model, self.images(run.config).spacing_mm, refinement)

        return self._scored(run, f"scores-{refinement}.json", registrar)

    def exported(self, run: Run) -> Path:
        """The model file of `run`."""
        path = self.folder / run.name / MODEL_NAME
        if path.exists():
            self._check_same(run)
        else:
            self.trained(run)
            export_checkpoint(path.with_name(CHECKPOINT_NAME), path)
        return path

    def held_out(self, config: TrainingConfig, number: int) -> tuple[TrainingPair, list[torch.Tensor]]:
        """A held-out pair and its label maps, fixed and moving. SettingsError where the images have none."""
        source = self.images(config)
        both = source.label_maps(VALIDATION_STREAM, number, self.device)
        maps = [part for part in both if part is not None]
        if len(maps) < len(both):
            raise SettingsError(
                "An experiment needs segmentations of the images: give --labels PATTERN for a folder, or a table with "
                "a column of label maps."
            )
        return source.pair(VALIDATION_STREAM, number, self.device), maps

    def coarse(self, config: TrainingConfig) -> Supervision | None:
        """The coarse groups of the structures, None where the table has none."""
        every = self.images(config).supervision.structures
        if not any(structure.group for structure in every):
            return None
        section = SupervisionSection("coarse", table=config.supervision.table)
        return Supervision.of(section, config.seed, self.base)

    def _scored(self, run: Run, name: str, registrar: Callable[[], Registrar]) -> list[PairScores]:
        path = self.folder / run.name / name
        if path.exists():
            self._check_same(run)
            return read_scores(path)
        # Bad data must be told before hours of training.
        self.held_out(run.config, 0)
        found, coarse = registrar(), self.coarse(run.config)
        scores = []
        for number in range(run.config.validation.pairs):
            self.check_time()
            pair, maps = self.held_out(run.config, number)
            scores.append(score_pair(number, pair, maps, found(pair), coarse))
        write_scores(scores, path)
        return scores

    def _check_same(self, run: Run) -> None:
        """Refuse to go on with a training of other settings: its figures would be of something else."""
        folder = self.folder / run.name
        stored, wanted = load_checkpoint(folder / CHECKPOINT_NAME)["config"], run.config.to_dict()
        differing = sorted(_flat(stored).items() ^ _flat(wanted).items())
        if differing:
            raise SettingsError(
                f"The training in {folder} had another {differing[0][0]}. Repeat the options that it was begun with, "
                "begin anew with --overwrite, or give another folder."
            )

    def check_time(self) -> None:
        """Raise OutOfTime when the study's minutes are over."""
        if self._end is not None and time.monotonic() >= self._end:
            raise OutOfTime

    def _minutes_left(self) -> float | None:
        self.check_time()
        return None if self._end is None else (self._end - time.monotonic()) / 60.0


def _flat(values: dict, prefix: str = "") -> dict[str, str]:
    """Nested settings as one level, such as loss.smoothness, with comparable values."""
    result: dict[str, str] = {}
    for name, value in values.items():
        result |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: repr(value)}
    return result


def changed(config: TrainingConfig, name: str, **sections) -> Run:
    """A run of `config` with some values of sections changed, such as loss={"smoothness": 1.0}."""
    parts = {section: replace(getattr(config, section), **values) for section, values in sections.items()}
    return Run(name, replace(config, name=name, **parts))


def caption(study: Study, config: TrainingConfig) -> str:
    """What the figures of an experiment come from."""
    spacing = " x ".join(f"{s:g}" for s in study.images(config).spacing_mm)
    sizes = "x".join(map(str, config.shape[::-1]))
    return (
        f"Each network: {config.steps} steps with batch {config.batch} on {study.images(config).facts}. "
        f"Grid {sizes} voxels of {spacing} mm; {config.validation.pairs} held-out pairs; seed {config.seed}. "
        "Dice: mean over the structures of a pair, labels carried by nearest neighbour."
    )
