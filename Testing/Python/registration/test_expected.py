"""How long a registration is expected to take: each part by what it depends on."""

from __future__ import annotations

import numpy as np
import pytest

from grids import make_grid
from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import read_card
from VoxelMorphRegistrationLib.networks.shelf import find_model
from VoxelMorphRegistrationLib.registration import expected
from VoxelMorphRegistrationLib.registration.expected import (
    ALIGNMENT_UNITS,
    PASS_UNITS,
    REFINED_UNITS,
    START_UNITS,
    USUAL_PART,
    WRITTEN_LARGE,
    WRITTEN_UNITS,
    _network_units,
    expected_seconds,
    in_words,
    probe_seconds,
)
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.registration.starts import with_start

GRID = make_grid((128, 128, 64))
MILLIONS = 128 * 128 * 64 / 1e6
PLAIN = Settings(model="none", alignment="rigid", refinement="fast")


def test_alignment_refinement_and_results_add_up_by_the_speed_of_the_device():
    units = ALIGNMENT_UNITS["rigid"] + (WRITTEN_UNITS + REFINED_UNITS["fast"] * USUAL_PART) * MILLIONS
    assert expected_seconds(PLAIN, GRID, 0.1) == pytest.approx(0.1 * units)
    assert expected_seconds(PLAIN, GRID, 0.3) == pytest.approx(0.3 * units)


def test_what_is_written_of_large_images_costs_less_a_voxel():
    nothing = np.zeros((4000, 100, 100), bool)

    def of(size: int) -> float:
        # Anatomy of one voxel: nothing is refined.
        region = nothing[:size].copy()
        region[0, 0, 0] = True
        settings = PLAIN.replace(alignment="none")
        return expected_seconds(settings, make_grid((100, 100, size)), 1.0, region) - ALIGNMENT_UNITS["none"]

    assert of(500) == pytest.approx(5 * WRITTEN_UNITS, rel=1e-3)
    assert of(4000) == pytest.approx(10 * WRITTEN_UNITS + 30 * WRITTEN_LARGE, rel=1e-3)


def test_only_the_box_around_the_anatomy_is_refined():
    region = np.zeros(GRID.shape, bool)
    region[16:48, 32:96, 10] = region[20, 40, 10:74] = True
    part = (32 / 64) * (64 / 128) * (64 / 128)
    units = ALIGNMENT_UNITS["rigid"] + (WRITTEN_UNITS + REFINED_UNITS["fast"] * part) * MILLIONS
    assert expected_seconds(PLAIN, GRID, 1.0, region) == pytest.approx(units)
    # Nothing is known of an image without any.
    empty = np.zeros(GRID.shape, bool)
    assert expected_seconds(PLAIN, GRID, 1.0, empty) == expected_seconds(PLAIN, GRID, 1.0)


def test_a_slice_takes_what_its_starts_take():
    grid, fine = make_grid((200, 160, 1)), make_grid((200, 160, 1), (0.002, 0.002, 0.002))
    millions = 200 * 160 / 1e6 * USUAL_PART
    alone, first = (expected_seconds(Settings(model=name), grid, 1.0) for name in ("none", "auto"))
    cards = {name: read_card(find_model(name)) for name in ("brain-2d", "general-2d")}
    networks = [
        _network_units(card, grid, None, USUAL_PART, with_start(Settings(), name, card), "float32")
        for name, card in cards.items()
    ]
    each = START_UNITS + REFINED_UNITS["default"] * millions
    assert all(networks) and first - alone == pytest.approx(2 * each + sum(networks))
    # Anatomy too small for a network of 1 mm: one start less.
    assert expected_seconds(Settings(), fine, 1.0) - alone == pytest.approx(each + networks[1])
    # Nothing of it where other settings leave the starts out, nor with further images.
    quick = [expected_seconds(Settings(quality="preview", model=name), grid, 1.0) for name in ("none", "auto")]
    assert quick[0] == quick[1]
    further = [expected_seconds(Settings(model=name), grid, 1.0, further=1) for name in ("none", "auto")]
    assert further[0] == further[1]


