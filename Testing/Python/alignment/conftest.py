"""Fixtures of the tests of the alignment."""

from dataclasses import replace

import pytest

from VoxelMorphRegistrationLib.alignment import edges, pair
from VoxelMorphRegistrationLib.alignment.fit import STAGES


@pytest.fixture
def few_points(monkeypatch):
    """A third of the points in the coarse search and the check by edges, a quarter in the fit: these take most of the
    time, and pictures without noise need no more.
    """
    monkeypatch.setattr(pair, "COARSE_SAMPLES", 1_000)
    monkeypatch.setattr(edges, "EDGE_POINTS", 2_500)
    for kind, stages in STAGES.items():
        monkeypatch.setitem(STAGES, kind, tuple(replace(stage, samples=stage.samples // 4) for stage in stages))
