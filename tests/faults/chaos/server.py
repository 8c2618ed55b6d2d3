"""A private PostgreSQL that can be stopped, crashed and started again where it stands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import Connection, sql

from orchestrator.embedded import find_binaries
from orchestrator.embedded.account import choose

# What is written survives the death of processes, which is all that dies here; not of the machine.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    # What no commit waits for is lost in a crash, as far as that can be had.
    "wal_writer_delay": "10s",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "listen_addresses": "",
    "log_min_messages": "warning",
}
_PATIENCE_S = 60.0
TEMPLATE = "chaos_template"


class Server:
    """A server of our own in a directory of its own, gone afterwards."""

    def __init__(
        self, settings: Mapping[str, str] | None = None, *, replica_of: Server | None = None
    ) -> None:
        chosen = os.environ.get("PG_TEST_BIN")
        self.binaries = Path(chosen) if chosen else find_binaries()
        memory = Path("/dev/shm")
        roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 2**30
        self.account = choose(self.binaries)
        parent = str(memory) if roomy else None
        self.home = Path(tempfile.mkdtemp(prefix="chaos-", dir=parent))
        self._settings = {**SETTINGS, "unix_socket_directories": str(self.home), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = 0
        self._replica_of = replica_of

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def socket_path(self) -> str:
        """The socket of the server."""
        return f"{self.home}/.s.PGSQL.5432"

    def dsn(self, database: str = "postgres") -> str:
        """Return the DSN of a database, straight to the server."""
        return f"postgresql://postgres@/{database}?host={self.home}&port=5432"

    def __enter__(self) -> Self:
        self._hand_over(self.home)
        if self._replica_of is None:
            self._initialise()
        else:
            self._copy(self._replica_of)
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """Start the server and return once it takes connections."""
        options = [
            word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")
        ]
        command = [str(self.binaries / "postgres"), "-D", str(self.data), *options]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.account.prefix(), *command],
                env=_environment(),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.await_ready()

    def await_ready(self) -> None:
        """Return once the server takes connections, also after a crash of its own."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                assert self._process is not None
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError((self.home / "log").read_text()[-2000:]) from error
                time.sleep(0.02)

    def stop(self, by: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: SIGQUIT is an immediate stop, as a crash; SIGINT a fast one."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(by)
        try:
            self._process.wait(_PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    def connect(self, database: str = "postgres") -> Connection[Any]:
        """Return an autocommit connection straight to the server."""
        return psycopg.connect(
            self.dsn(database), autocommit=True, connect_timeout=10, application_name="chaos"
        )

    def make_template(self) -> None:
        """Migrate the database that the others are copies of."""
        from orchestrator.store.migrate import upgrade

        with self.connect() as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
        upgrade(self.dsn(TEMPLATE))

    def create(self) -> str:
        """Create a migrated database; return its name."""
        self._numbers += 1
        name = f"chaos_{self._numbers}"
        statement = "create database {} template {} strategy file_copy"
        with self.connect() as connection:
            connection.execute(
                sql.SQL(statement).format(sql.Identifier(name), sql.Identifier(TEMPLATE))
            )
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            )

    def _hand_over(self, path: Path) -> None:
        if self.account.is_other:
            os.chown(path, self.account.owner_uid, self.account.owner_gid)

    def _initialise(self) -> None:
        options = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        self._run("initdb", *options, f"--pgdata={self.data}")

    def _copy(self, primary: Server) -> None:
        """Begin as a standby of `primary`."""
        self._run(
            "pg_basebackup",
            *(
                "--pgdata",
                str(self.data),
                "--checkpoint=fast",
                "--write-recovery-conf",
                "--no-sync",
            ),
            *("--dbname", f"host={primary.home} port=5432 user=postgres application_name=standby"),
        )

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self.account.prefix(), str(self.binaries / program), *arguments],
            env=_environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}
