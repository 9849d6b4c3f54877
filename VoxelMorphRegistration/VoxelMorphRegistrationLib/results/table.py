"""A finished registration in numbers: rows for a table, and a report to read, print and keep.

Works on a registration.report.Report, or on its JSON form as it is kept on a transform node. Knows no Slicer and no Qt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..registration.report import Report


# The attributes of a Row in the order of a table, with their headings.
COLUMNS = {
    "group": "Group",
    "name": "Measure",
    "before": "Before",
    "aligned": "Aligned",
    "after": "After",
    "unit": "Unit",
    "text": "Note",
}
NUMBERS = ("before", "aligned", "after")
_STAGES = NUMBERS


@dataclass(frozen=True)
class Row:
    """One line of the results. A measure that is taken once has its value in `after`; None: not measured.

    text: what is no number, such as the model's name. digits: after the decimal point, for reading. structure: the one
    that it is of, where it is of one.
    """

    group: str
    name: str
    before: float | None = None
    aligned: float | None = None
    after: float | None = None
    unit: str = ""
    text: str = ""
    digits: int = 3
    structure: str = ""

    def cells(self) -> tuple[str, ...]:
        """The texts of COLUMNS; empty where nothing was measured."""
        return tuple(self.number(c) if c in NUMBERS else getattr(self, c) for c in COLUMNS)

    def number(self, column: str) -> str:
        return number_text(getattr(self, column), self.digits)


def number_text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def plain_report(report: Report | Mapping) -> dict:
    """The JSON form: text keys, None for what could not be measured."""
    return dict(report) if isinstance(report, Mapping) else json.loads(report.to_json())


def label_names(report: Report | Mapping, names: Mapping[int, str] | None = None) -> dict[str, str]:
    """{label as text: name} for the labels of a report: `names`, else those noted with it, else "Label 7"."""
    plain = plain_report(report)
    known = {str(key): name for key, name in (names or plain.get("label_names") or {}).items()}
    found: dict[str, str] = {}
    for part in (plain.get("dice"), plain.get("hd95_mm")):
        for label in ((part or {}).get("after") or {}).get("labels", {}):
            found[label] = known.get(label, f"Label {label}")
    expected = (plain.get("expected_error") or {}).get("labels") or {}
    for label in (*(plain.get("volume_change_percent") or {}), *(plain.get("displacement_mm") or {}), *expected):
        found[label] = known.get(label, f"Label {label}")
    return found


def rows(report: Report | Mapping, names: Mapping[int, str] | None = None) -> list[Row]:
    """The results of a report; what decides whether to trust it comes first. names: {label: name} of structures."""
    plain = plain_report(report)
    named = label_names(plain, names)
    return [
        *_similarity_rows(plain),
        *_segment_rows("Dice", plain.get("dice"), named, "", 3),
        *_segment_rows("Surface distance (95 %)", plain.get("hd95_mm"), named, "mm", 2),
        *_landmark_rows(plain.get("tre_mm")),
        *_expected_rows(plain.get("expected_error"), named),
        *_deformation_rows(plain),
        *_volume_rows(plain.get("volume_change_percent"), named),
        *_displacement_rows(plain.get("displacement_mm"), named),
        *(Row("Time", stage, after=seconds, unit="s", digits=1) for stage, seconds in plain["seconds"].items()),
        *_run_rows(plain),
        *(Row("Settings", name, text=_setting(value)) for name, value in plain["settings"].items()),
    ]


def _staged(group: str, name: str, values: Iterable[float | None], unit: str, digits: int, structure: str = "") -> Row:
    before, aligned, after = values
    return Row(group, name, before, aligned, after, unit, digits=digits, structure=structure)


def _similarity_rows(plain: dict) -> list[Row]:
    names = {"local": ("Local correlation", ""), "ncc": ("Correlation", ""), "mi": ("Mutual information", "nat")}
    similar = plain["similarity"]
    # Earlier reports have no local correlation.
    return [
        _staged("Similarity", title, ((similar.get(stage) or {}).get(key) for stage in _STAGES), unit, 3)
        for key, (title, unit) in names.items()
        if key in (similar.get("after") or {})
    ]


def _landmark_rows(errors: dict | None) -> list[Row]:
    if not errors:
        return []
    result = [
        _staged("Landmark error", name, (errors[stage][name] for stage in _STAGES), "mm", 2) for name in ("mean", "max")
    ]
    each = zip(*(errors[stage]["each"] for stage in _STAGES), strict=True)
    return result + [_staged("Landmark error", f"point {n}", values, "mm", 2) for n, values in enumerate(each, start=1)]


def _segment_rows(group: str, part: dict | None, named: dict[str, str], unit: str, digits: int) -> list[Row]:
    if not part:
        return []
    result = [_staged(group, "mean", (part[stage]["mean"] for stage in _STAGES), unit, digits)]
    for label in part["after"]["labels"]:
        values = (part[stage]["labels"].get(label) for stage in _STAGES)
        result.append(_staged(group, named[label], values, unit, digits, named[label]))
    return result


def _volume_rows(changes: dict | None, named: dict[str, str]) -> list[Row]:
    return [
        Row("Volume change", name := named[label], None, None, percent, "%", "moving against fixed", 1, name)
        for label, percent in (changes or {}).items()
    ]


def _displacement_rows(lengths: dict | None, named: dict[str, str]) -> list[Row]:
    """Of the deformation, without the linear alignment."""
    return [
        Row(
            "Mean displacement",
            name := named[label],
            after=found["mean"],
            unit="mm",
            text=f"95 % move less than {found['p95']:.1f} mm",
            digits=1,
            structure=name,
        )
        for label, found in (lengths or {}).items()
    ]


EXPECTED_ERROR = "Expected error (90 %)"


def _expected_rows(expected: dict | None, named: dict[str, str]) -> list[Row]:
    """Of the bound that the error stays under with 90 %."""
    if not expected:
        return []
    entries = [("median of the anatomy", "median", "mm", 2), ("largest tenth of the anatomy, from", "p90", "mm", 2)]
    entries += [(f"anatomy under {limit} mm", f"under_{limit}mm", "%", 0) for limit in (1, 2, 5)]
    result = [Row(EXPECTED_ERROR, name, after=expected.get(key), unit=unit, digits=d) for name, key, unit, d in entries]
    for label, values in (expected.get("labels") or {}).items():
        for name, key in (("mean", "mean"), ("largest", "max")):
            title = f"{named[label]}, {name}"
            result.append(Row(EXPECTED_ERROR, title, after=values[key], unit="mm", digits=2, structure=named[label]))
    return result


def _deformation_rows(plain: dict) -> list[Row]:
    inside = plain["folding"].get("inside") or {}
    volume = plain["folding"].get("volume") or {}
    # (name, value, unit, digits); "strict" counts a voxel when any of its eight one-sided determinants is <= 0.
    entries = (
        ("folded voxels", inside.get("count"), "voxels", 0),
        ("folded voxels", inside.get("percent"), "%", 4),
        ("folded voxels, strict count", inside.get("any_corner_count"), "voxels", 0),
        ("folded voxels, strict count", inside.get("any_corner_percent"), "%", 4),
        ("folded voxels, whole volume", volume.get("count"), "voxels", 0),
        ("smallest determinant", inside.get("minimum"), "", 3),
        ("largest determinant", inside.get("maximum"), "", 3),
        ("SD of log determinant", inside.get("sd_log"), "", 3),
        ("largest displacement", plain.get("largest_displacement_mm"), "mm", 2),
        ("fixed anatomy covered", plain.get("covered_percent"), "%", 1),
    )
    return [
        Row("Deformation", name, after=value, unit=unit, digits=digits)
        for name, value, unit, digits in entries
        if value is not None
    ]


def _run_rows(plain: dict) -> list[Row]:
    size = "x".join(map(str, plain.get("working_grid", {}).get("shape_kji", [])[::-1]))
    texts = {
        "fixed image": plain.get("inputs", {}).get("fixed", ""),
        "moving image": plain.get("inputs", {}).get("moving", ""),
        "further images": _further(plain.get("refinement")),
        **{f"{side} frame": text for side, text in (plain.get("inputs", {}).get("frames") or {}).items()},
        "model": plain.get("model", {}).get("name", ""),
        "passes": str(plain.get("passes", "")),
        "refinement": _refinement(plain.get("refinement")),
        "refined from": network_start(plain.get("refinement")),
        "working grid": f"{size} voxels" if size else "",
        "device": plain.get("device", ""),
        "version": plain.get("version", ""),
    }
    return [Row("Run", name, text=text) for name, text in texts.items() if text]


def _further(facts: dict | None) -> str:
    return "; ".join(f"{one['fixed']} and {one['moving']}" for one in (facts or {}).get("channels") or [])


def _refinement(facts: dict | None) -> str:
    if not facts:
        return "off"
    return f"{facts['preset']}, {sum(facts['steps'])} steps" + ("" if facts["improved"] else ", start kept")


def network_start(facts: dict | None) -> str:
    """The network from whose field a slice was refined, among several starts."""
    start = (facts or {}).get("start") or "nothing"
    return "" if not facts or not facts["improved"] or start == "nothing" else start


def _setting(value) -> str:
    return "automatic" if value is None or value == [] else str(value)
