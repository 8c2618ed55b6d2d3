"""Sessions that send the same few statements all day, straight through the driver's libpq.

The driver's cursors cost some forty microseconds of Python for each statement: an object, the query
looked up, what is prepared kept in order. A tick is a dozen statements, and on an idle system all
that happens meanwhile is somebody's waiting. Here a statement costs a few microseconds. What values
look like on the wire, how to wait, and what an error means, is the driver's as ever.

Each statement is prepared when it is first sent, under a name of ours. The driver itself prepares
nothing on such a connection: after a rollback it would have the server forget all there is, and
planning a dozen statements anew costs more than many ticks.

What is asked and answered is one generator, an `Exchange`: it never waits itself, so the same code
serves a connection that blocks and one that is awaited.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.abc import PQGen, Transformer
from psycopg.adapt import PyFormat
from psycopg.adapt import Transformer as DriverTransformer
from psycopg.errors import FeatureNotSupported, error_from_result
from psycopg.generators import execute, fetch, send
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

_PLACE = re.compile(rb"%\((\w+)\)s")

Statement = tuple[bytes, Mapping[str, Any]]
# Yields what to wait for, is sent what that returned, and returns the rows of each statement.
Exchange: TypeAlias = Generator[PQGen[list[PGresult]], list[PGresult], list[list[tuple[Any, ...]]]]
# The text of a statement and the types of its parameters: an integer has the type that its value
# needs, so one text may be prepared for several.
_Key = tuple[bytes, tuple[int, ...]]
# The part of an exchange that sends, and returns what came back.
_Sending: TypeAlias = Generator[PQGen[list[PGresult]], list[PGresult], list[PGresult]]


class Wired(Connection[Any]):
    """A connection that may have a `Wire`; to be made with `prepare_threshold=None`."""

    wire: Wire | None = None

    def lay_wire(self) -> None:
        """Send statements over a wire from now on: this is a server session of its own."""
        self.wire = Wire(self)

    def converse(self, exchange: Exchange) -> list[list[tuple[Any, ...]]]:
        """Return what `exchange` returns, blocking meanwhile."""
        try:
            coming = next(exchange)
            while True:
                coming = exchange.send(self.wait(coming))
        except StopIteration as done:
            rows: list[list[tuple[Any, ...]]] = done.value
            return rows
        finally:
            exchange.close()


class AsyncWired(AsyncConnection[Any]):
    """The asynchronous twin of `Wired`: lent to one task at a time."""

    wire: Wire | None = None

    def lay_wire(self) -> None:
        """Send statements over a wire from now on: this is a server session of its own."""
        self.wire = Wire(self)

    async def converse(self, exchange: Exchange) -> list[list[tuple[Any, ...]]]:
        """Return what `exchange` returns; a statement of one that is cancelled is cancelled."""
        try:
            coming = next(exchange)
            while True:
                coming = exchange.send(await self.wait(coming))
        except StopIteration as done:
            rows: list[list[tuple[Any, ...]]] = done.value
            return rows
        finally:
            exchange.close()


class _Numbered(NamedTuple):
    """A statement with numbers as places, and the names of its parameters in their order."""

    text: bytes
    names: Sequence[str]
    formats: Sequence[PyFormat]


class _Bound(NamedTuple):
    """A statement with its values; `text` is what to prepare first, None where that was done."""

    key: _Key
    name: bytes
    text: bytes | None
    values: Sequence[Any] | None
    formats: Sequence[Format] | None


class Wire:
    """What was prepared on one connection, and how to send it."""

    def __init__(self, connection: Connection[Any] | AsyncConnection[Any]) -> None:
        self._connection = connection
        self._numbered: dict[bytes, _Numbered] = {}
        self._prepared: dict[_Key, bytes] = {}
        self._made = 0
        # It asks for the encoding of a connection that is open.
        self._adapted: Transformer | None = None

    def exchange(self, statements: Sequence[Statement]) -> Exchange:
        """Send statements in one round trip; return the rows of each.

        In autocommit, several are one transaction. Raises the driver's error for the first that
        failed. Where it is closed before its end, nothing is left under way.
        """
        connection = self._connection
        if connection.closed:
            raise psycopg.OperationalError("the connection is closed")
        if self._adapted is None:
            self._adapted = DriverTransformer(connection)
        adapted = self._adapted
        bound = [self._bound(adapted, *statement) for statement in statements]
        try:
            if len(bound) > 1:
                results = yield from self._together(bound)
            else:
                results = yield from self._alone(bound[0])
        except BaseException:
            # An answer may still be under way, and would be taken for that to the next question.
            if not _settled(connection.pgconn):
                connection.pgconn.finish()
            raise
        try:
            return [self._rows(adapted, result) for result in results]
        except FeatureNotSupported:
            if all(one.text is not None for one in bound):
                raise
            # What was prepared answers in other types since a migration. Nothing was done.
            self._prepared.clear()
            if connection.pgconn.transaction_status != TransactionStatus.IDLE:
                raise
        return (yield from self.exchange(statements))

    def _bound(self, adapted: Transformer, text: bytes, params: Mapping[str, Any]) -> _Bound:
        numbered = self._numbered.get(text)
        if numbered is None:
            numbered = self._numbered[text] = _with_numbers(text)
        values = formats = None
        types: tuple[int, ...] = ()
        if numbered.names:
            given = [params[name] for name in numbered.names]
            values = adapted.dump_sequence(given, numbered.formats)
            types, formats = adapted.types or (), adapted.formats
        key = (text, types)
        name = self._prepared.get(key)
        if name is not None:
            return _Bound(key, name, None, values, formats)
        self._made += 1
        return _Bound(key, b"wire_%d" % self._made, numbered.text, values, formats)

    def _alone(self, bound: _Bound) -> _Sending:
        pgconn = self._connection.pgconn
        if bound.text is not None:
            pgconn.send_prepare(bound.name, bound.text, bound.key[1])
            prepared = yield execute(pgconn)
            if prepared[0].status != ExecStatus.COMMAND_OK:
                return prepared[:1]
            self._prepared[bound.key] = bound.name
        _send(pgconn, bound)
        results = yield execute(pgconn)
        # The commit comes after the answer: where it fails, that is the last word.
        return results[-1:]

    def _together(self, statements: Sequence[_Bound]) -> _Sending:
        pgconn = self._connection.pgconn
        pgconn.enter_pipeline_mode()
        for bound in statements:
            if bound.text is not None:
                pgconn.send_prepare(bound.name, bound.text, bound.key[1])
            _send(pgconn, bound)
        pgconn.pipeline_sync()
        coming = iter((yield _to_the_end(pgconn)))
        pgconn.exit_pipeline_mode()
        results = []
        for bound in statements:
            if bound.text is not None:
                prepared = next(coming)
                if prepared.status == ExecStatus.COMMAND_OK:
                    self._prepared[bound.key] = bound.name
                else:
                    results.append(prepared)
            results.append(next(coming))
        # The commit comes after the last answer: there is something left only where it failed.
        results.extend(coming)
        return results

    def _rows(self, adapted: Transformer, result: PGresult) -> list[tuple[Any, ...]]:
        status = result.status
        if status == ExecStatus.TUPLES_OK:
            adapted.set_pgresult(result)
            return adapted.load_rows(0, result.ntuples, tuple)
        if status == ExecStatus.COMMAND_OK:
            return []
        raise error_from_result(result, encoding=self._connection.info.encoding)


def _with_numbers(text: bytes) -> _Numbered:
    places: dict[str, int] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return b"$%d" % places.setdefault(found[1].decode(), len(places) + 1)

    numbered = _PLACE.sub(number, text).replace(b"%%", b"%")
    return _Numbered(numbered, list(places), [PyFormat.AUTO] * len(places))


def _send(pgconn: PGconn, bound: _Bound) -> None:
    pgconn.send_query_prepared(bound.name, bound.values, bound.formats, Format.BINARY)


def _settled(pgconn: PGconn) -> bool:
    """Tell whether all that was asked was answered: an interrupted driver cancels a statement, and
    hears it out where it can.
    """
    under_way = pgconn.transaction_status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN)
    return not under_way and pgconn.pipeline_status == PipelineStatus.OFF


def _to_the_end(pgconn: PGconn) -> PQGen[list[PGresult]]:
    """Return the results of a pipeline, one for each thing that was sent."""
    yield from send(pgconn)
    results: list[PGresult] = []
    while True:
        result = yield from fetch(pgconn)
        if result is None:  # the end of one
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)
