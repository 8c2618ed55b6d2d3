"""Histories to drive a scheduler through: lists of events, so that a failure prints as a story."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hypothesis import Phase, settings

from orchestrator.fairness import (
    FlowState,
    Lane,
    OrgState,
    Pick,
    Refreshed,
    Scheduler,
    Settled,
    WeightedScheduler,
    WorkloadClass,
    overrun,
    settled,
)
from orchestrator.model import CostMode
from tests.conftest import NIGHTLY

ORGS = ("ada", "bob", "cyd", "dan", "eve")
WORKLOADS = ("api", "etl", "ocr")
# 2**a * 5**b divides the cost of one task: the charge of such a weight has no rounding.
EXACT_WEIGHTS = (1, 2, 4, 5, 8, 10, 20, 50)
# What attempts take: nothing (never ran), next to nothing, and short of to far beyond a guess.
COSTS_US = (0, 1, 10_000, 999_999, 1_000_000, 7_300_000, 60_000_000)

# Of a planted mistake it is enough to know that it was noticed.
_SHRINK = () if os.environ.get("HYPOTHESIS_PROFILE") == "mutants" else (Phase.shrink,)
# One law. A failing example is shrunk but not explained, which would outlast the test's timeout.
law = settings(
    max_examples=500 if NIGHTLY else 25,
    deadline=None,
    # What gates a change plays the same histories each time; the nightly profile explores.
    derandomize=not NIGHTLY,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, *_SHRINK),
)

# Events ----------------------------------------------------------------------------------------


class Arrive(NamedTuple):
    """More tasks of a flow are staged."""

    org: str
    workload: str
    tasks: int


class Correct(NamedTuple):
    """The true backlog of a flow becomes known."""

    org: str
    workload: str
    tasks: int


class Settle(NamedTuple):
    """Up to `tasks` attempts end: one in `stride` of them, oldest first, each after `cost_us`."""

    tasks: int
    stride: int
    cost_us: int = 1_000_000


class Refresh(NamedTuple):
    """One in `stride` of the running attempts has used `percent` of its charge and goes on."""

    stride: int
    percent: int


class Pause(NamedTuple):
    """An operator pauses or resumes an org."""

    org: str
    paused: bool


class Cap(NamedTuple):
    """An operator sets `burst_max`."""

    org: str
    burst_max: int | None


class Weigh(NamedTuple):
    """An operator sets the weight of an org."""

    org: str
    weight: int


class Tick(NamedTuple):
    """Up to `slots` slots, then up to `reserve` of the express reserve are given away.

    One plan for each of them, so that a watcher sees every admission.
    """

    slots: int
    reserve: int = 0


class Trial(NamedTuple):
    """A plan is made and taken back."""

    slots: int
    reserve: int = 0


Event = Arrive | Correct | Settle | Refresh | Pause | Cap | Weigh | Tick | Trial
Watch = Callable[["World", Pick | None], None]


@dataclass
class OrgConfig:
    """What operators decided of an org."""

    weight: int = 1
    burst_max: int | None = None
    paused: bool = False


@dataclass
class Attempt:
    """A task in flight: how it was admitted, and what it is charged by now."""

    pick: Pick
    charged_us: int


@dataclass
class World:
    """A scheduler, what operators decided, the attempts in flight, and every admission.

    As in a leader: an org is configured when its first task is seen, and on every change after; the
    scheduler wakes between what ended and what arrives. Every event but a tick is a round of its
    own, in which no slot is free.
    """

    config: dict[str, OrgConfig]
    workloads: Mapping[str, WorkloadClass]
    cost_mode: CostMode = CostMode.COUNT
    scheduler: WeightedScheduler = field(default_factory=WeightedScheduler)
    running: list[Attempt] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)
    # Attempts that ended, with what they took.
    ended: list[tuple[Pick, int]] = field(default_factory=list)
    capacity: int | None = None
    headroom: float | None = None

    def __post_init__(self) -> None:
        self.scheduler.cost_mode = self.cost_mode
        self.scheduler.set_limits(capacity=self.capacity, headroom=self.headroom)
        for workload, decided in self.workloads.items():
            self.scheduler.set_workload(workload, **decided._asdict())

    def run(self, events: Iterable[Event], watch: Watch | None = None) -> World:
        """Apply `events`; call `watch` after each of them, and after each single admission."""
        for event in events:
            if isinstance(event, Tick):
                for pick in self._tick(event):
                    if watch is not None:
                        watch(self, pick)
            else:
                self._apply(event)
                self.scheduler.close_round()
                if watch is not None:
                    watch(self, None)
        return self

    def held(self, org: str) -> int:
        """Return how many slots `org` holds, counted by its attempts."""
        return sum(attempt.pick.org == org for attempt in self.running)

    def _tick(self, tick: Tick) -> Iterator[Pick]:
        slots = tick.slots
        if self.capacity is not None:
            slots = max(0, min(slots, self.capacity - len(self.running)))
        for one in [(1, 0)] * slots + [(0, 1)] * tick.reserve:
            for pick in self.scheduler.plan(*one).picks:
                self.running.append(Attempt(pick, pick.charged_us))
                self.picks.append(pick)
                yield pick

    def _apply(self, event: Event) -> None:
        match event:
            case Arrive(org, workload, tasks):
                self._meet(org)
                self.scheduler.arrive(org, workload, tasks)
            case Correct(org, workload, tasks):
                self._meet(org)
                self.scheduler.set_backlog(org, workload, tasks)
            case Settle(tasks, stride, cost_us):
                chosen = range(0, len(self.running), stride)[:tasks]
                self.end([(self.running[i], cost_us) for i in chosen])
            case Refresh(stride, percent):
                for attempt in self.running[::stride]:
                    self.refresh(attempt, attempt.charged_us * percent // 100)
                self.scheduler.wake()
            case Pause(org, paused):
                self._decide(org, replace(self.config[org], paused=paused))
            case Cap(org, burst_max):
                self._decide(org, replace(self.config[org], burst_max=burst_max))
            case Weigh(org, weight):
                self._decide(org, replace(self.config[org], weight=weight))
            case Trial(slots, reserve):
                self.scheduler.undo(self.scheduler.plan(slots, reserve))

    def end(self, attempts: list[tuple[Attempt, int]]) -> None:
        """End these attempts, each after so many microseconds; the scheduler hears of it by flow,
        as from a feed.
        """
        flows: dict[tuple[str, str, bool], list[Settled]] = {}
        for attempt, cost_us in attempts:
            one = settled(attempt.pick, cost_us, charged_us=attempt.charged_us)
            flows.setdefault((one.org, one.workload, one.reserved), []).append(one)
            self.ended.append((attempt.pick, cost_us))
        for (org, workload, reserved), ones in flows.items():
            sums = (sum(part) for part in zip(*(one[3:] for one in ones), strict=True))
            self.scheduler.settle(Settled(org, workload, reserved, *sums))
        gone = [attempt for attempt, _ in attempts]
        self.running = [a for a in self.running if not any(a is other for other in gone)]
        self.scheduler.wake()

    def refresh(self, attempt: Attempt, elapsed_us: int) -> None:
        """Charge an attempt that runs on after `elapsed_us`, if that is beyond its charge."""
        if self.cost_mode is CostMode.COUNT or elapsed_us < attempt.charged_us:
            return
        pick, now_us = attempt.pick, overrun(attempt.charged_us, elapsed_us)
        self.scheduler.refresh(
            Refreshed(
                pick.org,
                pick.workload,
                pick.reserved,
                pick.weight,
                pick.share,
                attempt.charged_us,
                now_us,
            )
        )
        attempt.charged_us = now_us

    def _meet(self, org: str) -> None:
        self.scheduler.wake()
        if org not in self.scheduler.orgs:
            self._configure(org)

    def _decide(self, org: str, decided: OrgConfig) -> None:
        self.config[org] = decided
        if org in self.scheduler.orgs:
            self.scheduler.wake()
            self._configure(org)

    def _configure(self, org: str) -> None:
        decided = self.config[org]
        self.scheduler.configure(
            org, weight=decided.weight, rank=0, burst_max=decided.burst_max, paused=decided.paused
        )

    def reborn(self, rows: Mapping[str, OrgState], *, renormalise: bool = False) -> World:
        """Return this world under a new leader: rows first, then the configuration as it is now."""
        old = self.scheduler
        floors = [line.virtual_time if renormalise else 0 for line in old.lines]
        new = WeightedScheduler(
            cost_mode=self.cost_mode,
            virtual_time=old.main.virtual_time - floors[Lane.MAIN],
            express_virtual_time=old.express.virtual_time - floors[Lane.EXPRESS],
            admit_seq=old.admit_seq,
            cost_us=old.cost_us,
        )
        for line, before in zip(new.lines, old.lines, strict=True):
            line.contended = before.contended
        # The configuration first: what may run is a question of both.
        for workload, decided in self.workloads.items():
            new.set_workload(workload, **decided._asdict())
        new.set_limits(capacity=self.capacity, headroom=self.headroom)
        for row in rows.values():
            new.load(persisted(row, floors, renormalise=renormalise))
        twin = replace(
            self,
            config=dict(self.config),
            scheduler=new,
            running=[replace(attempt) for attempt in self.running],
            picks=list(self.picks),
            ended=list(self.ended),
        )
        for name in rows:
            twin._configure(name)
        return twin


def persisted(
    row: OrgState, floors: Sequence[int] = (0, 0), *, renormalise: bool = False
) -> OrgState:
    """Return what the tables keep of an org, its tags counted from the virtual times if asked."""
    inner = [seat.virtual_time if renormalise else 0 for seat in row.seats]
    state = OrgState(row.org, last_admit=row.last_admit)
    for new, old in zip(state.seats, row.seats, strict=True):
        new.tag = old.tag - floors[old.lane]
        new.virtual_time = old.virtual_time - inner[old.lane]
        new.in_flight, new.eligible = old.in_flight, old.eligible
    for workload, flow in row.flows.items():
        tags = [tag - floor for tag, floor in zip(flow.tags, inner, strict=True)]
        state.flows[workload] = FlowState(workload, tags, flow.backlog, cost_us=flow.cost_us)
    return state


def snapshot(scheduler: Scheduler) -> object:
    """Everything a decision could depend on, as values."""
    orgs = {
        name: (
            (org.weight, org.rank, org.burst_max, org.paused),
            (org.in_flight, org.last_admit, org.backlog, org.express_backlog),
            [(seat.tag, seat.virtual_time, seat.in_flight, seat.eligible) for seat in org.seats],
            {
                f.workload: (*f.tags, f.backlog, f.critical, f.cost_us, f.express)
                for f in org.flows.values()
            },
        )
        for name, org in scheduler.orgs.items()
    }
    lines = [
        (
            (line.virtual_time, line.in_flight, line.eligible, line.contended),
            [org.org for org in scheduler.order(line.lane)],
        )
        for line in scheduler.lines
    ]
    totals = (scheduler.in_flight, scheduler.backlog, scheduler.eligible, scheduler.cost_us)
    return orgs, totals, lines, scheduler.admit_seq


def eligible(world: World) -> set[str]:
    """Return the orgs that an ordinary free slot could go to, asked of each of them."""
    return {org.org for org in world.scheduler.orgs.values() if org.may_run}
