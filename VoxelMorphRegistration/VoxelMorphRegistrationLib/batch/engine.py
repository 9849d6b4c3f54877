"""The pairs of a batch, by processes on this computer: who does which next, and what becomes of those that die.

Each pair is looked up in the folder before it is given away: what is done costs a look. A pair whose process died is
given to another one once more; the second time it fails. A pair that another batch has in work is looked up again,
until it is done or free.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ..errors import VoxelMorphError
from . import job
from .crew import Member
from .job import Outcome
from .pair import Pair
from .places import DONE, FAILED, Places
from .sharing import Memory

# Processes that a pair may cost.
DEATHS = 2
# Processes in a row that may die before they said a word; then none can be started here.
SILENT = 3
LOOK_AGAIN_S = 2.0
Told = Callable[[Outcome], object]


def run_here(
    pairs: Iterable[Pair],
    places: Places,
    told: Told,
    *,
    jobs: int,
    threads: int,
    retry: bool = False,
    trust_model: bool = False,
    tick: Callable[[], object] | None = None,
) -> None:
    """Do all pairs; told(Outcome) once for each. tick() is called some times a second.

    retry: also those that failed before with the same inputs and settings. Ends its processes, whatever happens.
    """
    engine = _Engine(iter(pairs), places, told, jobs, threads, retry, trust_model)
    try:
        engine.run(tick)
    finally:
        engine.close()


class _Engine:
    def __init__(
        self,
        pairs: Iterator[Pair],
        places: Places,
        told: Told,
        jobs: int,
        threads: int,
        retry: bool,
        trust_model: bool,
    ) -> None:
        self._pairs, self._places, self._told = pairs, places, told
        self._jobs, self._threads, self._retry, self._trust_model = jobs, threads, retry, trust_model
        self._events: queue.Queue[tuple[Member, dict | None]] = queue.Queue()
        self._members: list[Member] = []
        self._asking: dict[Member, dict[str, int]] = {}
        self._memory = Memory()
        # How many processes there may be: one, until the first pair has said how much memory it takes.
        self._room = 1
        self._again: deque[Pair] = deque()
        self._elsewhere: deque[tuple[float, Pair]] = deque()
        self._deaths: dict[str, int] = {}
        self._silent = 0
        self._stopped = False

    def run(self, tick: Callable[[], object] | None) -> None:
        ended = False
        while True:
            while not ended and not self._stopped and self._has_room():
                pair = self._next()
                if pair is None:
                    ended = not self._elsewhere
                    break
                self._idle_member().do(pair)
            working = any(member.pair for member in self._members)
            if not working and (ended or self._stopped):
                return
            with contextlib.suppress(queue.Empty):
                self._handle(*self._events.get(timeout=0.2 if working else 0.05))
                while not self._events.empty():
                    self._handle(*self._events.get())
            if ended and (self._again or self._elsewhere):
                ended = False
            if tick is not None:
                tick()

    def _has_room(self) -> bool:
        return any(not member.pair for member in self._members) or len(self._members) < min(self._jobs, self._room)

    def _idle_member(self) -> Member:
        for member in self._members:
            if not member.pair:
                return member
        member = Member(self._places, self._threads, self._trust_model, self._events)
        self._members.append(member)
        return member

    def _next(self) -> Pair | None:
        """The next pair with work to do; None where there is none now."""
        while True:
            if self._again:
                pair = self._again.popleft()
            else:
                found = next(self._pairs, None) or self._looked_at_again()
                if found is None:
                    return None
                pair = found
            outcome = standing(pair, self._places, self._retry)
            if outcome is None:
                return pair
            self._told(outcome)

    def _looked_at_again(self) -> Pair | None:
        if self._elsewhere and self._elsewhere[0][0] <= time.monotonic():
            return self._elsewhere.popleft()[1]
        return None

    def _handle(self, member: Member, message: dict | None) -> None:
        if message is None:
            self._buried(member)
            return
        member.spoke, self._silent = True, 0
        if "needs" in message:
            self._memory.told(message["free"])
            self._asking[member] = message["needs"]
            self._room = max(self._room, self._memory.room_for(message["needs"]))
            self._grant()
        elif member.pair is not None:
            pair, member.pair = member.pair, None
            self._free(member)
            self._ended(pair, Outcome(**message["outcome"]))

    def _free(self, member: Member) -> None:
        self._asking.pop(member, None)
        self._memory.give_back(member)
        self._grant()

    def _grant(self) -> None:
        for member, needs in list(self._asking.items()):
            if self._memory.grant(member, needs):
                del self._asking[member]
                member.go()

    def _ended(self, pair: Pair, outcome: Outcome) -> None:
        if outcome.state == job.ELSEWHERE:
            self._elsewhere.append((time.monotonic() + LOOK_AGAIN_S, pair))
            return
        if outcome.state == job.FULL:
            self._stopped = True
        self._told(outcome)

    def _buried(self, member: Member) -> None:
        """A process is gone: its pair is done by another one, or has failed."""
        if member not in self._members:
            return
        self._members.remove(member)
        pair, member.pair = member.pair, None
        self._free(member)
        reason = member.why_ended()
        member.gone()
        self._silent += not member.spoke
        if self._silent >= SILENT:
            raise VoxelMorphError(f"No pair can be done: {reason}.")
        if pair is None:
            return
        self._places.clear([pair.id])
        self._deaths[pair.id] = self._deaths.get(pair.id, 0) + 1
        if self._deaths[pair.id] < DEATHS:
            self._again.append(pair)
            return
        message = f"Twice {reason}."
        found = self._places.standing(pair)
        if found.state == DONE:
            self._told(Outcome(pair.id, DONE))
            return
        with contextlib.suppress(OSError):
            self._places.fail(pair.id, found.key, message)
        self._told(Outcome(pair.id, FAILED, message))

    def close(self) -> None:
        """End the processes, and clear up after those that were at work."""
        left = [member.pair.id for member in self._members if member.pair]
        for member in self._members:
            member.end()
        for member in self._members:
            member.gone()
        self._places.clear(left)


def standing(pair: Pair, places: Places, retry: bool) -> Outcome | None:
    """How a pair stands by its folder; None where there is work to do."""
    if not places.known(pair.id):
        # Its files are read by who does it.
        return None
    found = places.standing(pair)
    if found.state == DONE:
        return Outcome(pair.id, job.ALREADY)
    if found.state == FAILED and not retry:
        return Outcome(pair.id, FAILED, f"{found.error} (It failed before; --retry tries it again.)")
    return None
