"""The wire of leaders and workers: values, errors, what is prepared, what is heard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from orchestrator.errors import DatabaseUnavailable, InvalidInput
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Call, batch, just, run
from orchestrator.store.wire import Wired

SAID = Call(b"select 'said'", {})
DIVIDED = Call(b"select 1 / %(by)s::integer", {"by": 0})


@pytest.fixture
def wired(dsn: str) -> Iterator[Wired]:
    with Wired.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        connection.lay_wire()
        yield connection


def prepared(wired: Wired) -> int:
    row = wired.execute("select count(*) from pg_prepared_statements").fetchone()
    assert row is not None
    return int(row[0])


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
def test_values_come_back_as_they_were_sent(wired: Wired, value: object, kind: str) -> None:
    for _ in range(3):
        assert run(wired, just(kept(value, kind))) == [(value,)]


def test_an_integer_may_need_another_type_than_the_one_before(wired: Wired) -> None:
    for value in (1, 2**20, 2**40, 2, 2**41):
        assert run(wired, just(kept(value, "bigint"))) == [(value,)]


def test_a_percent_sign_is_written_twice_and_a_parameter_may_stand_twice(wired: Wired) -> None:
    call = Call(b"select 7 %% %(n)s::integer, %(n)s::integer", {"n": 4, "unused": "x"})
    assert run(wired, just(call)) == [(3, 4)]


def test_statements_of_a_batch_answer_in_turn_and_are_prepared_once(wired: Wired) -> None:
    calls = [SAID, kept(1, "bigint"), Call(b"set local work_mem = '1MB'", {}), kept(2, "bigint")]
    for _ in range(3):
        assert run(wired, batch(calls)) == [[("said",)], [(1,)], [], [(2,)]]
    # The two alike met unprepared: each prepared its own, and one of them is used since.
    assert prepared(wired) == 4


def test_what_is_prepared_outlives_a_rollback(wired: Wired) -> None:
    run(wired, just(SAID))
    run(wired, batch([Call(b"begin", {}), kept(1, "bigint")]))
    run(wired, just(Call(b"rollback", {})))
    before = prepared(wired)
    assert run(wired, batch([SAID, kept(1, "bigint")])) == [[("said",)], [(1,)]]
    assert prepared(wired) == before


def test_the_first_error_of_a_batch_is_raised_and_nothing_of_it_stays(
    wired: Wired, dsn: str
) -> None:
    wired.execute("create table orchestrator.kept (n integer)")
    insert = Call(b"insert into orchestrator.kept values (%(n)s)", {"n": 1})
    for _ in range(2):
        with pytest.raises(InvalidInput, match="division by zero"):
            run(wired, batch([insert, DIVIDED, Call(b"select no_such_column", {})]))
    assert run(wired, just(Call(b"select count(*) from orchestrator.kept", {}))) == [(0,)]
    assert run(wired, batch([SAID, SAID])) == [[("said",)], [("said",)]]


def test_an_error_of_one_statement_leaves_the_connection_usable(wired: Wired) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        run(wired, just(Call(b"selec", {})))
    with pytest.raises(InvalidInput, match="division by zero"):
        run(wired, just(DIVIDED))
    assert run(wired, just(SAID)) == [("said",)]


def test_what_cannot_be_sent_is_refused_before_anything_is(wired: Wired) -> None:
    with pytest.raises(InvalidInput):
        run(wired, batch([SAID, kept("\ud800", "text")]))
    assert run(wired, just(SAID)) == [("said",)]


def test_after_an_interruption_no_answer_is_taken_for_another_one_s(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(wired, batch([SAID, SAID]))

    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(wired, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(wired, batch([SAID, SAID]))
    monkeypatch.undo()
    with pytest.raises(DatabaseUnavailable):
        run(wired, just(SAID))


@pytest.mark.parametrize("calls", [[SAID], [SAID, SAID]])
def test_a_connection_that_broke_is_told_of(wired: Wired, dsn: str, calls: list[Call]) -> None:
    run(wired, batch(calls))
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s)", [wired.info.backend_pid])
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                run(wired, batch(calls))
    assert wired.closed


def test_a_large_answer_to_a_large_question(wired: Wired) -> None:
    texts = Texts(["x" * 1_000] * 5_000)
    call = Call(b"select unnest(%(texts)s::text[])", {"texts": texts})
    answers = run(wired, batch([call, call]))
    assert [len(rows) for rows in answers] == [5_000, 5_000]


def test_what_was_notified_meanwhile_is_heard_later(wired: Wired, dsn: str) -> None:
    channel = f"c{uuid4().hex}"
    wired.execute(f"listen {channel}".encode())
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_notify(%s, 'news')", [channel])
    heard: list[Any] = []
    while not heard:
        run(wired, batch([SAID, SAID]))
        heard += wired.notifies(timeout=0)
    assert [notice.payload for notice in heard] == ["news"]


@pytest.mark.parametrize("statements", [1, 2])
def test_what_a_migration_made_answer_otherwise_is_prepared_anew(
    wired: Wired, dsn: str, statements: int
) -> None:
    wired.execute("create table orchestrator.wide as select 1::integer as n")
    insert = Call(b"insert into orchestrator.wide values (2) returning n", {})
    calls = [insert] * statements
    with psycopg.connect(dsn, autocommit=True) as other:
        for kind in ("integer", "bigint", "text"):
            other.execute(f"alter table orchestrator.wide alter n type {kind}".encode())
            for _ in range(2):
                answers = run(wired, batch(calls))
                assert answers == [[("2" if kind == "text" else 2,)]] * statements
    kept = Call(b"select count(*) from orchestrator.wide", {})
    assert run(wired, just(kept)) == [(1 + 6 * statements,)]


def test_inside_a_transaction_an_outdated_plan_is_an_error_that_the_next_one_is_free_of(
    wired: Wired, dsn: str
) -> None:
    wired.execute("create table orchestrator.wide as select 1::integer as n")
    kept = Call(b"select n from orchestrator.wide", {})
    assert run(wired, just(kept)) == [(1,)]
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("alter table orchestrator.wide alter n type bigint")
    with pytest.raises(psycopg.errors.FeatureNotSupported), wired.transaction():
        run(wired, just(kept))
    with wired.transaction():
        assert run(wired, just(kept)) == [(1,)]


@pytest.fixture
def refusing(wired: Wired) -> str:
    """Return a table that takes a row, and refuses it when its transaction commits."""
    table = "orchestrator.refusing"
    wired.execute(f"create table {table} (n integer)".encode())
    wired.execute(
        """create function orchestrator.refuse() returns trigger language plpgsql as
           $$ begin raise 'refused at the commit'; end $$"""
    )
    wired.execute(
        f"""create constraint trigger refuse after insert on {table} deferrable initially deferred
            for each row execute function orchestrator.refuse()""".encode()
    )
    return table


@pytest.mark.parametrize("statements", [1, 2])
def test_a_commit_that_fails_after_the_last_answer_is_told_of(
    wired: Wired, refusing: str, statements: int
) -> None:
    insert = Call(f"insert into {refusing} values (1) returning n".encode(), {})
    for _ in range(2):
        with pytest.raises(psycopg.errors.RaiseException, match="refused at the commit"):
            run(wired, batch([insert] * statements))
    assert run(wired, just(Call(f"select count(*) from {refusing}".encode(), {}))) == [(0,)]
    assert run(wired, batch([SAID, SAID])) == [[("said",)], [("said",)]]
