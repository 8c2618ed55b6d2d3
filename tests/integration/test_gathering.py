"""Calls that come at the same time share a statement: whose answer, whose error, and who waits.

A gate holds the first statement; whoever comes then waits in line, which is looked at.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from orchestrator import Client, DatabaseUnavailable, Enqueued, OrchestratorError
from orchestrator.client import gathering
from orchestrator.client.gathering import Line
from orchestrator.client.steps import Work
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.integration.conftest import ask
from tests.support.waiting import until

WAIT_S = 20.0
LOCK = "lock table orchestrator.staging_queue in access exclusive mode"
STUCK = "select array_agg(pid) from pg_stat_activity where wait_event_type = 'Lock' and query like %s"
BY_STATEMENT = "select array_agg(count order by first) from (select count(*), min(id) as first from orchestrator.task group by xmin::text) s"

Gate = Callable[[], None]


@pytest.fixture
def client(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Yield a client whose calls have patience, and that knows the queue and the workload."""
    monkeypatch.setattr(gathering, "PATIENCE_S", 2 * WAIT_S)
    with Client(dsn) as client:
        client.enqueue("known", org="acme")
        monkeypatch.setattr(client, "_backlogs", Unbounded())
        ask(dsn, "truncate orchestrator.task, orchestrator.staging_queue returning 1"[:59])
        yield client


class Unbounded:
    """Nobody has a bound, however long ago that was asked."""

    def surely_unbounded(self) -> bool:
        return True

    def bounded(self) -> Iterator[Any]:
        return False
        yield


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def line_of(client: Client) -> Line:
    [line] = client._lines.values()
    return line


def waiting(client: Client) -> int:
    return sum(len(line._waiting) for line in client._lines.values())


def in_line(
    client: Client, threads: ThreadPoolExecutor, names: list[str], **given: Any
) -> list[Future[Enqueued]]:
    """Have a call for each of `names` wait, in this order."""
    calls = []
    for name in names:
        before = waiting(client)
        calls.append(threads.submit(client.enqueue, name, {"is": name}, org="acme", **given))
        until(lambda before=before: waiting(client) > before, "the call waits in line")
    return calls


@contextmanager
def held(
    client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Future[Enqueued]]:
    """Yield the call whose statement, and no later one, is held until the block ends."""
    by_itself, reached, gate = client._by_itself, threading.Event(), threading.Event()

    def hold(work: Work) -> Any:
        monkeypatch.setattr(client, "_by_itself", by_itself)
        reached.set()
        assert gate.wait(WAIT_S)
        return by_itself(work)

    monkeypatch.setattr(client, "_by_itself", hold)
    first = threads.submit(client.enqueue, "first", org="acme")
    assert reached.wait(WAIT_S)
    try:
        yield first
    finally:
        gate.set()
