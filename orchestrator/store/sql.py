"""Named statements, and the two runners that drive operations over a connection.

An operation is a generator: it yields a `Call` (or several, as a `Batch`, sent in one round trip),
is sent the rows, and returns its value. It never sees the connection, so the same code serves
synchronous and asynchronous callers. The caller owns the transaction; where the connection is in
autocommit, a `Batch` is a transaction of its own (each statement with a snapshot of its own, as
ever).

Nothing is synchronised in between: that would wait for each answer in turn, and the driver's `sync`
can wait for ever for the answer to a large statement of which it has sent a part.

A `Stream` is for statements that take long to make: the server works on one while the next is made.
Each is sent whole before that, else the server would have only what the socket holds of it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from types import TracebackType
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncPipeline, Connection, Cursor, Pipeline
from psycopg.abc import PQGen
from psycopg.generators import send

from orchestrator.config import redact
from orchestrator.errors import (
    DatabaseUnavailable,
    InvalidInput,
    OrchestratorError,
    PrivilegeMissing,
    SchemaMismatch,
)
from orchestrator.store.wire import AsyncWired, Exchange, Wired

Row = tuple[Any, ...]
Rows = list[Row]


class Call(NamedTuple):
    """One statement and its parameters; where `older` is set, it is for servers before 17."""

    statement: bytes
    params: Mapping[str, Any]
    older: bytes | None = None


class Batch(NamedTuple):
    """Statements that need no answer of each other: one round trip, one list of rows each."""

    calls: Sequence[Call]


class Stream(NamedTuple):
    """Statements that need no answer of each other, each made while the server works on the one
    before it: one list of rows each. For use in a transaction, because making one may fail.
    """

    calls: Iterable[Call]


Request = Call | Batch | Stream
Operation = Generator[Request, Any, Any]

# Plans of the hot statements must not depend on statistics: a queue that was analysed while empty
# made the planner join every picked row against every ready row (measured: 70 ms instead of 1).
PINS: Mapping[str, str] = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
}

# What a role or a database may have been set to otherwise, and every statement of ours relies on:
# that it sees what was committed before it, and that values look as the driver writes them.
PLAIN: Mapping[str, str] = {
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "datestyle": "ISO",
    "timezone": "UTC",
}

# The server ends a session of ours that falls silent inside a transaction. Else a worker that is
# stopped there, or cut off, would keep its leases locked, and nobody could take its tasks back.
TIMERS: Mapping[str, str] = {"idle_in_transaction_session_timeout": "10s"}
# That timer does not run while the server waits for the rest of a pipeline; a limit to the whole
# transaction does, and servers know one since PostgreSQL 17.
_LIMITS_TRANSACTIONS = 170000

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
# From 17 on, `= ANY` of a batch of keys is one walk along an index. Before, the planner may take it
# for a filter and read all there is of a queue: there, key by key.
_WALKS_ARRAYS = 170000
_VARIANTS = re.compile(
    r"^-- since 17:\n(?P<newer>.*?)^-- before:\n(?P<older>.*?)^-- end\n", re.MULTILINE | re.DOTALL
)


def just(call: Call) -> Operation:
    """Return the operation that is one statement, and its rows."""
    return (yield call)


def batch(calls: Sequence[Call]) -> Operation:
    """Return the operation that is several statements in one round trip, and the rows of each."""
    return (yield Batch(calls))


def limit_transactions(server_version: int, seconds: float) -> Operation:
    """Have the server end this session once a transaction of it lasts longer, where it can."""
    if server_version >= _LIMITS_TRANSACTIONS:
        limit = f"{round(seconds * 1000)}ms"
        yield Call(b"select set_config('transaction_timeout', %(limit)s, false)", {"limit": limit})


class Statements:
    """The statements of one `.sql` file, by name; an unknown name is a KeyError at import.

    Where lines stand between `-- since 17:`, `-- before:` and `-- end`, the first ones are for
    servers from PostgreSQL 17 on, the others for those before.
    """

    def __init__(self, concern: str) -> None:
        text = files("orchestrator.store").joinpath(f"{concern}.sql").read_text(encoding="utf-8")
        self._by_name = _named(_VARIANTS.sub(r"\g<newer>", text))
        older = _named(_VARIANTS.sub(r"\g<older>", text))
        self._older = {n: body for n, body in older.items() if body != self._by_name[n]}

    def __getitem__(self, name: str) -> bytes:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def call(self, statement: str, /, **params: Any) -> Call:
        """Return the statement of this name with its parameters."""
        return Call(self._by_name[statement], params, self._older.get(statement))


def _named(text: str) -> dict[str, bytes]:
    parts = _NAME.split(text)[1:]
    return {
        name: body.strip().removesuffix(";").encode()
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def run(connection: Connection[Any], operation: Operation) -> Any:
    """Drive `operation` over `connection` and return its value; raise our errors for the
    driver's.
    """
    with translated():
        try:
            request = next(operation)
            while True:
                request = operation.send(_answer(connection, request))
        except StopIteration as done:
            return done.value
        finally:
            operation.close()


async def arun(connection: AsyncConnection[Any], operation: Operation) -> Any:
    """Drive `operation` over an asynchronous connection; the twin of `run`, and the only one."""
    with translated():
        try:
            request = next(operation)
            while True:
                request = operation.send(await _aanswer(connection, request))
        except StopIteration as done:
            return done.value
        finally:
            operation.close()


def _answer(connection: Connection[Any], request: Request) -> Any:
    if isinstance(connection, Wired):
        exchange = _exchange(connection, request)
        if exchange is not None:
            answers = connection.converse(exchange)
            return answers[0] if isinstance(request, Call) else answers
    if isinstance(request, Call):
        cursor = connection.execute(text_for(connection, request), request.params, binary=True)
        return cursor.fetchall() if _has_rows(cursor) else []
    with connection.pipeline() as pipeline:
        cursors = []
        for call in request.calls:
            text = text_for(connection, call)
            cursors.append(connection.execute(text, call.params, binary=True))
            if isinstance(request, Stream):
                connection.wait(_sent(pipeline))
        if isinstance(request, Stream):
            # This raises the first error, the end of the block the last: "failed before".
            pipeline.sync()
    return [cursor.fetchall() if _has_rows(cursor) else [] for cursor in cursors]


async def _aanswer(connection: AsyncConnection[Any], request: Request) -> Any:
    if isinstance(connection, AsyncWired):
        exchange = _exchange(connection, request)
        if exchange is not None:
            answers = await connection.converse(exchange)
            return answers[0] if isinstance(request, Call) else answers
    if isinstance(request, Call):
        text = text_for(connection, request)
        cursor = await connection.execute(text, request.params, binary=True)
        return await cursor.fetchall() if _has_rows(cursor) else []
    async with connection.pipeline() as pipeline:
        cursors = []
        for call in request.calls:
            text = text_for(connection, call)
            cursors.append(await connection.execute(text, call.params, binary=True))
            if isinstance(request, Stream):
                await connection.wait(_sent(pipeline))
        if isinstance(request, Stream):
            await pipeline.sync()
    return [await cursor.fetchall() if _has_rows(cursor) else [] for cursor in cursors]


def _exchange(connection: Wired | AsyncWired, request: Request) -> Exchange | None:
    """Return what to say on the wire of a connection; None where there is none, or for a stream."""
    if connection.wire is None or isinstance(request, Stream):
        return None
    calls = [request] if isinstance(request, Call) else request.calls
    return connection.wire.exchange([(text_for(connection, call), call.params) for call in calls])


def _sent(pipeline: Pipeline | AsyncPipeline) -> PQGen[None]:
    """Send the rest of a statement, and what `sync` sends, without its wait for the answer: with
    that the server times the silence that may follow, as outside of pipelines (`TIMERS`).
    """
    pipeline.result_queue.append(None)
    pipeline.pgconn.pipeline_sync()
    yield from send(pipeline.pgconn)


def text_for(connection: Connection[Any] | AsyncConnection[Any], call: Call) -> bytes:
    """Return the text of a statement for the server of this connection."""
    if call.older is not None and connection.pgconn.server_version < _WALKS_ARRAYS:
        return call.older
    return call.statement


def _has_rows(cursor: Cursor[Any] | AsyncCursor[Any]) -> bool:
    # Asking for `description` says the same, but makes an object of each column first.
    return cursor.rownumber is not None


def session_options(extra: Mapping[str, str] | None = None) -> str:
    """Return the libpq `options` that pin plans, and set timers (and `extra`), for a session."""
    return options({**PINS, **TIMERS, **(extra or {})})


def options(settings: Mapping[str, object]) -> str:
    """Return the libpq `options` of a session with these settings, and whatever is `PLAIN`."""
    given = {**PLAIN, **settings}.items()
    return " ".join("-c " + f"{name}={value}".replace(" ", r"\ ") for name, value in given)


class _Translated(AbstractContextManager[None]):
    # One for all, without a generator for each use: it surrounds every statement.
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and (ours := meant(error)) is not error:
            raise ours from error


_TRANSLATED = _Translated()


def translated() -> AbstractContextManager[None]:
    """Turn the driver's errors into ours, chained, with a message that says what to do next."""
    return _TRANSLATED


