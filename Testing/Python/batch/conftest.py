import pytest

from batch_cases import run_inside


@pytest.fixture(autouse=True)
def sound_files(readers_here):
    """No file of these tests is damaged in a way that needs a process of its own."""


@pytest.fixture
def inside(monkeypatch):
    """Pairs are done in this process: what needs no other one is tested without."""
    from VoxelMorphRegistrationLib.batch import running

    monkeypatch.setattr(running, "run_here", run_inside)
