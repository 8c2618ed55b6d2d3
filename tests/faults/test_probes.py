"""The probes of replicas and workers, while all is well, without a database, and with a loop that
hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from orchestrator.config import LeaderSettings, Settings
from orchestrator.leader.replica import Replica
from orchestrator.telemetry.health import Health
from orchestrator.worker.app import App, Task
from tests.conftest import Server
from tests.support.replica import replica_thread
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import working

QUICK = Settings(leader=LeaderSettings(election_poll_s=0.05))


def app() -> App:
    made = App()

    @made.task("nothing")
    def nothing(task: Task) -> None:
        """Do nothing."""

    return made


@contextmanager
def outage(server: Server, dsn: str) -> Iterator[None]:
    """Let the database end every session and take no new one meanwhile."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    allow = sql.SQL("alter database {} allow_connections {}")
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name]
        )
        try:
            yield
        finally:
            admin.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


def is_ready(health: Health) -> bool:
    return not health.ready()


def test_an_outage_of_the_database_is_no_failure_of_a_process(server: Server, dsn: str) -> None:
    with replica_thread(dsn, QUICK) as leader:
        until(leader.leading, "the first replica leads")
        with replica_thread(dsn, QUICK) as standby, working(app(), dsn, poll_max_s=0.2) as worker:
            all_of_them = [leader.health, standby.health, worker.worker.health]
            for health in all_of_them:
                until(partial(is_ready, health), "each is ready")
            assert standby.leading() == []
            with outage(server, dsn):
                for health in all_of_them:
                    until(health.ready, "each knows that it is not ready")
                assert [health.live() for health in all_of_them] == [[], [], []]
            for health in all_of_them:
                until(partial(is_ready, health), "each is ready again")


def test_a_worker_that_drains_is_not_ready_but_lives(dsn: str) -> None:
    begun, go_on = threading.Event(), threading.Event()
    made = App()

    @made.task("wait")
    def wait(task: Task) -> None:
        begun.set()
        go_on.wait(PATIENCE_S)

    from orchestrator import Client

    with replica_thread(dsn, QUICK), working(made, dsn) as worker, Client(dsn) as client:
        client.enqueue("wait", org="a")
        assert begun.wait(PATIENCE_S)
        until(partial(is_ready, worker.worker.health), "the worker is ready")
        worker.worker.stop()
        until(lambda: worker.worker.health.ready() == ["draining"], "the worker drains")
        assert worker.worker.health.live() == []
        go_on.set()


def test_a_loop_that_hangs_is_told_by_name(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hang, hung = threading.Event(), threading.Event()
    bury = Replica._bury

    def planted(self: Replica) -> None:
        if hang.is_set():
            hung.set()
            until(lambda: not hang.is_set(), "the test lets it go on")
        bury(self)

    monkeypatch.setattr(Replica, "_bury", planted)
    with replica_thread(dsn, QUICK) as made:
        until(partial(is_ready, made.health), "the replica is ready")
        made._standing.limit_s = 0.2
        hang.set()
        assert hung.wait(PATIENCE_S)
        try:
            until(made.health.live, "the probe fails")
            (reason,) = made.health.live()
            assert reason.startswith("election loop has not turned for ")
        finally:
            hang.clear()
        until(lambda: not made.health.live(), "the loop turns again")
