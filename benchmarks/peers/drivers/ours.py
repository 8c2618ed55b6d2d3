"""The product itself, as its users run it: the client, and the command line's worker and replica.

Besides the verbs of the contract there is `lead`, which is a replica: without one, nothing is
admitted. The default configuration is that of an installation without any settings.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, LiteralString

import psycopg
from psycopg import Connection

from benchmarks.handlers import noop
from benchmarks.peers.drivers.common import (
    Load,
    Payload,
    Report,
    Send,
    Sent,
    Work,
    database_url,
    enqueue_from_threads,
    installed,
    main,
)
from benchmarks.peers.drivers.options import work_option
from orchestrator import cli
from orchestrator.client import Client
from orchestrator.config import DatabaseSettings, Settings
from orchestrator.errors import TaskNotFound
from orchestrator.model import TaskSpec
from orchestrator.store import migrate

# Tasks of one enqueue_many.
_BULK = 10_000
# What of a task's life is unfinished: staged, waiting for its time, or admitted.
_PENDING: LiteralString = """
select (select count(*) from orchestrator.staging_queue)
     + (select count(*) from orchestrator.scheduled_queue)
     + (select count(*) from orchestrator.task_queue)
"""
# The worker of a process is connected: its sessions carry the process id in their names.
_CONNECTED: LiteralString = """
select count(*) from pg_stat_activity where application_name like 'orchestrator fetcher %%'
   and application_name like '%%:' || %s || ':%%'
"""
_LOOK_S = 0.02


class Ours:
    """The verbs of the contract."""

    def __init__(self) -> None:
        self._batch = int(work_option("batch"))
        self._linger_ms = work_option("linger-ms")

    def version(self) -> str:
        """Return the name and version of this installation."""
        return installed("orchestrator")

    def setup(self) -> None:
        """Create the schema."""
        migrate.upgrade(database_url())

    def enqueue(self, load: Load) -> Sent:
        """Enqueue from threads that share one client, as its users are told to."""
        database = DatabaseSettings(pool_size=load.clients)
        with Client(database_url(), settings=Settings(database=database)) as client:
            return enqueue_from_threads(load, partial(_sending, client, load.bulk), _BULK)

    def work(self, work: Work, report: Report) -> None:
        """Be the worker of the command line; it ends at SIGTERM."""
        noop.report = report
        os.environ.update(self._settings())
        threading.Thread(target=_say_ready, args=(report,), name="ready", daemon=True).start()
        code = cli.invoke(["worker", "benchmarks.handlers:app"])
        if code:
            sys.exit(code)

    def pending(self) -> int:
        """Count what is staged, scheduled or admitted."""
        with _connected() as connection:
            return _count(connection, _PENDING)

    def _settings(self) -> dict[str, str]:
        """Return what a user would set of a worker of many short tasks."""
        settings = {}
        if self._batch:
            settings["ORCHESTRATOR_WORKER_PREFETCH_MAX"] = str(self._batch)
            settings["ORCHESTRATOR_WORKER_ACK_BATCH"] = str(self._batch)
        if self._linger_ms:
            settings["ORCHESTRATOR_WORKER_ACK_LINGER_S"] = f"{self._linger_ms / 1e3:g}"
        return settings


@contextmanager
def _sending(client: Client, bulk: bool) -> Iterator[Send]:
    # Each thread, so that connections are there before the clock runs.
    with suppress(TaskNotFound):
        client.get(1)
    yield partial(_send_all if bulk else _send_one, client)


def _send_one(client: Client, payloads: list[Payload]) -> None:
    (payload,) = payloads
    client.enqueue("noop", payload, org=payload["org"])


def _send_all(client: Client, payloads: list[Payload]) -> None:
    client.enqueue_many([TaskSpec(name="noop", payload=p, org=p["org"]) for p in payloads])


def _say_ready(report: Report) -> None:
    """Say that this process takes tasks, once its worker is connected."""
    with _connected() as connection:
        while not _count(connection, _CONNECTED, str(os.getpid())):
            time.sleep(_LOOK_S)
    report.ready()


@contextmanager
def _connected() -> Iterator[Connection[Any]]:
    with psycopg.connect(database_url(), autocommit=True, connect_timeout=5) as connection:
        yield connection


def _count(connection: Connection[Any], query: LiteralString, *given: str) -> int:
    row = connection.execute(query, given or None).fetchone()
    return int(row[0]) if row else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["lead"]:
        sys.exit(cli.invoke(["run"]))
    else:
        main(Ours())
