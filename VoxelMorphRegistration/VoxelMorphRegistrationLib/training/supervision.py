"""Which anatomical structures a network learns from: all, one, half of them, coarse groups, or a list.

The choices of Balakrishnan et al. (IEEE TMI 2019, section on auxiliary data): a network sees segmentations of some
structures only, and is judged on the others, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError, SettingsError
from .shapes import half_resolution_labels
from .tables import read_rows

CHOICES = ("all", "one", "half", "coarse", "list")
LARGEST_LABEL = 65535


@dataclass(frozen=True)
class SupervisionSection:
    """[supervision]: the structures that a network learns from.

    structures: "all"; "one" or "half", drawn at random by the seed, both sides of a structure together; "coarse", the
    groups of the table instead of its structures; "list", those in `labels`. labels: label numbers. table: CSV file
    with the columns label,name[,group]; without one, 30 structures of the brain by their FreeSurfer numbers.
    """

    structures: str = "all"
    labels: tuple[int, ...] = ()
    table: str = ""

    def __post_init__(self) -> None:
        if self.structures not in CHOICES:
            raise SettingsError(f"supervision.structures must be one of {', '.join(CHOICES)}, not '{self.structures}'.")
        if (self.structures == "list") != bool(self.labels):
            raise SettingsError('supervision.labels goes with supervision.structures = "list", and "list" needs it.')
        if len(set(self.labels)) < len(self.labels):
            raise SettingsError("supervision.labels names a label twice.")


@dataclass(frozen=True)
class Structure:
    """One label of a map. group: the coarse class that it belongs to, "" for none."""

    label: int
    name: str
    group: str = ""


def _brain() -> tuple[Structure, ...]:
    """The 30 structures of the paper by FreeSurfer number; the ventral diencephalon counts with the brainstem."""
    white, grey, fluid, stem = "white matter", "grey matter", "CSF", "brainstem"
    # Name, group, left and right number.
    sided = (
        ("cerebral white matter", white, 2, 41),
        ("cerebral cortex", grey, 3, 42),
        ("lateral ventricle", fluid, 4, 43),
        ("cerebellar white matter", white, 7, 46),
        ("cerebellar cortex", grey, 8, 47),
        ("thalamus", grey, 10, 49),
        ("caudate", grey, 11, 50),
        ("putamen", grey, 12, 51),
        ("pallidum", grey, 13, 52),
        ("hippocampus", grey, 17, 53),
        ("amygdala", grey, 18, 54),
        ("accumbens", grey, 26, 58),
        ("ventral diencephalon", stem, 28, 60),
    )
    single = (
        Structure(14, "third ventricle", fluid),
        Structure(15, "fourth ventricle", fluid),
        Structure(16, "brainstem", stem),
        Structure(24, "CSF", fluid),
    )
    pairs = [
        Structure(label, f"{side} {name}", group)
        for name, group, *labels in sided
        for side, label in zip(("left", "right"), labels, strict=True)
    ]
    return tuple(sorted((*pairs, *single), key=lambda structure: structure.label))


BRAIN = _brain()


class Supervision:
    """The channels that label maps become: the structures, or groups of them, that a network may see.

    structures: all that are known. names: of the channels. observed: the labels in any channel; unobserved: the
    other known ones.
    """

    def __init__(self, structures: Sequence[Structure], channels: Mapping[str, Sequence[int]]) -> None:
        """channels: the labels of each channel by its name; every one a label of `structures`."""
        self.structures = tuple(structures)
        self.names = tuple(channels)
        self.observed = tuple(label for labels in channels.values() for label in labels)
        self.unobserved = tuple(s.label for s in self.structures if s.label not in self.observed)
        # One more entry than the largest label, for whatever lies beyond.
        table = torch.zeros(max(s.label for s in self.structures) + 2, dtype=torch.long)
        for channel, labels in enumerate(channels.values(), start=1):
            table[list(labels)] = channel
        self._tables = {table.device: table}

    @classmethod
    def of(cls, section: SupervisionSection, seed: int = 0, folder: Path | str = ".") -> Supervision:
        """What `section` chooses; `seed` draws "one" and "half". A relative table starts at `folder`.

        Raises InputError for a table that cannot be used, SettingsError for a choice that it does not allow.
        """
        structures = read_table(Path(folder) / section.table) if section.table else BRAIN
        return cls(structures, _channels(structures, section, seed))

    @property
    def count(self) -> int:
        """How many channels there are."""
        return len(self.names)

    def channels(self, labels: torch.Tensor) -> torch.Tensor:
        """Whole numbers of any shape to the channel of each label, counted from 1; 0 where nothing is observed."""
        table = self._tables.get(labels.device)
        if table is None:
            table = next(iter(self._tables.values())).to(labels.device)
            self._tables[labels.device] = table
        return table[labels.long().clamp(0, len(table) - 1)]

    def probabilities(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels (N, 1, *S), S even, to the shares (N, count, *S/2) of the channels in blocks of 2^d voxels."""
        return half_resolution_labels(self.channels(labels), self.count + 1)[:, 1:]

    def for_evaluation(self) -> Supervision:
        """The same structures, each with a channel of its own, observed or not, in the order of `structures`."""
        return Supervision(self.structures, {s.name: (s.label,) for s in self.structures})


