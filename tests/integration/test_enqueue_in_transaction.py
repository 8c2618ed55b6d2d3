"""`connection=`: what is enqueued or acked commits and rolls back with the caller's own work."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from orchestrator import (
    AsyncClient,
    AttemptStatus,
    Claim,
    Client,
    IdempotencyConflict,
    InvalidInput,
    LeaseLost,
    Place,
    TaskSpec,
)
from orchestrator.leader.replica import Replica
from tests.integration.conftest import ask
from tests.support import stepping
from tests.support.waiting import until

# The caller's own work: one row.
WRITE = "insert into effect (what) values ('done')"


class Undo(Exception):
    """What goes wrong in the caller's transaction."""


@pytest.fixture(autouse=True)
def effect(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table effect (what text)")


@pytest.fixture
def engine(dsn: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    yield engine
    engine.dispose()


def async_engine(dsn: str) -> AsyncEngine:
    return create_async_engine(
        "postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(dsn)
    )


def counted(dsn: str) -> tuple[int, int]:
    """Return how many (effects, tasks) are committed."""
    effects = ask(dsn, "select count(*) from effect")
    return effects, ask(dsn, "select count(*) from orchestrator.task")


@contextmanager
def a_connection_that_began(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    with engine.begin() as connection:
        connection.execute(text(WRITE))
        yield connection


@contextmanager
def a_connection_that_has_not_begun(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    with engine.connect() as connection:
        yield connection
        connection.commit()
    with engine.begin() as other:  # on the first one, it would begin what was not begun
        other.execute(text(WRITE))


@contextmanager
def a_session(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    with Session(engine) as session, session.begin():
        session.execute(text(WRITE))
        yield session


@contextmanager
def a_session_that_did_nothing_yet(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    with Session(engine) as session:
        yield session
        session.commit()
    with engine.begin() as other:
        other.execute(text(WRITE))


@contextmanager
def a_scoped_session(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    sessions = scoped_session(sessionmaker(engine))
    try:
        with sessions.begin():
            sessions.execute(text(WRITE))
            yield sessions
    finally:
        sessions.remove()


@contextmanager
def a_psycopg_connection(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    with psycopg.connect(dsn) as connection:
        yield connection
        connection.execute(WRITE)


@contextmanager
def a_psycopg_transaction(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection, connection.transaction():
        connection.execute(WRITE)
        yield connection


@contextmanager
def a_psycopg_connection_with_tastes(dsn: str, engine: sqlalchemy.Engine) -> Iterator[Any]:
    factories: Any = {"row_factory": dict_row, "cursor_factory": psycopg.RawCursor}
    with psycopg.connect(dsn, **factories) as connection:
        yield connection
        row = connection.execute("insert into effect values ($1) returning what", ["x"]).fetchone()
        assert row == {"what": "x"}


LENDERS = [
    a_connection_that_began,
    a_connection_that_has_not_begun,
    a_session,
    a_session_that_did_nothing_yet,
    a_scoped_session,
    a_psycopg_connection,
    a_psycopg_transaction,
    a_psycopg_connection_with_tastes,
]


@pytest.mark.parametrize("lending", LENDERS)
def test_tasks_commit_with_the_callers_work(
    dsn: str, engine: sqlalchemy.Engine, client: Client, lending: Any
) -> None:
    with lending(dsn, engine) as lender:
        client.enqueue("mail", org="acme", idempotency_key="k", connection=lender)
        client.enqueue_many([{"name": "mail", "org": "acme"}] * 2, connection=lender)
        assert counted(dsn) == (0, 0)
    assert counted(dsn) == (1, 3)


@pytest.mark.parametrize("lending", LENDERS)
def test_tasks_roll_back_with_the_callers_work(
    dsn: str, engine: sqlalchemy.Engine, client: Client, lending: Any
) -> None:
    def fail() -> None:
        with lending(dsn, engine) as lender:
            client.enqueue("mail", org="acme", connection=lender)
            client.enqueue_many([{"name": "mail", "org": "acme"}] * 2, connection=lender)
            raise Undo

    with pytest.raises(Undo):
        fail()
    assert counted(dsn) == (0, 0)


@pytest.mark.parametrize("lending", LENDERS)
def test_a_conflict_in_a_batch_leaves_the_callers_transaction_usable(
    dsn: str, engine: sqlalchemy.Engine, client: Client, lending: Any
) -> None:
    client.enqueue("mail", 1, org="acme", idempotency_key="k")
    batch = [
        TaskSpec(name="mail", payload=2, org="acme"),
        TaskSpec(name="mail", payload=2, org="acme", idempotency_key="k"),
    ]
    with lending(dsn, engine) as lender, pytest.raises(IdempotencyConflict):
        client.enqueue_many(batch, connection=lender)
    assert counted(dsn) == (1, 1)


def test_a_batch_on_an_autocommit_connection_is_all_or_nothing(dsn: str, client: Client) -> None:
    client.enqueue("mail", 1, org="acme", idempotency_key="k")
    batch: list[Any] = [
        {"name": "mail", "org": "acme"},
        {"name": "x", "org": "acme", "idempotency_key": "k"},
    ]
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(IdempotencyConflict):
            client.enqueue_many(batch, connection=connection)
        assert counted(dsn) == (0, 1)
        client.enqueue_many(batch[:1] * 3, connection=connection)
    assert counted(dsn) == (0, 4)


@pytest.mark.parametrize("keys", [None, "k"])
def test_only_a_batch_with_keys_costs_a_savepoint(
    dsn: str, client: Client, keys: str | None
) -> None:
    with psycopg.connect(dsn) as connection:
        one = client.enqueue("mail", org="a", idempotency_key="one", connection=connection)
        keyed = {"name": "mail", "org": "acme", "idempotency_key": keys}
        many = client.enqueue_many([keyed, TaskSpec(name="x", org="y")], connection=connection)
        # What a savepoint writes carries a transaction id of its own.
        own = connection.execute(
            "select id, xmin::text = pg_current_xact_id()::text from orchestrator.task"
        ).fetchall()
    assert dict(own) == {one.id: True} | {task.id: keys is None for task in many}


def test_a_failed_transaction_is_named_as_such(dsn: str, client: Client) -> None:
    with psycopg.connect(dsn) as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("select from missing")
        with pytest.raises(InvalidInput, match="roll it back"):
            client.enqueue("mail", org="acme", connection=connection)
        connection.rollback()
        client.enqueue("mail", org="acme", connection=connection)
    assert counted(dsn) == (0, 1)


def test_a_strange_connection_is_refused_with_what_is_accepted(client: Client) -> None:
    strangers: list[Any] = ["postgresql://", 7, object()]
    for stranger in strangers:
        with pytest.raises(InvalidInput, match="SQLAlchemy Connection or Session"):
            client.enqueue("mail", org="acme", connection=stranger)
    lite = sqlalchemy.create_engine("sqlite://")
    with lite.connect() as connection, pytest.raises(InvalidInput, match="over sqlite3"):
        client.enqueue("mail", org="acme", connection=connection)
    lite.dispose()


# Effects and acks ---------------------------------------------------------------------------------


def claimed(client: Client, *, lease_s: float = 30.0) -> Claim:
    client.enqueue("pay", org="acme")
    [claim] = client.claim(wait_s=10, lease_s=lease_s)
    return claim


def test_effect_and_ack_commit_together(
    dsn: str, engine: sqlalchemy.Engine, replica: Replica, client: Client
) -> None:
    claim = claimed(client)
    with engine.begin() as connection:
        connection.execute(text(WRITE))
        client.ack(claim, connection=connection)
        assert client.get(claim.id).place is Place.CLAIMED
    assert client.get(claim.id).status is AttemptStatus.SUCCEEDED
    assert counted(dsn) == (1, 1)


def test_an_ack_that_rolls_back_leaves_the_claim_standing(
    dsn: str, engine: sqlalchemy.Engine, replica: Replica, client: Client
) -> None:
    claim = claimed(client)

    def fail() -> None:
        with Session(engine) as session, session.begin():
            session.execute(text(WRITE))
            client.ack(claim, connection=session)
            raise Undo

    with pytest.raises(Undo):
        fail()
    assert counted(dsn) == (0, 1)
    client.ack(claim)
    assert client.get(claim.id).status is AttemptStatus.SUCCEEDED


def test_the_effect_exists_once_when_the_lease_was_lost_meanwhile(
    dsn: str, engine: sqlalchemy.Engine, replica: Replica, client: Client
) -> None:
    slow = claimed(client, lease_s=1)
    # Reaped, admitted and claimed again before the first worker is done.
    [second] = client.claim(wait_s=20)
    assert (second.id, second.attempt) == (slow.id, 2)

    def finish(claim: Claim) -> None:
        with engine.begin() as connection:
            connection.execute(text(WRITE))
            client.ack(claim, connection=connection)

    with pytest.raises(LeaseLost, match=str(slow.id)):
        finish(slow)
    assert counted(dsn) == (0, 1)
    finish(second)
    with pytest.raises(LeaseLost):
        finish(slow)
    assert counted(dsn) == (1, 1)


def test_the_effect_exists_once_when_the_lease_expires_under_the_open_transaction(
    dsn: str, engine: sqlalchemy.Engine, replica: Replica, client: Client
) -> None:
    claim = claimed(client, lease_s=1)
    with engine.begin() as connection:
        connection.execute(text(WRITE))
        client.ack(claim, connection=connection)
        expired = "select expires_at < clock_timestamp() from orchestrator.lease"
        until(lambda: ask(dsn, expired), "the lease has expired")
        with stepping.connect(dsn) as reaper:
            assert stepping.reap(reaper) == []
    assert client.get(claim.id).status is AttemptStatus.SUCCEEDED
    assert counted(dsn) == (1, 1)
    # The reaper deletes the lease, of which nothing is left.
    gone = "select count(*) = 0 from orchestrator.lease"
    until(lambda: ask(dsn, gone), "the lease was reaped")


# Asynchronous -------------------------------------------------------------------------------------

AsyncLending = Callable[[str, AsyncEngine, Callable[[Any], Awaitable[None]]], Awaitable[None]]


async def an_async_connection(
    dsn: str, engine: AsyncEngine, work: Callable[[Any], Awaitable[None]]
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(WRITE))
        await work(connection)


async def an_async_connection_that_has_not_begun(
    dsn: str, engine: AsyncEngine, work: Callable[[Any], Awaitable[None]]
) -> None:
    async with engine.connect() as connection:
        await work(connection)
        await connection.commit()
    async with engine.begin() as other:
        await other.execute(text(WRITE))


async def an_async_session(
    dsn: str, engine: AsyncEngine, work: Callable[[Any], Awaitable[None]]
) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text(WRITE))
        await work(session)


async def an_async_psycopg_connection(
    dsn: str, engine: AsyncEngine, work: Callable[[Any], Awaitable[None]]
) -> None:
    factories: Any = {"row_factory": dict_row}
    async with await psycopg.AsyncConnection.connect(dsn, **factories) as connection:
        await work(connection)
        await connection.execute(WRITE)


ASYNC_LENDERS = [
    an_async_connection,
    an_async_connection_that_has_not_begun,
    an_async_session,
    an_async_psycopg_connection,
]


@pytest.mark.parametrize("lending", ASYNC_LENDERS)
@pytest.mark.parametrize("undone", [False, True])
def test_async_tasks_commit_and_roll_back_with_the_callers_work(
    dsn: str, lending: AsyncLending, undone: bool
) -> None:
    async def main() -> None:
        engine = async_engine(dsn)

        async def work(lender: Any) -> None:
            await client.enqueue("mail", org="acme", connection=lender)
            batch = [{"name": "mail", "org": "acme", "idempotency_key": key} for key in "ab"]
            await client.enqueue_many(batch, connection=lender)
            assert counted(dsn) == (0, 0)
            if undone:
                raise Undo

        async with AsyncClient(dsn) as client:
            try:
                await lending(dsn, engine, work)
            except Undo:
                assert undone
            finally:
                await engine.dispose()

    asyncio.run(main())
    assert counted(dsn) == ((0, 0) if undone else (1, 3))


def test_each_client_refuses_the_connections_of_the_other(dsn: str, client: Client) -> None:
    async def main() -> None:
        async with (
            AsyncClient(dsn) as aclient,
            await psycopg.AsyncConnection.connect(dsn) as theirs,
        ):
            with pytest.raises(InvalidInput, match="SQLAlchemy Connection or Session"):
                client.enqueue("mail", org="acme", connection=theirs)
            with psycopg.connect(dsn) as ours, pytest.raises(InvalidInput, match="AsyncSession"):
                await aclient.enqueue("mail", org="acme", connection=ours)

    asyncio.run(main())
