"""Warnings: one sentence an event, and none where the result is good."""

from __future__ import annotations

import pytest

from VoxelMorphRegistrationLib.registration.warnings import COPIES, warn

GOOD = {"kept": True, "reason": "", "dice": None, "similarity": [{"measure": "lncc", "before": 0.5, "after": 0.8}]}
WORSE = {
    "kept": False,
    "reason": "the images are less similar (local correlation 0.5000 before, 0.4000 after)",
    "dice": None,
    "similarity": [{"measure": "lncc", "before": 0.5, "after": 0.4}],
}
ALIKE = {**WORSE, "similarity": [{"measure": "lncc", "before": 0.97, "after": 0.95}]}
INSIDE = {"count": 0, "any_corner_count": 0, "voxels": 100_000, "minimum": 0.01, "maximum": 24.0}


def told(
    checks=None,
    covered=100.0,
    evidence: float | None = 20.0,
    aligned=(0.4, 0.5),
    after=(0.5, 0.8),
    errors=None,
    pieces=(0.19, 2.7),
    **inside,
) -> list[str]:
    """The warnings of a result that is good in all that is not given."""
    warnings: list[str] = []
    folding = {"inside": {**INSIDE, **inside}, "pieces": dict(zip(("minimum", "maximum"), pieces, strict=True))}
    found = {"folding": folding, "covered_percent": covered, "tre_mm": errors}
    warn(warnings, found, {"aligned": aligned, "after": after}, checks or {"network": GOOD}, evidence)
    return warnings


def test_of_two_copies_nothing_else_is_said_about_a_result_that_is_no_more_similar():
    warnings = [COPIES]
    found = {"folding": {"inside": INSIDE, "pieces": {"minimum": 1.0, "maximum": 1.0}}, "covered_percent": 100.0}
    warn(warnings, {**found, "tre_mm": None}, {"aligned": (1.0, 1.0), "after": (1.0, 1.0)}, {}, 20.0)
    assert warnings == [COPIES]


def test_good_result_has_no_warning():
    assert told() == []
    # A network that the refinement has replaced.
    assert told({"network": WORSE, "refinement": GOOD}) == []
    # Images that lay as they should: no deformation is missed, and interpolation costs a little.
    assert told({"network": ALIKE}, after=(0.9, 0.9), aligned=(1.38, 1.36)) == []
    # Two crops of one image that show half of each other, surely aligned.
    assert told(covered=56.0, evidence=46.0) == []
    # Where edges were looked at, the alignment has weighed this itself.
    assert told(aligned=(0.5, 0.4)) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (dict(checks={"network": WORSE}, after=(0.5, 0.5)), "The network made things worse and was undone: the images"),
        (
            dict(checks={"network": WORSE, "refinement": WORSE}, after=(0.5, 0.5)),
            "The network and the refinement made things worse and were undone",
        ),
        (dict(checks={"alignment": WORSE, "network": GOOD}), "The alignment made things worse and was undone"),
        (dict(covered=56.0, evidence=8.0), "Only 56 % of the fixed anatomy"),
        (dict(covered=20.0, evidence=46.0), "Only 20 % of the fixed anatomy"),
        (dict(evidence=None, aligned=(0.5, 0.4)), "less similar than they lay"),
        (
            dict(checks={"network": {**GOOD, "similarity": WORSE["similarity"]}}, after=(0.5, 0.5)),
            "no more similar after the deformation",
        ),
        (dict(count=2, any_corner_count=9, pieces=(0.05, 4)), "folds in 2 voxels"),
        (dict(pieces=(0.35, 11.0)), "as no tissue does"),
        (dict(pieces=(0.01, 1.1)), "as no tissue does"),
        (dict(errors={"before": {"mean": 1.0}, "after": {"mean": 2.0}}), "further apart than before"),
    ],
)
def test_each_event_is_one_sentence(facts, words):
    (text,) = told(**facts)
    assert words in text
