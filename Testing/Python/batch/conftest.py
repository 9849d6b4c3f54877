import pytest


@pytest.fixture
def inside(monkeypatch):
    """Pairs are done in this process: what needs no other one is tested without."""
    from VoxelMorphRegistrationLib.batch import engine, job, running

    def here(pairs, places, told, *, jobs, threads, retry, trust_model, tick):
        for pair in pairs:
            told(engine.standing(pair, places, retry) or job.do(pair, places, trust_model=trust_model))
            tick()

    monkeypatch.setattr(running, "run_here", here)
