"""What becomes of admissions that a shadow and the live policy share, or that only one has made."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from orchestrator.fairness.costs import charge_of
from orchestrator.fairness.plan import Pick, Settled
from orchestrator.fairness.state import OrgState

Key = tuple[str, str, bool]


class Pair(NamedTuple):
    """A live admission, and what the shadow admitted of the same flow in the same round."""

    live: Pick
    shadow: Pick | None

    @property
    def equal(self) -> bool:
        """Tell whether both were charged the same."""
        return self.live == self.shadow


class Own:
    """The tasks that only the shadow admitted, in one lane: they share worker time equally.

    `served_us` is what each task has had that was there all along; a task ends when that reaches
    the mark that it was given at its admission. Worker time comes in lumps, when live attempts end:
    what is more than the tasks at hand need was meant for those that take their slots.
    """

    def __init__(self) -> None:
        self.served_us = 0.0
        self._left_us = 0.0
        self._heap: list[tuple[float, int, Pick]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, pick: Pick, cost_us: int) -> None:
        """Admit a task that takes `cost_us`, less what is left for it."""
        had_us = min(self._left_us, cost_us)
        self._left_us -= had_us
        self._added += 1
        heappush(self._heap, (self.served_us + cost_us - had_us, self._added, pick))

    def serve(self, work_us: float) -> Iterator[Pick]:
        """Spend worker time on them; yield those that ended."""
        while self._heap:
            count = len(self._heap)
            needed_us = (self._heap[0][0] - self.served_us) * count
            if needed_us > work_us:
                self.served_us += work_us / count
                return
            work_us -= needed_us
            self.served_us, _, pick = heappop(self._heap)
            yield pick
        self._left_us += work_us

    def forfeit(self) -> None:
        """Lose what is left: nobody has taken the slots."""
        self._left_us = 0.0


class InFlight:
    """The live attempts in flight, each with its twin, in the order of admission.

    Those from before the shadow began are twins, of a flow that is not known; `None` stands for
    one. `alone` counts, by lane, the live attempts that have no twin.
    """

    def __init__(self, orgs: Iterable[OrgState]) -> None:
        self.alone = [0, 0]
        self._pairs: dict[Key, deque[Pair]] = {}
        self._before: Counter[tuple[str, bool]] = Counter(
            {
                (state.org, bool(seat.lane)): seat.in_flight
                for state in orgs
                for seat in state.seats
                if seat.in_flight
            }
        )

    def add(self, pair: Pair) -> None:
        """Note a live admission."""
        self._pairs.setdefault(key_of(pair.live), deque()).append(pair)
        self.alone[pair.live.reserved] += pair.shadow is None

    def oldest(self, org: str, workload: str, reserved: bool) -> Pair | None:
        """Return the live attempt of a flow that is taken for the oldest."""
        if self._before[org, reserved] > 0:
            return None
        pairs = self._pairs.get((org, workload, reserved))
        return pairs[0] if pairs else None

    def end(self, ended: Settled, workloads: Iterable[str]) -> list[Pair | None]:
        """Take as many out as ended, the oldest first; `workloads` are the flows of the org."""
        return [self._end(ended, workloads) for _ in range(ended.slots)]

    def _end(self, ended: Settled, workloads: Iterable[str]) -> Pair | None:
        before = (ended.org, ended.reserved)
        if self._before[before] > 1:
            self._before[before] -= 1
            return None
        if self._before.pop(before, 0):
            return None
        # One from before may have been taken for one of another workload: then that one is left.
        for workload in (ended.workload, *workloads):
            key = (ended.org, workload, ended.reserved)
            if pairs := self._pairs.get(key):
                pair = pairs.popleft()
                if not pairs:
                    del self._pairs[key]
                self.alone[ended.reserved] -= pair.shadow is None
                return pair
        return None


def key_of(pick: Pick) -> Key:
    """Return the flow and the lane of an admission."""
    return pick.org, pick.workload, pick.reserved


def corrected(twins: list[Pair | None], ended: Settled) -> tuple[int, int]:
    """Return what a settlement corrects of the shadow's own charges of `twins`.

    What the live charge missed, by the shadow's weights, and what the two charges differ by.
    """
    tag = flow = 0
    for pair in twins:
        tag_delta, flow_delta = ended.tag_delta // ended.slots, ended.flow_delta // ended.slots
        if pair is not None and pair.shadow is not None and not pair.equal:
            live, mine = pair.live, pair.shadow
            tag_delta = tag_delta * live.weight // mine.weight
            tag_delta += charge_of(live.charged_us, mine.weight)
            tag_delta -= charge_of(mine.charged_us, mine.weight)
            flow_delta = flow_delta * live.share // mine.share
            flow_delta += charge_of(live.charged_us, mine.share)
            flow_delta -= charge_of(mine.charged_us, mine.share)
        tag += tag_delta
        flow += flow_delta
    return tag, flow
