"""What the scheduler is measured against: a naive twin, and histories to drive it through.

The twin is the protocol read out loud: no heap, no journal, every question asked of every org. The
histories are lists of events, so that a failing example prints as what happened.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hypothesis import strategies as st

from orchestrator.fairness import FlowState, OrgState, Pick, WeightedScheduler

ORGS = ("ada", "bob", "cyd", "dan", "eve")
WORKLOADS = ("api", "etl", "ocr")
# 2**a * 5**b divides the cost of one task: the charge of such a weight has no rounding.
EXACT_WEIGHTS = (1, 2, 4, 5, 8, 10, 20, 50)

# The naive twin ---------------------------------------------------------------------------------


@dataclass
class NaiveFlow:
    """One workload of an org: its tag and its waiting tasks."""

    tag: int = 0
    backlog: int = 0


@dataclass
class NaiveOrg:
    """One org, in the letters of the protocol."""

    appeared: int
    w: int = 1
    b: int | None = None
    paused: bool = False
    tag: int = 0
    v: int = 0
    n: int = 0
    served: int = 0
    flows: dict[str, NaiveFlow] = field(default_factory=dict)

    @property
    def eligible(self) -> bool:
        """Tell whether it has backlog, is below its cap and is not paused."""
        below = self.b is None or self.n < self.b
        return below and not self.paused and any(f.backlog > 0 for f in self.flows.values())


class NaiveScheduler:
    """SSFQ in count mode, O(orgs) per question."""

    def __init__(self) -> None:
        self.v = 0
        self.served = 0
        self.orgs: dict[str, NaiveOrg] = {}
        self.classes: dict[str, tuple[int, int]] = {}

    @contextmanager
    def _change(self) -> Iterator[None]:
        orgs = {name for name, org in self.orgs.items() if org.eligible}
        flows = {(n, w) for n, o in self.orgs.items() for w, f in o.flows.items() if f.backlog > 0}
        yield
        for name, org in self.orgs.items():
            if org.eligible and name not in orgs:
                org.tag = max(org.tag, self.v)
            for workload, flow in org.flows.items():
                if flow.backlog > 0 and (name, workload) not in flows:
                    flow.tag = max(flow.tag, org.v)

    def _org(self, name: str) -> NaiveOrg:
        return self.orgs.setdefault(name, NaiveOrg(appeared=len(self.orgs)))

    def configure(self, name: str, weight: int, burst_max: int | None, paused: bool) -> None:
        """Set what operators decide of an org."""
        with self._change():
            org = self._org(name)
            org.w, org.b, org.paused = weight, burst_max, paused

    def set_workload(self, workload: str, share: int, rank: int) -> None:
        """Set the share and the rank of a workload."""
        self.classes[workload] = (share, rank)

    def set_backlog(self, name: str, workload: str, count: int) -> None:
        """Set how many tasks of a flow wait."""
        with self._change():
            self._org(name).flows.setdefault(workload, NaiveFlow()).backlog = count

    def settle(self, name: str) -> None:
        """End one task of an org."""
        with self._change():
            self.orgs[name].n -= 1

    def plan(self, slots: int) -> list[tuple[str, str, int]]:
        """Give up to `slots` slots away: (org, workload, charge) in order."""
        picks: list[tuple[str, str, int]] = []
        while len(picks) < slots and any(org.eligible for org in self.orgs.values()):
            name, org = min(
                ((name, org) for name, org in self.orgs.items() if org.eligible),
                key=lambda item: (item[1].tag, item[1].n > 0, item[1].served, item[1].appeared),
            )
            workload, flow = min(
                ((w, f) for w, f in org.flows.items() if f.backlog > 0),
                key=lambda item: (item[1].tag, self.classes[item[0]][1], item[0]),
            )
            self.v, org.v = max(self.v, org.tag), max(org.v, flow.tag)
            charge = 1_000_000 * 1024 // org.w
            org.tag += charge
            flow.tag += 1_000_000 * 1024 // self.classes[workload][0]
            self.served += 1
            org.served, org.n, flow.backlog = self.served, org.n + 1, flow.backlog - 1
            picks.append((name, workload, charge))
        return picks

    def trial(self, slots: int) -> list[tuple[str, str, int]]:
        """Return what `plan` would pick, and stay as it is."""
        return copy.deepcopy(self).plan(slots)


# Histories --------------------------------------------------------------------------------------


class Arrive(NamedTuple):
    """More tasks of a flow are staged."""

    org: str
    workload: str
    count: int


class Correct(NamedTuple):
    """The true backlog of a flow becomes known."""

    org: str
    workload: str
    count: int


class Settle(NamedTuple):
    """Up to `count` tasks in flight end: one in `stride` of them, oldest first."""

    count: int
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
    """A scheduler, the orgs as configured, the org of each task in flight, and every admission so far.

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
            case Arrive(org, workload, count):
                self._meet(org)
                self.scheduler.arrive(org, workload, count)
            case Correct(org, workload, count):
                self._meet(org)
                self.scheduler.set_backlog(org, workload, count)
            case Settle(count, stride):
                chosen = range(0, len(self.running), stride)[:count]
                for org, ended in Counter(self.running[i] for i in chosen).items():
                    self.scheduler.settle(org, ended)
                self.running = [o for i, o in enumerate(self.running) if i not in chosen]
            case Pause(org, paused):
                self._decide(org, paused=paused)
            case Cap(org, burst_max):
                self._decide(org, burst_max=burst_max)
            case Weigh(org, weight):
                self._decide(org, weight=weight)
            case Trial(slots):
                self.scheduler.undo(self.scheduler.plan(slots))

    def _meet(self, org: str) -> None:
        if org not in self.scheduler.orgs:
            self._configure(org)

    def _decide(self, org: str, **change: int | bool | None) -> None:
        self.config[org] = replace(self.config[org], **change)  # type: ignore[arg-type]
        if org in self.scheduler.orgs:
            self._configure(org)

    def _configure(self, org: str) -> None:
        decided = self.config[org]
        self.scheduler.configure(
            org, weight=decided.weight, rank=0, burst_max=decided.burst_max, paused=decided.paused
        )

    def reborn(self, rows: Mapping[str, OrgState], *, renormalise: bool = False) -> World:
        """Return this world under a new scheduler that loaded `rows` and the present config."""
        floor = self.scheduler.virtual_time if renormalise else 0
        twin = World(
            config=dict(self.config),
            shares=self.shares,
            scheduler=WeightedScheduler(
                virtual_time=self.scheduler.virtual_time - floor,
                admit_seq=self.scheduler.admit_seq,
            ),
            running=list(self.running),
            picks=list(self.picks),
        )
        for name, row in rows.items():
            decided = self.config[name]
            inner = row.virtual_time if renormalise else 0
            twin.scheduler.load(
                OrgState(
                    name,
                    weight=decided.weight,
                    burst_max=decided.burst_max,
                    paused=decided.paused,
                    tag=row.tag - floor,
                    virtual_time=row.virtual_time - inner,
                    in_flight=row.in_flight,
                    last_admit=row.last_admit,
                    flows={
                        flow.workload: FlowState(flow.workload, flow.tag - inner, flow.backlog)
                        for flow in row.flows.values()
                    },
                )
            )
        return twin


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


def demand() -> st.SearchStrategy[Event]:
    """Draw what producers, workers and the leader do: mostly, the common."""
    tick = st.builds(Tick, st.integers(1, 12))
    settle = st.builds(Settle, st.integers(1, 12), st.integers(1, 3))
    correct = st.builds(Correct, orgs(), workloads(), st.integers(0, 3))
    trial = st.builds(Trial, st.integers(1, 8))
    return st.one_of(arrivals(), tick, settle, arrivals(), tick, settle, correct, trial)


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
