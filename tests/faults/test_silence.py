"""Links that fall silent, and processes that are stopped, where no reply will ever come."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from psycopg import Connection

from orchestrator.config import LeaderSettings, Settings
from orchestrator.leader import chores
from orchestrator.leader.chores import Chores
from orchestrator.leader.session import open_session
from orchestrator.leader.watchdog import Watchdog
from orchestrator.store import sql
from orchestrator.wakeup.listener import Listener
from orchestrator.worker import session, worker
from orchestrator.worker.app import App
from orchestrator.worker.session import Session
from tests.faults.proxied import proxied
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.stepping import claim
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import enqueue, until_ended, working

# One that has asked something: before that, a silent link is a connection that never came about.
QUERY = (
    "select count(*) from pg_stat_activity where application_name = 'orchestrator chores'"
    " and query <> ''"
)


def test_a_chore_that_hears_nothing_any_more_ends_the_process(stage: Stage) -> None:
    ended = threading.Event()
    with proxied(stage) as (proxy, dsn):
        doomed = Chores(dsn, Settings(), lambda: [1], watchdog=Watchdog(0.2, ended.set))
        doomed.start()
        until(lambda: stage.one(QUERY), "a chore has connected")
        proxy.weather["all"].hole = "down"
        assert ended.wait(PATIENCE_S)
        proxy.clear()
        doomed.stop()


def test_a_stop_hangs_up_on_a_chore_that_hears_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "_STOP_S", 0.1)
    with proxied(stage) as (proxy, dsn):
        hung = Chores(dsn, Settings(), lambda: [1], watchdog=Watchdog(600))
        hung.start()
        until(lambda: stage.one(QUERY), "a chore has connected")
        proxy.weather["all"].hole = "down"
        waiting = (
            "select count(*) from pg_stat_activity where application_name = 'orchestrator chores'"
            " and state = 'idle' and query_start > clock_timestamp() - interval '1 minute'"
        )
        until(lambda: stage.one(waiting), "it waits for an answer")
        stopping = threading.Thread(target=hung.stop)
        stopping.start()
        stopping.join(PATIENCE_S)
        assert not stopping.is_alive()


def test_a_worker_that_is_silent_inside_a_transaction_keeps_no_lease_locked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "TIMERS", {"idle_in_transaction_session_timeout": "200ms"})
    leader = stage.leader()
    (task,) = stage.enqueue(1)
    leader.drain_ticks()
    claim(stage.db, 1)
    stage.expire_leases()
    silent = Session(stage.dsn, "orchestrator acks test", pooled=False, connect_timeout_s=5)
    raw = silent._connected()
    raw.execute("begin")
    raw.execute("select from orchestrator.lease for no key update")
    leader.step()
    assert stage.one("select count(*) from orchestrator.lease") == 1
    lost = "select count(*) from orchestrator.task_attempt where task_id = %s and status = 'lost'"

    def reaped() -> bool:
        leader.step()
        return bool(stage.one(lost, task))

    until(reaped, "the lease is taken back")
    silent.close()


@pytest.mark.parametrize("role", ["leader", "worker"])
def test_a_process_that_is_stopped_inside_a_pipeline_keeps_no_lock(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setattr(session, "_TRANSACTION_S_MAX", 1.0)
    if stage.db.info.server_version < 170000:
        pytest.skip("this server cannot limit a transaction")
    raw: Connection[Any]
    if role == "leader":
        quick = LeaderSettings(watchdog_s=1, statement_timeout_s=0.9, lock_timeout_s=0.5)
        raw = open_session(stage.dsn, quick, holder="stopped")
    else:
        stopped = Session(stage.dsn, "orchestrator acks test", pooled=False, connect_timeout_s=5)
        raw = stopped._connected()
    pid = raw.info.backend_pid
    locks = "select count(*) from pg_locks where pid = %s and mode = 'RowShareLock'"
    raw.pgconn.enter_pipeline_mode()
    raw.pgconn.send_query_params(b"select from orchestrator.orchestrator_lock for update", None)
    raw.pgconn.send_flush_request()
    raw.pgconn.flush()
    until(lambda: stage.one(locks, pid), "it holds its locks")
    # Nobody ever sends the end of the pipeline.
    until(lambda: not stage.one(locks, pid), "the server has ended the session")
    raw.close()


def test_sessions_of_workers_and_clients_have_the_timer(stage: Stage) -> None:
    ours = Session(stage.dsn, "orchestrator acks test", pooled=False, connect_timeout_s=5)
    row = ours._connected().execute("show idle_in_transaction_session_timeout").fetchone()
    assert row == ("10s",)
    ours.close()


def test_a_worker_whose_listening_link_is_silently_dead_finds_work_by_polling(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App()
    app.task("x")(lambda task: None)
    listens = (
        "select pid from pg_stat_activity where datname = current_database()"
        " and application_name like 'orchestrator worker q=1 %%'"
    )
    with proxied(stage) as (proxy, dsn), replica_thread(stage.dsn, Settings()):
        # Only what listens goes through the proxy.
        monkeypatch.setattr(
            worker, "Listener", lambda _, named, **options: Listener(dsn, named, **options)
        )
        with working(app, stage.dsn, poll_max_s=1.0):
            until(lambda: stage.rows(listens), "it listens")
            before = stage.rows(listens)
            until_ended(stage, enqueue(stage, "x"))
            proxy.weather["all"].hole = "down"
            waits = []
            for _ in range(3):
                begun = time.monotonic()
                until_ended(stage, enqueue(stage, "x"))
                waits.append(time.monotonic() - begun)
            # Nobody has noticed: the session is the same, and nothing came over it.
            assert stage.rows(listens) == before
        proxy.clear()
    # A poll, and what a busy machine adds.
    assert min(waits) < 1.5
    assert max(waits) < 4
