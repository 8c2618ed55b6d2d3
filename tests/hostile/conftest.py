"""One living system for all cases of a module: a replica, a worker, and a canary."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest
import structlog

from orchestrator import Client
from orchestrator.config import Settings
from orchestrator.leader.replica import Replica
from tests.acceptance.cli import database
from tests.conftest import Server
from tests.hostile.living import APP, Living
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S
from tests.support.worker import working


@pytest.fixture(scope="module")
def living(server: Server, template: str) -> Iterator[Living]:
    """Run a replica and a worker of one database, which the cases of a module share."""
    with database(server, template) as dsn, Stage(dsn) as stage, Client(dsn) as client:
        # Beside what verbs print, which is looked at.
        log = io.StringIO()
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        replica = Replica(dsn, Settings())
        thread = threading.Thread(target=replica.run, name="replica")
        thread.start()
        try:
            with working(APP, dsn, queues=["default"], concurrency=4) as worker:
                yield Living(stage, client, worker.worker, log)
        finally:
            replica.stop()
            thread.join(PATIENCE_S)
            structlog.reset_defaults()
        assert not thread.is_alive()
