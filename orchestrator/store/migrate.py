"""Bring a database's schema to what this code needs, and refuse one that is too new for it.

The SQL lives in numbered files of `schema/versions`; Alembic keeps the order and the version table.
Any number of replicas may start at once: one migrates, the others wait for it and find nothing to
do.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from orchestrator.errors import ConfigError, DatabaseUnavailable
from orchestrator.store.encoding import ENCODING, demand
from orchestrator.store.names import LOCK_CLASS, MIGRATION_LOCK
from orchestrator.store.roles import regrant
from orchestrator.store.sql import explained, run
from orchestrator.store.status import Schema, schema

# How long a migration may hold up a busy table before it lets go and tries again.
_LOCK_TIMEOUT_MS = 1_000
# How long to wait for another replica's migration, or for a lock, before giving up.
_PATIENCE_S = 60.0


def schema_dir() -> Path:
    """Return the folder of the migrations: inside the installed package, else in the repository."""
    packaged = Path(str(files("orchestrator"))) / "_schema"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "schema"


def upgrade(dsn: str) -> bool:
    """Migrate the database to this code's schema; return whether anything had to be done.

    Raises `SchemaMismatch` where the database is too new for this code, `ConfigError` where its
    encoding is not UTF8, `DatabaseUnavailable` where a lock could not be had in a minute.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with _connected(dsn) as connection:
                if _is_current(connection):
                    return False
                if _locked(connection):
                    command.upgrade(_config(connection), "head")
                    regrant(_driver(connection))
                    connection.commit()
                    return True
        except LockNotAvailable:
            pass
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(
                "another migration or a long transaction holds the schema: end it and try again"
            )
        time.sleep(random.uniform(0.05, 0.2))


def check(dsn: str) -> None:
    """Return if this code can work with the database's schema; raise `SchemaMismatch` if not,
    `ConfigError` where its encoding is not UTF8.
    """
    with _connected(dsn) as connection:
        run(_driver(connection), schema()).demand()


def script() -> str:
    """Return the SQL that creates the schema from nothing, for a DBA to read and run."""
    buffer = io.StringIO()
    config = _config(None)
    config.output_buffer = buffer
    command.upgrade(config, "head", sql=True)
    return buffer.getvalue()


def head() -> str:
    """Return the revision this code needs."""
    return str(ScriptDirectory(str(schema_dir())).get_current_head())


@contextmanager
def _connected(dsn: str) -> Iterator[Connection]:
    engine = create_engine(
        make_url("postgresql+psycopg://"),
        creator=lambda: _raw(dsn),
        poolclass=NullPool,
    )
    try:
        with engine.connect() as connection:
            yield connection
    except LockNotAvailable:
        # From the files of the migrations, which go through the driver itself.
        raise
    except psycopg.Error as error:
        raise explained(error) from error
    except DBAPIError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise error.orig from error
        raise _ours(error) from error
    finally:
        engine.dispose()


def _raw(dsn: str) -> psycopg.Connection[Any]:
    """Connect; raise `ConfigError` where the database cannot hold every text."""
    raw = psycopg.connect(dsn, connect_timeout=5, prepare_threshold=None, client_encoding=ENCODING)
    try:
        demand(raw)
    except ConfigError:
        raw.close()
        raise
    return raw


def _ours(error: DBAPIError) -> Exception:
    return explained(error.orig) if isinstance(error.orig, psycopg.Error) else error


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw


def _is_current(connection: Connection) -> bool:
    found: Schema = run(_driver(connection), schema())
    if found.newer:
        # Which this code can do nothing to: it may live with it, or it may not.
        found.demand()
        return True
    return found.found[-1:] == (head(),)


def _locked(connection: Connection) -> bool:
    connection.execute(text(f"set local lock_timeout = {_LOCK_TIMEOUT_MS}"))
    lock = text("select pg_try_advisory_xact_lock(:class, :object)")
    got = connection.execute(lock, {"class": LOCK_CLASS, "object": MIGRATION_LOCK}).scalar_one()
    # Looked at again under the lock: another replica may have migrated since.
    return bool(got) and not _is_current(connection)


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def apply(context: Any, revision_file: str) -> None:
    """Run the `.sql` file beside a revision's Python file; called by the revisions themselves."""
    path = Path(revision_file).with_suffix(".sql")
    body = path.read_text(encoding="utf-8")
    if context.get_context().as_sql:
        context.get_context().impl.static_output(body)
    else:
        # Through the driver itself: SQLAlchemy would hand it an (empty) set of parameters, and the
        # percent signs of plpgsql's format() would be taken for placeholders.
        context.get_bind().connection.driver_connection.execute(body.encode())
