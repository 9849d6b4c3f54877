"""The fit behind the expected error: finds what the error depends on, holds on cases left out, is written and read."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "Calibration"))

import collect
import fit
import known_warps as cases
from collect import Sample
from held import held

from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.trust import bound
from VoxelMorphRegistrationLib.trust.quantities import NAMES


def made_up(count: int, seed: int) -> list[Sample]:
    """Cases of four kinds, whose error depends on two quantities of a place and on one of the case, with noise."""
    random, samples = np.random.default_rng(seed), []
    for number in range(count):
        values = random.normal(size=(150, len(NAMES))).astype(np.float32)
        values[:, NAMES.index("unlike_case")] = random.normal()
        depends = 0.8 * values[:, NAMES.index("returned_near")] + 0.6 * np.abs(values[:, NAMES.index("bent")])
        depends += 1.2 * values[:, NAMES.index("unlike_case")]
        error = np.exp(depends + 0.3 * random.normal(size=150) + 0.1 * random.normal())
        samples.append(Sample(cases.KINDS[number % 4], number, {"quick": values}, error, {}))
    return samples


@pytest.fixture(scope="module")
def fitted():
    return fit.fit(made_up(64, 0), "quick")[0]


def test_fit_holds_on_cases_that_it_has_not_seen(fitted):
    rows = [held(one, "quick", fitted) for one in made_up(12, 1)]
    assert 85 <= np.mean([row.under_bound for row in rows]) <= 95
    assert 40 <= np.mean([row.under_median for row in rows]) <= 60
    assert np.mean([row.rank for row in rows]) > 0.85


def test_fit_counts_the_quantities_that_the_error_depends_on_first(fitted):
    names = list(fitted[bound.BOUND].knots)
    assert {"returned_near", "bent"} == set(names[:2])
    assert "unlike_case" in names


def test_what_is_told_of_a_kind_left_out_is_by_a_fit_without_it():
    """One kind has errors ten times as large, and nothing says so."""
    samples = [replace(one, error=one.error * (10 if one.kind == "plain" else 1)) for one in made_up(32, 0)]
    _, rows = fit.fit(samples, "quick")
    assert [(row.kind, row.number) for row in rows] == [(one.kind, one.number) for one in samples]
    plain = np.mean([row.under_bound for row in rows if row.kind == "plain"])
    assert plain < np.mean([row.under_bound for row in rows if row.kind != "plain"]) - 20


def test_kinds_weigh_the_same_however_many_cases_they_have():
    many, few = made_up(24, 0), made_up(4, 3)
    data = fit.data_of([*(replace(one, kind="plain") for one in many), *(replace(o, kind="cut") for o in few)], "quick")
    weights = [data.weight[data.kind == kind].sum() for kind in (0, 1)]
    assert weights[0] == pytest.approx(weights[1])


def test_failures_weigh_twice():
    """Registrations fail in more ways than they succeed."""
    cases = made_up(8, 0)
    data = fit.data_of(
        [*(replace(one, kind="plain") for one in cases), *(replace(o, kind="astray") for o in cases)], "quick"
    )
    plain, astray = (data.weight[data.kind == kind].sum() for kind in (0, 1))
    assert astray == pytest.approx(2 * plain)


def test_table_is_read_as_it_was_written(fitted, monkeypatch):
    scope: dict = {}
    exec(fit.table_text({"quick": fitted}), scope)
    monkeypatch.setattr(bound, "TABLE", scope["TABLE"])
    bound.curves.cache_clear()
    values = np.random.default_rng(2).normal(size=(20, len(NAMES)))
    for name, one in bound.curves("quick").items():
        np.testing.assert_allclose(one(values, NAMES), fitted[name](values, NAMES), atol=2e-3)
    bound.curves.cache_clear()


def test_what_a_case_tells_is_kept(tmp_path, monkeypatch):
    made = collect.sample("slice", 0, tmp_path)
    assert made.error.shape == (len(made.values["full"]),)
    assert 0 < np.median(made.error) < 5

    def again(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(collect, "_sampled", again)
    kept = collect.sample("slice", 0, tmp_path)
    np.testing.assert_array_equal(kept.values["full"], made.values["full"])
    np.testing.assert_array_equal(kept.error, made.error)
    assert kept.seconds == made.seconds


@pytest.mark.parametrize("kind", ["slice", "cut", "people"])
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
