"""Coroutines that enqueue at the same time share a statement, whoever of them is cancelled."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from orchestrator import AsyncClient, DatabaseUnavailable, Enqueued, OrchestratorError
from orchestrator.client import gathering
from orchestrator.client.steps import Work
from tests.integration.conftest import ask

WAIT_S = 20.0
# The tasks of each transaction, in the order in which they were staged.
BY_COMMIT = """
select array_agg(names order by first)
  from (select string_agg(name, ' ' order by id) as names, min(id) as first
          from orchestrator.task where name <> 'known' group by xmin::text) s
"""

Call = asyncio.Task[Enqueued]


class Gate:
    """Holds each statement of a client until it is let through."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._by_itself = client._by_itself
        self._held: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        client._by_itself = self._hold  # type: ignore[method-assign]

    async def _hold(self, work: Work) -> Any:
        opened = asyncio.Event()
        self._held.put_nowait(opened)
        await opened.wait()
        return await self._by_itself(work)

    async def held(self) -> asyncio.Event:
        """Return, once a statement is held, what lets it through."""
        async with asyncio.timeout(WAIT_S):
            return await self._held.get()

    def remove(self) -> None:
        """Hold nothing from now on."""
        self._client._by_itself = self._by_itself  # type: ignore[method-assign]


@asynccontextmanager
async def gated(dsn: str) -> AsyncIterator[tuple[AsyncClient, Gate]]:
    async with AsyncClient(dsn) as client:
        await client.enqueue("known", org="acme")
        yield client, Gate(client)


def send(client: AsyncClient, *names: str) -> list[Call]:
    return [asyncio.create_task(client.enqueue(name, {"is": name}, org="acme")) for name in names]


async def in_line(client: AsyncClient, *names: str) -> list[Call]:
    """Have a call for each of `names` wait, in this order."""
    calls = send(client, *names)
    [line] = client._lines.values()
    async with asyncio.timeout(WAIT_S):
        while len(line._waiting) < len(names):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0)
    return calls


async def outcomes(calls: list[Call]) -> list[Enqueued | BaseException]:
    async with asyncio.timeout(WAIT_S):
        return await asyncio.gather(*calls, return_exceptions=True)


async def shared(client: AsyncClient, gate: Gate) -> list[Enqueued]:
    """Have three calls share a statement, behind a first one; return the answers of all."""
    [first] = send(client, "first")
    opened = await gate.held()
    calls = await in_line(client, "t0", "t1", "t2")
    gate.remove()
    opened.set()
    async with asyncio.timeout(WAIT_S):
        return await asyncio.gather(first, *calls)


def on(dsn: str, play: Callable[[AsyncClient, Gate], Awaitable[None]]) -> None:
    async def main() -> None:
        async with gated(dsn) as (client, gate):
            await play(client, gate)

    asyncio.run(main())


