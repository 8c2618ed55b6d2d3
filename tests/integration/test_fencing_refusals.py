"""What must not lead says so: a standby, a transaction pooler, settings that somebody overrides."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from orchestrator.config import LeaderSettings, Settings
from orchestrator.embedded.account import choose
from orchestrator.errors import DatabaseUnavailable, LeadershipRefused, OrchestratorError
from orchestrator.leader.session import open_session, server_timeouts
from orchestrator.store import leadership
from orchestrator.store.sql import run
from tests.conftest import Server
from tests.support.pgbouncer import beside, needs_pgbouncer, pgbouncer, running
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, claim, enqueue, tasks
from tests.support.waiting import until

__all__ = ["beside"]
SETTINGS = LeaderSettings()


@pytest.fixture(params=["refuses options", "passes options over"])
def pooler(
    request: pytest.FixtureRequest, server: Server, stage: Stage, beside: Path
) -> Iterator[str]:
    """Run pgbouncer in transaction mode before the server; yield the DSN through it."""
    passes = request.param == "passes options over"
    with pgbouncer(server, stage.dsn, beside, passes_options=passes) as dsn:
        yield dsn


@needs_pgbouncer
def test_behind_a_transaction_pooler_nobody_leads(pooler: str) -> None:
    with pytest.raises(LeadershipRefused, match=r"pooler.*direct DSN"):
        open_session(pooler, SETTINGS, holder="test")


@needs_pgbouncer
def test_behind_a_transaction_pooler_tasks_are_enqueued_and_claimed(
    pooler: str, stage: Stage
) -> None:
    with psycopg.connect(pooler, autocommit=True, prepare_threshold=None) as connection:
        (stored,) = enqueue(connection, tasks(1))
        assert stage.leader().tick().admitted == 1
        (claimed,) = claim(connection, 5)
        assert claimed.id == stored.id


@pytest.fixture
def standby(server: Server, stage: Stage, beside: Path) -> Iterator[str]:
    """Run a streaming standby of the server; yield the DSN of the test's database on it."""
    prefix = choose(server.binaries).prefix()
    data = beside / "data"
    subprocess.run(
        [
            *prefix,
            str(server.binaries / "pg_basebackup"),
            *("--dbname", server.dsn, "--pgdata", str(data)),
            *("--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--wal-method=stream"),
        ],
        cwd=beside,
        capture_output=True,
        check=True,
    )
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(beside),
        "port": "5433",
        "max_connections": str(stage.one("show max_connections")),
        "fsync": "off",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [*prefix, str(server.binaries / "postgres"), "-D", str(data), *options]
    database = urlsplit(stage.dsn).path[1:]
    dsn = f"postgresql://postgres@/{database}?host={beside}&port=5433"
    with running(command, beside, dsn):
        yield dsn


def test_a_standby_is_refused_for_leading_and_for_claiming(standby: str, stage: Stage) -> None:
    # It would grant the advisory lock.
    with psycopg.connect(standby, autocommit=True) as connection:
        taken = run(connection, leadership.try_lock(1, 60)).taken
        assert taken
    with pytest.raises(LeadershipRefused, match=r"standby.*primary's DSN"):
        open_session(standby, SETTINGS, holder="test")
    stage.enqueue(1)
    stage.leader().tick()
    with psycopg.connect(standby, autocommit=True) as connection:
        with pytest.raises(DatabaseUnavailable, match="use the primary's DSN"):
            claim(connection, 1)
        with pytest.raises(DatabaseUnavailable, match="use the primary's DSN"):
            enqueue(connection, tasks(1))


def test_the_server_has_the_timeouts_by_which_it_ends_a_silent_leader(stage: Stage) -> None:
    session = open_session(stage.dsn, SETTINGS, holder="test")
    wanted = dict(server_timeouts(SETTINGS))
    found = session.execute(
        "select name, setting::integer from pg_settings where name = any (%s)", [list(wanted)]
    ).fetchall()
    session.close()
    # Over a Unix socket there is no TCP to time out.
    assert dict(found) == wanted | {"tcp_user_timeout": 0}


def test_a_second_candidate_is_not_given_the_lock(stage: Stage) -> None:
    first = stage.leader()
    second = stage.candidate()
    assert run(second.connection, leadership.try_lock(1, 60))[0] is False
    first.close()
    until(lambda: run(second.connection, leadership.try_lock(1, 60))[0], "the lock is free")


def test_a_replica_that_could_start_no_thread_stands_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def once_refused(thread: threading.Thread) -> None:
        if thread.name.startswith("leader of") and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", once_refused)
    stage.enqueue(1)
    with replica_thread(stage.dsn, Settings()) as replica:
        until(
            lambda: stage.one("select count(*) from orchestrator.task_queue"), "it leads after all"
        )
        assert refused.is_set()
        assert replica.leading() == [1]


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    dsn = f"postgresql://postgres@/postgres?host={tmp_path}&port=5432"
    with pytest.raises(DatabaseUnavailable, match="did not answer"):
        open_session(dsn, SETTINGS, holder="test")
    with pytest.raises(OrchestratorError):
        SteppedLeader(dsn)
