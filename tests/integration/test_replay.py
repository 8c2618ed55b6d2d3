"""What the leader decided on a real database, the pure scheduler decides again."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any, NamedTuple

import pytest

from orchestrator.fairness import (
    Limits,
    Pick,
    Ready,
    Settled,
    WeightedScheduler,
    free_slots,
    settled,
)
from orchestrator.fairness.simulation.jsonl import format_trace, parse_trace
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.model import PRIORITY_MAX, AttemptStatus, Claim, CostMode
from orchestrator.policyfile import Draft
from orchestrator.store import history, orgs
from orchestrator.store import queue as store_queue
from orchestrator.store.history import History
from orchestrator.store.names import EXPRESS_SHIFT, MAIN_MIN
from orchestrator.store.sql import run
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, claim, endings

MS = 1_000
SECOND = 1_000_000
KAPPA = 100

CAPACITY = 12
RESERVE = 2
WINDOW = 6
ORGS = {"a": 1, "b": 3, "c": 7, "d": 2}
WORKLOADS = {"api": 8, "etl": 2}


class Task(NamedTuple):
    id: int
    org: str
    workload: str
    priority: int


class Terms(NamedTuple):
    org: str
    weight: int
    burst_max: int | None
    paused: bool


class Step(NamedTuple):
    """What happened from one tick to the next: before it, what it admitted, and after it."""

    changed: list[Terms]
    staged: list[Task]
    ended: list[tuple[int, int]]  # task, microseconds
    admitted: list[int]
    claimed: list[int]


# A real run --------------------------------------------------------------------------------------


class Player:
    """Draws what happens next, lets it happen on the database, and writes it down."""

    def __init__(self, stage: Stage, leader: SteppedLeader, seed: int) -> None:
        self.stage = stage
        self.leader = leader
        self.dice = random.Random(seed)
        self.tasks: dict[int, Task] = {}
        self.running: list[Claim] = []
        self.seen_keys: set[int] = set()

    def step(self, *, quiet: bool) -> Step:
        changed = [] if quiet else self._configure()
        ended, again = self._end()
        staged = again if quiet else again + self._enqueue()
        self.leader.tick()
        admitted = self._admitted()
        claims = claim(self.stage.db, self.dice.randint(0, 5) if not quiet else 9)
        self.running += claims
        return Step(changed, staged, ended, admitted, [each.id for each in claims])

    def _configure(self) -> list[Terms]:
        if self.dice.random() < 0.85:
            return []
        org = self.dice.choice(list(ORGS))
        terms = Terms(
            org, self.dice.randint(1, 9), self.dice.choice([None, 2, 5]), self.dice.random() < 0.2
        )
        self.stage.set_org(org, weight=terms.weight, burst_max=terms.burst_max)
        with self.stage.db.transaction():
            change = orgs.pause_org(org, None, actor="test")
            run(self.stage.db, change if terms.paused else orgs.resume_org(org, actor="test"))
        return [terms]

    def _enqueue(self) -> list[Task]:
        staged = []
        for _ in range(self.dice.randint(0, 3)):
            org, workload = self.dice.choice(list(ORGS)), self.dice.choice(list(WORKLOADS))
            priority = self.dice.randint(1, 10)
            ids = self.stage.enqueue(
                self.dice.randint(1, 4), org, workload=workload, priority=priority, max_attempts=99
            )
            staged += [Task(task, org, workload, priority) for task in ids]
        self.tasks |= {task.id: task for task in staged}
        return staged

    def _end(self) -> tuple[list[tuple[int, int]], list[Task]]:
        """End some of what runs; return what each took, and which tasks are staged again."""
        self.dice.shuffle(self.running)
        most = len(self.running)
        count = self.dice.randint(min(1, most), most)
        ending, self.running = self.running[:count], self.running[count:]
        self.stage.do(
            "update orchestrator.task_queue set claimed_at = claimed_at - interval '1 h'"
            " where claim_id is not null"
        )
        ended, again = [], []
        for one in ending:
            fails = self.dice.random() < 0.1
            # Each org's tasks are of another length.
            cost_us = self.dice.randint(1, 50) * ord(one.org) % 97 * 10 * MS
            status = AttemptStatus.FAILED if fails else AttemptStatus.SUCCEEDED
            (how,) = endings([one], status)
            with self.stage.db.transaction():
                end = store_queue.give_back if fails else store_queue.finish
                run(self.stage.db, end(1, [how._replace(cost_us=cost_us)], worker="test"))
            ended.append((one.id, cost_us))
            again += [self.tasks[one.id]] if fails else []
        return ended, again

    def _admitted(self) -> list[int]:
        """Return the tasks that were admitted since the last look, in the order of admission."""
        rows = self.stage.rows("select dispatch_key, task_id from orchestrator.task_queue")
        new = sorted((admit_seq(key), task) for key, task in rows if key not in self.seen_keys)
        self.seen_keys |= {key for key, _ in rows}
        return [task for _, task in new]


def admit_seq(dispatch_key: int) -> int:
    """Return which admission a key stands for."""
    key = dispatch_key + EXPRESS_SHIFT if dispatch_key < MAIN_MIN else dispatch_key
    return key // 16 + KAPPA * (PRIORITY_MAX - key % 16)


# The same, pure ----------------------------------------------------------------------------------


class Twin:
    """A fresh scheduler that is told what happened, and admits from its own staging queues."""

    def __init__(self) -> None:
        self.scheduler = WeightedScheduler()
        self.scheduler.set_limits(capacity=CAPACITY, headroom=None)
        for rank, (name, share) in enumerate(WORKLOADS.items(), 1):
            self.scheduler.set_workload(name, share=share, rank=rank, express=name == "api")
        self.terms = {org: Terms(org, weight, None, False) for org, weight in ORGS.items()}
        self.staged: dict[tuple[str, str], list[tuple[int, Task]]] = defaultdict(list)
        self.picks: dict[int, Pick] = {}
        self.ready: set[int] = set()

    def step(self, step: Step) -> list[int]:
        """Do what the leader does in one tick; return the tasks admitted, in order."""
        self._settle(step.ended)
        self.scheduler.wake()
        self._arrive(step.staged)
        for terms in step.changed:
            self.terms[terms.org] = terms
            if terms.org in self.scheduler.orgs:
                self._configure(terms.org)
        if step.changed:
            self.scheduler.wake()
        admitted = self._admit()
        self.ready -= set(step.claimed)
        return admitted

    def _settle(self, ended: Sequence[tuple[int, int]]) -> None:
        """Settle flow by flow, as the feed tells of it."""
        flows: dict[tuple[str, str, bool], list[Settled]] = defaultdict(list)
        for task, cost_us in ended:
            one = settled(self.picks.pop(task), cost_us)
            flows[one.org, one.workload, one.reserved].append(one)
        for flow, ones in sorted(flows.items()):
            totals = map(sum, zip(*(one[3:] for one in ones), strict=True))
            self.scheduler.settle(Settled(*flow, *totals))

    def _arrive(self, staged: Sequence[Task]) -> None:
        for task in sorted(staged):
            if task.org not in self.scheduler.orgs:
                self._configure(task.org)
            flow = task.org, task.workload
            heappush(self.staged[flow], (-task.priority, task))
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for task in sorted(staged):
            counts[task.org, task.workload] += 1
        for flow, count in counts.items():
            self.scheduler.arrive(*flow, count)

    def _configure(self, org: str) -> None:
        _, weight, burst_max, paused = self.terms[org]
        self.scheduler.configure(org, weight=weight, rank=5, burst_max=burst_max, paused=paused)

    def _admit(self) -> list[int]:
        express = sum(self.picks[task].express for task in self.ready)
        slots = free_slots(
            self.scheduler,
            Limits(CAPACITY, RESERVE),
            WINDOW,
            Ready(len(self.ready) - express, express),
        )
        admitted = []
        if self.scheduler.eligible and any(slots):
            for pick in self.scheduler.plan(*slots).picks:
                _, task = heappop(self.staged[pick.org, pick.workload])
                self.picks[task.id] = pick
                self.ready.add(task.id)
                admitted.append(task.id)
        self.scheduler.close_round()
        return admitted


@pytest.fixture
def _no_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charges that grow with the clock on the wall cannot be told to a twin."""
    monkeypatch.setattr("orchestrator.leader.refresh.REFRESH_INTERVAL_S", 10**9)


