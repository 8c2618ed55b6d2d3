"""Calls that come at the same time share a statement: whose answer, whose error, and who waits.

A gate holds the first statement; whoever comes then waits in line, which is looked at.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import psycopg
import pytest

from orchestrator import Client, DatabaseUnavailable, Enqueued, OrchestratorError
from orchestrator.client import gathering
from orchestrator.client.gathering import Joint
from orchestrator.client.steps import Work
from orchestrator.client.sync import _Seat
from orchestrator.store import orgs
from orchestrator.store.sql import Operation, batch, run
from tests.integration.conftest import ask
from tests.support.waiting import until

WAIT_S = 20.0
LOCK = "lock table orchestrator.staging_queue in access exclusive mode"
STUCK = """
select array_agg(pid) from pg_stat_activity
 where wait_event_type = 'Lock' and application_name = 'orchestrator client'
"""
WAITING_LOCKS = "select count(*) from pg_locks where not granted"
GIVEN = """
select array_agg(concat_ws(' ', name, priority, max_attempts, coalesce(timeout_s::text, '-'),
                           critical::text, coalesce(headers::text, '-')) order by id)
  from orchestrator.task where name not in ('known', 'first')
"""
# The tasks of each transaction, in the order in which they were staged.
BY_COMMIT = """
select array_agg(names order by first)
  from (select string_agg(name, ' ' order by id) as names, min(id) as first
          from orchestrator.task where name <> 'known' group by xmin::text) s
"""


@pytest.fixture
def client(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Yield a client whose calls have patience, and that know the queue and the workload."""
    monkeypatch.setattr(gathering, "PATIENCE_S", 2 * WAIT_S)
    with Client(dsn) as client:
        # Twice: to prepare a statement takes the locks once more.
        for _ in range(2):
            client.enqueue("known", org="acme")
        monkeypatch.setattr(client, "_backlogs", Unbounded())
        yield client


class Unbounded:
    """Nobody has a bound, however long ago that was asked."""

    def surely_unbounded(self) -> bool:
        return True

    def bounded(self) -> Operation:
        yield from ()
        return False


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def waiting(client: Client) -> int:
    return sum(len(line._waiting) for line in client._lines.values())


def is_longer(client: Client, than: int) -> bool:
    return waiting(client) > than


def in_line(
    client: Client, threads: ThreadPoolExecutor, names: list[str], **given: Any
) -> list[Future[Enqueued]]:
    """Have a call for each of `names` wait, in this order."""
    calls = []
    for name in names:
        before = waiting(client)
        calls.append(threads.submit(client.enqueue, name, {"is": name}, org="acme", **given))
        until(partial(is_longer, client, before), "the call waits in line")
    return calls


def payload(dsn: str, task_id: int) -> Any:
    return ask(dsn, "select payload from orchestrator.task where id = %s", task_id)


class Held(NamedTuple):
    first: Future[Enqueued]
    gate: threading.Event


@contextmanager
def held(
    client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Held]:
    """Hold the statement of a first call, and of no later one, until the block ends."""
    by_itself, reached, gate = client._by_itself, threading.Event(), threading.Event()

    def hold(work: Work) -> Any:
        monkeypatch.setattr(client, "_by_itself", by_itself)
        reached.set()
        assert gate.wait(WAIT_S)
        return by_itself(work)

    monkeypatch.setattr(client, "_by_itself", hold)
    first = threads.submit(client.enqueue, "first", org="acme")
    assert reached.wait(WAIT_S)
    try:
        yield Held(first, gate)
    finally:
        gate.set()


def test_who_comes_meanwhile_shares_one_commit_and_gets_an_answer_of_its_own(
    dsn: str, client: Client, threads: ThreadPoolExecutor
) -> None:
    names = [f"t{number}" for number in range(8)]
    with psycopg.connect(dsn) as holder:
        holder.execute(LOCK)
        first = threads.submit(client.enqueue, "first", org="acme")
        until(lambda: ask(dsn, STUCK), "the first statement stands")
        calls = in_line(client, threads, names)
    answers = [call.result(WAIT_S) for call in calls]
    assert first.result(WAIT_S).id < answers[0].id
    assert [payload(dsn, answer.id) for answer in answers] == [{"is": name} for name in names]
    assert ask(dsn, BY_COMMIT) == ["first", " ".join(names)]


