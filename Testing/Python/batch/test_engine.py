"""Processes of a batch: given pairs, granted memory, replaced when they die."""

import queue

import pytest

from batch_cases import pairs_of
from VoxelMorphRegistrationLib.batch import engine, job
from VoxelMorphRegistrationLib.batch.engine import run_here
from VoxelMorphRegistrationLib.batch.job import Outcome
from VoxelMorphRegistrationLib.batch.places import DONE, FAILED, Places, read_json
from VoxelMorphRegistrationLib.batch.sharing import Memory, cores, environment
from VoxelMorphRegistrationLib.errors import VoxelMorphError
from VoxelMorphRegistrationLib.registration.settings import Settings

GIB = 2**30


class StandIn:
    """A process that answers by a script: {pair's id: answers in turn}; "dies", an outcome's state, or bytes."""

    made: list = []  # noqa: RUF012
    script: dict = {}  # noqa: RUF012

    def __init__(self, places, threads, trust_model, events: queue.Queue):
        self.pair, self.spoke, self.ended = None, False, False
        self.events, self.threads = events, threads
        StandIn.made.append(self)

    def do(self, pair):
        self.pair = pair
        answers = StandIn.script.get(pair.id, [])
        answer = answers.pop(0) if answers else DONE
        if answer == "dies":
            self.events.put((self, None))
        elif isinstance(answer, int):
            self.events.put((self, {"needs": {"cpu": answer}, "free": {"cpu": 4 * GIB}}))
        elif callable(answer):
            answer()
            self.go()
        else:
            self.events.put((self, {"outcome": Outcome(pair.id, answer, seconds=1.0).to_dict()}))

    def go(self):
        self.events.put((self, {"outcome": Outcome(self.pair.id, DONE, seconds=1.0).to_dict()}))

    def why_ended(self):
        return "its process was killed"

    def end(self):
        self.ended = True

    def gone(self, wait_s=0.0):
        pass


@pytest.fixture
def crew(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "Member", StandIn)
    monkeypatch.setattr(engine, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(StandIn, "made", [])
    places = Places(tmp_path)
    places.make()

    def run(script, count=4, jobs=2, **options):
        monkeypatch.setattr(StandIn, "script", script)
        names = [str(tmp_path / f"{name}.nii") for name in ("fix", *(f"{n:03}" for n in range(count)))]
        outcomes = []
        pairs = pairs_of(names, Settings())
        run_here(iter(pairs), places, outcomes.append, jobs=jobs, threads=3, **options)
        return {outcome.id: outcome for outcome in outcomes}, len(outcomes)

    run.places = places
    return run


def test_every_pair_is_told_once_and_processes_are_ended(crew):
    outcomes, count = crew({"000": [100 * 2**20]})
    assert count == 4 and {one.state for one in outcomes.values()} == {DONE}
    assert len(StandIn.made) == 2 and all(one.ended and one.threads == 3 for one in StandIn.made)


def test_a_pair_whose_process_died_is_done_by_another_one(crew):
    outcomes, count = crew({"000": [GIB], "001": ["dies"]})
    assert count == 4 and outcomes["001"].state == DONE


def test_a_pair_that_costs_two_processes_fails_alone_and_is_kept(crew):
    outcomes, count = crew({"000": [GIB], "001": ["dies", "dies"]})
    assert count == 4 and outcomes["001"].state == FAILED and "Twice its process was killed" in outcomes["001"].message
    assert {outcomes[name].state for name in ("000", "002", "003")} == {DONE}
    assert "killed" in read_json(crew.places.failure("001"))["error"]
    # The next batch tells it, and tries it on demand.
    outcomes, _ = crew({})
    assert outcomes["001"].state == FAILED and "--retry" in outcomes["001"].message
    outcomes, _ = crew({}, retry=True)
    assert outcomes["001"].state == DONE


def test_processes_that_never_start_end_the_batch(crew):
    with pytest.raises(VoxelMorphError, match="No pair can be done"):
        crew({f"{n:03}": ["dies", "dies"] for n in range(4)})


def test_a_full_disk_ends_the_batch(crew):
    outcomes, count = crew({"001": [job.FULL]}, jobs=1)
    assert count == 2 and outcomes["001"].state == job.FULL


def test_what_is_in_work_elsewhere_is_asked_for_until_it_is_done(crew):
    outcomes, count = crew({"001": [job.ELSEWHERE, job.ELSEWHERE, job.ALREADY]})
    assert count == 4 and outcomes["001"].state == job.ALREADY


def test_processes_are_as_many_as_memory_holds(crew):
    crew({f"{n:03}": [2 * GIB] for n in range(6)}, count=6, jobs=8)
    assert len(StandIn.made) == 1


def test_an_interrupt_ends_the_processes(crew):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crew({"002": [interrupted]})
    assert all(one.ended for one in StandIn.made)


def test_memory_is_granted_while_there_is_some_and_to_one_alone_always():
    memory = Memory()
    memory.told({"cpu": 10 * GIB, "cuda": 5 * GIB})
    assert memory.room_for({"cpu": GIB, "cuda": 2 * GIB}) == 2
    assert memory.grant("a", {"cpu": 20 * GIB})
    assert not memory.grant("b", {"cpu": GIB})
    memory.give_back("a")
    assert memory.grant("b", {"cpu": GIB, "cuda": 2 * GIB}) and memory.grant("c", {"cpu": GIB, "cuda": 2 * GIB})
    # What is told now is what those in work have left.
    memory.told({"cuda": GIB})
    assert not memory.grant("d", {"cpu": GIB, "cuda": 2 * GIB})
    assert memory.grant("d", {"cpu": GIB})


def test_processors_are_those_of_the_container(tmp_path):
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    assert cores(tmp_path) == 1
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert cores(tmp_path) >= 1
    assert environment(3)["OMP_NUM_THREADS"] == "3"
