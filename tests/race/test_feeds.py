"""The two feeds: whatever writers do, each staged task is admitted once, each slot freed once."""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from psycopg import Connection

from orchestrator.errors import LeadershipLost
from orchestrator.model import AttemptStatus
from orchestrator.store import admission, cut, orgs, staging
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import (
    ack,
    claim,
    finish,
    give_back,
    tasks,
)
from tests.support.waiting import PATIENCE_S, until, until_blocked

WRITERS = 10
WORKERS = 4
ROUNDS = 12


def admitted(stage: Stage) -> list[int]:
    return [row[0] for row in stage.rows("select task_id from orchestrator.task_queue order by 1")]


def stage_in(connection: Connection[Any], org: str = "a", **fields: Any) -> int:
    """Stage one task in whatever transaction is open."""
    (stored,) = run(connection, staging.enqueue(1, tasks(1, org, **fields), ["{}"]))
    return int(stored.id)


# One writer at a time, against ticks and takeovers -----------------------------------------------


def test_a_task_is_admitted_after_a_long_transaction_whatever_ticked_meanwhile(
    stage: Stage,
) -> None:
    leader = stage.leader()
    writer = stage.connect()
    writer.execute("begin")
    late = stage_in(writer)
    early = stage.enqueue(2)
    assert leader.drain_ticks() == 2
    # Idle looks move the snapshots too.
    for _ in range(3):
        leader.step()
    writer.execute("commit")
    leader.drain_ticks()
    assert admitted(stage) == sorted([late, *early])
    assert leader.scheduler.backlog == 0


def test_what_was_rolled_back_is_never_admitted(stage: Stage) -> None:
    leader = stage.leader()
    writer = stage.connect()
    writer.execute("begin")
    stage_in(writer)
    leader.step()
    writer.execute("rollback")
    kept = stage.enqueue(1)
    leader.drain_ticks()
    assert admitted(stage) == kept
    assert leader.scheduler.backlog == 0


def test_of_savepoints_only_what_was_kept_is_admitted(stage: Stage) -> None:
    leader = stage.leader()
    writer = stage.connect()
    writer.execute("begin")
    before = stage_in(writer)
    writer.execute("savepoint one")
    stage_in(writer)
    leader.step()
    writer.execute("rollback to savepoint one")
    writer.execute("savepoint two")
    inside = stage_in(writer)
    leader.step()
    writer.execute("release savepoint two")
    leader.step()
    writer.execute("commit")
    leader.drain_ticks()
    assert admitted(stage) == [before, inside]
    assert leader.scheduler.backlog == 0


@pytest.mark.parametrize("takeover", ["before the commit", "after the commit"])
def test_a_takeover_beside_a_long_transaction_misses_nothing(stage: Stage, takeover: str) -> None:
    leader = stage.leader()
    first = stage.enqueue(1)
    leader.drain_ticks()
    writer = stage.connect()
    writer.execute("begin")
    late = stage_in(writer)
    second = stage.enqueue(1)
    # Persists a snapshot in which the writer is still at it.
    assert leader.drain_ticks() == 1
    if takeover == "before the commit":
        leader = stage.leader(lock=False)
        leader.tick()
        writer.execute("commit")
    else:
        writer.execute("commit")
        leader = stage.leader(lock=False)
    leader.drain_ticks()
    assert admitted(stage) == sorted([*first, *second, late])
    assert leader.scheduler.backlog == 0
    assert leader.sweep() == []