def _channels(structures: Sequence[Structure], section: SupervisionSection, seed: int) -> dict[str, tuple[int, ...]]:
    """The labels of each channel by its name."""
    if section.structures == "coarse":
        groups: dict[str, tuple[int, ...]] = {}
        for structure in structures:
            if structure.group:
                groups[structure.group] = (*groups.get(structure.group, ()), structure.label)
        if not groups:
            raise SettingsError('supervision.structures = "coarse" needs a table with a column group that is filled.')
        return groups
    if section.structures == "list":
        unknown = sorted(set(section.labels) - {s.label for s in structures})
        if unknown:
            raise SettingsError(f"supervision.labels names {unknown[0]}, which is not in the table of structures.")
        chosen = {s.name for s in structures if s.label in section.labels}
    elif section.structures == "all":
        chosen = {s.name for s in structures}
    else:
        chosen = _drawn(structures, section.structures, seed)
    return {s.name: (s.label,) for s in structures if s.name in chosen}


def _drawn(structures: Sequence[Structure], choice: str, seed: int) -> set[str]:
    """Names of one structure or of half of them; what differs by its side only is drawn together."""
    both_sides: dict[str, list[str]] = {}
    for structure in structures:
        both_sides.setdefault(_without_side(structure.name), []).append(structure.name)
    order = np.random.default_rng(seed).permutation(sorted(both_sides))
    wanted = 1 if choice == "one" else len(structures) / 2
    chosen: set[str] = set()
    for name in order:
        if len(chosen) < wanted:
            chosen.update(both_sides[name])
    return chosen


def _without_side(name: str) -> str:
    return re.sub(r"^(left|right|lh|rh|l|r)[\s_.-]+|[\s_.-]+(left|right|lh|rh|l|r)$", "", name.strip().lower())


def read_table(path: Path) -> tuple[Structure, ...]:
    """The structures in a CSV file with the columns label,name[,group], in its order.

    Raises InputError, which names the line, for labels that are no whole number from 1 on, or repeated.
    """
    structures: list[Structure] = []
    for line, row in read_rows(path, ("label", "name"), ("group",)):
        try:
            label = int(row["label"])
        except ValueError:
            label = 0
        name = row["name"]
        if not 1 <= label <= LARGEST_LABEL or not name:
            raise InputError(
                f"{path}, line {line}: give a label from 1 to {LARGEST_LABEL} and a name, not '{row['label']}', "
                f"'{name}'."
            )
        if any(label == s.label or name == s.name for s in structures):
            raise InputError(f"{path}, line {line}: the label {label} or the name '{name}' is there twice.")
        structures.append(Structure(label, name, row["group"]))
    return tuple(structures)
