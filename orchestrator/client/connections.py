"""How clients come by connections: what both kinds of client share of it."""

from __future__ import annotations

import os
import select
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import psycopg
import sqlalchemy
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import exc

from orchestrator.config import DatabaseSettings, Settings, load, redact
from orchestrator.errors import ConfigError, DatabaseUnavailable, InvalidInput
from orchestrator.store import leadership
from orchestrator.store.encoding import ENCODING
from orchestrator.store.sql import PINS, Operation, meant, session_options

URL = "postgresql+psycopg://"  # the dialect; where to connect to is the creator's business
# How long to wait for one of our connections; longer than any statement of ours takes.
POOL_TIMEOUT_S = 30.0
ACCEPTED = (
    "connection must be a SQLAlchemy {kind}Connection or {kind}Session over psycopg, "
    "or a psycopg {kind}Connection, not {given}"
)


def given(database: object, settings: Settings | None) -> tuple[object, Settings]:
    """Return the DSN, or whatever else was given, and the settings to go with it.

    The configuration is read only where no database is named: whoever names one gets what they
    pass, whatever file lies in the working directory.
    """
    if database is None:
        settings = settings or load()
        database = settings.database.url
        if database is None:
            raise ConfigError("no database is named: set DATABASE_URL, or pass a DSN")
    return database, settings or Settings()


class Access:
    """How connections to one DSN are made; learns whether a pooler stands in between.

    Behind a pooler in transaction mode nothing of a session holds: no plan pins, no prepared
    statements, no LISTEN. It shows by refusing startup options, or by a process id that is not the
    server's; from then on pins are set in each transaction.
    """

    def __init__(
        self, dsn: str, settings: DatabaseSettings, *, prepare_threshold: int | None
    ) -> None:
        try:
            given = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            # Without the cause, which quotes the DSN with its password.
            raise ConfigError(
                f"not a PostgreSQL DSN: {redact(dsn)!r}: write postgresql://user@host/database"
            ) from None
        # Options of the DSN or the environment stay in force beside ours.
        self._options = given.pop("options", None) or os.environ.get("PGOPTIONS", "")
        self._given = {
            "connect_timeout": round(settings.connect_timeout_s),
            "fallback_application_name": "orchestrator client",
            **given,
        }
        self._prepare_threshold = prepare_threshold
        self.pooled = False

    def parameters(self) -> dict[str, Any]:
        """Return the arguments of `psycopg.connect`."""
        mine: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": None,
            "client_encoding": ENCODING,
        }
        if not self.pooled:
            mine["prepare_threshold"] = self._prepare_threshold
            mine["options"] = f"{self._options} {session_options()}".strip()
        return self._given | mine

    def refused(self, error: psycopg.OperationalError) -> bool:
        """Tell whether this is a pooler that takes no options; if so, connect again without."""
        refused = "unsupported startup parameter" in str(error)
        self.pooled = self.pooled or refused
        return refused

    def probe(self) -> Operation:
        """Ask the session what `learn` wants to know."""
        return leadership.guard(list(PINS))

    def learn(self, raw: Connection[Any] | AsyncConnection[Any], guard: leadership.Guard) -> None:
        """Note whether `raw` speaks to a server session of its own."""
        if guard.backend_pid != raw.info.backend_pid or guard.settings != PINS:
            self.pooled = True
            raw.prepare_threshold = None


def check_dialect(engine: sqlalchemy.Engine) -> None:
    """Raise `InvalidInput` unless this engine works over psycopg 3."""
    if engine.dialect.name != "postgresql" or engine.dialect.driver != "psycopg":
        raise InvalidInput(
            f"the engine uses {engine.dialect.name}+{engine.dialect.driver}: "
            "create it with a URL that begins with postgresql+psycopg://"
        )


def pool_options(settings: DatabaseSettings) -> dict[str, Any]:
    """Return the options of a pool of our own."""
    return {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        # The one used last: its session is awake, and has seen the statements.
        "pool_use_lifo": True,
        "pool_timeout": POOL_TIMEOUT_S,
        # No rollback at each return: whoever returns a connection looks whether it is `idle`.
        "pool_reset_on_return": None,
        "use_native_hstore": False,
    }


def idle(raw: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Tell whether a connection is open and in no transaction, so that another may take it."""
    return raw.pgconn.transaction_status == TransactionStatus.IDLE


def drop_dead(engine: sqlalchemy.Engine) -> None:
    """Replace, before use, pooled connections that the server has closed meanwhile.

    An idle connection of ours has nothing to say, so anything to read is the server's farewell. It
    costs no round trip, and nothing was sent on it yet: there is no doubt to resolve.
    """

    def checkout(_: object, record: Any, __: object) -> None:
        if severed(record.driver_connection):
            raise exc.InvalidatePoolError("the server closed this connection")

    sqlalchemy.event.listen(engine, "checkout", checkout)


def severed(raw: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Tell whether an idle connection of ours was closed, here or by the server."""
    return raw.closed or _readable(raw.fileno())


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


# These surround every call, so none of them is a generator, which costs several times as much.


class _Unpooled(AbstractContextManager[None]):
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        if isinstance(error, exc.TimeoutError):
            raise DatabaseUnavailable(
                "every connection of the pool stayed in use: make fewer calls at once, or raise "
                "database.pool_size"
            ) from error
        if isinstance(error, exc.DBAPIError) and isinstance(error.orig, psycopg.Error):
            raise meant(error.orig) from error
        if (ours := meant(error)) is not error:
            raise ours from error


_UNPOOLED = _Unpooled()


def unpooled() -> AbstractContextManager[None]:
    """Turn the errors of taking a connection from a pool into ours."""
    return _UNPOOLED


class translating(AbstractContextManager[None]):  # noqa: N801  # reads as what it does
    """Turn the driver's errors into ours; add `doubt` where the connection broke under the work."""

    __slots__ = ("_doubt", "_raw")

    def __init__(self, raw: Connection[Any] | AsyncConnection[Any], doubt: str | None) -> None:
        self._raw = raw
        self._doubt = doubt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        ours = meant(error)
        if isinstance(ours, DatabaseUnavailable) and self._doubt and self._raw.closed:
            doubtful = DatabaseUnavailable(f"{ours}; {self._doubt}")
            doubtful.in_doubt = True
            raise doubtful from (error.__cause__ if ours is error else error)
        if ours is not error:
            raise ours from error


class plain(AbstractContextManager[None]):  # noqa: N801  # reads as what it does
    """Read plain rows by plain cursors from a connection whose owner may like other ones."""

    __slots__ = ("_raw", "_theirs")

    def __init__(self, raw: Any, cursor_factory: type) -> None:
        self._raw = raw
        self._theirs = raw.row_factory, raw.cursor_factory
        raw.row_factory, raw.cursor_factory = tuple_row, cursor_factory

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._raw.row_factory, self._raw.cursor_factory = self._theirs