def test_coroutines_share_one_commit_and_each_gets_its_own_answer(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        answers = [answer.id for answer in await shared(client, gate)]
        assert answers == sorted(answers)
        names = [(await client.get(answer)).name for answer in answers]
        assert names == ["first", "t0", "t1", "t2"]

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first", "t0 t1 t2"]


@pytest.mark.parametrize("cancelled", [0, 1], ids=["the first in line", "another"])
def test_a_cancelled_call_takes_nobody_elses_statement_along(dsn: str, cancelled: int) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        send_first = send(client, "first")
        opened = await gate.held()
        calls = await in_line(client, "t0", "t1", "t2")
        opened.set()
        opened = await gate.held()
        calls[cancelled].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[cancelled]
        gate.remove()
        opened.set()
        found = await outcomes(send_first + calls)
        assert [isinstance(each, Enqueued) for each in found].count(False) == 1

    on(dsn, play)
    # Its statement was under way.
    assert ask(dsn, BY_COMMIT) == ["first", "t0 t1 t2"]


def test_a_call_cancelled_in_line_is_not_stored(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        send_first = send(client, "first")
        opened = await gate.held()
        calls = await in_line(client, "t0", "t1", "t2")
        calls[0].cancel()
        await asyncio.wait([calls[0]])
        gate.remove()
        opened.set()
        await outcomes(send_first + calls)

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first", "t1 t2"]


def test_a_first_call_that_is_cancelled_lets_the_next_lead(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        [first] = send(client, "first")
        await gate.held()
        calls = await in_line(client, "t0", "t1")
        gate.remove()
        first.cancel()
        assert all(isinstance(each, Enqueued) for each in await outcomes(calls))

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["t0 t1"]


def test_who_rode_with_a_cancelled_leader_is_told_so(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        send(client, "first")
        opened = await gate.held()
        calls = await in_line(client, "t0", "t1")
        opened.set()
        await gate.held()
        [leading] = client._leading
        leading.cancel()
        for error in await outcomes(calls):
            assert isinstance(error, DatabaseUnavailable)
            assert error.in_doubt
            assert "interrupted" in str(error)

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first"]


def test_a_leader_cancelled_before_it_began_leaves_the_others_to_the_next(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        lead = client._start_leading

        def cancelled(*given: Any) -> None:
            monkeypatch.setattr(client, "_start_leading", lead)
            lead(*given)
            [leading] = client._leading
            leading.cancel()

        send(client, "first")
        opened = await gate.held()
        monkeypatch.setattr(client, "_start_leading", cancelled)
        [told] = await in_line(client, "t0")
        monkeypatch.setattr(client, "_start_leading", lead)
        [other] = send(client, "t1")
        gate.remove()
        opened.set()
        told_so, stored = await outcomes([told, other])
        assert isinstance(told_so, DatabaseUnavailable)
        assert isinstance(stored, Enqueued)

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first", "t1"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever lingers do so until its company is complete."""
    monkeypatch.setattr(gathering, "LINGER_PART", 1e9)
    monkeypatch.setattr(gathering, "LINGER_MAX_S", 2 * WAIT_S)


@pytest.mark.usefixtures("patient")
def test_the_first_to_come_back_lingers_for_those_it_rode_with(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        await shared(client, gate)
        found = await outcomes(send(client, "u0", "u1", "u2"))
        assert all(isinstance(each, Enqueued) for each in found)

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first", "t0 t1 t2", "u0 u1 u2"]


@pytest.mark.usefixtures("patient")
def test_who_is_cancelled_while_it_lingers_is_not_stored_and_the_next_leads(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        await shared(client, gate)
        [lingering] = send(client, "gone")
        calls = await in_line(client, "u0")
        lingering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lingering
        assert all(isinstance(each, Enqueued) for each in await outcomes(calls))

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first", "t0 t1 t2", "u0"]


@pytest.mark.usefixtures("patient")
def test_who_lingers_in_vain_goes_without_the_others(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "LINGER_MAX_S", 0.5)

    async def play(client: AsyncClient, gate: Gate) -> None:
        await shared(client, gate)
        [alone] = send(client, "alone")
        await in_line(client, "with it")
        [found] = await outcomes([alone])
        assert isinstance(found, Enqueued)

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first", "t0 t1 t2", "alone with it"]


def test_only_the_culprit_gets_its_error(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("alter table orchestrator.task add constraint no check (name <> 'bad')")

    async def play(client: AsyncClient, gate: Gate) -> None:
        send_first = send(client, "first")
        opened = await gate.held()
        calls = await in_line(client, "t0", "bad", "t1")
        gate.remove()
        opened.set()
        _, before, bad, after = await outcomes(send_first + calls)
        assert isinstance(before, Enqueued)
        assert isinstance(bad, psycopg.errors.CheckViolation)
        assert isinstance(after, Enqueued)

    on(dsn, play)


def test_who_rode_on_a_lost_connection_gets_an_error_of_its_own(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        [first] = send(client, "first")
        opened = await gate.held()
        calls = await in_line(client, "t0", "t1")
        opened.set()
        await first
        opened = await gate.held()
        gate.remove()
        async with await psycopg.AsyncConnection.connect(dsn) as holder:
            await holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
            opened.set()
            await killed(dsn)
            errors = await outcomes(calls)
        assert errors[0] is not errors[1]
        for error in errors:
            assert isinstance(error, DatabaseUnavailable)
            assert error.in_doubt
            assert "idempotency_key" in str(error)
        assert (await client.enqueue("later", org="acme")).created

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["first", "later"]


async def killed(dsn: str) -> None:
    """End the session that waits for a lock."""
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where wait_event_type = 'Lock' and application_name = 'orchestrator client'"
    )
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(ask, dsn, kill):
            pass


def test_close_tells_those_in_line(dsn: str) -> None:
    async def play(client: AsyncClient, gate: Gate) -> None:
        [first] = send(client, "first")
        await gate.held()
        calls = await in_line(client, "t0", "t1")
        gate.remove()
        await client.close()
        first.cancel()
        for error in await outcomes(calls):
            assert isinstance(error, OrchestratorError)
            assert "closed" in str(error)

    on(dsn, play)


def test_who_waited_too_long_goes_by_itself(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 0.01)

    async def play(client: AsyncClient, gate: Gate) -> None:
        [first] = send(client, "first")
        opened = await gate.held()
        gate.remove()
        await client.enqueue("impatient", org="acme")
        opened.set()
        await first

    on(dsn, play)
    assert ask(dsn, BY_COMMIT) == ["impatient", "first"]
