"""What a claim, an end and a tick cost does not grow: in blocks looked at and in bytes logged.

Times are noisy, these counters are not. Each cost is the median over rounds of one tick, one claim
and one ack of so many tasks, in two databases that differ in one thing alone.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection, sql

from benchmarks.counters import Meter, flush
from benchmarks.load import stage_tasks
from benchmarks.speed.preload import put_leased
from orchestrator.store import admission
from orchestrator.store.sql import run
from tests.conftest import Server
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import PATIENT, SteppedLeader, ack, claim, reap

FLAT = 1.05
WARM_UP, ROUNDS = 3, 9
# Tasks of one round.
BATCH = 100


class Cost(NamedTuple):
    """What one call cost: blocks of tables and indexes that were looked at, bytes logged."""

    blocks: int
    wal_bytes: int


class Costs(NamedTuple):
    """The usual cost of each step of a round."""

    tick: Cost
    fold: Cost
    claim: Cost
    ack: Cost


NOTHING = Cost(0, 0)
# Five orgs and five flows that are admitted, and as many that are settled.
ROWS = 20

_numbers = itertools.count(1)


@pytest.fixture
def fresh(server: Server, template: str) -> Iterator[Callable[[], Stage]]:
    """Yield what opens a stage on a new database, as often as it is called."""
    with psycopg.connect(server.dsn, autocommit=True) as administrator, ExitStack() as opened:

        def drop(name: str) -> None:
            drop = sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            administrator.execute(drop)

        def make() -> Stage:
            name = f"flat_{next(_numbers)}"
            create = sql.SQL("create database {} template {} strategy file_copy")
            administrator.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
            opened.callback(drop, name)
            return opened.enter_context(Stage(server.database(name)))

        yield make


class Gauge:
    """Counts what one session looks at and logs."""

    def __init__(self, meter: Meter, session: Connection[Any]) -> None:
        self._meter = meter
        self._session = session

    def of(self, work: Callable[[], Any]) -> tuple[Cost, Any]:
        flush(self._session)
        before = self._meter.read()
        value = work()
        flush(self._session)
        spent = self._meter.since(before)
        return Cost(spent.blocks, spent.wal_bytes), value


def prepared(stage: Stage, *, staged: int = 2_000, orgs: int = 20, leased: int = 0) -> Stage:
    put_leased(stage.db, leased)
    stage_tasks(stage.db, staged, orgs)
    stage.do("vacuum (analyze)")
    return stage


def rounds(stage: Stage, tasks: int) -> Costs:
    """Measure rounds that admit, claim and end `tasks` each."""
    # Every task costs the same: which attempts overran would be a matter of time.
    stage.set_queue(ready_max=tasks, cost_mode="count")
    # A floor at every tick, so that every tick does the same.
    eager = PATIENT.model_copy(update={"floor_interval_s": 0.0, "batch_max": tasks})
    leader = stage.leader(settings=eager)
    leader.reign.tick.window.parked = tasks
    meter = Meter(stage.connect())
    costs = [_round(stage, leader, meter, tasks) for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    assert leader.sweep() == []
    return Costs(*(_median([getattr(cost, step) for cost in costs]) for step in Costs._fields))


def _round(stage: Stage, leader: SteppedLeader, meter: Meter, tasks: int) -> Costs:
    leading = Gauge(meter, leader.connection)
    tick, ticked = leading.of(leader.reign.tick.tick)
    assert ticked.admitted == tasks
    folded, _ = leading.of(leader.reign.fold)
    worker = Gauge(meter, stage.db)
    taken, claims = worker.of(lambda: claim(stage.db, tasks))
    ended, keys = worker.of(lambda: ack(stage.db, claims))
    assert len(keys) == len(claims) == tasks
    return Costs(tick, folded, taken, ended)


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(round(statistics.median(values)) for values in zip(*costs, strict=True)))


def assert_flat(few: Cost, many: Cost, *, more_blocks: int = 0) -> None:
    assert many.wal_bytes <= FLAT * few.wal_bytes
    assert many.blocks <= FLAT * few.blocks + more_blocks


def assert_all_flat(few: Costs, many: Costs) -> None:
    for one, other in zip(few, many, strict=True):
        assert_flat(one, other)


def test_tasks_that_are_put_in_front_lie_there_as_claims_leave_them(stage: Stage) -> None:
    put_leased(stage.db, 1_200)
    check(stage.db)
    leader = stage.leader()
    assert leader.sweep() == []
    behind = stage.enqueue(3)
    leader.drain_ticks()
    keys = stage.rows(
        "select max(dispatch_key) filter (where org_id = 'leased') <"
        " min(dispatch_key) filter (where org_id <> 'leased') from orchestrator.task_queue"
    )
    assert keys == [(True,)]
    assert [claimed.id for claimed in claim(stage.db, 10)] == behind
    stage.expire_leases()
    assert len(reap(stage.db)) == 1_203


def test_leased_tasks_in_front_cost_nothing(fresh: Callable[[], Stage]) -> None:
    few = rounds(prepared(fresh(), leased=2_000), BATCH)
    many = rounds(prepared(fresh(), leased=20_000), BATCH)
    assert_all_flat(few, many)


def test_against_an_empty_queue_an_index_has_one_more_level_and_that_is_all(
    fresh: Callable[[], Stage],
) -> None:
    none = rounds(prepared(fresh()), BATCH)
    many = rounds(prepared(fresh(), leased=20_000), BATCH)
    # An admission enters a task into two indexes of the task queue, a claim and an ack look for it
    # in one.
    assert_flat(none.tick, many.tick, more_blocks=2 * BATCH)
    assert_flat(none.claim, many.claim, more_blocks=BATCH)
    assert_flat(none.ack, many.ack, more_blocks=BATCH)


def test_a_backlog_costs_nothing(fresh: Callable[[], Stage]) -> None:
    few = rounds(prepared(fresh(), leased=2_000), BATCH)
    many = rounds(prepared(fresh(), leased=2_000, staged=30_000), BATCH)
    assert_all_flat(few, many)


def test_orgs_that_are_not_admitted_cost_nothing(fresh: Callable[[], Stage]) -> None:
    # Five orgs are admitted at a tick and five others settled: as many of ten as of two thousand.
    few = rounds(prepared(fresh(), leased=2_000, staged=4_000, orgs=10), 5)
    many = rounds(prepared(fresh(), leased=2_000, staged=4_000, orgs=2_000), 5)
    assert_all_flat(few._replace(fold=NOTHING), many._replace(fold=NOTHING))
    # Of many orgs the rows lie in pages of their own, and an index has one more level.
    assert many.fold.wal_bytes <= 1.15 * few.fold.wal_bytes
    assert many.fold.blocks <= few.fold.blocks + 2 * ROWS


def test_a_look_at_running_tasks_costs_the_same_however_many_run(
    fresh: Callable[[], Stage],
) -> None:
    def look(running: int) -> Cost:
        stage = prepared(fresh(), leased=running)
        stage.do("update orchestrator.lease set claimed_at = claimed_at - interval '1 hour'")
        stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '1 hour'")
        stage.do("vacuum (analyze)")
        gauge = Gauge(Meter(stage.connect()), stage.db)
        cost, (_, outgrown) = gauge.of(lambda: run(stage.db, admission.refresh(1, UUID(int=0))))
        assert outgrown
        return cost

    assert_flat(look(4_000), look(20_000))
