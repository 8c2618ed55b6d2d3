"""Other rules of admission, to compare with: each is a `Scheduler`, so one simulator runs them all.

They honour `burst_max`, pauses, capacity and the express reserve as the real policies do, and in
all of them priority orders a flow's own tasks, critical ones first; what differs is whose turn it
is. `COUNT` is a real one: all that is said of critical work holds in it.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum

from orchestrator.fairness.line import Key
from orchestrator.fairness.plan import Settled
from orchestrator.fairness.scheduler import Scheduler, waiting
from orchestrator.fairness.state import FlowState, OrgState, Seat
from orchestrator.fairness.strict import StrictScheduler
from orchestrator.fairness.weighted import WeightedScheduler
from orchestrator.model import CostMode, Policy


class Rule(StrEnum):
    """The rules that can be simulated; the first three are what a queue can be set to."""

    WEIGHTED = "weighted"
    COUNT = "count"
    STRICT = "strict"
    FIFO = "fifo"
    MAX_MIN = "max-min"
    SQS = "sqs"


def rule_of(policy: Policy, cost_mode: CostMode) -> Rule:
    """Return the rule that a queue with these settings follows."""
    if policy is Policy.STRICT:
        return Rule.STRICT
    return Rule.COUNT if cost_mode is CostMode.COUNT else Rule.WEIGHTED


def scheduler_of(rule: Rule) -> Scheduler:
    """Return a new scheduler that follows `rule`.

    `COUNT` is stride scheduling by weight over tasks, whatever they take, as Temporal's fairness
    does it.
    """
    match rule:
        case Rule.WEIGHTED:
            return WeightedScheduler()
        case Rule.COUNT:
            return WeightedScheduler(cost_mode=CostMode.COUNT)
        case Rule.STRICT:
            return StrictScheduler()
        case Rule.FIFO:
            return FifoScheduler()
        case Rule.MAX_MIN:
            return MaxMinScheduler()
        case Rule.SQS:
            return SqsScheduler()


class MaxMinScheduler(Scheduler):
    """Give each free slot to the org that holds the fewest for its weight.

    Ties go to whoever was served longest ago. It looks at slots held now and keeps no account:
    with more orgs than slots everybody who waits holds none, and weights mean nothing.
    """

    def _key(self, seat: Seat) -> Key:
        state = seat.state
        return (state.in_flight * 2**20 // state.weight, state.last_admit)

    def _choose(self, seat: Seat) -> FlowState:
        return min(waiting(seat), key=lambda flow: (flow.rank, flow.workload))

    def critical_flows(self, state: OrgState) -> list[FlowState]:
        """Return no flow: a critical task goes first in its own, and nobody yields to it."""
        return []


class _Turns:
    """The places in line of one flow's tasks: runs of consecutive numbers."""

    def __init__(self) -> None:
        self._runs: deque[list[int]] = deque()
        self._count = 0

    def add(self, first: int, count: int) -> None:
        """Note `count` arrivals with the numbers from `first` on."""
        self._runs.append([first, count])
        self._count += count

    def head(self, backlog: int) -> int:
        """Return the number of the oldest of the `backlog` that still wait; forget those before."""
        gone = self._count - backlog
        self._count = backlog
        while gone >= self._runs[0][1]:
            gone -= self._runs.popleft()[1]
        run = self._runs[0]
        run[0] += gone
        run[1] -= gone
        return run[0]


class FifoScheduler(Scheduler):
    """First in, first out, over all orgs: the queue that most systems are.

    A flow has a turn for each of its arrivals; its most urgent task takes it. Plans of this rule
    cannot be undone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turns: dict[tuple[str, str], _Turns] = {}
        self._arrived = 0

    def set_backlog(self, org: str, workload: str, count: int) -> None:
        """Set how many tasks wait; those above what was known arrive now."""
        known = self._flow(self.org(org), workload).backlog
        if count > known:
            self._turns.setdefault((org, workload), _Turns()).add(self._arrived, count - known)
            self._arrived += count - known
        super().set_backlog(org, workload, count)

    def _turn(self, org: str, flow: FlowState) -> int:
        return self._turns[org, flow.workload].head(flow.backlog)

    def _key(self, seat: Seat) -> Key:
        org = seat.state.org
        return (min(self._turn(org, flow) for flow in waiting(seat)),)

    def _choose(self, seat: Seat) -> FlowState:
        org = seat.state.org
        return min(waiting(seat), key=lambda flow: self._turn(org, flow))

    def critical_flows(self, state: OrgState) -> list[FlowState]:
        """Return no flow: a critical task goes first in its own, and nobody yields to it."""
        return []


# What makes a noisy neighbour: more than this part of what is in flight or of recent worker time,
# and, for what is in flight, at least so many tasks.
_NOISY_PART = 10
_NOISY_IN_FLIGHT = 30
# "Recent" is not published; here it is so many ended attempts.
_RECENT_ATTEMPTS = 1_000


class SqsScheduler(FifoScheduler):
    """The published rule of Amazon SQS fair queues, as an emulation.

    An org is a noisy neighbour while it has work waiting and either holds more than a tenth of the
    tasks in flight and at least 30, or used more than a tenth of recent worker time. Quiet orgs go
    first, first in first out. Among noisy ones the org with the fewest in flight goes first. There
    are no weights. The service's thresholds are approximate, and what it calls recent is unknown:
    here the last 1,000 ended attempts. An org is quiet again when both shares are back below the
    thresholds; that the service also waits for five minutes without messages is left out.

    Source: Amazon SQS Developer Guide, "How Amazon SQS fair queues work".
    """

    def __init__(self) -> None:
        super().__init__()
        self._noisy: set[str] = set()
        self._recent: deque[Settled] = deque()
        self._used_us: Counter[str] = Counter()
        self._used_total_us = 0

    def settle(self, ended: Settled) -> None:
        """Free the slots of attempts that ended, and remember whose worker time it was."""
        self._remember(ended, 1)
        self._recent.append(ended)
        if len(self._recent) > _RECENT_ATTEMPTS:
            self._remember(self._recent.popleft(), -1)
        super().settle(ended)

    def wake(self) -> None:
        """Judge anew who is noisy, then wake as every policy does."""
        # Whoever became noisy ran or ended something; whoever is noisy may have become quiet.
        judged = self._noisy | self._touched.keys()
        loud = {org for org in judged if self._is_loud(self.orgs[org])}
        for org in loud ^ self._noisy:
            self._noisy = self._noisy ^ {org}
            self._touch(self.orgs[org])
        super().wake()

    def _remember(self, ended: Settled, sign: int) -> None:
        self._used_us[ended.org] += sign * ended.cost_us
        self._used_total_us += sign * ended.cost_us
        if not self._used_us[ended.org]:
            del self._used_us[ended.org]

    def _crowds(self, state: OrgState) -> bool:
        held = state.in_flight
        return held >= _NOISY_IN_FLIGHT and held * _NOISY_PART > self.in_flight

    def _is_loud(self, state: OrgState) -> bool:
        used_us = self._used_us.get(state.org, 0)
        return self._crowds(state) or used_us * _NOISY_PART > self._used_total_us

    def _key(self, seat: Seat) -> Key:
        state = seat.state
        turn = super()._key(seat)
        if state.org in self._noisy or self._crowds(state):
            return (1, state.in_flight, *turn)
        return (0, 0, *turn)