@pytest.mark.usefixtures("_no_refresh")
@pytest.mark.parametrize("seed", range(4))
def test_a_pure_scheduler_admits_what_the_leader_admitted_task_by_task(
    stage: Stage, seed: int
) -> None:
    stage.set_queue(capacity=CAPACITY, express_reserve=RESERVE, ready_max=WINDOW, kappa=KAPPA)
    with stage.db.transaction():
        run(stage.db, orgs.set_workload("api", express=True, actor="test"))
    for org, weight in ORGS.items():
        stage.set_org(org, weight=weight)
    player, twin = Player(stage, stage.leader(), seed), Twin()
    steps = [player.step(quiet=False) for _ in range(40)]
    for org, weight in ORGS.items():  # whatever is paused or capped may go on
        stage.set_org(org, weight=weight, burst_max=None)
        with stage.db.transaction():
            run(stage.db, orgs.resume_org(org, actor="test"))
    freed = [Terms(org, weight, None, False) for org, weight in ORGS.items()]
    last = player.step(quiet=True)
    steps.append(last._replace(changed=freed))
    while player.running or steps[-1].admitted:
        steps.append(player.step(quiet=True))
    admitted = [step.admitted for step in steps]
    assert [twin.step(step) for step in steps] == admitted
    # Every task was admitted, some of them more than once, and in more ways than one.
    assert {task for step in admitted for task in step} == player.tasks.keys()
    assert sum(map(len, admitted)) > len(player.tasks) > 60
    assert sum(bool(step.changed) for step in steps) > 2
    assert stage.one("select count(*) from orchestrator.task_attempt where reserved") > 3


