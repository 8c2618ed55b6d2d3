"""What a verb works on: the settings, and the database they or the command line name."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, DatabaseUnavailable

if TYPE_CHECKING:  # each of them takes a part of a second to load, and `--help` needs none
    from psycopg import Connection

    from orchestrator.config import Settings

_NO_DATABASE = (
    "no database named: set DATABASE_URL (or give --dsn), "
    "or use a private PostgreSQL in your data directory with --embedded"
)


class Setup:
    """The options that every verb has, and what follows from them."""

    def __init__(self, *, dsn: str | None, embedded: bool, config: Path | None) -> None:
        self._dsn = dsn
        self._embedded = embedded
        self._config = config
        self._overrides: dict[str, object] = {"database.url": dsn}

    def override(self, **settings: object) -> None:
        """Let options of a verb go first: `worker_concurrency=4`; None was not given."""
        for name, value in settings.items():
            self._overrides[name.replace("_", ".", 1)] = value

    @cached_property
    def settings(self) -> Settings:
        """Return all settings; raise `ConfigError`."""
        from orchestrator.config import load

        return load(self._config, overrides=self._overrides)

    @property
    def names_database(self) -> bool:
        """Tell whether there is a database to work on."""
        return self._embedded or self.settings.database.url is not None

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the DSN to work on; raise `ConfigError` where none is named."""
        if not self._embedded:
            if self.settings.database.url is None:
                raise ConfigError(_NO_DATABASE)
            yield self.settings.database.url
            return
        if self._dsn is not None:
            raise ConfigError("--dsn and --embedded exclude each other: give one of them")
        from orchestrator.embedded import default_data_dir, persistent

        with persistent(default_data_dir()) as dsn:
            _bring_up_to_date(dsn)
            yield dsn

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """Yield an autocommit connection to a database whose schema fits."""
        with self.database() as dsn, self.connect(dsn) as connection:
            demand_schema(connection)
            yield connection

    @contextmanager
    def fitting_database(self) -> Iterator[str]:
        """Yield the DSN of a database whose schema fits."""
        with self.database() as dsn:
            with self.connect(dsn) as connection:
                demand_schema(connection)
            yield dsn

    def connect(self, dsn: str) -> Connection[Any]:
        """Return an autocommit connection that also works behind a pooler."""
        import psycopg

        from orchestrator.config import redact
        from orchestrator.store.encoding import ENCODING

        try:
            return psycopg.connect(
                dsn,
                autocommit=True,
                connect_timeout=math.ceil(self.settings.database.connect_timeout_s),
                prepare_threshold=None,
                client_encoding=ENCODING,
                application_name="orchestrator cli",
            )
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(
                f"cannot reach {redact(dsn)}: {redact(_reason(str(error)))}: "
                "see that the server runs there and that the DSN is right"
            ) from error
        except psycopg.ProgrammingError as error:  # its text repeats the DSN, password and all
            raise ConfigError(
                "the DSN cannot be read: give postgresql://user:password@host:5432/database, "
                "special characters as %XX, or key=value pairs"
            ) from error


def _reason(text: str) -> str:
    """Return why no connection was had, without the driver's preface and libpq's hints."""
    lines = [line for line in text.splitlines() if not line.startswith("\t")]
    joined = " ".join(" ".join(lines).split())
    return joined.removeprefix("connection failed: ").removeprefix("connection is bad: ")


def demand_schema(connection: Connection[Any]) -> None:
    """Return if the schema is the one this version needs; raise `SchemaMismatch` if not.

    Raises `ConfigError` where the database's encoding is unfit.
    """
    from orchestrator.store import encoding, status
    from orchestrator.store.sql import run

    encoding.demand(connection)
    run(connection, status.schema()).demand()


def actor() -> str:
    """Return who works here, for the audit log."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a passwd entry
        user = f"uid {os.geteuid()}"
    return f"cli {user}@{socket.gethostname()}"


def _bring_up_to_date(dsn: str) -> None:
    """Migrate a private database: nobody else looks after it."""
    import psycopg

    from orchestrator.store import status
    from orchestrator.store.sql import run

    with psycopg.connect(dsn, autocommit=True) as connection:
        schema = run(connection, status.schema())
    if not set(schema.found) >= set(schema.known):
        from orchestrator.store.migrate import upgrade

        upgrade(dsn)
