"""Leaders behind a transaction pooler with the refusal taken out: the epoch alone must do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from orchestrator.config import LeaderSettings
from orchestrator.errors import LeadershipLost
from orchestrator.leader import session
from orchestrator.store import leadership
from orchestrator.store.sql import run
from orchestrator.store.wire import Wired
from tests.conftest import Server
from tests.support import stepping
from tests.support.pgbouncer import beside, needs_pgbouncer, pgbouncer
from tests.support.rivals import check_terms, stage_capped, until_all_ended, watch, work
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader
from tests.support.waiting import PATIENCE_S, until

__all__ = ["beside"]
pytestmark = [pytest.mark.faults, needs_pgbouncer]
CAPS = {"a": 3, "b": 2}


@pytest.fixture
def pooled(
    server: Server, stage: Stage, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Yield a DSN through a pooler, with leaders that no longer mind one."""
    guarded = session.open_session

    def unguarded(dsn: str, settings: LeaderSettings, *, holder: str) -> Wired:
        connection = guarded(dsn, settings, holder=holder)
        # The pooler knows nothing of prepared statements: nobody could lead at all.
        connection.wire = None
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
    staged = stage_capped(stage, CAPS, 60)
    over = Event()
    leaders = [stage.start(lead, pooled, over) for _ in range(2)]
    watcher = stage.start(watch, stage, CAPS, over)
    worker = stage.start(work, stage, over)
    running: list[Future[Any]] = [*leaders, watcher, worker]
    until_all_ended(stage, staged, running, over)
    worker.result(PATIENCE_S)
    assert watcher.result(PATIENCE_S) > 0
    outcomes = [leader.result(PATIENCE_S) for leader in leaders]
    # Both led, and each was deposed by the other.
    assert sum(refused for refused, _ in outcomes) > 1
    check_terms(stage, staged)
