"""Two callers whose own transactions wait for one another's keys."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from orchestrator.client import Client
from orchestrator.errors import DatabaseUnavailable
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until_blocked

pytestmark = pytest.mark.faults


def connect(stage: Stage) -> psycopg.Connection[Any]:
    connection = stage.connect(deadlock_timeout="50ms")
    connection.execute("begin")
    return connection


def test_callers_that_deadlock_over_keys_lose_nothing_and_one_is_told_to_try_again(
    stage: Stage,
) -> None:
    stage.do("create table effect (what text)")
    sessions = [connect(stage), connect(stage)]
    orders = [("one", "two"), ("two", "one")]
    refusals: dict[int, DatabaseUnavailable] = {}
    with Client(stage.dsn) as client:

        def write(who: int, key: str) -> None:
            client.enqueue("x", org="a", idempotency_key=key, connection=sessions[who])

        def second(who: int) -> None:
            try:
                write(who, orders[who][1])
                sessions[who].execute("commit")
            except DatabaseUnavailable as error:
                refusals[who] = error
                sessions[who].execute("rollback")

        for who in (0, 1):
            sessions[who].execute("insert into effect values (%s)", [f"of {who}"])
            write(who, orders[who][0])
        first = threading.Thread(target=second, args=(0,))
        first.start()
        until_blocked(stage.db, sessions[0], by=sessions[1])
        second(1)
        first.join(PATIENCE_S)
        assert not first.is_alive()

        ((loser, error),) = refusals.items()
        assert "deadlock" in str(error)
        assert "again" in str(error)
        # Nothing of it remains: neither its tasks nor what it wrote itself.
        assert stage.rows("select what from effect") == [(f"of {1 - loser}",)]
        assert stage.one("select count(*) from orchestrator.task") == 2

        # It does as it was told: the keys lead it to the tasks that are there.
        sessions[loser].execute("begin")
        sessions[loser].execute("insert into effect values (%s)", [f"of {loser}"])
        for key in orders[loser]:
            write(loser, key)
        sessions[loser].execute("commit")
    assert stage.one("select count(*) from effect") == 2
    assert stage.one("select count(*) from orchestrator.task") == 2
    leader = stage.leader()
    assert leader.drain_ticks() == 2
