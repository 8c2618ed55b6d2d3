"""Leaders behind a transaction pooler with the refusal taken out: the epoch alone must do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest

from orchestrator.config import LeaderSettings
from orchestrator.errors import LeadershipLost
from orchestrator.leader import session
from orchestrator.store import leadership
from orchestrator.store.sql import run
from tests.conftest import Server
from tests.support import stepping
from tests.support.invariants import check
from tests.support.pgbouncer import beside, needs_pgbouncer, pgbouncer
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim
from tests.support.waiting import PATIENCE_S, until

__all__ = ["beside"]
pytestmark = [pytest.mark.faults, needs_pgbouncer]
CAPS = {"a": 3, "b": 2}
ENDED = "select count(*) from orchestrator.task_attempt where final"


@pytest.fixture
def pooled(
    server: Server, stage: Stage, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Yield a DSN through a pooler, with leaders that no longer mind one."""
    guarded = session.open_session

    def unguarded(dsn: str, settings: LeaderSettings, *, holder: str) -> psycopg.Connection[Any]:
        connection = guarded(dsn, settings, holder=holder)
        # The pooler knows nothing of prepared statements: nobody could lead at all.
        connection.prepare_threshold = None
        return connection

    monkeypatch.setattr(session, "_guard", lambda connection, timeouts: None)
    monkeypatch.setattr(stepping, "open_session", unguarded)
    with pgbouncer(server, stage.dsn, beside, passes_options=True, sessions=3) as dsn:
        yield dsn


def take_lock(leader: SteppedLeader) -> bool:
    return bool(run(leader.connection, leadership.try_lock(leader.queue.id, 60)).taken)


def granted(leader: SteppedLeader, over: Event) -> bool:
    return over.is_set() or take_lock(leader)


def lead(dsn: str, over: Event) -> tuple[int, int]:
    """Take the lock, be elected and tick, again and again; return how often this was refused by
    the epoch, and how many tasks were admitted.
    """
    refused = admitted = 0
    while not over.is_set():
        leader = SteppedLeader(dsn)
        try:
            until(partial(granted, leader, over), "the lock is granted")
            leader.elect(lock=False)
            for _ in range(200):
                admitted += leader.tick().admitted
                if over.is_set():
                    break
        except LeadershipLost:
            refused += 1
        finally:
            leader.close()
    return refused, admitted


def work(stage: Stage, over: Event) -> None:
    connection = stage.connect()
    while not over.is_set():
        ack(connection, claim(connection, 2))


def watch(stage: Stage, over: Event) -> int:
    """Look all the time whether any org holds more slots than it may; return how often."""
    connection = stage.connect()
    looks = 0
    while not over.is_set():
        query = "select org_id, count(*) from orchestrator.task_queue group by org_id"
        for org, held in connection.execute(query).fetchall():
            assert held <= CAPS[org], f"{org} holds {held}"
        looks += 1
    return looks


def test_two_leaders_are_given_the_lock_at_once_behind_a_pooler(pooled: str, stage: Stage) -> None:
    stage.enqueue(1)
    first, second = SteppedLeader(pooled), SteppedLeader(pooled)
    try:
        # Both by the same session of the pooler: this is what the refusal is for.
        assert take_lock(first)
        assert take_lock(second)
        first.elect(lock=False)
        second.elect(lock=False)
        with pytest.raises(LeadershipLost):
            first.tick()
        assert second.tick().admitted == 1
    finally:
        first.close()
        second.close()


def test_leaders_behind_a_pooler_exceed_no_cap_and_never_go_back_to_an_older_epoch(
    pooled: str, stage: Stage
) -> None:
    for org, cap in CAPS.items():
        stage.set_org(org, burst_max=cap)
    staged = [task_id for org in CAPS for task_id in stage.enqueue(60, org)]
    over = Event()
    leaders = [stage.start(lead, pooled, over) for _ in range(2)]
    watcher = stage.start(watch, stage, over)
    worker = stage.start(work, stage, over)
    running: list[Future[Any]] = [*leaders, watcher, worker]
    try:
        until(
            lambda: stage.one(ENDED) == len(staged) or any(each.done() for each in running),
            "every task has ended",
        )
    finally:
        over.set()
    worker.result(PATIENCE_S)
    assert watcher.result(PATIENCE_S) > 0
    outcomes = [leader.result(PATIENCE_S) for leader in leaders]
    # Both led, and each was deposed by the other.
    assert sum(refused for refused, _ in outcomes) > 1
    check(stage.db)
    finals = stage.rows("select task_id from orchestrator.task_attempt where final")
    assert sorted(task_id for (task_id,) in finals) == sorted(staged)
    logged = stage.rows("select epoch, admitted from orchestrator.tick_log order by admit_seq")
    epochs = [epoch for epoch, _ in logged]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 1
    assert sum(admitted for _, admitted in logged) == len(staged)
