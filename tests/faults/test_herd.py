"""Two hundred idle workers: a task or two, and the loss of every session they listen on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from orchestrator.client import Client
from tests.faults.chaos.server import Server
from tests.support.stepping import SteppedLeader
from tests.support.waiting import until
from tests.support.worker import process

pytestmark = pytest.mark.faults
PROCESSES, EACH = 4, 50
WORKERS = PROCESSES * EACH
# Who found the task looks for the next; and some may come to look for another reason.
FEW = WORKERS // 10
# So many workers in one process; a worker of its own process differs in nothing that is sent.
# Polls are far apart: what is counted is what notifications cause.
CROWD = """
import logging, signal, sys, threading
import structlog
from orchestrator.worker.app import App
from orchestrator.worker.worker import Worker
from tests.support.worker import settings
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
app = App()
app.task("x")(lambda task: None)
workers = [
    Worker(app, sys.argv[1], settings(poll_max_s=600), concurrency=1)
    for _ in range(int(sys.argv[2]))
]
threads = [threading.Thread(target=worker.run) for worker in workers]
signal.signal(signal.SIGTERM, lambda *_: [worker.stop() for worker in workers])
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
LISTENING = "from pg_stat_activity where application_name like 'orchestrator worker q=1 c=1'"
IDLE = (
    "select count(*) from pg_stat_activity where application_name like 'orchestrator fetcher %'"
    " and state = 'idle' and query like '%lease%'"
)
CLAIMS = (
    "select coalesce(sum(calls), 0)::integer from pg_stat_statements"
    " where query like '%with claimed as (%update orchestrator.task_queue%'"
)
ENDED = "select count(*) from orchestrator.task_attempt where final and status = 'succeeded'"


@pytest.fixture
def server() -> Iterator[Server]:
    settings = {"max_connections": "900", "shared_preload_libraries": "pg_stat_statements"}
    with Server(settings) as started:
        started.make_template()
        yield started


def one(db: psycopg.Connection[Any], query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_one_task_wakes_one_of_200_idle_workers_and_they_do_not_reconnect_in_step(
    server: Server,
) -> None:
    dsn = server.dsn(server.create())
    with ExitStack() as opened:
        db = opened.enter_context(psycopg.connect(dsn, autocommit=True))
        db.execute("create extension pg_stat_statements")
        client = opened.enter_context(Client(dsn))
        for _ in range(PROCESSES):
            opened.enter_context(process(CROWD, dsn, str(EACH)))
        until(
            lambda: one(db, f"select count(*) {LISTENING}") == WORKERS, "all listen", patience_s=60
        )
        until(lambda: one(db, IDLE) == WORKERS, "all have looked", patience_s=60)

        # One task, of which nobody knows how long it takes: each looks once.
        leader = SteppedLeader(dsn).elect()
        opened.callback(leader.close)
        db.execute("select pg_stat_statements_reset()")
        client.enqueue(name="x", org="a")
        leader.drain_ticks()
        until(lambda: one(db, ENDED), "it has run")
        assert 1 <= settled(db) <= WORKERS + FEW

        # It was short, so the next one is for one of them.
        leader.reign.learn_who_listens()
        leader.tick()
        leader.scheduler.org("a").flows["etl"].cost_us = 100
        db.execute("select pg_stat_statements_reset()")
        client.enqueue(name="x", org="a")
        leader.drain_ticks()
        until(lambda: one(db, ENDED) == 2, "it has run")
        assert 1 <= settled(db) <= FEW

        # Every session that listens is ended at once.
        db.execute("select pg_stat_statements_reset()")
        begun = one(db, "select clock_timestamp()")
        assert one(db, f"select count(pg_terminate_backend(pid)) {LISTENING}") == WORKERS
        again = f"select backend_start {LISTENING} and backend_start > '{begun}'"
        until(
            lambda: len(db.execute(again.encode()).fetchall()) == WORKERS,
            "all listen again",
            patience_s=60,
        )
        starts = sorted(at for (at,) in db.execute(again.encode()).fetchall())
        tenth = timedelta(seconds=0.1)
        busiest = max(sum(at <= other < at + tenth for other in starts) for at in starts)
        # Spread over a second they are twenty in a tenth of it; in step, two hundred.
        assert busiest < WORKERS / 2
        assert starts[-1] - starts[0] > 5 * tenth
        # Each looks what it may have missed, and not again and again.
        assert settled(db) <= WORKERS + FEW


def settled(db: psycopg.Connection[Any]) -> int:
    """Return how many claims were sent, once no more are."""
    seen = -1

    def same() -> bool:
        nonlocal seen
        before, seen = seen, one(db, CLAIMS)
        db.execute("select pg_sleep(0.5)")
        return bool(seen == before)

    until(same, "nobody looks any more", patience_s=60)
    return seen