def test_what_a_lost_term_had_read_and_not_persisted_is_read_again(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(3)
    assert leader.drain_ticks() == 3
    run(stage.db, orgs.pause_org("a", None, actor="test"))
    ack(stage.db, claim(stage.db, 2))
    stage.enqueue(4)
    # Settled and counted in memory; with nothing to admit, nothing of it is written.
    assert leader.drain_ticks() == 0
    assert (leader.scheduler.in_flight, leader.scheduler.backlog) == (1, 4)
    successor = stage.leader(lock=False)
    successor.tick()
    assert (successor.scheduler.in_flight, successor.scheduler.backlog) == (1, 4)
    assert successor.sweep() == []


@pytest.mark.parametrize("told", [1, 2])
def test_a_task_that_overtakes_in_its_flow_between_feed_and_admission_leaves_nobody_behind(
    stage: Stage, told: int
) -> None:
    leader = stage.leader()
    low = stage.enqueue(told, priority=3)
    holder = stage.connect()
    holder.execute("begin")
    holder.execute("select from orchestrator.orchestrator_lock for update")
    tick = stage.start(leader.tick)
    # The feed was read and told of these tasks; the fetch comes after the fence.
    until_blocked(stage.db, leader.connection, by=holder)
    high = stage.enqueue(1, priority=8)
    holder.execute("commit")
    tick.result(PATIENCE_S)
    leader.drain_ticks()
    assert admitted(stage) == sorted(low + high)


@pytest.mark.parametrize("takeover", [False, True], ids=["one term", "a takeover"])
def test_a_backlog_that_was_counted_in_stretches_is_admitted_to_its_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, takeover: bool
) -> None:
    # More than one feed reads, and than one count counts, at the size of a test.
    monkeypatch.setattr(admission, "FEED_MAX", 50)
    monkeypatch.setattr(cut, "COUNT_MAX", 20)
    leader = stage.leader()
    leader.reign.tick.window.parked = 40
    staged = stage.enqueue(130)
    assert leader.tick().admitted == 40
    if takeover:
        leader = stage.leader(lock=False)
    leader.reign.tick.window.parked = 500
    leader.drain_ticks()
    assert admitted(stage) == staged
    assert leader.sweep() == []


def test_a_backlog_that_was_counted_in_stretches_waits_its_turn_and_no_longer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a stretch ends in the middle of a plan, the flow is not idle: its next task stands where
    # its tag says, before those of an org that has been served more.
    monkeypatch.setattr(admission, "FEED_MAX", 10)
    monkeypatch.setattr(cut, "COUNT_MAX", 5)
    stage.set_org("heavy", weight=10)
    stage.set_org("light", weight=1)
    leader = stage.leader()
    leader.reign.tick.window.parked = 44
    stage.enqueue(80, "heavy")
    stage.enqueue(80, "light")
    assert leader.tick().admitted == 44
    rows = stage.rows("select org_id, count(*) from orchestrator.task_queue group by 1")
    assert dict(rows) == {"heavy": 40, "light": 4}


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_slot_is_freed_when_the_transaction_of_an_ack_ends(stage: Stage, ending: str) -> None:
    leader = stage.leader()
    stage.set_org("a", burst_max=1)
    first, second = stage.enqueue(2)
    leader.drain_ticks()
    worker = stage.connect()
    claims = claim(worker, 1)
    worker.execute("begin")
    assert len(finish(worker, claims)) == 1
    for _ in range(3):
        leader.step()
    assert leader.scheduler.in_flight == 1
    worker.execute(ending)
    leader.drain_ticks()
    assert admitted(stage) == [second if ending == "commit" else first]
    assert leader.scheduler.in_flight == 1


# Ten writers, four workers, a new leader every few ticks -----------------------------------------


class Writer:
    """Stages tasks in transactions of every kind; keeps the ids of those that were committed."""

    def __init__(self, stage: Stage, number: int, hold: Event) -> None:
        self._connection = stage.connect()
        self._draw = random.Random(number)
        self._org = f"org-{number % 4}"
        self._hold = hold
        self.committed: list[int] = []

    def run(self) -> list[int]:
        for turn in range(ROUNDS):
            kinds = [self._plain, self._rolled_back, self._savepoints, self._slow]
            # One of the slow ones stays open until all others are done.
            kind = self._draw.choices(kinds, [6, 2, 3, 1])[0] if turn else self._slow
            kind()
        return self.committed

    def _some(self) -> list[int]:
        specs = tasks(self._draw.randint(1, 4), self._org, priority=self._draw.randint(1, 10))
        return [
            stored.id
            for stored in run(self._connection, staging.enqueue(1, specs, ["{}"] * len(specs)))
        ]

    def _plain(self) -> None:
        self.committed += self._some()

    def _rolled_back(self) -> None:
        with self._connection.transaction(force_rollback=True):
            self._some()

    def _savepoints(self) -> None:
        with self._connection.transaction():
            kept = self._some()
            with self._connection.transaction(force_rollback=True):
                self._some()
            with self._connection.transaction():
                kept += self._some()
        self.committed += kept

    def _slow(self) -> None:
        with self._connection.transaction():
            kept = self._some()
            self._hold.wait(PATIENCE_S)
        self.committed += kept


