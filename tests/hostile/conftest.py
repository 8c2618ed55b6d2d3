"""One living system for all cases of a module: a replica, a worker, and a canary."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import pytest
import structlog

from orchestrator import Client
from orchestrator.config import Settings
from tests.acceptance.cli import database
from tests.conftest import Server
from tests.hostile.living import APP, Living
from tests.support.http import Served, serving
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.worker import working


@pytest.fixture(scope="module")
def living(server: Server, template: str) -> Iterator[Living]:
    """Run a replica and a worker of one database, which the cases of a module share."""
    with database(server, template) as dsn, Stage(dsn) as stage, Client(dsn) as client:
        # Beside what verbs print, which is looked at.
        log = io.StringIO()
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        try:
            with (
                replica_thread(dsn, Settings()),
                working(APP, dsn, queues=["default"], concurrency=4) as worker,
            ):
                yield Living(stage, client, worker.worker, log)
        finally:
            structlog.reset_defaults()


@pytest.fixture(scope="module")
def served(living: Living) -> Iterator[Served]:
    """Serve the API over the database of the module."""
    with serving(living.stage.dsn, rate_per_s=10_000) as served:
        # Starting it configured the logs of a process of its own.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(living.log))
        yield served


@pytest.fixture(scope="module")
def producer(served: Served) -> httpx.Client:
    """Return a client that may enqueue and look."""
    return served.client("producer", "reader")
