"""What every benchmark stands on: a durable private server, and the product's own processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict

from orchestrator.client import Client
from orchestrator.demo.processes import Processes, started
from orchestrator.embedded import throwaway
from orchestrator.store import admission, migrate
from orchestrator.store.sql import run

QUEUE = 1
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "max_connections": "200"}
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A migrated database, a client, and processes that can be started on it."""

    dsn: str
    connection: Connection[Any]
    client: Client
    processes: Processes

    def start_replica(self) -> int:
        """Start a replica; return its process id."""
        return self.processes.start("run")

    def start_worker(self, *options: str, concurrency: int = 10) -> int:
        """Start a worker for the benchmark tasks and wait until it has parked."""
        before = self.parked()
        pid = self.processes.start(
            "worker", "benchmarks.handlers:app", "--concurrency", str(concurrency), *options
        )
        wait_for(lambda: self.parked() > before, "the worker to start")
        return pid

    def parked(self) -> int:
        """Return the announced concurrency of all workers."""
        announced: int = run(self.connection, admission.parked_concurrency(QUEUE))
        return announced

    def ended(self) -> int:
        """Return how many tasks ended."""
        row = self.connection.execute(
            "select count(*) from orchestrator.task_attempt where final"
        ).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def stage(settings: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """Yield a fresh `Stage` whose server has `settings` besides the usual ones.

    Nothing of it is left afterwards.
    """
    with throwaway(settings={**SETTINGS, **(settings or {})}) as dsn:
        migrate.upgrade(dsn)
        with stage_at(dsn) as on:
            yield on


@contextmanager
def stage_at(dsn: str) -> Iterator[Stage]:
    """Yield a `Stage` on a migrated database; its logs are beside the socket of the server."""
    logs = Path(mkdtemp(prefix="logs-", dir=str(conninfo_to_dict(dsn)["host"])))
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        Client(dsn) as client,
        started(dsn, logs) as processes,
    ):
        yield Stage(dsn, connection, client, processes)


def wait_for(met: Callable[[], object], what: str, timeout_s: float = _START_TIMEOUT_S) -> None:
    """Wait until `met()`; raise `TimeoutError` naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.02)
