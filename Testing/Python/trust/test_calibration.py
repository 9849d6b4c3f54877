"""The fit behind the expected error: finds what the error depends on, holds on cases left out, is written and read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "Calibration"))

import fit
import known_warps as cases
from collect import Sample
from held import held

from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.trust import bound
from VoxelMorphRegistrationLib.trust.quantities import NAMES


def made_up(count: int, seed: int) -> list[Sample]:
    """Cases whose error depends on two quantities of all, with noise, and a little on the case."""
    random, samples = np.random.default_rng(seed), []
    for number in range(count):
        values = random.normal(size=(150, len(NAMES))).astype(np.float32)
        depends = 0.8 * values[:, NAMES.index("returned_near")] + 0.6 * np.abs(values[:, NAMES.index("bent")])
        error = np.exp(depends + 0.3 * random.normal(size=150) + 0.1 * random.normal())
        samples.append(Sample("plain", number, {"quick": values}, error, {}))
    return samples


@pytest.fixture(scope="module")
def fitted():
    return fit.fit(made_up(16, 0), "quick")


def test_fit_holds_on_cases_that_it_has_not_seen(fitted):
    rows = [held(one, "quick", fitted) for one in made_up(12, 1)]
    assert 85 <= np.mean([row.under_bound for row in rows]) <= 95
    assert 40 <= np.mean([row.under_median for row in rows]) <= 60
    assert np.mean([row.rank for row in rows]) > 0.85


def test_fit_counts_the_quantities_that_the_error_depends_on_first(fitted):
    assert {"returned_near", "bent"} == set(list(fitted[bound.BOUND].knots)[:2])


def test_table_is_read_as_it_was_written(fitted, monkeypatch):
    scope: dict = {}
    exec(fit.table_text({"quick": fitted}), scope)
    monkeypatch.setattr(bound, "TABLE", scope["TABLE"])
    bound.curves.cache_clear()
    values = np.random.default_rng(2).normal(size=(20, len(NAMES)))
    for name, one in bound.curves("quick").items():
        np.testing.assert_allclose(one(values, NAMES), fitted[name](values, NAMES), atol=2e-3)
    bound.curves.cache_clear()


@pytest.mark.parametrize("kind", ["slice", "cut"])
def test_the_truth_of_a_case_makes_its_images_alike(kind):
    """Of one contrast: the first number whose copies are."""
    for number in range(6):
        one = cases.case(kind, number)
        images = [warp_image(one.moving, one.fixed.grid, u, None, np.nan).array for u in (None, one.truth)]
        seen = np.isfinite(images[0]) & np.isfinite(images[1]) & (one.fixed.array > 20)
        before, after = (np.corrcoef(image[seen], one.fixed.array[seen])[0, 1] for image in images)
        if after > 0.7:
            break
    assert after > before + 0.05
    again = cases.case(kind, number)
    np.testing.assert_array_equal(again.moving.array, one.moving.array)
