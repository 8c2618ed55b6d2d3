"""Statements made one by one while the server works on those before them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from orchestrator.errors import DatabaseUnavailable, InvalidInput
from orchestrator.store.sql import Call, Operation, Rows, Stream, arun, run
from tests.support.waiting import until

Runner = Callable[[str, Operation], Any]
_ONE = Call(b"select 1", {})
_FAIL = Call(b"select 1 / 0", {})
# More than the socket holds: sent in parts, of which the server can do nothing with the first.
_LARGE = Call(b"select pg_advisory_xact_lock(7), length(%(text)s)", {"text": "x" * (8 << 20)})


def streamed(calls: Iterator[Call]) -> Operation:
    return (yield Stream(calls))


def blocking(dsn: str, operation: Operation) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection, connection.transaction():
        return run(connection, operation)


def awaiting(dsn: str, operation: Operation) -> Any:
    async def main() -> Any:
        async with (
            await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
            connection.transaction(),
        ):
            return await arun(connection, operation)

    return asyncio.run(main())


@pytest.fixture(params=[blocking, awaiting])
def runner(request: pytest.FixtureRequest) -> Runner:
    runner: Runner = request.param
    return runner


def test_the_server_has_done_a_statement_before_the_next_is_made(dsn: str, runner: Runner) -> None:
    with psycopg.connect(dsn, autocommit=True) as watch:

        def done() -> bool:
            return bool(
                watch.execute("select from pg_locks where objid = 7 and granted").fetchall()
            )

        def calls() -> Iterator[Call]:
            yield _LARGE
            until(done, "the server has run what it was sent")
            yield _ONE

        first, second = runner(dsn, streamed(calls()))
    assert (first[0][1], second) == (8 << 20, [(1,)])


@pytest.mark.parametrize("before", [[], [_ONE] * 3])
@pytest.mark.parametrize("after", [[], [_ONE], [_LARGE], [_ONE, _LARGE], [_ONE] * 50])
def test_the_error_is_that_of_the_statement_that_failed(
    dsn: str, runner: Runner, before: list[Call], after: list[Call]
) -> None:
    # Those after it fail because it failed; their errors may come with its own, or later.
    with pytest.raises(InvalidInput, match="division by zero"):
        runner(dsn, streamed(iter([*before, _FAIL, *after])))


def test_what_making_a_statement_raises_undoes_those_before_it(dsn: str, runner: Runner) -> None:
    def calls() -> Iterator[Call]:
        yield Call(b"create table half_done ()", {})
        raise InvalidInput("item 1: no")

    with pytest.raises(InvalidInput, match="item 1: no"):
        runner(dsn, streamed(calls()))
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select to_regclass('half_done')").fetchone()
    assert found == (None,)


def test_statements_without_rows_have_none_and_no_statement_is_no_answer(
    dsn: str, runner: Runner
) -> None:
    answers: list[Rows] = runner(
        dsn,
        streamed(iter([Call(b"create temp table t ()", {}), Call(b"select 1 where false", {})])),
    )
    assert answers == [[], []]
    assert runner(dsn, streamed(iter(()))) == []


def test_the_server_ends_a_session_that_falls_silent_between_two_statements(
    dsn: str, runner: Runner
) -> None:
    short = f"{dsn}&options=-c%20idle_in_transaction_session_timeout%3D50ms"
    with psycopg.connect(dsn, autocommit=True) as watch:

        def gone() -> bool:
            others = "select from pg_stat_activity where datname = current_database()"
            return not watch.execute(f"{others} and pid <> pg_backend_pid()".encode()).fetchall()

        def calls() -> Iterator[Call]:
            yield _ONE
            until(gone, "the server ends the session")
            yield _ONE

        with pytest.raises(DatabaseUnavailable, match="did not answer"):
            runner(short, streamed(calls()))