def work(stage: Stage, number: int, hold: Event, over: Callable[[], bool]) -> None:
    """Claim and end tasks in every way until `over`."""
    connection = stage.connect()
    draw = random.Random(number)
    while not over():
        claims = claim(connection, draw.randint(1, 5))
        if not claims:
            continue
        way = draw.randrange(5)
        if way == 0:
            give_back(connection, claims, AttemptStatus.RELEASED)
            continue
        if way == 1:
            with connection.transaction(force_rollback=True):
                finish(connection, claims)
        elif way == 2:
            with connection.transaction():
                with connection.transaction(force_rollback=True):
                    finish(connection, claims[:1])
                finish(connection, claims[1:])
            claims = claims[:1]
        elif way == 3 and not hold.is_set():
            with connection.transaction():
                finish(connection, claims)
                hold.wait(PATIENCE_S)
            continue
        ack(connection, claims)


class Succession:
    """A leader that is deposed every few ticks by one that never held the advisory lock."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.leader = stage.leader(lock=False)
        self.terms = 1
        self._ticks = 0

    def tick(self) -> Succession:
        """Tick once, under whoever leads by then."""
        self._ticks += 1
        if self._ticks % 7 == 0 and self.terms < 25:
            deposed, self.leader = self.leader, self._stage.leader(lock=False)
            self.terms += 1
            with pytest.raises(LeadershipLost):
                deposed.reign.tick.publish_floor()
            deposed.close()
        self.leader.tick()
        return self


def test_nothing_is_lost_or_doubled_by_writers_workers_and_takeovers(stage: Stage) -> None:
    for org in range(4):
        stage.set_org(f"org-{org}", burst_max=6 + org)
    hold, finished = Event(), Event()
    writers = [stage.start(Writer(stage, n, hold).run) for n in range(WRITERS)]
    workers = [stage.start(work, stage, n, hold, finished.is_set) for n in range(WORKERS)]
    reigns = Succession(stage)

    def ended() -> int:
        reigns.tick()
        return int(stage.one("select count(*) from orchestrator.task_attempt where final"))

    def written() -> bool:
        reigns.tick()
        return all(writer.done() for writer in writers)

    try:
        until(lambda: reigns.tick().terms > 12, "a dozen takeovers beside open transactions")
        hold.set()
        until(written, "the writers are done")
        staged = [task_id for writer in writers for task_id in writer.result(0)]
        until(lambda: ended() == len(staged), "every task has ended")
    finally:
        hold.set()
        finished.set()
    for worker in workers:
        worker.result(PATIENCE_S)
    check(stage.db)
    finals = stage.rows("select task_id from orchestrator.task_attempt where final")
    assert sorted(task_id for (task_id,) in finals) == sorted(staged)
    # The feeds alone say so: nothing is left for the sweep to repair.
    leader = reigns.tick().leader
    assert (leader.scheduler.in_flight, leader.scheduler.backlog) == (0, 0)
    assert leader.sweep() == []
    assert stage.one("select sum(admitted) from orchestrator.tick_log") == stage.one(
        "select count(*) from orchestrator.task_attempt where dispatch_key is not null"
    )


def test_a_sweep_repairs_nothing_that_the_feed_is_about_to_tell(stage: Stage) -> None:
    # Sweeps slower than the work: each finds other tasks, staged since the last look at the feed.
    leader = stage.leader()
    for _ in range(3):
        (task,) = stage.enqueue(1)
        assert leader.sweep() == []
        assert leader.drain_ticks() == 1
        assert stage.one("select max(task_id) from orchestrator.task_queue") == task
