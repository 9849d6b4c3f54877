"""The names of what was measured, and what speaks for a result, in the language of Slicer.

The library speaks English, and its table in the scene stays as it is: scripts read it. Names of structures and of
settings are never translated; the latter are those of the console. Each translation costs a look at the caller, so
that the lists are made once: Slicer changes its language by a restart.
"""

from __future__ import annotations

import re
from functools import lru_cache

from slicer.i18n import tr as _

from ..results.table import Row
from ..results.verdict import AFTER_ALL, Gain, Verdict
from .run import stage_title
from .translated import translated

# Rows of a run that say something in words.
_IN_WORDS = ("refinement", "further images", "working grid", "fixed frame", "moving frame")
# Groups whose rows are structures, besides their mean.
_OF_STRUCTURES = ("Dice", "Surface distance (95 %)", "Volume change", "Mean displacement")


@lru_cache(maxsize=1)
def groups() -> dict[str, str]:
    """The headings of the table."""
    return {
        "Similarity": _("Similarity"),
        "Dice": _("Dice"),
        "Surface distance (95 %)": _("Surface distance (95 %)"),
        "Landmark error": _("Landmark error"),
        "Expected error (90 %)": _("Expected error (90 %)"),
        "Deformation": _("Deformation"),
        "Volume change": _("Volume change"),
        "Mean displacement": _("Mean displacement"),
        "Time": _("Time"),
        "Run": _("Run"),
        "Settings": _("Settings"),
    }


@lru_cache(maxsize=1)
def names() -> dict[str, str]:
    """The rows that are no structures, settings or stages."""
    return {
        "Local correlation": _("Local correlation"),
        "Correlation": _("Correlation"),
        "Mutual information": _("Mutual information"),
        "mean": _("mean"),
        "max": _("max"),
        "median of the anatomy": _("median of the anatomy"),
        "largest tenth of the anatomy, from": _("largest tenth of the anatomy, from"),
        "anatomy under 1 mm": _("anatomy under 1 mm"),
        "anatomy under 2 mm": _("anatomy under 2 mm"),
        "anatomy under 5 mm": _("anatomy under 5 mm"),
        "folded voxels": _("folded voxels"),
        "folded voxels, strict count": _("folded voxels, strict count"),
        "folded voxels, whole volume": _("folded voxels, whole volume"),
        "smallest determinant": _("smallest determinant"),
        "largest determinant": _("largest determinant"),
        "SD of log determinant": _("SD of log determinant"),
        "largest displacement": _("largest displacement"),
        "fixed anatomy covered": _("fixed anatomy covered"),
        "total": _("total"),
        "fixed image": _("fixed image"),
        "moving image": _("moving image"),
        "further images": _("further images"),
        "fixed frame": _("fixed frame"),
        "moving frame": _("moving frame"),
        "model": _("model"),
        "passes": _("passes"),
        "refinement": _("refinement"),
        "refined from": _("refined from"),
        "working grid": _("working grid"),
        "device": _("device"),
        "version": _("version"),
    }


@lru_cache(maxsize=1)
def gains() -> dict[str, str]:
    """What speaks for a result."""
    return {
        "Landmark error {before} to {after} mm": _("Landmark error {before} to {after} mm"),
        "Dice {before} to {after}": _("Dice {before} to {after}"),
        "{measure} {before} to {after}": _("{measure} {before} to {after}"),
        "no folds": _("no folds"),
        "No folds": _("No folds"),
        "error expected under 2 mm in {percent} % of the anatomy": _(
            "error expected under 2 mm in {percent} % of the anatomy"
        ),
    }


def level_title(title: str) -> str:
    """The verdict in a word or two."""
    return {"Good": _("Good"), "Look here": _("Look here"), "Do not use": _("Do not use")}.get(title, title)


def group_title(group: str) -> str:
    return groups().get(group, group)


def row_title(row: Row) -> str:
    """The name of a row of the table."""
    if row.group in _OF_STRUCTURES:
        return names()["mean"] if row.name == "mean" and not row.structure else row.name
    if row.group == "Settings":
        return row.name
    if row.structure:
        title = {"mean": _("{structure}, mean"), "largest": _("{structure}, largest")}
        return title[row.name.rpartition(", ")[2]].format(structure=row.structure)
    point, _space, number = row.name.partition(" ")
    if point == "point" and number.isdigit():
        return _("point {number}").format(number=number)
    return names().get(row.name) or stage_title(row.name)


@lru_cache(maxsize=1)
def _notes() -> tuple[tuple[re.Pattern, str], ...]:
    """What rows of a run say in words, as patterns with their translations."""
    return (
        (re.compile(r"(?P<preset>\w+), (?P<count>\d+) steps"), _("{preset}, {count} steps")),
        (re.compile(r"(?P<preset>\w+), (?P<count>\d+) steps, start kept"), _("{preset}, {count} steps, start kept")),
        (re.compile(r"(?P<first>.+) and (?P<second>.+)"), _("{first} and {second}")),
        (re.compile(r"(?P<size>[\dx]+) voxels"), _("{size} voxels")),
        (
            re.compile(r"frame (?P<number>\d+) of (?P<count>\d+) \((?P<value>.*)\)"),
            _("frame {number} of {count} ({value})"),
        ),
        (re.compile("off"), _("off")),
    )


def row_note(row: Row) -> str:
    """What a row says in words. Names of images, models and settings, and the settings' values, stay."""
    return in_words(row.text) if row.group == "Run" and row.name in _IN_WORDS else row.text


def in_words(text: str) -> str:
    """A short text of a report, such as which frame of a sequence it is of."""
    for pattern, translation in _notes():
        match = pattern.fullmatch(text)
        if match is not None:
            return translation.format(**match.groupdict())
    return text


def verdict_texts(found: Verdict) -> tuple[str, str]:
    """The title and the reason of a verdict."""
    reason = f"{gains_text(found.gains)} {translated(AFTER_ALL)}" if found.gains else translated(found.reason)
    return level_title(found.title), reason


def gains_text(found: tuple[Gain, ...]) -> str:
    """What speaks for a result, in one sentence."""
    known = gains()
    parts = []
    for gain in found:
        values = {key: names().get(value, value) for key, value in gain.values.items()}
        parts.append(known.get(gain.template, gain.template).format(**values))
    return ", ".join(parts) + "."
