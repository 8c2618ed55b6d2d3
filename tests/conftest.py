"""Fixtures every test may ask for: a private PostgreSQL, and a fresh migrated database on it.

Each pytest process (each xdist worker) starts its own server when the first test asks for it, so
that a test which stops or kills backends disturbs no other worker. PG_TEST_BIN names the directory
of another version's programs.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir
from psycopg import sql

from orchestrator.embedded import find_binaries, throwaway

TEMPLATE = "orchestrator_template"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests of faults to those who ask for them by their mark (`make faults`)."""
    if "faults" not in config.option.markexpr:
        chosen = [item for item in items if item.get_closest_marker("faults") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


set_hypothesis_home_dir(Path(__file__).parents[1] / ".cache" / "hypothesis")
# A slow machine is not a failing test: the suite has its own timeout per test.
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
settings.register_profile("orchestrator", deadline=None, max_examples=1_000 if NIGHTLY else 100)
settings.load_profile("orchestrator")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server of the tests."""

    dsn: str  # of the database `postgres`, as its superuser
    binaries: Path
    data_dir: Path
    pid: int  # of the postmaster

    def database(self, name: str) -> str:
        """Return the DSN of another database of this server."""
        return self.dsn.replace("@/postgres?", f"@/{name}?")


def roomy_memory() -> Path | None:
    """Return the file system in memory if a test server fits in it."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30
    return memory if roomy else None


@pytest.fixture(scope="session")
def binaries() -> Path:
    """Return the directory of the server programs under test."""
    chosen = os.environ.get("PG_TEST_BIN")
    return Path(chosen) if chosen else find_binaries()


@pytest.fixture(scope="session")
def server(binaries: Path) -> Iterator[Server]:
    """Run this process's server, without durability, in memory where that is roomy."""
    fast = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    settings = fast | {"max_connections": "300"}
    with throwaway(binaries=binaries, settings=settings, parent=roomy_memory()) as dsn:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("show data_directory").fetchone()
        assert row is not None
        data_dir = Path(row[0])
        pid = int((data_dir / "postmaster.pid").read_text().split()[0])
        yield Server(dsn, binaries, data_dir, pid)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """Return the name of a database that was migrated once, to be copied."""
    from orchestrator.store.migrate import upgrade

    _administer(server, "create database {}", TEMPLATE)
    upgrade(server.database(TEMPLATE))
    return TEMPLATE


_numbers = itertools.count(1)


@pytest.fixture
def dsn(server: Server, template: str) -> Iterator[str]:
    """Yield the DSN of a migrated database of this test's own."""
    name = f"test_{next(_numbers)}"
    # Files are copied as such: a fifth of the time that logging every block takes.
    _administer(server, "create database {} template {} strategy file_copy", name, template)
    yield server.database(name)
    _administer(server, "drop database {} with (force)", name)


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    """Yield the DSN of an empty database, for tests of the migrations."""
    name = f"test_{next(_numbers)}"
    _administer(server, "create database {}", name)
    yield server.database(name)
    _administer(server, "drop database {} with (force)", name)


def _administer(server: Server, statement: LiteralString, *names: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
