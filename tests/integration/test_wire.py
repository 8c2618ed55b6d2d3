"""The wire of leaders, workers and clients: values, errors, what is prepared, what is heard.

On a connection that blocks, and on one that is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from orchestrator.errors import DatabaseUnavailable, InvalidInput
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Call, Operation, arun, batch, just, run
from orchestrator.store.wire import AsyncWired, Wired

SAID = Call(b"select 'said'", {})
DIVIDED = Call(b"select 1 / %(by)s::integer", {"by": 0})


class Blocking:
    """A connection with a wire, and what these tests do to one."""

    def __init__(self, dsn: str) -> None:
        self.raw: Any = Wired.connect(dsn, autocommit=True, prepare_threshold=None)
        self.raw.lay_wire()

    def run(self, operation: Operation) -> Any:
        return run(self.raw, operation)

    def plainly(self, statement: str) -> Any:
        """Execute a statement with a cursor of the driver's; return its rows, if it has any."""
        cursor = self.raw.execute(statement.encode())
        return cursor.fetchall() if cursor.description else None

    def in_transaction(self, operation: Operation) -> Any:
        with self.raw.transaction():
            return self.run(operation)

    def heard(self) -> list[str]:
        return [notice.payload for notice in self.raw.notifies(timeout=0)]

    def close(self) -> None:
        self.raw.close()


class Awaited(Blocking):
    """The same over a connection of coroutines."""

    def __init__(self, dsn: str) -> None:
        self._loop = asyncio.new_event_loop()
        connecting = AsyncWired.connect(dsn, autocommit=True, prepare_threshold=None)
        self.raw = self._done(connecting)
        self.raw.lay_wire()

    def _done(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def run(self, operation: Operation) -> Any:
        return self._done(arun(self.raw, operation))

    def plainly(self, statement: str) -> Any:
        async def execute() -> Any:
            cursor = await self.raw.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else None

        return self._done(execute())

    def in_transaction(self, operation: Operation) -> Any:
        async def within() -> Any:
            async with self.raw.transaction():
                return await arun(self.raw, operation)

        return self._done(within())

    def heard(self) -> list[str]:
        async def heard() -> list[str]:
            return [notice.payload async for notice in self.raw.notifies(timeout=0)]

        payloads: list[str] = self._done(heard())
        return payloads

    def close(self) -> None:
        self._done(self.raw.close())
        self._loop.close()


@pytest.fixture(params=[Blocking, Awaited])
def wired(request: pytest.FixtureRequest, dsn: str) -> Iterator[Blocking]:
    wired = request.param(dsn)
    yield wired
    wired.close()


def prepared(wired: Blocking) -> int:
    [(count,)] = wired.plainly("select count(*) from pg_prepared_statements")
    return int(count)


def kept(value: object, kind: str) -> Call:
    return Call(b"select %(value)s::" + kind.encode(), {"value": value})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, "bigint"),
        (-(2**63), "bigint"),
        (1.5, "float8"),
        (None, "text"),
        ("ä%(x)s", "text"),
        (True, "boolean"),
        (UUID(int=7), "uuid"),
        (datetime(2030, 1, 2, tzinfo=UTC), "timestamptz"),
        (b"\0\xff", "bytea"),
        ([UUID(int=7)], "uuid[]"),
        (Int8s([1, 2**62]), "bigint[]"),
        (Texts(["a", None]), "text[]"),
    ],
)
def test_values_come_back_as_they_were_sent(wired: Blocking, value: object, kind: str) -> None:
    for _ in range(3):
        assert wired.run(just(kept(value, kind))) == [(value,)]


def test_an_integer_may_need_another_type_than_the_one_before(wired: Blocking) -> None:
    for value in (1, 2**20, 2**40, 2, 2**41):
        assert wired.run(just(kept(value, "bigint"))) == [(value,)]


def test_a_percent_sign_is_written_twice_and_a_parameter_may_stand_twice(wired: Blocking) -> None:
    call = Call(b"select 7 %% %(n)s::integer, %(n)s::integer", {"n": 4, "unused": "x"})
    assert wired.run(just(call)) == [(3, 4)]


def test_statements_of_a_batch_answer_in_turn_and_are_prepared_once(wired: Blocking) -> None:
    calls = [SAID, kept(1, "bigint"), Call(b"set local work_mem = '1MB'", {}), kept(2, "bigint")]
    for _ in range(3):
        assert wired.run(batch(calls)) == [[("said",)], [(1,)], [], [(2,)]]
    # The two alike met unprepared: each prepared its own, and one of them is used since.
    assert prepared(wired) == 4


def test_what_is_prepared_outlives_a_rollback(wired: Blocking) -> None:
    wired.run(just(SAID))
    wired.run(batch([Call(b"begin", {}), kept(1, "bigint")]))
    wired.run(just(Call(b"rollback", {})))
    before = prepared(wired)
    assert wired.run(batch([SAID, kept(1, "bigint")])) == [[("said",)], [(1,)]]
    assert prepared(wired) == before