def meant(error: BaseException) -> BaseException:
    """Return the error of ours that stands for whatever was raised, or that itself."""
    if isinstance(error, psycopg.Error):
        return explained(error)
    if isinstance(error, UnicodeEncodeError):
        return InvalidInput("a value is not valid Unicode text (lone surrogate)")
    return error


def explained(error: psycopg.Error) -> OrchestratorError | psycopg.Error:
    """Return the error of ours that stands for a driver's error, or the driver's own."""
    if isinstance(
        error,
        psycopg.errors.UndefinedTable
        | psycopg.errors.UndefinedColumn
        | psycopg.errors.UndefinedFunction
        | psycopg.errors.InvalidSchemaName,
    ):
        return SchemaMismatch(
            f"the database's schema does not fit this version ({_first_line(error)}): "
            "run `orchestrator migrate`"
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return PrivilegeMissing(
            f"this database role may not do that ({_first_line(error)}): "
            "`orchestrator grant --role ...` gives a role what its verbs need"
        )
    if isinstance(error, psycopg.DataError):
        return InvalidInput(f"the database takes no such value: {_first_line(error)}")
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return DatabaseUnavailable("this server is read-only (a standby?): use the primary's DSN")
    if isinstance(error, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure):
        return DatabaseUnavailable(
            f"the server rolled the transaction back ({_first_line(error)}): run it again"
        )
    if isinstance(error, psycopg.OperationalError):
        return DatabaseUnavailable(f"the database did not answer: {_first_line(error)}")
    return error


def _first_line(error: psycopg.Error) -> str:
    return redact(str(error).strip().split("\n", 1)[0]) or type(error).__name__
