"""A shared statement on a connection that fell silent: those who ride in it wait, nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from orchestrator import AsyncClient, Client, DatabaseUnavailable, Enqueued
from orchestrator.client import gathering
from tests.faults.chaos.proxy import Proxy
from tests.faults.proxied import proxied
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until

STORED = "select count(*) from orchestrator.task where name = %s"
BY_COMMIT = """
select array_agg(names order by first)
  from (select string_agg(name, ' ' order by id) as names, min(id) as first
          from orchestrator.task where name <> 'known' group by xmin::text) s
"""
LOCK = "lock table orchestrator.staging_queue in access exclusive mode"
STUCK = """
select count(*) from pg_stat_activity
 where wait_event_type = 'Lock' and application_name = 'orchestrator client'
"""


class Threads:
    """Calls of a blocking client, each on a thread of its own."""

    def __init__(self, dsn: str) -> None:
        self._client: Any = Client(dsn)
        self._threads = ThreadPoolExecutor(16)

    def call(self, name: str, payload: object = None) -> Future[Enqueued]:
        return self._threads.submit(self._client.enqueue, name, payload, org="acme")

    def waiting(self) -> int:
        return sum(len(line._waiting) for line in self._client._lines.values())

    def close(self) -> None:
        self._client.close()
        self._threads.shutdown()


class Coroutines:
    """Calls of an asynchronous client, all in the loop of one thread."""

    def __init__(self, dsn: str) -> None:
        self._threads = ThreadPoolExecutor(1)
        self._loop = asyncio.new_event_loop()
        self._running = self._threads.submit(self._loop.run_forever)
        self._client: Any = AsyncClient(dsn)

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, name: str, payload: object = None) -> Future[Enqueued]:
        return self._start(self._client.enqueue(name, payload, org="acme"))

    def waiting(self) -> int:
        return sum(len(line._waiting) for line in self._client._lines.values())

    def close(self) -> None:
        self._start(self._client.close()).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads.shutdown()
        self._loop.close()


Calls = Threads | Coroutines


def stored(stage: Stage, name: str) -> bool:
    return bool(stage.one(STORED, name))


def in_line(calls: Calls, count: int) -> bool:
    return calls.waiting() == count


def connected(stage: Stage, calls: Calls) -> None:
    """Have the client know the queue, and hold two connections that know its statement."""
    for _ in range(2):
        calls.call("known").result(PATIENCE_S)
    with psycopg.connect(stage.dsn) as holder:
        holder.execute(LOCK)
        # One of them is too long to wait for the other.
        known = [calls.call("known"), calls.call("known", "x" * 20_000)]
        until(lambda: stage.one(STUCK) == 2, "both stand")
    for call in known:
        call.result(PATIENCE_S)


def silent(stage: Stage, calls: Calls, proxy: Proxy) -> list[Future[Enqueued]]:
    """Return calls of which no answer will come: one alone, which was stored, and two together."""
    proxy.weather["all"].hole = "down"
    alone = calls.call("alone")
    until(partial(stored, stage, "alone"), "it is stored")
    riding = [calls.call(name) for name in ("r0", "r1")]
    until(partial(in_line, calls, 2), "the two wait")
    until(lambda: sum(link.torn for link in list(proxy._links)) == 2, "the two took over in vain")
    # Those connections stay silent; others are none of that.
    proxy.weather["all"].hole = ""
    return [alone, *riding]


@pytest.mark.parametrize("kind", [Threads, Coroutines])
def test_who_waits_behind_a_silent_statement_is_served_and_so_is_everybody_after(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kind: Callable[[str], Calls]
) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 1.0)
    with proxied(stage) as (proxy, dsn):
        calls = kind(dsn)
        try:
            connected(stage, calls)
            hung = silent(stage, calls, proxy)
            behind = [calls.call(name) for name in ("t0", "t1")]
            until(partial(in_line, calls, 2), "they wait behind it")
            ids = [call.result(PATIENCE_S).id for call in behind]
            assert len(set(ids)) == 2
            # Whoever waits from now on waits for ever.
            monkeypatch.setattr(gathering, "PATIENCE_S", 10 * PATIENCE_S)
            for name in ("u0", "u1"):
                assert calls.call(name).result(PATIENCE_S).created
            assert not any(call.done() for call in hung)
            proxy.clear()
            for call in hung:
                error = call.exception(PATIENCE_S)
                assert isinstance(error, DatabaseUnavailable)
                assert error.in_doubt
                assert "unknown" in str(error)
            assert calls.waiting() == 0
            assert calls.call("last").result(PATIENCE_S).created
        finally:
            proxy.clear()
            calls.close()
    found = [set(names.split()) for names in stage.one(BY_COMMIT)]
    assert found == [{"alone"}, {"t0", "t1"}, {"u0"}, {"u1"}, {"last"}]
