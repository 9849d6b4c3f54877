"""The answer first: whether a result is good, wants a look, or is not to be used, with the reason in words.

Works on registration.Report, or on its JSON form. It judges by what was measured and by the report's warnings: a
picture can be wrong where nothing of this sees it, and the texts say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..registration.report import headline
from ..registration.warnings import SURE_COVERAGE, little_covered
from .table import label_names, plain_report

if TYPE_CHECKING:
    from ..registration.report import Report

GOOD, LOOK, BAD = "good", "look", "bad"
# What a good verdict ends with.
AFTER_ALL = "Compare the views all the same."
TITLES = {GOOD: "Good", LOOK: "Look here", BAD: "Do not use"}
# Set on brains of two people at 2 and 3 mm and an abdomen (Testing/Benchmarks/verdicts.py): 16 good results, and 82
# made wrong by a local error, by roughness, by a bad start, or by moving images that were cut.
# Mean Dice that falls by more: the good ones gained .06 to .21; of 24 that ended below their start 19 lost more.
_FALLEN_MEAN = 0.02
# Mean Dice below it is no overlap to speak of: the good ones reach .67 to .79; a brain upside down had .07, then .09.
_NO_OVERLAP = 0.2
# Dice of one structure that falls by more. It tells little: of the good ones 50, 31, 19 % have a structure that lost
# more than .02, .05, .1 (none of those at 2 mm), of those with an error of 9 mm in one place 70, 50, 40 %.
_FALLEN_STRUCTURE = 0.05
# Percent of the anatomy that folds: of 20 results above, 16 had lost all that was gained, the others about half.
_MANY_FOLDS = 1.0
# Percent of the fixed anatomy that the moving image covers, where the alignment is not sure: of 30 structures of a
# brain 30, 17, 6, 4 were registered as well as with the whole image where 87, 67, 50, 32 % were covered.
_LITTLE_COVERED = 50.0


# Percent of the anatomy where the error stays under 5 mm with 90 %: below, the least certain place wants a look.
_SURE = 75.0


@dataclass(frozen=True)
class Gain:
    """Something that speaks for a result: a template, which the panel translates, and its values by their names."""

    template: str
    values: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.template.format(**self.values)


@dataclass(frozen=True)
class Verdict:
    """level: GOOD, LOOK or BAD. reason: one sentence or two. gains: what the first one of a good result is made of."""

    level: str
    reason: str
    gains: tuple[Gain, ...] = ()

    @property
    def title(self) -> str:
        return TITLES[self.level]


def verdict(report: Report | Mapping) -> Verdict:
    """What the numbers of a report say about it; the first reason of the worst kind."""
    plain = plain_report(report)
    for level, reasons in ((BAD, _against(plain)), (LOOK, _doubts(plain))):
        reason = next(reasons, None)
        if reason is not None:
            return Verdict(level, reason)
    gains = tuple(_gains(plain))
    return Verdict(GOOD, f"{', '.join(map(str, gains))}. {AFTER_ALL}", gains)


def _against(plain: dict) -> Iterator[str]:
    errors = plain.get("tre_mm")
    if errors and errors["after"]["mean"] > errors["before"]["mean"]:
        yield f"The landmarks are further apart than before ({_change(errors, 'mm', 1)})."
    dice = plain.get("dice")
    if dice and _fell(dice["before"]["mean"], dice["after"]["mean"], _FALLEN_MEAN):
        yield f"The segmentations overlap less than before (Dice {_change(dice, '', 2)})."
    if dice and dice["after"]["mean"] is not None and dice["after"]["mean"] < _NO_OVERLAP:
        yield f"The segmentations hardly overlap (Dice {_change(dice, '', 2)})."
    before, after = (_similarity(plain, stage) for stage in ("before", "after"))
    if _fell(before, after, 0.0) and not dice and not errors:
        yield "The images are less similar than before."
    folded = _inside(plain).get("percent") or 0.0
    if folded > _MANY_FOLDS:
        yield f"The deformation folds in {folded:.1f} % of the anatomy."
    covered = plain.get("covered_percent")
    # Where the alignment is sure, the report warns below SURE_COVERAGE only: what both show is registered all the same.
    told = covered is not None and little_covered(covered) in (plain.get("warnings") or [])
    if covered is not None and covered < (_LITTLE_COVERED if told else SURE_COVERAGE):
        yield f"Only {covered:.0f} % of the fixed anatomy lies within the moving image."


def _doubts(plain: dict) -> Iterator[str]:
    named = label_names(plain)
    dice = plain.get("dice") or {}
    for label, value in (dice.get("after") or {}).get("labels", {}).items():
        earlier = dice["before"]["labels"].get(label)
        if _fell(earlier, value, _FALLEN_STRUCTURE):
            yield f"'{named[label]}' overlaps less than before (Dice {earlier:.2f} to {value:.2f})."
    covered = plain.get("covered_percent")
    if covered is not None and covered < _LITTLE_COVERED:
        yield f"Only {covered:.0f} % of the fixed anatomy lies within the moving image: the rest was not compared."
    count = _inside(plain).get("count") or _inside(plain).get("any_corner_count")
    if count:
        yield f"The deformation folds in {count:,} voxels: jump to the smallest determinant and look at the map."
    sure = (plain.get("expected_error") or {}).get("under_5mm")
    if sure is not None and sure < _SURE:
        yield (
            f"The error is expected to stay under 5 mm in {sure:.0f} % of the anatomy only: jump to the least certain "
            "place and look at the map."
        )
    yield from plain.get("warnings") or []


def _gains(plain: dict) -> Iterator[Gain]:
    measured = [
        Gain(template, {stage: f"{plain[key][stage]['mean']:.{digits}f}" for stage in ("before", "after")})
        for key, template, digits in (
            ("tre_mm", "Landmark error {before} to {after} mm", 1),
            ("dice", "Dice {before} to {after}", 2),
        )
        if plain.get(key)
    ]
    title, before, after = headline(plain.get("similarity") or {})
    if not measured and before is not None and after is not None and after > before:
        values = {"measure": title, "before": f"{before:.2f}", "after": f"{after:.2f}"}
        measured.append(Gain("{measure} {before} to {after}", values))
    yield from measured
    yield Gain("no folds" if measured else "No folds")
    expected = plain.get("expected_error")
    if expected:
        percent = f"{expected['under_2mm']:.0f}"
        yield Gain("error expected under 2 mm in {percent} % of the anatomy", {"percent": percent})


def _change(part: dict, unit: str, digits: int) -> str:
    before, after = part["before"]["mean"], part["after"]["mean"]
    return f"{before:.{digits}f} to {after:.{digits}f}" + (f" {unit}" if unit else "")


def _fell(before: float | None, after: float | None, by: float) -> bool:
    return before is not None and after is not None and after < before - by


def _similarity(plain: dict, stage: str) -> float | None:
    """Mutual information, since a correlation means little between two modalities."""
    return ((plain.get("similarity") or {}).get(stage) or {}).get("mi")


def _inside(plain: dict) -> dict:
    return (plain.get("folding") or {}).get("inside") or {}
