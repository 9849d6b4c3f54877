"""The report as a file."""

from __future__ import annotations

import json

import numpy as np

from VoxelMorphRegistrationLib.registration.report import Report


def test_numbers_stay_in_json_and_what_cannot_be_measured_is_null():
    report = Report(
        similarity={"after": {"mi": np.float32(0.5), "correlation": float("nan")}},
        folding={"minimum": np.float64(-0.25), "count": np.int64(3)},
        largest_displacement_mm=4.5,
        linear=[[1.0, 0.25]],
        dice={"labels": {7: float("inf"), np.int64(8): 0.75}, "kept": np.bool_(True), "names": ("a", None)},
    )
    text = report.to_json()
    assert "NaN" not in text and "Infinity" not in text
    found = json.loads(text)
    assert found["similarity"] == {"after": {"mi": 0.5, "correlation": None}}
    assert found["folding"] == {"minimum": -0.25, "count": 3}
    assert found["largest_displacement_mm"] == 4.5 and found["linear"] == [[1.0, 0.25]]
    assert found["dice"] == {"labels": {"7": None, "8": 0.75}, "kept": True, "names": ["a", None]}
