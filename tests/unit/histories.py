"""Histories to drive a scheduler through: lists of events, so that a failure prints as a story."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hypothesis import Phase, settings
from hypothesis import strategies as st

from orchestrator.fairness import FlowState, OrgState, Pick, Scheduler, WeightedScheduler

ORGS = ("ada", "bob", "cyd", "dan", "eve")
WORKLOADS = ("api", "etl", "ocr")
# 2**a * 5**b divides the cost of one task: the charge of such a weight has no rounding.
EXACT_WEIGHTS = (1, 2, 4, 5, 8, 10, 20, 50)

# One law. A failing example is shrunk but not explained, which would outlast the test's timeout.
law = settings(
    max_examples=40,
    deadline=None,
    # What gates a change plays the same histories each time; the nightly profile explores.
    derandomize=os.environ.get("HYPOTHESIS_PROFILE") != "nightly",
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
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
    """Up to `tasks` tasks in flight end: one in `stride` of them, oldest first."""

    tasks: int
    stride: int


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
    """Up to `slots` slots are given away, one plan each, so that a watcher sees every admission."""

    slots: int


class Trial(NamedTuple):
    """A plan is made and taken back."""

    slots: int


Event = Arrive | Correct | Settle | Pause | Cap | Weigh | Tick | Trial
Watch = Callable[["World", Pick | None], None]


@dataclass
class OrgConfig:
    """What operators decided of an org."""

    weight: int = 1
    burst_max: int | None = None
    paused: bool = False


@dataclass
class World:
    """A scheduler, what operators decided, the org of each task in flight, and every admission.

    As in a leader, an org is configured when its first task is seen, and on every change after.
    """

    config: dict[str, OrgConfig]
    shares: Mapping[str, int]
    scheduler: WeightedScheduler = field(default_factory=WeightedScheduler)
    running: list[str] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)

    def __post_init__(self) -> None:
        for rank, workload in enumerate(WORKLOADS):
            self.scheduler.set_workload(workload, share=self.shares[workload], rank=rank)

    def run(self, events: Iterable[Event], watch: Watch | None = None) -> World:
        """Apply `events`; call `watch` after each of them, and after each single admission."""
        for event in events:
            if isinstance(event, Tick):
                for pick in self._tick(event.slots):
                    if watch is not None:
                        watch(self, pick)
            else:
                self._apply(event)
                if watch is not None:
                    watch(self, None)
        return self

    def _tick(self, slots: int) -> Iterator[Pick]:
        for _ in range(slots):
            for pick in self.scheduler.plan(1).picks:
                self.running.append(pick.org)
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
            case Settle(tasks, stride):
                chosen = range(0, len(self.running), stride)[:tasks]
                for org, ended in Counter(self.running[i] for i in chosen).items():
                    self.scheduler.settle(org, ended)
                self.running = [o for i, o in enumerate(self.running) if i not in chosen]
            case Pause(org, paused):
                self._decide(org, replace(self.config[org], paused=paused))
            case Cap(org, burst_max):
                self._decide(org, replace(self.config[org], burst_max=burst_max))
            case Weigh(org, weight):
                self._decide(org, replace(self.config[org], weight=weight))
            case Trial(slots):
                self.scheduler.undo(self.scheduler.plan(slots))

    def _meet(self, org: str) -> None:
        if org not in self.scheduler.orgs:
            self._configure(org)

    def _decide(self, org: str, decided: OrgConfig) -> None:
        self.config[org] = decided
        if org in self.scheduler.orgs:
            self._configure(org)

    def _configure(self, org: str) -> None:
        decided = self.config[org]
        self.scheduler.configure(
            org, weight=decided.weight, rank=0, burst_max=decided.burst_max, paused=decided.paused
        )

    def reborn(self, rows: Mapping[str, OrgState], *, renormalise: bool = False) -> World:
        """Return this world under a new leader: rows first, then the configuration as it is now."""
        floor = self.scheduler.virtual_time if renormalise else 0
        scheduler = WeightedScheduler(
            virtual_time=self.scheduler.virtual_time - floor, admit_seq=self.scheduler.admit_seq
        )
        for row in rows.values():
            scheduler.load(_persisted(row, floor, row.virtual_time if renormalise else 0))
        twin = World(
            dict(self.config), self.shares, scheduler, list(self.running), list(self.picks)
        )
        for name in rows:
            twin._configure(name)
        return twin


def _persisted(row: OrgState, floor: int, inner: int) -> OrgState:
    """Return what the tables keep of an org, with `floor` and `inner` taken off its tags."""
    return OrgState(
        row.org,
        tag=row.tag - floor,
        virtual_time=row.virtual_time - inner,
        in_flight=row.in_flight,
        last_admit=row.last_admit,
        flows={
            workload: FlowState(workload, flow.tag - inner, flow.backlog)
            for workload, flow in row.flows.items()
        },
    )


def snapshot(scheduler: Scheduler) -> object:
    """Everything a decision could depend on, as values."""
    orgs = {
        name: (
            (org.weight, org.rank, org.burst_max, org.paused),
            (org.tag, org.virtual_time, org.in_flight, org.last_admit, org.backlog),
            org.eligible,
            {f.workload: (f.tag, f.backlog) for f in org.flows.values()},
        )
        for name, org in scheduler.orgs.items()
    }
    totals = (scheduler.in_flight, scheduler.backlog, scheduler.eligible)
    line = [org.org for org in scheduler.order()]
    return orgs, totals, line, scheduler.virtual_time, scheduler.admit_seq


def eligible(world: World) -> set[str]:
    """Return the orgs that a free slot could go to, asked of each of them."""
    return {org.org for org in world.scheduler.orgs.values() if org.may_run}


# Strategies ------------------------------------------------------------------------------------


def orgs() -> st.SearchStrategy[str]:
    """Draw one org."""
    return st.sampled_from(ORGS)


def workloads() -> st.SearchStrategy[str]:
    """Draw one workload."""
    return st.sampled_from(WORKLOADS)


def weights() -> st.SearchStrategy[int]:
    """Draw a weight whose charge has no rounding."""
    return st.sampled_from(EXACT_WEIGHTS)


def caps() -> st.SearchStrategy[int | None]:
    """Draw a `burst_max`."""
    return st.none() | st.integers(1, 4)


def arrivals() -> st.SearchStrategy[Event]:
    """Draw tasks that are staged."""
    return st.builds(Arrive, orgs(), workloads(), st.integers(1, 12))


def ticks() -> st.SearchStrategy[Event]:
    """Draw slots given away."""
    return st.builds(Tick, st.integers(1, 12))


def demand() -> st.SearchStrategy[Event]:
    """Draw what producers, workers and the leader do: mostly, the common."""
    settle = st.builds(Settle, st.integers(1, 12), st.integers(1, 3))
    correct = st.builds(Correct, orgs(), workloads(), st.integers(0, 3))
    trial = st.builds(Trial, st.integers(1, 8))
    return st.one_of(arrivals(), ticks(), settle, arrivals(), ticks(), settle, correct, trial)


def decisions() -> st.SearchStrategy[Event]:
    """Draw what operators do, weights aside."""
    return st.builds(Pause, orgs(), st.booleans()) | st.builds(Cap, orgs(), caps())


@st.composite
def histories(draw: st.DrawFn, *, reweigh: bool = True) -> list[Event]:
    """Draw a history that opens with a backlog; weights change in it only if `reweigh`."""
    events = demand() | decisions()
    if reweigh:
        events = events | st.builds(Weigh, orgs(), weights())
    # A list is about twice its least size long; what is not needed shrinks to None.
    drawn = [
        *draw(st.lists(st.none() | arrivals(), min_size=5, max_size=10)),
        *draw(st.lists(st.none() | events, min_size=15, max_size=60)),
    ]
    return [event for event in drawn if event is not None]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw orgs and workloads as configured, before anything happened."""
    return World(
        config={org: OrgConfig(draw(weights()), draw(caps())) for org in ORGS},
        shares={workload: draw(weights()) for workload in WORKLOADS},
    )