def test_what_a_task_is_given_stays_its_own(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(client, threads, monkeypatch):
        [plain] = in_line(client, threads, ["plain"])
        [rich] = in_line(
            client,
            threads,
            ["rich"],
            priority=9,
            headers={"trace": "7"},
            timeout_s=3.0,
            critical=True,
            expires_in=60,
            max_attempts=2,
        )
    assert plain.result(WAIT_S).id < rich.result(WAIT_S).id
    assert ask(dsn, GIVEN) == [
        "plain 5 5 - false -",
        'rich 9 2 3 true {"trace": "7"}',
    ]
    soon = "select array_agg(name) from orchestrator.task where isfinite(expires_at)"
    assert ask(dsn, soon) == ["rich"]
    assert ask(dsn, BY_COMMIT) == ["first", "plain rich"]


def test_a_statement_takes_no_more_than_its_bound(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "ITEMS_MAX", 3)
    with held(client, threads, monkeypatch):
        calls = in_line(client, threads, [f"t{number}" for number in range(7)])
    for call in calls:
        call.result(WAIT_S)
    assert ask(dsn, BY_COMMIT) == ["first", "t0 t1 t2", "t3 t4 t5", "t6"]


def test_only_the_culprit_gets_its_error(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("alter table orchestrator.task add constraint no check (name <> 'bad')")
    with held(client, threads, monkeypatch):
        before, bad, after = in_line(client, threads, ["t0", "bad", "t1"])
    with pytest.raises(psycopg.errors.CheckViolation):
        bad.result(WAIT_S)
    assert [client.get(call.result(WAIT_S).id).name for call in (before, after)] == ["t0", "t1"]
    assert sorted(ask(dsn, BY_COMMIT)) == ["first", "t0", "t1"]


def test_who_rode_on_a_lost_connection_is_told_so_and_nobody_tries_again(
    dsn: str, client: Client, threads: ThreadPoolExecutor
) -> None:
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as other:
        one.execute(LOCK)
        first = threads.submit(client.enqueue, "first", org="acme")
        until(lambda: ask(dsn, STUCK), "the first statement stands")
        # Next in the server's line for the table, so that the shared statement stands behind it.
        next_lock = threads.submit(other.execute, LOCK)
        until(lambda: ask(dsn, WAITING_LOCKS) == 2, "the second lock waits")
        calls = in_line(client, threads, ["t0", "t1", "t2"])
        one.rollback()
        first.result(WAIT_S)
        next_lock.result(WAIT_S)
        [pid] = until(lambda: ask(dsn, STUCK), "the shared statement stands")
        ask(dsn, "select pg_terminate_backend(%s)", pid)
        errors = [call.exception(WAIT_S) for call in calls]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, DatabaseUnavailable)
        assert error.in_doubt
        assert "unknown: enqueue again, and give an idempotency_key" in str(error)
    assert client.enqueue("later", org="acme").created
    assert ask(dsn, BY_COMMIT) == ["first", "later"]


def test_who_rode_with_an_interrupted_leader_is_told_so(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(client, threads, monkeypatch):
        leader, *others = in_line(client, threads, ["t0", "t1", "t2"])
        monkeypatch.setattr(client, "_by_itself", raising(KeyboardInterrupt))
        monkeypatch.setattr(gathering, "ITEMS_MAX", 2)
    assert isinstance(leader.exception(WAIT_S), KeyboardInterrupt)
    told, interrupted = (call.exception(WAIT_S) for call in others)
    assert isinstance(told, DatabaseUnavailable)
    assert told.in_doubt
    assert "interrupted" in str(told)
    # Who had not been taken along led in turn.
    assert isinstance(interrupted, KeyboardInterrupt)
    monkeypatch.undo()
    assert client.enqueue("later", org="acme").created


def raising(kind: type[BaseException]) -> Callable[[Work], Any]:
    def by_itself(_: Work) -> Any:
        raise kind

    return by_itself


def test_an_interrupted_call_leaves_the_line_and_the_next_goes_on(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        until(lambda: waiting(client) == 1, "the main thread waits")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with held(client, threads, monkeypatch) as hold:
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.enqueue("interrupted", org="acme")
        interrupting.result(WAIT_S)
        [after] = in_line(client, threads, ["after"])
    hold.first.result(WAIT_S)
    after.result(WAIT_S)
    assert ask(dsn, BY_COMMIT) == ["first", "after"]


@pytest.mark.parametrize("told", [0, 1, 3])
def test_an_interruption_while_it_tells_the_others_leaves_nobody_behind(
    dsn: str,
    client: Client,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    told: int,
) -> None:
    monkeypatch.setattr(gathering, "ITEMS_MAX", 3)
    ring, rung = _Seat.ring, [0]

    def interrupted(seat: _Seat) -> None:
        rung[0] += 1
        # The first ring is for who leads; of those that follow, one is interrupted.
        if rung[0] == 2 + told:
            raise KeyboardInterrupt
        ring(seat)

    with held(client, threads, monkeypatch):
        calls = in_line(client, threads, [f"t{number}" for number in range(4)])
        monkeypatch.setattr(_Seat, "ring", interrupted)
    ended = [call.exception(WAIT_S) for call in calls]
    assert [type(error) for error in ended] == [KeyboardInterrupt, *[type(None)] * 3]
    assert ask(dsn, BY_COMMIT) == ["first", "t0 t1 t2", "t3"]


def test_to_be_rung_by_two_at_once_does_no_harm() -> None:
    seat = _Seat(Joint(1, None, 0, lambda *_: batch([])))

    class Bell:
        """Rung by somebody else between any look at it and what follows."""

        lock = threading.Lock()

        def locked(self) -> bool:
            locked = self.lock.locked()
            if locked:
                self.lock.release()
            return locked

        def release(self) -> None:
            self.lock.release()

    bell = Bell()
    bell.lock.acquire()
    seat._bell = bell  # type: ignore[assignment]
    seat.ring()
    seat.ring()
    assert not bell.lock.locked()


def test_a_signal_handler_does_not_wait_for_the_call_that_it_interrupts(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[Enqueued] = []
    theirs = signal.signal(
        signal.SIGUSR1, lambda *_: stored.append(client.enqueue("handler", org="acme"))
    )
    try:
        with held(client, threads, monkeypatch) as hold:

            def interrupt() -> None:
                until(lambda: waiting(client) == 1, "the main thread waits")
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                until(lambda: stored, "the handler has stored its own")
                hold.gate.set()

            interrupting = threads.submit(interrupt)
            client.enqueue("main", org="acme")
            interrupting.result(WAIT_S)
    finally:
        signal.signal(signal.SIGUSR1, theirs)
    assert ask(dsn, BY_COMMIT) == ["handler", "first", "main"]


def test_queues_share_nothing(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_queue("bulk", actor="test"))
    client.enqueue("known", org="acme", queue="bulk")
    with held(client, threads, monkeypatch):
        [call] = in_line(client, threads, ["t0"])
        client.enqueue("elsewhere", org="acme", queue="bulk")
        assert not call.done()
    call.result(WAIT_S)
    assert ask(dsn, BY_COMMIT) == ["elsewhere", "first", "t0"]


@pytest.mark.parametrize(
    "given",
    [
        {"idempotency_key": "k"},
        {"delay": 60},
        {"run_at": datetime(2100, 1, 1, tzinfo=UTC)},
        {"with_depth": True},
        {"payload": "x" * 20_000},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_is_not_simple_goes_by_itself(
    client: Client,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
) -> None:
    with held(client, threads, monkeypatch):
        [call] = in_line(client, threads, ["t0"])
        assert client.enqueue("apart", org="acme", **given).created
        assert not call.done()


def test_what_goes_into_a_callers_transaction_goes_by_itself(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(client, threads, monkeypatch), psycopg.connect(dsn) as connection:
        client.enqueue("lent", org="acme", connection=connection)
        connection.rollback()
    assert "lent" not in ask(dsn, BY_COMMIT)


def test_where_somebody_has_a_bound_each_goes_by_itself(
    dsn: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_org("bounded", backlog_max=5, actor="test"))
    with Client(dsn) as client:
        client.enqueue("known", org="acme")
        with held(client, threads, monkeypatch):
            client.enqueue("apart", org="acme")
        assert client._lines == {}


def test_close_lets_the_statement_end_and_tells_those_in_line(
    dsn: str, client: Client, threads: ThreadPoolExecutor
) -> None:
    with psycopg.connect(dsn) as holder:
        holder.execute(LOCK)
        first = threads.submit(client.enqueue, "first", org="acme")
        until(lambda: ask(dsn, STUCK), "the first statement stands")
        calls = in_line(client, threads, ["t0", "t1"])
        client.close()
    assert first.result(WAIT_S).created
    for call in calls:
        with pytest.raises(OrchestratorError, match="closed"):
            call.result(WAIT_S)
    assert ask(dsn, BY_COMMIT) == ["first"]


def test_who_waited_too_long_goes_by_itself(
    dsn: str, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 0.01)
    with held(client, threads, monkeypatch):
        assert client.enqueue("impatient", org="acme").created
    assert ask(dsn, BY_COMMIT) == ["impatient", "first"]


def test_however_calls_meet_each_gets_its_own(
    dsn: str, client: Client, threads: ThreadPoolExecutor
) -> None:
    def send(thread: int) -> list[tuple[int, list[int]]]:
        own = [[thread, number] for number in range(40)]
        return [(client.enqueue("t", each, org="acme").id, each) for each in own]

    sent = [pair for pairs in threads.map(send, range(16)) for pair in pairs]
    assert len({task_id for task_id, _ in sent}) == 640
    assert all(payload(dsn, task_id) == own for task_id, own in sent[::7])
    ids = [[task_id for task_id, (by, _) in sent if by == thread] for thread in range(16)]
    assert all(of_one == sorted(of_one) for of_one in ids)
    assert waiting(client) == 0
