"""A naive twin of the weighted scheduler: the protocol read out loud.

No heap, no journal, nothing remembered of who is eligible but the set of them as it was last seen:
every question is asked of every org, and every cost is added up attempt by attempt.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Lane = Literal["main", "express"]
LANES: tuple[Lane, Lane] = ("main", "express")
# The tag of who was never in line.
NEVER = -(2**61)


class NaiveAttempt(NamedTuple):
    """An admission, as it was charged."""

    org: str
    workload: str
    lane: Lane
    charged_us: int
    w: int
    s: int


class NaiveClass(NamedTuple):
    """What operators decided of a workload."""

    share: int
    rank: int
    express: bool
    express_max_us: int | None


@dataclass
class NaiveFlow:
    """One workload of an org: its tags, its waiting tasks and what one of them takes."""

    tag: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, NEVER))
    backlog: int = 0
    critical: int = 0
    cost_us: int = 0


@dataclass
class NaiveOrg:
    """One org, in the letters of the protocol."""

    appeared: int
    w: int = 1
    b: int | None = None
    paused: bool = False
    served: int = 0
    tag: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, NEVER))
    v: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    n: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    flows: dict[str, NaiveFlow] = field(default_factory=dict)


def vcost(cost_us: int, weight: int) -> int:
    """Return the virtual cost, never nothing."""
    return max(1, cost_us * 1024 // weight)


class NaiveScheduler:
    """SSFQ over two lanes, O(orgs) per question."""

    def __init__(self, *, time_mode: bool = False) -> None:
        self.time_mode = time_mode
        self.v: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self.served = 0
        self.cost_us = 0
        self.capacity: int | None = None
        self.alpha: float | None = None
        self.orgs: dict[str, NaiveOrg] = {}
        self.classes: dict[str, NaiveClass] = {}
        # Who was eligible when last seen, and in which lanes somebody was left waiting.
        self.standing: set[tuple[str, Lane]] = set()
        self.left_waiting: set[Lane] = set()

    # Who is eligible ----------------------------------------------------------------------------

    def is_express(self, workload: str, flow: NaiveFlow) -> bool:
        """Tell whether the reserve is open to a flow."""
        decided = self.classes[workload]
        short = decided.express_max_us is None or flow.cost_us <= decided.express_max_us
        return decided.express and short

    def waiting(self, org: NaiveOrg, lane: Lane) -> dict[str, NaiveFlow]:
        """Return the flows that a slot of the lane could go to."""
        return {
            workload: flow
            for workload, flow in org.flows.items()
            if flow.backlog > 0 and (lane == "main" or self.is_express(workload, flow))
        }

    def has_headroom(self, org: NaiveOrg) -> bool:
        """Tell whether an org holds less than its part of what is free."""
        if self.alpha is None or self.capacity is None:
            return True
        total = sum(sum(other.n.values()) for other in self.orgs.values())
        return sum(org.n.values()) < self.alpha * (self.capacity - total)

    def eligible(self, lane: Lane) -> dict[str, NaiveOrg]:
        """Return the orgs with backlog that are below their cap, not paused, and have headroom.

        One that stands in line is asked for headroom only when it comes first.
        """
        found = {}
        for name, org in self.orgs.items():
            below = org.b is None or sum(org.n.values()) < org.b
            if lane == "main" and (name, lane) not in self.standing:
                below = below and self.has_headroom(org)
            if below and not org.paused and self.waiting(org, lane):
                found[name] = org
        return found

    def _look(self) -> None:
        """Wake who became eligible: nobody starts before virtual time, or who is first in line."""
        now = {(name, lane) for lane in LANES for name in self.eligible(lane)}
        start = {}
        for lane in LANES:
            ahead = [self.orgs[n].tag[lane] for n, stands in now & self.standing if stands == lane]
            start[lane] = min([self.v[lane], *ahead])
        for name, lane in now - self.standing:
            org = self.orgs[name]
            org.tag[lane] = max(org.tag[lane], start[lane])
        self.standing = now

    # Events -------------------------------------------------------------------------------------

    def org(self, name: str) -> NaiveOrg:
        """Return an org, met now if it was never seen."""
        return self.orgs.setdefault(name, NaiveOrg(appeared=len(self.orgs)))

    def flow(self, name: str, workload: str) -> NaiveFlow:
        """Return a flow, met now if it was never seen."""
        return self.org(name).flows.setdefault(workload, NaiveFlow())

    def set_limits(self, capacity: int | None, alpha: float | None) -> None:
        """Set the cap of the queue and the headroom asked of an org; `wake` acts on it."""
        self.capacity, self.alpha = capacity, alpha

    def configure(self, name: str, weight: int, burst_max: int | None, paused: bool) -> None:
        """Set what operators decide of an org."""
        org = self.org(name)
        org.w, org.b, org.paused = weight, burst_max, paused
        self._look()

    def set_workload(self, workload: str, decided: NaiveClass) -> None:
        """Set what operators decide of a workload; `wake` acts on it."""
        self.classes[workload] = decided

    def set_backlog(self, name: str, workload: str, count: int) -> None:
        """Set how many tasks of a flow wait; one that wakes starts as an org does."""
        org, flow = self.org(name), self.flow(name, workload)
        for lane in LANES:
            if flow.backlog == 0 and count > 0:
                ahead = [other.tag[lane] for other in self.waiting(org, lane).values()]
                flow.tag[lane] = max(flow.tag[lane], min([org.v[lane], *ahead]))
        flow.backlog = count
        self._look()

    def settle(self, attempt: NaiveAttempt, true_us: int) -> None:
        """End an attempt: its slot is free, its charge becomes the true one."""
        org, flow, lane = (
            self.org(attempt.org),
            self.flow(attempt.org, attempt.workload),
            attempt.lane,
        )
        org.n[lane] -= 1
        self._correct(attempt, true_us)
        if true_us > 0:
            flow.cost_us = _ewma(flow.cost_us, true_us)
            self.cost_us = _ewma(self.cost_us, true_us)

    def refresh(self, attempt: NaiveAttempt, elapsed_us: int) -> NaiveAttempt:
        """Charge an attempt that runs on: a quarter more, or what it has used if that is more."""
        if not self.time_mode or elapsed_us < attempt.charged_us:
            return attempt
        now_us = max(elapsed_us, (5 * attempt.charged_us + 3) // 4)
        self._correct(attempt, now_us)
        flow = self.flow(attempt.org, attempt.workload)
        if now_us > (flow.cost_us or self.cost_us or 10):
            flow.cost_us = _ewma(flow.cost_us or self.cost_us, now_us)
        return attempt._replace(charged_us=now_us)

    def _correct(self, attempt: NaiveAttempt, cost_us: int) -> None:
        if self.time_mode:
            org, lane = self.org(attempt.org), attempt.lane
            org.tag[lane] -= vcost(attempt.charged_us, attempt.w)
            org.tag[lane] += vcost(cost_us, attempt.w)
            org.flows[attempt.workload].tag[lane] -= vcost(attempt.charged_us, attempt.s)
            org.flows[attempt.workload].tag[lane] += vcost(cost_us, attempt.s)

    def set_in_flight(self, name: str, lane: Lane, count: int) -> None:
        """Set how many slots of a lane an org holds."""
        self.org(name).n[lane] = count
        self.wake()

    def wake(self) -> None:
        """Forgive what was used while nobody was left waiting; then see who may run.

        Who came since stands at the virtual time as it was, so that nothing can be forgiven now.
        """
        for lane in LANES:
            waiting = any(stands == lane for _, stands in self.standing)
            if lane not in self.left_waiting and not waiting:
                tags = [org.tag[lane] for org in self.orgs.values() if org.n[lane] > 0]
                self.v[lane] = max([self.v[lane], *tags])
        self._look()

    # The plan -----------------------------------------------------------------------------------

    def plan(self, slots: int, reserve: int = 0) -> list[NaiveAttempt]:
        """Give slots away, then the reserve; in order of admission."""
        self.wake()
        picks: list[NaiveAttempt] = []
        for lane, free in zip(LANES, (slots, reserve), strict=True):
            picks += [self._admit(lane, *first) for _ in range(free) if (first := self.first(lane))]
        self.close_round()
        return picks

    def close_round(self) -> None:
        """Note in which lanes somebody eligible is left waiting."""
        self.left_waiting = {lane for lane in LANES if self.eligible(lane)}

    def first(self, lane: Lane) -> tuple[str, NaiveOrg] | None:
        """Return who is first in line; those without headroom step out of it."""
        while line := self.eligible(lane):
            name, org = min(
                line.items(),
                key=lambda item: (
                    item[1].tag[lane],
                    item[1].n[lane] > 0,
                    item[1].served,
                    item[1].appeared,
                ),
            )
            if lane == "express" or self.has_headroom(org):
                return name, org
            self.standing.remove((name, lane))
        return None

    def _admit(self, lane: Lane, name: str, org: NaiveOrg) -> NaiveAttempt:
        workload, flow = min(
            self.waiting(org, lane).items(),
            key=lambda item: (
                item[1].critical == 0,
                item[1].tag[lane],
                self.classes[item[0]].rank,
                item[0],
            ),
        )
        self.v[lane] = max(self.v[lane], org.tag[lane])
        org.v[lane] = max(org.v[lane], flow.tag[lane])
        guess = (flow.cost_us or self.cost_us or 10) if self.time_mode else 1_000_000
        share = self.classes[workload].share
        org.tag[lane] += vcost(guess, org.w)
        flow.tag[lane] += vcost(guess, share)
        self.served += 1
        org.served = self.served
        org.n[lane] += 1
        flow.backlog -= 1
        flow.critical = max(0, flow.critical - 1)
        self._look()
        return NaiveAttempt(name, workload, lane, guess, org.w, share)

    def trial(self, slots: int, reserve: int = 0) -> list[NaiveAttempt]:
        """Return what `plan` would pick, and stay as it is."""
        return copy.deepcopy(self).plan(slots, reserve)


def _ewma(estimate_us: int, measured_us: int) -> int:
    """Return 0.8 of the estimate and 0.2 of the measurement, which alone counts at first."""
    if not estimate_us:
        return measured_us
    return max(1, estimate_us + (measured_us - estimate_us) // 5)