# A history, simulated ----------------------------------------------------------------------------

SLOTS = 4
MIXED_S = {"a": 1, "b": 2, "c": 1, "d": 3}
# The leader settles all ends of a second together, the simulator one by one: of unequal ones the
# guess for work that was never measured would not be the same.
EQUAL_S = dict.fromkeys(MIXED_S, 2)


def play_by_the_second(
    stage: Stage,
    leader: SteppedLeader,
    seed: int,
    durations_s: Mapping[str, int],
    critical_part: float,
) -> None:
    """Let a minute pass, second by second; then let the tables tell of those instants."""
    dice = random.Random(seed)
    arrived: dict[int, int] = {}
    started: dict[int, int] = {}
    running: dict[int, list[Claim]] = defaultdict(list)
    second = 0
    while second < 60 or running:
        known, ended = len(arrived), running.pop(second, [])
        for one in ended:
            _end(stage, one, durations_s[one.org] * SECOND)
        for _ in range(dice.randint(0, 2) if second < 60 else 0):
            org = dice.choice(list(durations_s))
            workload, priority = dice.choice(list(WORKLOADS)), dice.randint(1, 10)
            critical = dice.random() < critical_part
            for task in stage.enqueue(
                dice.randint(1, 4), org, workload=workload, priority=priority, critical=critical
            ):
                arrived[task] = second
        # One tick, and only where there is news: the simulator has no rounds besides.
        if ended or len(arrived) > known:
            leader.tick()
        for one in claim(stage.db, SLOTS):
            started[one.id] = second
            running[second + durations_s[one.org]].append(one)
        second += 1
    assert started.keys() == arrived.keys()
    _tell(stage, arrived, started)


def _end(stage: Stage, one: Claim, cost_us: int) -> None:
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '1 h'")
    (how,) = endings([one], AttemptStatus.SUCCEEDED)
    run(stage.db, store_queue.finish(1, [how._replace(cost_us=cost_us)], worker="test"))


def _tell(stage: Stage, arrived: dict[int, int], started: dict[int, int]) -> None:
    """Write into the tables when everything happened, counted from an hour ago."""
    stage.do(
        "update orchestrator.task set created_at ="
        " date_trunc('hour', clock_timestamp()) - interval '1 h' + u.second * interval '1 s'"
        " from unnest(%s::bigint[], %s::integer[]) as u(id, second) where task.id = u.id",
        list(arrived),
        list(arrived.values()),
    )
    stage.do(
        "update orchestrator.task_attempt set claimed_at = at, ended_at ="
        " at + cost_us * interval '1 microsecond'"
        " from (select id, date_trunc('hour', clock_timestamp()) - interval '1 h'"
        " + second * interval '1 s' as at"
        " from unnest(%s::bigint[], %s::integer[]) as u(id, second)) s where task_id = s.id",
        list(started),
        list(started.values()),
    )


@pytest.mark.parametrize(
    ("cost_mode", "durations_s"), [(CostMode.COUNT, MIXED_S), (CostMode.TIME, EQUAL_S)]
)
@pytest.mark.parametrize("critical_part", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(2))
def test_a_history_is_admitted_in_the_same_order_when_it_is_simulated(
    stage: Stage,
    cost_mode: CostMode,
    durations_s: Mapping[str, int],
    seed: int,
    critical_part: float,
) -> None:
    settings: dict[str, Any] = {"cost_mode": str(cost_mode), "kappa": KAPPA}
    stage.set_queue(capacity=SLOTS, **settings)
    for org, weight in ORGS.items():
        stage.set_org(org, weight=weight, burst_max=3 if org == "c" else None)
    leader = stage.leader()
    play_by_the_second(stage, leader, seed, durations_s, critical_part)
    keys = stage.rows(
        "select a.dispatch_key, a.org_id, a.workload, t.critical from orchestrator.task_attempt a"
        " join orchestrator.task t on t.id = a.task_id"
    )
    order = [of for _, *of in sorted((admit_seq(key), *of) for key, *of in keys)]
    draft: Draft = run(stage.db, history.configuration("default"))
    found: History = run(stage.db, history.read("default", 3 * 3600))
    assert found.trace.slots == SLOTS
    assert (found.estimated, len(found.trace)) == (0, len(order))
    trace = parse_trace(format_trace(found.trace))
    # Nothing was refreshed: on the wall no time passed.
    policy = replace(draft.settled, slots=SLOTS, check_us=10**12)
    assert of_admissions(simulate(trace, policy)) == order
    assert len(order) > 100
    assert any(critical for *_, critical in order) is (critical_part > 0)
    # Another policy would have decided otherwise.
    assert of_admissions(simulate(trace, replace(policy, orgs={}))) != order


def of_admissions(run: Run) -> list[list[Any]]:
    """Return org, workload and whether it is critical, of the tasks in the order of admission."""
    arrivals = map(run.trace.arrival, run.order)
    return [[each.org, each.workload, each.critical] for each in arrivals]
