"""A client that has looked up a queue and a workload enqueues in one statement, and alike."""

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from orchestrator import (
    AsyncClient,
    Client,
    InvalidInput,
    OrchestratorError,
    SchemaMismatch,
    UnknownQueue,
    UnknownWorkload,
)
from tests.integration.conftest import ask

LATER = datetime.now(UTC) + timedelta(days=1)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"payload": {"n": 1, "é": None, "t": True, "f": 1.5}},
    {"payload": {"deep": [{"n": [1, {"m": "\\u0000"}]}]}},
    {"payload": "x" * 10_000},
    {"org": "é" * 200, "name": "'; drop table task; --"},
    {"priority": 9, "max_attempts": 1},
    {"timeout_s": 30},
    {"headers": {"trace": "7", "é": ""}},
    {"headers": {}},
    {"expires_at": LATER},
    {"critical": True},
    {"delay": 0},
    {"delay": 600},
    {"run_at": LATER},
    {"idempotency_key": "k"},
    {"with_depth": True},
]

# All of a task but what must differ: its id and its moments.
STORED = """
select (to_jsonb(t) - 'id' - 'created_at' - 'run_at' - 'digest') || jsonb_build_object(
         'expires_at', t.expires_at::text, 'later', t.run_at > now(), 'keyed', t.digest is not null,
         'staged', (select count(*) from orchestrator.staging_queue s where s.task_id = t.id),
         'scheduled', (select count(*) from orchestrator.scheduled_queue s where s.task_id = t.id))
  from orchestrator.task t where t.id = %s
"""


@pytest.fixture
def known(client: Client) -> Client:
    """Return the client once it has enqueued."""
    client.enqueue("t", org="first")
    return client


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "none")
def test_a_task_is_stored_alike_whichever_way_it_goes(
    dsn: str, known: Client, options: dict[str, Any]
) -> None:
    whole = {"name": "t", "org": "acme", **options}
    alone = known.enqueue(**whole)
    whole.pop("with_depth", None)
    if "idempotency_key" in whole:
        whole["idempotency_key"] = "another"
    # Two of them: one alone would go the same way.
    _, together = known.enqueue_many([{"name": "other", "org": "acme"}, whole])
    mine, theirs = (ask(dsn, STORED, each.id) for each in (alone, together))
    assert mine.pop("idempotency_key") == options.get("idempotency_key")
    assert theirs.pop("idempotency_key") == whole.get("idempotency_key")
    assert mine == theirs


def test_the_async_client_stores_alike(dsn: str, known: Client) -> None:
    async def main() -> list[int]:
        async with AsyncClient(dsn) as client:
            stored = [await client.enqueue("t", {"n": 1}, org="acme") for _ in range(3)]
        return [each.id for each in stored]

    mine = ask(dsn, STORED, known.enqueue("t", {"n": 1}, org="acme").id)
    for task_id in asyncio.run(main()):
        assert ask(dsn, STORED, task_id) == mine


def count(dsn: str) -> int:
    found: int = ask(dsn, "select count(*) from orchestrator.task where org_id = 'acme'")
    return found


def test_it_commits_and_rolls_back_with_the_callers_work(dsn: str, known: Client) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with psycopg.connect(dsn) as raw, engine.connect() as connection, Session(engine) as session:
        lenders: list[Any] = [raw, connection, session]
        for ends, lender in enumerate(lenders):
            known.enqueue("t", org="acme", connection=lender)
            assert count(dsn) == ends
            lender.rollback()
            assert count(dsn) == ends
            known.enqueue("t", org="acme", connection=lender)
            lender.commit()
            assert count(dsn) == ends + 1
    engine.dispose()


def test_a_failed_transaction_is_named_as_such(dsn: str, known: Client) -> None:
    with psycopg.connect(dsn) as raw:
        with pytest.raises(psycopg.Error):
            raw.execute("select 1/0")
        with pytest.raises(InvalidInput, match="roll it back first"):
            known.enqueue("t", org="acme", connection=raw)


def test_a_connection_with_tastes_of_its_own_serves(dsn: str, known: Client) -> None:
    with psycopg.connect(
        dsn, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.ClientCursor
    ) as raw:
        assert known.enqueue("t", org="acme", connection=raw).created
        assert raw.row_factory is psycopg.rows.dict_row
        assert raw.cursor_factory is psycopg.ClientCursor


def test_what_is_not_known_yet_is_still_looked_up(known: Client) -> None:
    for _ in range(2):
        with pytest.raises(UnknownQueue, match="none"):
            known.enqueue("t", org="acme", queue="none")
        with pytest.raises(UnknownWorkload, match="none"):
            known.enqueue("t", org="acme", workload="none")


def test_a_schema_that_is_gone_says_what_to_do(dsn: str, known: Client) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("alter schema orchestrator rename to another")
        with pytest.raises(SchemaMismatch, match="orchestrator migrate"):
            known.enqueue("t", org="acme")
        connection.execute("alter schema another rename to orchestrator")
    assert known.enqueue("t", org="acme").created


def test_an_engine_of_the_callers_serves_alike(dsn: str, known: Client) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with Client(engine) as client:
        tasks = [client.enqueue("t", org="acme").id for _ in range(3)]
    engine.dispose()
    expected = ask(dsn, STORED, known.enqueue("t", org="acme").id)
    assert [ask(dsn, STORED, task) for task in tasks] == [expected] * 3


def test_a_closed_client_stays_closed(dsn: str) -> None:
    with Client(dsn) as client:
        client.enqueue("t", org="acme")
        enqueue = client.enqueue
    with pytest.raises(OrchestratorError, match="closed"):
        enqueue("t", org="acme")


def test_the_verbs_of_both_clients_show_what_they_take(dsn: str) -> None:
    with Client(dsn) as client:
        many = AsyncClient(dsn)
        assert inspect.signature(client.enqueue) == inspect.signature(many.enqueue)
        assert "self" not in inspect.signature(client.enqueue).parameters
        assert "payload" in inspect.signature(Client.enqueue).parameters
        assert inspect.iscoroutinefunction(many.enqueue)
        assert not inspect.iscoroutinefunction(client.enqueue)
        assert client.enqueue.__doc__ == many.enqueue.__doc__ == Client.enqueue.__doc__
        assert client.enqueue == client.enqueue
        asyncio.run(many.close())
