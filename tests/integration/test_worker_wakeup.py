"""How an idle worker learns of work: notifications, polls, and what both cost."""

import itertools
import threading
from typing import Any

import psycopg
import pytest

from orchestrator.errors import ConfigError
from orchestrator.store.names import ready_channel
from orchestrator.wakeup.listener import Listener
from orchestrator.wakeup.waker import Waker
from orchestrator.worker.app import App, Task
from orchestrator.worker.worker import Worker
from tests.support.pooler import pooling
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import enqueue, settings, until_ended, working


@pytest.fixture
def app() -> App:
    app = App()

    @app.task("x")
    def handler(task: Task) -> None:
        pass

    return app


def sessions(stage: Stage, pattern: str) -> list[int]:
    """Return the backends of this database whose application name is like `pattern`."""
    rows = stage.rows(
        "select pid from pg_stat_activity"
        " where datname = current_database() and application_name like %s",
        pattern,
    )
    return [pid for (pid,) in rows]


def until_parked(stage: Stage) -> None:
    """Wait until the worker listens and has found nothing to claim."""
    until(
        lambda: stage.rows(
            "select from pg_stat_activity where datname = current_database() and state = 'idle'"
            " and application_name like 'orchestrator fetcher %%' and query like '%%lease%%'"
        ),
        "the fetcher has looked once",
    )


@pytest.mark.usefixtures("replica")
def test_a_notification_ends_the_wait(stage: Stage, app: App) -> None:
    with working(app, stage.dsn, poll_max_s=1000):
        until(lambda: sessions(stage, "orchestrator worker q=1 c=10"), "it listens")
        until_parked(stage)
        for _ in range(3):
            until_ended(stage, enqueue(stage, "x"))


@pytest.mark.usefixtures("replica")
def test_without_notifications_polling_finds_the_work(stage: Stage, app: App) -> None:
    with working(app, stage.dsn, listen=False, poll_max_s=0.1):
        for _ in range(3):
            until_ended(stage, enqueue(stage, "x", 20))
        assert sessions(stage, "orchestrator worker%") == []


@pytest.mark.usefixtures("replica")
def test_behind_a_pooler_nothing_is_kept_in_the_session(stage: Stage, app: App) -> None:
    with pooling(stage.dsn) as pooler:
        with working(app, pooler.dsn, listen=False, poll_max_s=0.1):
            until_ended(stage, enqueue(stage, "x", 200))
        assert pooler.sessions >= 2
        assert pooler.named_statements == []


def test_a_pooler_in_between_is_named_where_the_worker_would_listen(stage: Stage, app: App) -> None:
    with (
        pooling(stage.dsn) as pooler,
        pytest.raises(ConfigError, match=r"worker\.listen to false"),
    ):
        Worker(app, pooler.dsn, settings()).run()


@pytest.mark.usefixtures("replica")
def test_a_lost_listening_session_is_opened_again(stage: Stage, app: App) -> None:
    with working(app, stage.dsn, poll_max_s=1000):
        for _ in range(2):
            (pid,) = until(lambda: sessions(stage, "orchestrator worker q=1 %"), "it listens")
            until_parked(stage)
            assert stage.one("select pg_terminate_backend(%s, 20000)", pid)
            # The worker looks again once it listens again, whatever was notified in between.
            until_ended(stage, enqueue(stage, "x"))


def test_each_queue_is_listened_to_under_a_name_that_tells_the_capacity(
    stage: Stage, app: App
) -> None:
    stage.do("insert into orchestrator.queue (name) values ('second')")
    second = stage.one("select id from orchestrator.queue where name = 'second'")
    with working(app, stage.dsn, queues=["default", "second"], concurrency=7):
        pattern = "orchestrator worker q=% c=7"
        until(lambda: len(sessions(stage, pattern)) == 2, "both queues are listened to")
        for queue in (1, second):
            assert len(sessions(stage, f"orchestrator worker q={queue} c=7")) == 1


@pytest.mark.parametrize("express", [False, True])
def test_an_idle_worker_sends_one_statement_a_poll(stage: Stage, app: App, express: bool) -> None:
    stage.do("update orchestrator.workload set express = %s where name = 'api'", express)
    # Idle: while a statement is bound and run, it seems to start twice.
    looking = (
        "select query_start, query from pg_stat_activity where datname = current_database()"
        " and application_name like 'orchestrator fetcher %%' and state = 'idle'"
    )
    seen: dict[Any, str] = {}

    def looked_often() -> bool:
        seen.update(stage.rows(looking))
        return len(seen) >= 8

    with working(app, stage.dsn, poll_max_s=0.2):
        until_parked(stage)
        until(looked_often, "the fetcher has looked a few times")
        # The acks have no session, and the heartbeat's has listened and said nothing since.
        others = (
            "select query from pg_stat_activity where datname = current_database()"
            " and (application_name like 'orchestrator acks%%'"
            "      or application_name like 'orchestrator heartbeat%%')"
        )
        (listening,) = stage.rows(others)
        assert listening[0].startswith("listen ")
    # The first ones are those before it slept, and the next claim twice: it is prepared then.
    starts = sorted(seen)[4:]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(starts)]
    assert all(gap >= 0.19 for gap in gaps)
    assert all("update orchestrator.task_queue" in seen[start] for start in starts)


def test_the_listener_hears_its_queues_and_no_others(stage: Stage) -> None:
    listener = Listener(stage.dsn, {1: "first", 2: "second"}, connect_timeout_s=5)
    try:
        assert listener.connect() == {1, 2}
        assert listener.connect() == set()
        stage.do(f"notify {ready_channel(2)}")
        stage.do(f"notify {ready_channel(2)}")
        stage.do(f"notify {ready_channel(3)}")
        assert listener.wait(PATIENCE_S) == {2}
        assert listener.wait(0) == set()
    finally:
        listener.close()


def test_the_listener_comes_back_after_a_while_not_at_once(stage: Stage) -> None:
    listener = Listener(
        psycopg.conninfo.make_conninfo(stage.dsn, dbname="nowhere"), {1: "x"}, connect_timeout_s=5
    )
    try:
        assert listener.connect() == set()
        assert not listener.hears(1)
        stage.do("select 1")
        assert listener.connect() == set()
    finally:
        listener.close()


def test_a_waker_wakes_a_sleeper_and_remembers_an_early_call() -> None:
    with Waker() as waker:
        waker.wake()
        assert waker.wait(PATIENCE_S) == set()
        threading.Timer(0.05, waker.wake).start()
        assert waker.wait(None) == set()
    waker.wake()


def test_a_waker_takes_any_number_of_calls() -> None:
    with Waker() as waker:
        for _ in range(100_000):
            waker.wake()
        assert waker.wait(PATIENCE_S) == set()