def test_the_first_error_of_a_batch_is_raised_and_nothing_of_it_stays(
    wired: Blocking, dsn: str
) -> None:
    wired.plainly("create table orchestrator.kept (n integer)")
    insert = Call(b"insert into orchestrator.kept values (%(n)s)", {"n": 1})
    for _ in range(2):
        with pytest.raises(InvalidInput, match="division by zero"):
            wired.run(batch([insert, DIVIDED, Call(b"select no_such_column", {})]))
    assert wired.run(just(Call(b"select count(*) from orchestrator.kept", {}))) == [(0,)]
    assert wired.run(batch([SAID, SAID])) == [[("said",)], [("said",)]]


def test_an_error_of_one_statement_leaves_the_connection_usable(wired: Blocking) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        wired.run(just(Call(b"selec", {})))
    with pytest.raises(InvalidInput, match="division by zero"):
        wired.run(just(DIVIDED))
    assert wired.run(just(SAID)) == [("said",)]


def test_what_cannot_be_sent_is_refused_before_anything_is(wired: Blocking) -> None:
    with pytest.raises(InvalidInput):
        wired.run(batch([SAID, kept("\ud800", "text")]))
    assert wired.run(just(SAID)) == [("said",)]


def test_after_an_interruption_no_answer_is_taken_for_another_one_s(
    wired: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired.run(batch([SAID, SAID]))

    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(wired.raw, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wired.run(batch([SAID, SAID]))
    monkeypatch.undo()
    with pytest.raises(DatabaseUnavailable):
        wired.run(just(SAID))


@pytest.mark.parametrize("calls", [[SAID], [SAID, SAID]])
def test_a_connection_that_broke_is_told_of(wired: Blocking, dsn: str, calls: list[Call]) -> None:
    wired.run(batch(calls))
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s)", [wired.raw.info.backend_pid])
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                wired.run(batch(calls))
    assert wired.raw.closed


def test_a_large_answer_to_a_large_question(wired: Blocking) -> None:
    texts = Texts(["x" * 1_000] * 5_000)
    call = Call(b"select unnest(%(texts)s::text[])", {"texts": texts})
    answers = wired.run(batch([call, call]))
    assert [len(rows) for rows in answers] == [5_000, 5_000]


def test_what_was_notified_meanwhile_is_heard_later(wired: Blocking, dsn: str) -> None:
    channel = f"c{uuid4().hex}"
    wired.plainly(f"listen {channel}")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_notify(%s, 'news')", [channel])
    heard: list[str] = []
    while not heard:
        wired.run(batch([SAID, SAID]))
        heard += wired.heard()
    assert heard == ["news"]


@pytest.mark.parametrize("statements", [1, 2])
def test_what_a_migration_made_answer_otherwise_is_prepared_anew(
    wired: Blocking, dsn: str, statements: int
) -> None:
    wired.plainly("create table orchestrator.wide as select 1::integer as n")
    insert = Call(b"insert into orchestrator.wide values (2) returning n", {})
    calls = [insert] * statements
    with psycopg.connect(dsn, autocommit=True) as other:
        for kind in ("integer", "bigint", "text"):
            other.execute(f"alter table orchestrator.wide alter n type {kind}".encode())
            for _ in range(2):
                answers = wired.run(batch(calls))
                assert answers == [[("2" if kind == "text" else 2,)]] * statements
    kept = Call(b"select count(*) from orchestrator.wide", {})
    assert wired.run(just(kept)) == [(1 + 6 * statements,)]


def test_inside_a_transaction_an_outdated_plan_is_an_error_that_the_next_one_is_free_of(
    wired: Blocking, dsn: str
) -> None:
    wired.plainly("create table orchestrator.wide as select 1::integer as n")
    kept = Call(b"select n from orchestrator.wide", {})
    assert wired.run(just(kept)) == [(1,)]
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("alter table orchestrator.wide alter n type bigint")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        wired.in_transaction(just(kept))
    assert wired.in_transaction(just(kept)) == [(1,)]


@pytest.fixture
def refusing(wired: Blocking) -> str:
    """Return a table that takes a row, and refuses it when its transaction commits."""
    table = "orchestrator.refusing"
    wired.plainly(f"create table {table} (n integer)")
    wired.plainly(
        """create function orchestrator.refuse() returns trigger language plpgsql as
           $$ begin raise 'refused at the commit'; end $$"""
    )
    wired.plainly(
        f"""create constraint trigger refuse after insert on {table} deferrable initially deferred
            for each row execute function orchestrator.refuse()"""
    )
    return table


@pytest.mark.parametrize("statements", [1, 2])
def test_a_commit_that_fails_after_the_last_answer_is_told_of(
    wired: Blocking, refusing: str, statements: int
) -> None:
    insert = Call(f"insert into {refusing} values (1) returning n".encode(), {})
    for _ in range(2):
        with pytest.raises(psycopg.errors.RaiseException, match="refused at the commit"):
            wired.run(batch([insert] * statements))
    assert wired.run(just(Call(f"select count(*) from {refusing}".encode(), {}))) == [(0,)]
    assert wired.run(batch([SAID, SAID])) == [[("said",)], [("said",)]]