def test_each_pass_of_a_network_counts_by_its_grid():
    card = ModelCard("m", stride=16, spacing_mm=(2.0, 2.0, 2.0), passes=2)
    once = ModelCard("m", stride=16, spacing_mm=(2.0, 2.0, 2.0))
    chosen = Settings(model="m", alignment="none", refinement="off")
    one, two = (expected_seconds(chosen, GRID, 1.0, card=each) for each in (once, card))
    rest = ALIGNMENT_UNITS["none"] + WRITTEN_UNITS * MILLIONS
    assert one - rest == pytest.approx(PASS_UNITS["float32"] * USUAL_PART * 64 * 64 * 32 / 1e6)
    assert two - rest == pytest.approx(2 * (one - rest))
    # Only the box around the anatomy is seen, with five voxels on each side.
    region = np.zeros(GRID.shape, bool)
    region[15:47, 32:96, 32:96] = True
    seen = expected_seconds(chosen, GRID, 1.0, region, once)
    assert seen - rest == pytest.approx(PASS_UNITS["float32"] * 48 * 48 * 32 / 1e6)
    # Three shipped models are tried where none is named, each on the box around the anatomy.
    open_ = Settings(model="auto", alignment="none", refinement="off")
    expected_units = PASS_UNITS["float32"] * 3 * MILLIONS * USUAL_PART
    assert expected_seconds(open_, GRID, 1.0) - rest == pytest.approx(expected_units)


@pytest.mark.parametrize(
    ("arithmetic", "facts", "precision", "first", "later"),
    [
        ("bfloat16", {"bfloat16": True}, "auto", "bfloat16", "bfloat16"),
        ("bfloat16", {}, "auto", "float32", "float32"),
        ("int8", {"bfloat16": True, "symmetric": True}, "auto", "float32", "int8"),
        ("int8", {"bfloat16": True, "symmetric": True}, "float32", "float32", "float32"),
        ("int8", {"symmetric": True}, "auto", "float32", "float32"),
    ],
)
def test_passes_count_by_what_they_are_computed_with(arithmetic, facts, precision, first, later):
    chosen = Settings(model="m", alignment="none", refinement="off", precision=precision)
    one, three = (
        expected_seconds(
            chosen,
            GRID,
            1.0,
            card=ModelCard("m", stride=16, spacing_mm=(2.0, 2.0, 2.0), passes=passes, architecture=facts),
            arithmetic=arithmetic,
        )
        for passes in (1, 3)
    )
    rest = ALIGNMENT_UNITS["none"] + WRITTEN_UNITS * MILLIONS
    voxels = USUAL_PART * 64 * 64 * 32 / 1e6
    assert one - rest == pytest.approx(PASS_UNITS[first] * voxels)
    assert three - one == pytest.approx(2 * PASS_UNITS[later] * voxels)


def test_one_direction_takes_half():
    chosen = Settings(model="m", alignment="none", refinement="off")
    both, one = (
        expected_seconds(
            chosen, GRID, 1.0, card=ModelCard("m", spacing_mm=(2.0,) * 3, architecture={"symmetric": symmetric})
        )
        for symmetric in (True, False)
    )
    rest = ALIGNMENT_UNITS["none"] + WRITTEN_UNITS * MILLIONS
    assert both - rest == pytest.approx(2 * (one - rest))


def test_the_probe_is_the_best_of_three_rounds(monkeypatch):
    clock, rounds = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0]), []
    monkeypatch.setattr(expected.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(sampling, "warp", lambda volume, field: rounds.append((volume.shape, field.shape)))
    assert probe_seconds() == expected.PROBE_ROUNDS * 2.0
    size = (expected.PROBE_SIZE,) * 3
    assert rounds == [((1, 1, *size), (1, 3, *size))] * expected.PROBE_ROUNDS


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (7.4, "7 s"), (9.6, "10 s"), (12.4, "10 s"), (13, "15 s"), (88, "90 s"), (90, "2 minutes")],
)
def test_durations_are_told_as_roughly_as_they_are_known(seconds, words):
    assert in_words(seconds) == f"about {words}"
