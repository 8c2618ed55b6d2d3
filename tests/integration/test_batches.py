"""Several statements in one round trip: one transaction, and no wait for what was half sent."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from orchestrator.errors import InvalidInput
from orchestrator.store.sql import Call, arun, batch, run

_SLOW = Call(b"select pg_sleep(0.3)", {})


def _large(mebibytes: int) -> Call:
    return Call(b"select length(%(text)s)", {"text": "x" * (mebibytes << 20)})


def test_a_statement_too_large_for_the_socket_is_sent_whole_before_its_answer_is_awaited(
    dsn: str,
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The server reads nothing meanwhile: what the socket does not hold waits on our side.
        _, (size,), _ = run(connection, batch([_SLOW, _large(8), _large(1)]))
    assert size == (8 << 20,)


def test_a_large_statement_is_sent_whole_by_the_asynchronous_runner_too(dsn: str) -> None:
    async def ask() -> list[list[tuple[int]]]:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            answers: list[list[tuple[int]]] = await arun(connection, batch([_SLOW, _large(8)]))
            return answers

    assert asyncio.run(ask())[1] == [(8 << 20,)]


def test_a_batch_outside_a_transaction_commits_all_of_its_statements_or_none(dsn: str) -> None:
    make = Call(b"create table half_done ()", {})
    fail = Call(b"select 1 / 0", {})
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(InvalidInput, match="division by zero"):
            run(connection, batch([make, fail]))
        found = connection.execute("select to_regclass('half_done')").fetchone()
    assert found == (None,)
