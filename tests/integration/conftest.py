"""Fixtures of the integration tests: a stage for single steps, a running replica, a client."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from orchestrator import Client
from orchestrator.config import Settings
from orchestrator.leader.replica import Replica
from tests.support.fixtures import stage
from tests.support.replica import replica_thread

__all__ = ["ask", "client", "replica", "stage"]


def ask(dsn: str, query: str, *params: Any) -> Any:
    """Return the first column of the first row of a query over a connection of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode(), params).fetchone()
    return row[0] if row else None


@pytest.fixture
def replica(dsn: str) -> Iterator[Replica]:
    """Run a replica of the test's database until the test ends."""
    with replica_thread(dsn, Settings()) as replica:
        yield replica


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    """Yield a client of the test's database."""
    with Client(dsn) as client:
        yield client
