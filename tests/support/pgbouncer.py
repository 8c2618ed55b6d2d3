"""A real PgBouncer in transaction mode before the tests' server, and other servers beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from orchestrator.embedded.account import choose
from tests.conftest import Server
from tests.support.waiting import PATIENCE_S, until

PGBOUNCER = Path("/usr/sbin/pgbouncer")
needs_pgbouncer = pytest.mark.skipif(not PGBOUNCER.exists(), reason="no pgbouncer on this machine")


@contextmanager
def running(command: Sequence[str], directory: Path, dsn: str) -> Iterator[str]:
    """Run a server as an account that it accepts, until it answers on `dsn`; yield the DSN."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=output, stderr=output
        )
    try:
        until(lambda: answers(dsn) or process.poll() is not None, "the server answers")
        assert process.poll() is None, (directory / "output").read_text()
        yield dsn
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def socket_directory(dsn: str) -> str:
    return parse_qs(urlsplit(dsn).query)["host"][0]


@pytest.fixture
def beside(server: Server) -> Iterator[Path]:
    """Yield a directory beside the server's, which whoever runs the server can use."""
    directory = server.data_dir.parent / "beside"
    directory.mkdir(mode=0o700)
    account = choose(server.binaries)
    if account.is_other:
        os.chown(directory, account.owner_uid, account.owner_gid)
    yield directory
    shutil.rmtree(directory)


@contextmanager
def pgbouncer(
    server: Server, dsn: str, directory: Path, *, passes_options: bool, sessions: int = 20
) -> Iterator[str]:
    """Run pgbouncer before the server of `dsn`, with so many sessions of its own at the most;
    yield the DSN through it.
    """
    ignored = "extra_float_digits"
    if passes_options:
        ignored += ", options"
    database = urlsplit(dsn).path[1:]
    (directory / "pgbouncer.ini").write_text(
        f"""
        [databases]
        {database} = host={socket_directory(dsn)} port=5432 user=postgres
        [pgbouncer]
        listen_addr =
        unix_socket_dir = {directory}
        listen_port = 6432
        auth_type = any
        pool_mode = transaction
        default_pool_size = {sessions}
        ignore_startup_parameters = {ignored}
        """.replace("        ", "")
    )
    command = [*choose(server.binaries).prefix(), str(PGBOUNCER), "pgbouncer.ini"]
    through = f"postgresql://postgres@/{database}?host={directory}&port=6432"
    with running(command, directory, through):
        yield through
